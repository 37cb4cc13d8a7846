"""dlt's side of the one way to connect: its credentials as they were given, its connection by libpq's parameters."""

import dataclasses
from typing import Any, Self

from dlt.common.configuration import configspec
from dlt.common.typing import TSecretStrValue
from dlt.destinations.impl.postgres.configuration import PostgresClientConfiguration, PostgresCredentials
from dlt.destinations.impl.postgres.sql_client import Psycopg2SqlClient

from .connection import SESSION_SQL, connect_psycopg2


@configspec(init=False)
class WarehouseCredentials(PostgresCredentials):
    """Those of dlt, whatever characters the password has. Without one, libpq looks where psql does (`.pgpass`)."""

    password: TSecretStrValue = ""

    def resolve(self) -> Self:
        """As dlt's, but leaves spaces around the password, which are part of it."""
        password = self.password
        super().resolve()
        self.password = password
        return self


@configspec
class WarehouseConfiguration(PostgresClientConfiguration):
    """That of dlt, with the credentials above."""

    credentials: WarehouseCredentials = dataclasses.field(default=None)  # type: ignore[assignment]  # as dlt's has it


class WarehouseSqlClient(Psycopg2SqlClient):
    """dlt's connection, as ours are made: without `options=-c search_path=…`, which PgBouncer refuses.

    What is loaded has qualified names.
    """

    def open_connection(self) -> Any:
        """See dlt's."""
        self._conn = connect_psycopg2(self.credentials)
        self._reset_connection()
        return self._conn

    def _reset_connection(self) -> None:
        super()._reset_connection()  # which does RESET ALL
        with self._conn.cursor() as cursor:
            cursor.execute(SESSION_SQL)
            # For questions of people that name no schema: dlt's own dashboard asks so.
            path = f"{self.fully_qualified_dataset_name()},public"
            cursor.execute("SELECT pg_catalog.set_config('search_path', %s, false)", (path,))
