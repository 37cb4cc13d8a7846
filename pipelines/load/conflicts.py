"""Events that the API shows more than once, and not alike: the key says that the first stays; that it did is told."""

from collections import Counter
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.fetch.reading import Part, Step
from sources.cloudflare_audit_logs.events import KEY_COLUMNS, EventKey, event_keys
from sources.cloudflare_audit_logs.schema import EVENT_SCHEMA
from sources.cloudflare_audit_logs.streams import Stream

from .held_keys import is_ascending

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
    keys = pa.concat_tables([EVENT_SCHEMA.empty_table().select(KEY_COLUMNS), *(page.keys for page in part.pages)])
    # Times that differ, or ids that do, are asked of the column, not of each event: that is nearly always enough.
    if is_ascending(keys["timestamp"]) or pc.count_distinct(keys["event_id"]).as_py() == keys.num_rows:
        return []
    texts: dict[EventKey, int] = {}
    pairs = (pair for page in part.pages for group in page.event_groups() for pair in _texts(group))
    return list(dict.fromkeys(key for key, text in pairs if texts.setdefault(key, text) != text))


def _texts(events: pa.Table) -> Iterator[tuple[EventKey, int]]:
    """The key of each event and a hash of its text."""
    return zip(event_keys(events), map(hash, events["raw_event"].to_pylist()), strict=True)
