"""The windows that a cycle is to read: those that the destinations lack, and which destinations share a reading."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from pipelines.load.loader import Loader
from pipelines.settings.accounts import LEAST_OVERLAP
from pipelines.settings.settings import Settings
from sources.cloudflare_audit_logs.streams import Stream, Window

from .loaders import LoadedStep
from .sweep import SweepPlan

SHARED_SPREAD = timedelta(hours=1)
"""Destinations whose windows start this close together share a reading; one that is further behind reads for itself."""

Group = tuple[Loader, ...]


class CyclePlan:
    """Asks the destinations for their positions, and keeps the times of the last sweeps."""

    def __init__(self, settings: Settings, destinations: Sequence[Loader], started: datetime) -> None:
        self._settings, self._destinations, self._started = settings, destinations, started
        interval = timedelta(seconds=settings.sweep_interval_seconds)
        self._sweeps = SweepPlan(settings.stores.data_dir / "sweeps", interval, settings.sweep_window)

    def polls(
        self,
        streams: Iterable[Stream],
        ready: Collection[Loader],
        polled: Collection[tuple[Loader, Stream]],
        now: datetime,
    ) -> dict[Group, dict[Stream, Window]]:
        """Returns the windows that the ready destinations lack, but for the streams that are being polled."""
        windows = {}
        for stream in streams:
            free = [d for d in self._destinations if d in ready and d.is_open and (d, stream) not in polled]
            windows[stream] = {destination: self._poll_window(destination, stream, now) for destination in free}
        return _by_group(windows)

    def sweeps(self, streams: Iterable[Stream], now: datetime) -> dict[Group, dict[Stream, Window]]:
        """Returns the windows that are due to be read again for late events."""
        return _by_group({stream: dict(self._sweep_windows(stream, now)) for stream in streams})

    def held_begins(self, streams: Iterable[Stream]) -> Iterator[tuple[Stream, datetime]]:
        """Yields the streams that every destination holds, and from when on."""
        for stream in streams:
            positions = [d.position(stream) for d in self._destinations if d.is_open]
            if len(positions) == len(self._destinations) and None not in positions:
                yield stream, max(position.begin for position in positions if position)

    def note_loaded(self, load: LoadedStep) -> None:
        """Notes that a destination need not sweep a window any more: it was swept, or polled from as far back."""
        for stream in load.step.finished:
            position, since, begun = load.positions.get(stream), load.step.parts[stream].window.since, load.begun
            if position is None:
                continue
            is_first = since <= position.begin
            if load.is_sweep or is_first or self._sweeps.is_covered_by(load.destination, stream, since, begun):
                self._sweeps.mark(load.destination, stream, begun, position.cursor)

    def _poll_window(self, destination: Loader, stream: Stream, now: datetime) -> Window:
        """From the cursor minus the lag, or from the first start's begin for a stream never seen, until now."""
        position, lag = destination.position(stream), self._settings.safety_lag(stream)
        if position is None:
            return Window(self._settings.first_begin(stream, self._started), now)
        self._sweeps.note(destination.name, stream, position.cursor)
        # A cursor of a clock that was ahead must not close the window: the lag before now is always read.
        return Window(min(max(position.cursor - lag, position.begin), now - lag), now)

    def _sweep_windows(self, stream: Stream, now: datetime) -> Iterator[tuple[Loader, Window]]:
        for destination in self._destinations:
            position = destination.position(stream) if destination.is_open else None
            if position is not None:
                polled_since = self._poll_window(destination, stream, now).since
                window = self._sweeps.window(destination.name, stream, polled_since, now)
                if window and position.begin < window.before:
                    yield destination, Window(max(window.since, position.begin), window.before + LEAST_OVERLAP)


def _by_group(windows: Mapping[Stream, Mapping[Loader, Window]]) -> dict[Group, dict[Stream, Window]]:
    """For each group of destinations that share a reading, the windows that hold those of all of them."""
    shared: dict[Group, dict[Stream, Window]] = {}
    for stream, by_destination in windows.items():
        for group in _sharing(by_destination):
            parts = [by_destination[destination] for destination in group]
            window = Window(min(part.since for part in parts), max(part.before for part in parts))
            shared.setdefault(group, {})[stream] = window
    return shared


def _sharing(windows: Mapping[Loader, Window]) -> list[Group]:
    """The destinations in groups whose windows start close together."""
    starts = [window.since for window in windows.values()]
    if not starts or max(starts) - min(starts) <= SHARED_SPREAD:
        return [tuple(windows)] if starts else []
    return [(destination,) for destination in windows]
