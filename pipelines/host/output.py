"""Text on its way out by stdout and stderr: without secrets, and for the journal with a priority on each line.

The interpreter's tracebacks and the warnings of libraries go through here, too.
"""

import os
import re
import sys
from functools import cache
from typing import Any, TextIO

from .masking import masked

ERROR, WARNING, INFO = 3, 4, 6
"""Priorities of syslog, as journald takes them at the begin of a line: sd-daemon(3)."""

_HAS_PRIORITY = re.compile(r"<[0-7]>")


@cache
def is_journal() -> bool:
    """True if stderr is connected to journald: it has the device and inode that systemd names."""
    try:
        stderr = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{stderr.st_dev}:{stderr.st_ino}"


def with_priority(text: str, priority: int) -> str:
    """The text with the priority before each line that has none."""
    lines = text.splitlines(keepends=True)
    return "".join(line if _HAS_PRIORITY.match(line) else f"<{priority}>{line}" for line in lines)


class MaskedStream:
    """A stream that writes no secret. What is no log line in the journal is an error: a traceback, a wrong option."""

    def __init__(self, stream: TextIO, priority: int | None = None) -> None:
        self._stream, self._priority, self._is_at_begin = stream, priority, True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes the text without secrets; returns the length of the text that was given."""
        safe = masked(text)
        if self._priority is not None and text:
            first = "" if self._is_at_begin else (safe[: safe.find("\n") + 1] or safe)
            safe = first + with_priority(safe[len(first) :], self._priority)
            self._is_at_begin = text.endswith("\n")
        self._stream.write(safe)
        return len(text)

    def writelines(self, lines: Any) -> None:
        """See `write`."""
        for line in lines:
            self.write(line)


class _Results:
    """A command's results on the stdout that it began with."""

    stream: TextIO | None = None


def begin_results() -> TextIO:
    """From now on `say` prints on the stream that is stdout now: dlt, in any thread, may put another in its place."""
    _Results.stream = sys.stdout
    return sys.stdout


def say(result: object) -> None:
    """Prints a line of a command's result, at once."""
    print(result, file=_Results.stream, flush=True)


def protect_streams() -> None:
    """From now on stdout and stderr write no secret."""
    if not isinstance(sys.stdout, MaskedStream) and sys.stdout is not None:
        sys.stdout = MaskedStream(sys.stdout)
    if not isinstance(sys.stderr, MaskedStream) and sys.stderr is not None:
        sys.stderr = MaskedStream(sys.stderr, ERROR if is_journal() else None)
