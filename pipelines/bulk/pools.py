"""Where the units of a command are done: by threads of this process, or with `--scheduler` by a Dask cluster."""

import argparse
import re
from contextlib import AbstractContextManager
from typing import Any

from pipelines.settings.settings import Settings, UsageError

from .units import OpenUnit, Pool, Shared, thread_pool


def add_scheduler_option(parser: argparse.ArgumentParser) -> None:
    """`--scheduler`, which `open_pool` takes."""
    where = "let the workers of this Dask scheduler do it (tcp://HOST:PORT or tls://HOST:PORT)"
    parser.add_argument("--scheduler", type=_address, metavar="URL", help=where)


def open_pool(
    scheduler: str | None, open_unit: OpenUnit, settings: Settings, shared: Shared, *, threads: int, asks_api: bool
) -> AbstractContextManager[Pool[Any, Any]]:
    """A pool as long as the block runs, which ends it. `open_unit` has to be importable, for the workers of a cluster.

    Raises:
        UsageError: Dask is not installed.
        AuditLogsError: there is no cluster to be reached, or its workers do not suit.
    """
    if scheduler is None:
        return thread_pool(lambda name: open_unit(settings, shared, name), workers=threads, stop=shared.stop)
    try:
        from .dask_pool import dask_pool  # noqa: PLC0415  # half a second, and packages that nobody else needs
    except ModuleNotFoundError as error:
        raise UsageError(f"--scheduler needs Dask ({error}): see docs/scale-dask.md") from error
    return dask_pool(scheduler, open_unit, settings, asks_api=asks_api)


def _address(text: str) -> str:
    if not re.fullmatch(r"(tcp|tls)://(\[[0-9a-fA-F:.]+\]|[\w.-]+):\d{1,5}", text):
        raise argparse.ArgumentTypeError(f"{text!r:.80} is not a scheduler: write it as tcp://HOST:8786")
    return text
