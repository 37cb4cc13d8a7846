"""What the lake says of its own health: cursors, the last load, the size of some days. Changes nothing.

Nothing lists the lake: dlt's own files are pruned to a hundred, and of the events only the folders of the last days are
listed, an account and day each.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from dlt.common.destination.exceptions import DestinationUndefinedEntity

from pipelines.load.store import client_of, positions_of
from sources.cloudflare_audit_logs import Position
from sources.cloudflare_audit_logs.streams import Stream

from .destination import Lake, LakeClient
from .hasty import hasten
from .partitions import day_folder

DAYS = 7
"""Today included."""
_REQUESTS = 8
"""At once."""


class LakeHealth(NamedTuple):
    """What there is."""

    positions: dict[Stream, Position]
    last_load: datetime | None
    objects: int
    """Of the last days."""
    bytes: int
    """Of the same."""


def lake_health(account_ids: Sequence[str], now: datetime) -> LakeHealth:
    """What the lake of the settings holds of these accounts, and of those that it has cursors of.

    Raises:
        TemporaryError: it cannot be reached.
    """
    lake = Lake()
    with lake.translated_errors():
        client: LakeClient = client_of(lake)
        hasten(client)
        positions = positions_of(*client.stored_states())
        sizes = _sizes(client, sorted({*account_ids, *(stream.account_id for stream in positions)}), now)
        return LakeHealth(positions, _last_load(client), len(sizes), sum(sizes))


def _last_load(client: LakeClient) -> datetime | None:
    """The markers end with the load's id, which is a time."""
    try:
        markers = client.load_markers()
    except (DestinationUndefinedEntity, FileNotFoundError):
        return None
    times = [float(marker.rpartition("__")[2].removesuffix(".jsonl")) for marker in markers]
    return datetime.fromtimestamp(max(times), UTC) if times else None


def _sizes(client: LakeClient, account_ids: Sequence[str], now: datetime) -> list[int]:
    """Of each object of the last days."""
    days = [now - timedelta(days=days) for days in range(DAYS)]
    folders = [day_folder(account_id, day) for account_id in account_ids for day in days]
    with ThreadPoolExecutor(_REQUESTS) as pool:
        return [size for sizes in pool.map(client.objects.sizes, folders) for size in sizes.values()]
