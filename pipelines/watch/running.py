"""A run as those see it who watch it from another thread: what it is to do, and where it stands."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.load.loader import Loader
from pipelines.loop.report import Report
from pipelines.settings.settings import Settings

from .progress import Progress


@dataclass(frozen=True)
class Running:
    """Read by any thread."""

    settings: Settings
    report: Report
    destinations: Sequence[Loader]
    progress: Progress

    def is_up(self, destination: Loader) -> bool:
        """True if the destination is open, and its last load did not fail."""
        return destination.is_open and destination.name not in self.report.failures.destinations
