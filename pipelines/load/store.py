"""The protocol that PostgreSQL and the lake share: asked what they hold, locked for one writer, loaded by dlt.

A pipeline's position says that its store holds `[begin, cursor)` of a stream. The positions of all pipelines of a store
count, so that the number of shards can be changed: a pipeline that never loaded a stream goes on where others ended.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, Protocol

from dlt.common.configuration.exceptions import ConfigFieldMissingException, ConfigurationException
from dlt.common.schema import Schema

from sources.cloudflare_audit_logs import SOURCE_NAME, Position, stored_position
from sources.cloudflare_audit_logs.errors import AuditLogsError
from sources.cloudflare_audit_logs.events import EventKey
from sources.cloudflare_audit_logs.streams import API_VERSIONS, Stream, Window

from .dlt_settings import settle_configuration

Refused = Mapping[Stream, int]
"""The number of events of a load that a store refused and quarantined, by stream."""


class Store(Protocol):
    """The warehouse or the lake. All errors inside `translated_errors` are raised as ours."""

    name: str
    pipeline_name: str
    dataset_name: str

    @property
    def oldest_kept(self) -> datetime | None:
        """Events before this time were deleted for their age, and are not loaded. None: all are kept."""

    def destination(self) -> Any:
        """The dlt destination."""

    def translated_errors(self) -> AbstractContextManager[None]:
        """A block that raises the store's errors as ours."""

    def open(self, client: Any, *, takes_lock: bool) -> None:
        """Prepares the store: for the loop with the writer's lock, for others without. Repeatable."""

    def states(self, client: Any) -> list[Any]:
        """The newest state that counts of each pipeline that loads the store or a shard of its accounts, as dlt's."""

    def verify_lock(self) -> None:
        """Raises if the lock may be lost."""

    def after_load(self, client: Any) -> bool:
        """Brings up to date what is around the events, after an opening's first load. False: call it again."""

    def take_refused(self) -> Refused:
        """The events that the loads since the last call refused and quarantined."""

    def prune(self, client: Any) -> None:
        """Removes what dlt keeps of old loads, so that its own tables do not grow for ever."""

    def close(self) -> None:
        """Gives the lock back."""

    def event_keys(self, stream: Stream, since: datetime, before: datetime) -> set[EventKey]:
        """The keys of the events held in `[since, before)`."""

    def held_digests(self, stream: Stream, digests: Sequence[str], received: Window) -> set[str]:
        """Returns the digests whose events are quarantined; `received` is when they can have been received."""


def client_of(store: Store, destination: Any = None) -> Any:
    """Dlt's client of a store, by a destination of its that is in use already, or by a new one.

    Raises:
        AuditLogsError: there are no credentials for it, in the settings or where AWS keeps them.
    """
    settle_configuration()
    destination = destination or store.destination()
    bound = destination.spec()._bind_dataset_name(store.dataset_name)  # noqa: SLF001  # as dlt does
    try:
        return destination.client(Schema(SOURCE_NAME), bound)
    except ConfigFieldMissingException as error:
        hint = "set S3_ACCESS_KEY and S3_SECRET_KEY" if store.name == "lake" else "set PG_HOST, PG_USER and PG_PASSWORD"
        raise AuditLogsError(f"there are no credentials for the {store.name}", hint=hint) from error
    except (ConfigurationException, TypeError) as error:  # whose text may have the value, and a password in it
        hint = "see DESTINATION__… in the environment and .dlt/secrets.toml"
        raise AuditLogsError(f"dlt cannot read its settings of the {store.name}", hint=hint) from error


def positions_of(*states: Any) -> dict[Stream, Position]:
    """The positions in the states of a store's pipelines, joined."""
    found: dict[Stream, list[Position]] = {}
    prefixes = {version: Stream("", version).name for version in API_VERSIONS}
    for state in states:
        for name in (state or {}).get("sources", {}).get(SOURCE_NAME, {}).get("resources", {}):
            for version, prefix in prefixes.items():
                stream = Stream(name.removeprefix(prefix), version)
                if name.startswith(prefix) and (position := stored_position(state, stream)):
                    found.setdefault(stream, []).append(position)
    return {stream: position for stream in sorted(found) if (position := joined(found[stream]))}


def joined(positions: Iterable[Position]) -> Position | None:
    """The union from the earliest begin to the first hole: what lies behind the hole is read again."""
    union = None
    for position in sorted(positions):
        if union is None:
            union = position
        elif position.begin <= union.cursor:
            union = Position(union.begin, max(union.cursor, position.cursor))
    return union
