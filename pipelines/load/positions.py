"""How far a store holds each stream, by all of the pipelines that load it: those of other shards, too. Pure.

A pipeline's position says that the store holds `[begin, cursor)`. So the number of shards can be changed: a pipeline
that never loaded a stream goes on where those before it have come.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from sources.cloudflare_audit_logs import SOURCE_NAME, Position, stored_position
from sources.cloudflare_audit_logs.streams import API_VERSIONS, Stream


def joined(positions: Iterable[Position]) -> Position | None:
    """From the earliest begin on, as far as there is no hole: what lies behind one is read again."""
    union = None
    for position in sorted(positions):
        if union is None:
            union = position
        elif position.begin <= union.cursor:
            union = Position(union.begin, max(union.cursor, position.cursor))
    return union


def positions_of(*states: Any) -> dict[Stream, Position]:
    """The positions in the states of a store's pipelines, joined."""
    found: dict[Stream, list[Position]] = {}
    for state in states:
        resources = (state or {}).get("sources", {}).get(SOURCE_NAME, {}).get("resources", {})
        for stream in _streams_of(resources):
            position = stored_position(state, stream)
            if position:
                found.setdefault(stream, []).append(position)
    return {stream: position for stream in sorted(found) if (position := joined(found[stream]))}


def _streams_of(names: Iterable[str]) -> Iterator[Stream]:
    for name in names:
        for version in API_VERSIONS:
            prefix = Stream("", version).name
            if name.startswith(prefix):
                yield Stream(name.removeprefix(prefix), version)
