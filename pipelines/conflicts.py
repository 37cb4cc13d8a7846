"""Events that the API shows more than once, and not alike: the key says that the first stays; that it did is told."""

from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc

from sources.cloudflare_audit_logs.streams import Stream

from .known import EventKey, event_keys, is_ascending
from .reading import Part, Step

MOST_REMEMBERED = 10_000
"""Keys, so that a conflict in the overlap of the polls is counted once. Beyond them, all are forgotten."""


class Conflicts:
    """Seen where it costs next to nothing: within a step. `reconcile.py --content` compares with what is stored."""

    def __init__(self) -> None:
        self.counts: Counter[Stream] = Counter()
        self._seen: set[tuple[Stream, EventKey]] = set()

    def note(self, step: Step) -> dict[Stream, list[str]]:
        """Counts those of a step; returns the ids of those that were not counted before."""
        found = {stream: self._new(stream, conflicting(part)) for stream, part in step.parts.items()}
        return {stream: event_ids for stream, event_ids in found.items() if event_ids}

    def _new(self, stream: Stream, keys: list[EventKey]) -> list[str]:
        new = [key for key in keys if (stream, key) not in self._seen]
        if len(self._seen) > MOST_REMEMBERED:
            self._seen.clear()
        self._seen.update((stream, key) for key in new)
        self.counts[stream] += len(new)
        return [event_id for event_id, _ in new]


def conflicting(part: Part) -> list[EventKey]:
    """The keys under which a part has events that differ."""
    tables = [page.events.select(["event_id", "timestamp", "raw_event"]) for page in part.pages]
    if not tables:
        return []
    events = pa.concat_tables(tables)
    # Times that differ, or ids that do, are asked of the column, not of each event: that is nearly always enough.
    if is_ascending(events["timestamp"]) or pc.count_distinct(events["event_id"]).as_py() == events.num_rows:
        return []
    texts: dict[EventKey, str] = {}
    pairs = zip(event_keys(events), events["raw_event"].to_pylist(), strict=True)
    return list(dict.fromkeys(key for key, text in pairs if texts.setdefault(key, text) != text))
