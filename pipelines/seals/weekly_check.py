"""Beside the loop: verifies the whole lake with a quick look once a week, and reports what is not as it was sealed."""

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from datetime import datetime, timedelta

from pipelines.fetch.api import Clock
from pipelines.host.aside import words_of
from pipelines.host.logs import log
from pipelines.lake.ask.places import open_place
from pipelines.loop.report import Report
from pipelines.settings.settings import Settings
from sources.cloudflare_audit_logs.streams import Stream, Window
from sources.cloudflare_audit_logs.times import EARLIEST

from .key_file import read_key
from .verification import Scope, Verification, Verified

FIRST_CHECK_SECONDS = 3_600
"""After the start, so that `--once` on a timer never lists the whole lake."""
CHECK_SECONDS = 7 * 86_400
"""PCI DSS 11.5.2 asks for a comparison at least once a week."""
DEADLINE_SECONDS = 900


class WeeklyCheck:
    """Verifies what is due, as a task of the loop's background: it neither holds up nor ends the loop."""

    def __init__(
        self, settings: Settings, clock: Clock, report: Report, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings, self._clock, self._report, self._monotonic = settings, clock, report, monotonic
        self._next = monotonic() + FIRST_CHECK_SECONDS
        self.deadline_seconds = DEADLINE_SECONDS

    @property
    def is_due(self) -> bool:
        """True if a week has passed, and there is a key."""
        return self._settings.seals.key_file is not None and self._monotonic() >= self._next

    def note(self, ended: "Future[Verified]") -> None:
        """Reports what was found, or logs why it failed."""
        if error := ended.exception():
            log.warning("seal.not_verified", error=words_of(error), hint="it is tried again later")
            self._next = self._monotonic() + FIRST_CHECK_SECONDS
            return
        found = ended.result()
        alarms = [one for one in found.problems if one.is_alarm]
        chain = [one for one in found.chain if one.is_alarm(self._clock() - timedelta(seconds=CHECK_SECONDS))]
        self._report.seal_alarms["weekly"] = len(alarms) + len(chain)
        for what in [*(f"{one.kind}: {one.text}" for one in chain), *(f"{one.verdict}: {one.path}" for one in alarms)][
            :10
        ]:
            log.error("seal.alarm", found=what, hint="see pipelines/verify.py, and docs/runbook.md")
        log.info("seal.verified", seals=found.seals, hours=found.hours.total(), alarms=len(alarms) + len(chain))

    def work(self, _: Mapping[Stream, datetime], __: threading.Event) -> Verified:
        """Verifies all seals, and by a listing all hours."""
        self._next = self._monotonic() + CHECK_SECONDS
        file, now = self._settings.seals.key_file, self._clock()
        assert file is not None, "it is due with a key alone"  # noqa: S101
        unsealed_after = timedelta(minutes=2 * self._settings.seals.after_minutes, days=1)
        scope = Scope(Window(EARLIEST, now), is_quick=True, unsealed_after=unsealed_after)
        return Verification(open_place(), read_key(file).trusted, scope, now).run()
