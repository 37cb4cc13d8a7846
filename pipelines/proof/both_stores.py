"""The two copies, opened beside the loop: to be compared, and to be filled."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime

from dlt.destinations.impl.postgres.configuration import PostgresCredentials

from pipelines.lake.destination import Lake
from pipelines.lake.reads import LakeReader, read_lake
from pipelines.load.loader import Sidecar
from pipelines.load.spool import Spool
from pipelines.settings.settings import StoreSettings
from pipelines.warehouse.connection import as_owner
from pipelines.warehouse.destination import Warehouse, open_warehouse
from pipelines.warehouse.reads import WarehouseReader, read_warehouse


@dataclass
class Copies:
    """Warehouse and lake, to be read. Used by one thread at a time."""

    warehouse: WarehouseReader
    lake: LakeReader
    owner: PostgresCredentials
    """Who may change what is in the warehouse."""
    schema: str


@contextmanager
def open_copies(stores: StoreSettings, *, must_exist: bool = True) -> Iterator[Copies]:
    """Both of them as the settings say.

    Raises:
        AuditLogsError: one is down, not there, or not ours.
    """
    with ExitStack() as stack:
        warehouse, client = stack.enter_context(open_warehouse(stores, takes_lock=False))
        asked = stack.enter_context(read_warehouse(warehouse, client))
        lake = stack.enter_context(read_lake(must_exist=must_exist))
        yield Copies(asked, lake, as_owner(client.config.credentials, stores.postgres_owner), stores.postgres_schema)


@contextmanager
def open_sidecars(
    stores: StoreSettings, spool: Spool, purpose: str, *, clock: Callable[[], datetime]
) -> Iterator[dict[str, Sidecar]]:
    """A way into each store beside its loop, under pipeline names that end in `purpose`.

    Raises:
        AuditLogsError: a store is down or not ours, or another process on this host has the same purpose.
    """
    pipelines_dir = stores.data_dir / "dlt" / "pipelines"
    warehouse = Warehouse.of(stores, clock=clock)
    sidecars = {
        store.name: Sidecar(store, spool, purpose, pipelines_dir=pipelines_dir) for store in (warehouse, Lake())
    }
    try:
        for sidecar in sidecars.values():
            sidecar.open()
        yield sidecars
    finally:
        for sidecar in sidecars.values():
            sidecar.close()
        warehouse.close()
