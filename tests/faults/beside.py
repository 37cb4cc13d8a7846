"""`python -m tests.faults.beside`: reads the last day again and again into both stores beside the loop, until SIGTERM.

What a backfill does, on the main job's settings: sidecars, which take no writer's lock.
"""

import signal
import sys
from datetime import UTC, datetime, timedelta
from threading import Event

from pipelines.fetch.api import open_api
from pipelines.fetch.reading import Step, StepLimits, StreamReading
from pipelines.lake.destination import Lake
from pipelines.load.loader import Sidecar
from pipelines.load.spool import open_spool
from pipelines.load.store import Store
from pipelines.settings.settings import read_environment, read_settings
from pipelines.warehouse.destination import Warehouse
from sources.cloudflare_audit_logs.budget import Budgets
from sources.cloudflare_audit_logs.streams import Window


def main() -> int:
    """Loads until stopped."""
    stop = Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    settings = read_settings(read_environment(), now=_now())
    pipelines_dir = settings.stores.data_dir / "dlt" / "pipelines"
    stores: list[Store] = [Warehouse(settings.stores.postgres_schema, timescale=settings.stores.timescale), Lake()]
    with open_spool(settings.stores.data_dir) as spool, open_api(settings, Event(), _now, Budgets()) as fetch_pages:
        sidecars = [Sidecar(store, spool, "beside", pipelines_dir=pipelines_dir) for store in stores]
        for sidecar in sidecars:
            sidecar.open()
        while not stop.is_set():
            window = Window(_now() - timedelta(days=1), _now())
            for stream in settings.streams:
                for part in StreamReading(fetch_pages, stream, window, limits=StepLimits(300)).parts():
                    step = Step()
                    step.add(stream, part)
                    for sidecar in sidecars:
                        sidecar.load(step)
    return 0


def _now() -> datetime:
    return datetime.now(UTC)


if __name__ == "__main__":
    sys.exit(main())
