"""A batch on its way into a table: staged in a temporary table by COPY, inserted from there. Knows no transaction."""

from collections.abc import Collection
from typing import NamedTuple

import pyarrow as pa
from adbc_driver_manager.dbapi import Cursor

from sources.cloudflare_audit_logs.errors import AuditLogsError

from .connection import value_of

_TYPES = {
    pa.string(): "text",
    pa.binary(): "bytea",
    pa.int64(): "bigint",
    pa.timestamp("us", tz="UTC"): "timestamptz",
}


class Staged(NamedTuple):
    """Where a batch is staged, and where it goes."""

    table: str
    """The temporary table, gone with the transaction."""
    target: str
    """The table that it goes to, qualified."""
    key: Collection[str]
    json_columns: Collection[str] = ()
    is_binary: bool = False
    """Texts are staged as bytes: then no text is refused on its way, and each value is looked at by the INSERT."""

    @property
    def name(self) -> str:
        """The temporary table, whatever a role's `search_path` has before it."""
        return f"pg_temp.{self.table}"

    @property
    def on_conflict(self) -> str:
        """With its target: against another unique index, that of an administrator, an event must not vanish unheard."""
        return f"ON CONFLICT ({_listed(self.key)}) DO NOTHING"

    @property
    def is_same(self) -> str:
        """True of a staged row (`s`) and a row of the target (`t`) with one key."""
        return " AND ".join(f't."{name}" = {self.value(name)}' for name in self.key)

    def value(self, name: str) -> str:
        """The column of a staged row (`s`), of the target's type."""
        is_text = self.is_binary and name not in {"timestamp", "ingestion_time", "received_at"}
        # The encoding's name would give the text the collation "C", for which the key's index is of no use: quadratic.
        value = f'(convert_from(s."{name}", \'UTF8\') COLLATE "default")' if is_text else f's."{name}"'
        return value + "::jsonb" * (name in self.json_columns)

    def columns(self, batch: pa.Table) -> str:
        """The columns that are inserted into."""
        return _listed(batch.column_names)

    def values(self, batch: pa.Table) -> str:
        """Their values."""
        return ", ".join(map(self.value, batch.column_names))

    def fill(self, cursor: Cursor, batch: pa.Table) -> None:
        """Makes the temporary table, and copies the batch into it."""
        columns = ", ".join(f'"{column.name}" {_TYPES[column.type]}' for column in batch.schema)
        cursor.execute(f"CREATE TEMPORARY TABLE {self.table} ({columns}) ON COMMIT DROP")
        cursor.adbc_ingest(self.table, batch, mode="append", temporary=True)


def verify_written(cursor: Cursor, staged: Staged) -> None:
    """Sees that each staged row is in the target, be it for its conflict.

    `OFFSET 0` makes PostgreSQL ask the key's index, row by row, instead of reading the target for a join.

    Raises:
        AuditLogsError: something drops rows without a word.
    """
    missing = value_of(
        cursor,
        f"SELECT count(*) FROM {staged.name} AS s"  # noqa: S608  # names are ours
        f" WHERE NOT EXISTS (SELECT FROM {staged.target} AS t WHERE {staged.is_same} OFFSET 0)",
    )
    if missing:
        raise AuditLogsError(
            f"{missing:,} events were neither written to {staged.target} nor there before",
            hint="a trigger, a policy or an extension drops them without an error; nothing of this load counts",
        )


def _listed(names: Collection[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)
