"""Inserts a batch row by row, inside the server, and says which rows it refuses: one statement, however many they are.

An error is a row's if it is one of data, or if another row passes; else it is of all rows, and raised. Halving on our
side found one row in 27 rounds, but took 20,000 for a batch of 10,000 that was refused whole.
"""

from typing import NamedTuple

import pyarrow as pa
from adbc_driver_manager.dbapi import Cursor

from .connection import OF_ENVIRONMENT, OF_ENVIRONMENT_CLASSES, rows_of
from .staged import Staged, verify_written

_OF_DATA = ("22", "23")
"""Classes of SQLSTATE that blame the row: data exception, integrity constraint."""
_ROW = "row_number"
_REFUSED = "refused_rows"
_REFUSED_NAME = f"pg_temp.{_REFUSED}"


class Refusal(NamedTuple):
    """A row that PostgreSQL refuses."""

    row: int
    """Its place in the batch."""
    sqlstate: str
    words: str
    """PostgreSQL's own."""

    @property
    def is_of_data(self) -> bool:
        """True if the error says by itself that the row is to blame."""
        return self.sqlstate.startswith(_OF_DATA)


def insert_by_row(cursor: Cursor, staged: Staged, batch: pa.Table) -> list[Refusal]:
    """Inserts the rows that the table accepts and lacks; returns those that it refuses.

    Raises:
        adbc_driver_manager.Error: the environment's, or one that every row would meet.
        AuditLogsError: a row was neither refused, nor written, nor there before.
    """
    staged = staged._replace(table="staged_rows", is_binary=True)
    staged.fill(cursor, _in_bytes(batch))
    cursor.execute(f"CREATE TEMPORARY TABLE {_REFUSED} (row bigint, sqlstate text, words text) ON COMMIT DROP")
    cursor.execute(_block(staged, batch))
    refused = [Refusal(**row) for row in rows_of(cursor, f"SELECT * FROM {_REFUSED_NAME} ORDER BY row")]  # noqa: S608  # names are ours
    if len(refused) == batch.num_rows and not all(refusal.is_of_data for refusal in refused):
        _insert_plain_row(cursor, staged, batch)
    cursor.execute(f"DELETE FROM {staged.name} WHERE {_ROW} IN (SELECT row FROM {_REFUSED_NAME})")  # noqa: S608  # names are ours
    verify_written(cursor, staged)
    return refused


def _in_bytes(batch: pa.Table) -> pa.Table:
    fields = [pa.field(field.name, pa.binary()) if field.type == pa.string() else field for field in batch.schema]
    numbers = pa.array(range(batch.num_rows), pa.int64())
    return batch.cast(pa.schema(fields)).append_column(_ROW, numbers)


def _block(staged: Staged, batch: pa.Table) -> str:
    """Each row in a subtransaction of its own; what the environment refuses ends it."""
    return f"""DO $rows$
        DECLARE s record;
        BEGIN
            FOR s IN SELECT * FROM {staged.name} ORDER BY {_ROW} LOOP
                BEGIN
                    INSERT INTO {staged.target} ({staged.columns(batch)}) VALUES ({staged.values(batch)})
                    {staged.on_conflict};
                EXCEPTION WHEN OTHERS THEN
                    IF left(SQLSTATE, 2) = ANY ('{{{",".join(OF_ENVIRONMENT_CLASSES)}}}')
                        OR SQLSTATE = ANY ('{{{",".join(OF_ENVIRONMENT)}}}') THEN RAISE; END IF;
                    INSERT INTO {_REFUSED_NAME} VALUES (s.{_ROW}, SQLSTATE, SQLERRM);
                END;
            END LOOP;
        END $rows$"""  # noqa: S608  # names are ours


def _insert_plain_row(cursor: Cursor, staged: Staged, batch: pa.Table) -> None:
    """Tries a row with nothing in it that could be refused, and takes it back. Raises if it is refused as well."""
    plain = {"event_id": "'plain'", "raw_event": "'{}'"}
    kept = [name for name in batch.column_names if name in {*staged.key, "ingestion_time"} - plain.keys()]
    columns = ", ".join(f'"{name}"' for name in [*kept, *plain])
    values = ", ".join([*map(staged.value, kept), *plain.values()])
    cursor.execute("SAVEPOINT plain_row")
    cursor.execute(
        f"INSERT INTO {staged.target} ({columns}) SELECT {values} FROM {staged.name} AS s LIMIT 1 {staged.on_conflict}"  # noqa: S608  # names are ours
    )
    cursor.execute("ROLLBACK TO SAVEPOINT plain_row")
