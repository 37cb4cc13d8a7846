"""One object answers the questions of status and doctor about a warehouse, and changes nothing."""

from collections.abc import Callable

import pytest

from pipelines.load.store import client_of
from pipelines.loop.report import Report
from pipelines.settings.settings import read_environment, read_store_settings
from pipelines.warehouse.connection import connect
from pipelines.warehouse.destination import Warehouse
from pipelines.warehouse.status import WarehouseHealth
from sources.cloudflare_audit_logs.errors import AuditLogsError
from tests.stores import Stores

pytestmark = pytest.mark.integration


def test_it_knows_the_server_the_tables_and_who_loads_them(poll: Callable[..., Report], stores: Stores) -> None:
    """Before the first load there is no table, afterwards it is ours."""
    poll()
    credentials = client_of(Warehouse.of(read_store_settings(read_environment()))).config.credentials

    with connect(credentials) as connection:
        health, empty = WarehouseHealth(connection, stores.schema), WarehouseHealth(connection, "nothing_here")
        user = health.user

        assert (health.check_version(), health.check_encoding()) == (
            stores.query("SELECT current_setting('server_version') AS v")[0]["v"],
            "UTF8",
        )
        assert (health.check_rights(user), health.check_table(user)) == (True, True)
        assert (empty.check_rights(user), empty.check_table(user)) == (False, False)
        assert health.check_timescale().chunk_days is None
        assert health.writers() == []


def test_a_role_without_rights_is_refused(poll: Callable[..., Report], stores: Stores) -> None:
    """The error names the role and the table."""
    poll()
    role = f"nobody_{stores.schema}"
    stores.query(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
    credentials = client_of(Warehouse.of(read_store_settings(read_environment()))).config.credentials
    credentials.username, credentials.password = role, "secret"

    with connect(credentials) as connection, pytest.raises(AuditLogsError, match=rf"{role} may not read and insert"):
        WarehouseHealth(connection, stores.schema).check_rights(role)
