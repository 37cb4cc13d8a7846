"""The dlt source `cloudflare_audit_logs`: one resource per API version and account, each with a cursor of its own.

The events are read from the API before dlt is asked for anything (`stretches`, `events`), so nothing of dlt runs while
the network is read, and both pipelines load the same pages. dlt is imported with the source itself (`source`): who
only asks for an error, a time or a column does without it.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from .streams import Stream

if TYPE_CHECKING:
    from .files import Batch
    from .source import cloudflare_audit_logs

SOURCE_NAME = "cloudflare_audit_logs"
CURSOR = "timestamp"


def __getattr__(name: str) -> Any:
    """Imports what a load alone needs when it is asked for."""
    if name == "Batch":
        from .files import Batch  # noqa: PLC0415

        return Batch
    if name == "cloudflare_audit_logs":
        from .source import cloudflare_audit_logs  # noqa: PLC0415

        return cloudflare_audit_logs
    raise AttributeError(name)


class Position(NamedTuple):
    """The begin and end of what a destination holds of a stream, as its dlt state says."""

    begin: datetime
    cursor: datetime


def stored_position(state: Mapping[str, Any], stream: Stream) -> Position | None:
    """The stream's position in the state of a dlt pipeline; None before its first load."""
    node: Any = state
    for key in ("sources", SOURCE_NAME, "resources", stream.name, "incremental", CURSOR):
        node = node.get(key) if node else None
    return Position(_plain(node["initial_value"]), _plain(node["last_value"])) if node else None


def _plain(time: datetime) -> datetime:
    """Dlt hands out subclasses of datetime."""
    return datetime.fromisoformat(time.isoformat()).astimezone(UTC)


__all__ = ["Batch", "Position", "Stream", "cloudflare_audit_logs", "stored_position"]
