"""A run as those see it who watch it from another thread: what it is to do, and where it stands."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from pipelines.host.file_lock import HeldElsewhereError
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
    is_over: threading.Event = field(default_factory=threading.Event)
    """Set at the end of a run, whose destinations are closed then."""

    def is_up(self, destination: Loader) -> bool:
        """True if the destination is open, and its last load did not fail."""
        is_open = destination.is_open or self.is_over.is_set()
        return is_open and destination.name not in self.report.failures.destinations

    @property
    def is_done_elsewhere(self) -> bool:
        """True if another process has a destination, and this one has none: the file with metrics is that one's."""
        errors = list(self.report.failures.destinations.values())
        is_locked_out = any(isinstance(error, HeldElsewhereError) for error in errors)
        return is_locked_out and not any(self.is_up(one) for one in self.destinations)
