"""The copy of the seals in the warehouse, `audit_seals`: rows are added, never changed. It proves nothing."""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, NamedTuple

from adbc_driver_manager.dbapi import Connection

from .connection import connect, table_of
from .destination import Warehouse
from .dlt_client import WarehouseClient
from .statements import sections_of

Row = dict[str, Any]
"""A row of the table, as JSON has its values."""


class Stretch(NamedTuple):
    """The numbers that count of an incarnation, up to one before the last."""

    id: str
    first: int
    before: int


class SealRows:
    """Reads and adds the rows, of the seals that the lake has. Errors of the driver are raised as the warehouse's."""

    def __init__(self, warehouse: Warehouse, connection: Connection) -> None:
        self._warehouse, self._connection = warehouse, connection
        self._sections = sections_of("seals.sql", schema=warehouse.dataset_name)
        self._lineage = "[]"

    def follow(self, lineage: Iterable[Stretch]) -> None:
        """From now on, the rows of these seals count."""
        self._lineage = json.dumps([stretch._asdict() for stretch in lineage])

    def beyond(self, incarnation: str, number: int, digest: str) -> list[Row]:
        """Number, path and note of the seals of the incarnation after the lake's newest one, or of its number."""
        return self._ask("beyond", incarnation, number, digest)

    def lacking(self, first: int) -> list[int]:
        """The numbers, from one on, of which there is not each row."""
        return [row["number"] for row in self._ask("lacking", self._lineage, first)]

    def add(self, rows: Sequence[Row]) -> None:
        """Adds rows that are not there."""
        with self._warehouse.translated_errors(), self._connection.cursor() as cursor:
            cursor.execute(self._sections["insert"][0], (json.dumps(rows),))

    def new_checks(self, account_id: str, since: datetime, checked_before: datetime) -> list[dict[str, Any]]:
        """The comparisons of hours since a time that are in no seal yet."""
        return self._ask("new checks", self._lineage, account_id, since, checked_before)

    def _ask(self, section: str, *parameters: Any) -> list[dict[str, Any]]:
        with self._warehouse.translated_errors(), self._connection.cursor() as cursor:
            return list(table_of(cursor, *self._sections[section], *parameters).to_pylist())


@contextmanager
def seal_rows(warehouse: Warehouse, client: WarehouseClient) -> Iterator[SealRows]:
    """The rows of a warehouse that has its tables."""
    with warehouse.translated_errors():
        connection = connect(client.config.credentials, autocommit=True)
    with connection:
        yield SealRows(warehouse, connection)
