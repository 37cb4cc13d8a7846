"""Opens both stores beside the loop: to compare them, and to fill them."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from typing import NamedTuple

from pipelines.lake.destination import Lake
from pipelines.lake.reads import LakeReader, read_lake
from pipelines.load.loader import Sidecar
from pipelines.load.spool import Spool
from pipelines.settings.settings import StoreSettings
from pipelines.warehouse.connection import Credentials, as_owner
from pipelines.warehouse.destination import Warehouse, open_warehouse
from pipelines.warehouse.reads import WarehouseReader, read_warehouse


class Copies(NamedTuple):
    """Warehouse and lake, to be read by one thread at a time."""

    warehouse: WarehouseReader
    lake: LakeReader
    owner: Credentials
    """The role that may change events in the warehouse."""
    schema: str


@contextmanager
def open_copies(stores: StoreSettings, *, must_exist: bool = True) -> Iterator[Copies]:
    """Opens both for reading; raises AuditLogsError if one is down, not there, or not ours."""
    with (
        open_warehouse(stores, takes_lock=False) as (warehouse, client),
        read_warehouse(warehouse, client) as reader,
        read_lake(must_exist=must_exist) as lake,
    ):
        yield Copies(reader, lake, as_owner(client.config.credentials, stores.postgres_owner), stores.postgres_schema)


@contextmanager
def open_sidecars(
    stores: StoreSettings, spool: Spool, purpose: str, *, clock: Callable[[], datetime]
) -> Iterator[dict[str, Sidecar]]:
    """Opens a way into each store beside its loop, under pipeline names that end in `purpose`.

    Raises:
        AuditLogsError: a store is down or not ours, or another process on this host has the same purpose.
    """
    warehouse, pipelines_dir = Warehouse.of(stores, clock=clock), stores.data_dir / "dlt" / "pipelines"
    with ExitStack() as stack:
        stack.callback(warehouse.close)
        sidecars = {}
        for store in (warehouse, Lake()):
            sidecar = sidecars[store.name] = Sidecar(store, spool, purpose, pipelines_dir=pipelines_dir)
            stack.callback(sidecar.close)
            sidecar.open()
        yield sidecars
