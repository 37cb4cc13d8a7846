"""Runs the commands of the demo, each a process of its own, and shows how far they are. Knows the loop by its log."""

import math
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from tqdm import tqdm

from pipelines.settings.settings import PROJECT_ROOT
from sources.cloudflare_audit_logs.errors import AuditLogsError, TemporaryError

CATCH_UP_SECONDS = 300
"""The longest time for the history, on a slow machine."""
FINISH_SECONDS = 90
"""The longest time for the loads that are running at the end."""
PLAIN_SECONDS = 5
"""From line to line where there is no terminal."""
LAST_LINES = 10
"""Lines of the log that are shown when a command fails."""
TRY_AGAIN = 75

_LOADED = re.compile(r"load\.finished destination=(?P<store>\w+) new=(?P<new>\d+) .*newest=(?P<newest>\S+)")
_STORES = ("warehouse", "lake")


@dataclass
class Loaded:
    """The counts and times in the loop's log."""

    log: IO[str]
    new: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_STORES, 0))
    newest: dict[str, datetime] = field(default_factory=dict)

    def read(self) -> None:
        """Reads on; a line that is not whole yet is left for the next time."""
        place = self.log.tell()
        while (line := self.log.readline()).endswith("\n"):
            place = self.log.tell()
            if found := _LOADED.search(line):
                self.new[found["store"]] += int(found["new"])
                self.newest[found["store"]] = datetime.fromisoformat(found["newest"])
        self.log.seek(place)

    @property
    def common(self) -> datetime | None:
        """The newest time that both stores have an event of, of any stream; None before that."""
        return min(self.newest.values()) if len(self.newest) == len(_STORES) else None

    def __str__(self) -> str:
        if not self.newest:
            return "PostgreSQL is made, the API is read"
        return ", ".join(f"{store} {count:,} events" for store, count in self.new.items())


@dataclass(frozen=True)
class Steps:
    """The commands of the demo, with its settings and its log."""

    environment: Mapping[str, str]
    log: Path

    def run_loop(self, command: Sequence[str], *, since: datetime, seconds: float) -> None:
        """Runs the loop until both stores hold events later than `since`, and some seconds more.

        Raises:
            TemporaryError: it takes longer than CATCH_UP_SECONDS.
            AuditLogsError: the loop fails.
        """
        with self.log.open("a") as stderr, self.log.open() as written, progress_line() as show:
            loaded = Loaded(written)
            with self._started(command, stderr) as process:
                give_up_at, stop_at = time.monotonic() + CATCH_UP_SECONDS, math.inf
                while process.poll() is None and time.monotonic() < stop_at:
                    time.sleep(0.1)
                    loaded.read()
                    show(str(loaded))
                    has_caught_up = loaded.common is not None and loaded.common > since
                    stop_at = min(stop_at, time.monotonic() + seconds) if has_caught_up else stop_at
                    if not has_caught_up and time.monotonic() > give_up_at:
                        raise TemporaryError(
                            f"the history is not loaded after {CATCH_UP_SECONDS} seconds", hint=self._see
                        )
            loaded.read()
            show(str(loaded))
        if process.returncode or loaded.common is None:
            raise self._failed(command, process.returncode)

    def run(
        self, command: Sequence[str], doing: str, accepted: Sequence[int] = (0,)
    ) -> "subprocess.CompletedProcess[str]":
        """Runs a command to its end, and returns its exit code and what it printed. Raises as `run_loop`."""
        with self.log.open("a") as stderr, TemporaryFile("w+") as printed, progress_line() as show:
            with self._started(command, stderr, printed) as process:
                while process.poll() is None:
                    show(doing)
                    time.sleep(0.1)
            printed.seek(0)
            if process.returncode not in accepted:
                raise self._failed(command, process.returncode)
            return subprocess.CompletedProcess(list(command), process.returncode, printed.read())

    @contextmanager
    def _started(
        self, command: Sequence[str], stderr: IO[str], stdout: IO[str] | None = None
    ) -> Iterator["subprocess.Popen[bytes]"]:
        """Runs a process; at the end of the block, also after Ctrl-C, it may finish what it is doing."""
        process = subprocess.Popen(  # noqa: S603  # commands of ours
            command, env=self.environment, cwd=PROJECT_ROOT, stdout=stdout, stderr=stderr
        )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(FINISH_SECONDS)
            finally:
                process.kill()
                process.wait()

    @property
    def _see(self) -> str:
        return f"see {self.log}"

    def _failed(self, command: Sequence[str], code: int) -> AuditLogsError:
        last = "\n".join(self.log.read_text().splitlines()[-LAST_LINES:])
        sys.stderr.write(f"The last lines of {self.log}:\n{last}\n")
        error = TemporaryError if code == TRY_AGAIN else AuditLogsError
        return error(f"{' '.join(command[1:2])} failed with exit code {code}", hint=self._see)


@contextmanager
def progress_line() -> Iterator[Callable[[str], None]]:
    """A live line on a terminal, a line every PLAIN_SECONDS elsewhere."""
    begun, due = time.monotonic(), PLAIN_SECONDS
    with tqdm(bar_format="{elapsed}  {desc}", disable=not sys.stderr.isatty(), leave=False) as bar:

        def show(text: str) -> None:
            nonlocal due
            bar.set_description_str(text)
            if bar.disable and time.monotonic() - begun >= due:
                due += PLAIN_SECONDS
                sys.stderr.write(f"{time.monotonic() - begun:4.0f} s  {text}\n")

        yield show
