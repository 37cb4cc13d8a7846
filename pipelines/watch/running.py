"""A run as those see it who watch it from another thread: what it was told to do, and where it stands."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pipelines.loop.report import Report
from pipelines.settings.settings import Settings

from .progress import Progress


class Store(Protocol):
    """A destination, as far as it is watched."""

    name: str

    @property
    def is_open(self) -> bool:
        """True if it can be loaded."""


@dataclass(frozen=True)
class Running:
    """A run, as those see it who watch it."""

    settings: Settings
    report: Report
    destinations: Sequence[Store]
    progress: Progress

    def is_up(self, destination: Store) -> bool:
        """True if the destination is open, and its last load did not fail."""
        return destination.is_open and destination.name not in self.report.failures.destinations
