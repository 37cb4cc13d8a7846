"""Sends our state to the supervisor that started us, by systemd's protocol; does nothing without `NOTIFY_SOCKET`.

READY=1 comes with the first result: a step that was loaded, or something that failed. Then we run and try again, and
`/readyz` says whether all is well. WATCHDOG=1 is sent for progress (`progress`), never by a timer.
"""

import os
import socket

from pipelines.host.logs import log
from pipelines.host.masking import masked
from pipelines.loop.report import Report, as_text

_PATIENCE_SECONDS = 0.2
"""For one that reads slowly: the loop, and those who ask the API, wait here."""


def notify(*lines: str) -> bool:
    """Sends `NAME=value` lines. False if they are to be sent again."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return True
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.settimeout(_PATIENCE_SECONDS)
            sender.connect(f"\0{address[1:]}" if address.startswith("@") else address)
            sender.send(masked("\n".join(lines)).encode())
    except (FileNotFoundError, ConnectionRefusedError) as error:
        log.warning("notify.failed", error=error, hint="nobody listens at NOTIFY_SOCKET: nothing more is sent")
        os.environ.pop("NOTIFY_SOCKET", None)
    except OSError as error:
        log.warning("notify.failed", error=error, hint="it is sent again with the next progress")
        return False
    return True


class Supervisor:
    """Sends the supervisor the state of a run."""

    def __init__(self, longest_silence_seconds: float, *, is_idle: bool = False) -> None:
        """A run that has nothing to poll is ready at once."""
        self._longest_silence_us = round(longest_silence_seconds * 1_000_000)
        self._is_idle = is_idle
        self._is_ready = False

    def alive(self) -> None:
        """Sends that there was progress."""
        notify("WATCHDOG=1")

    def follow(self, report: Report) -> None:
        """Sends READY once there is a result, and the state in one line."""
        if (report.has_result or self._is_idle) and not self._is_ready:
            # A watchdog that is set is made as patient as a healthy loop may need it (an interval of a day, say).
            is_hasty = 0 < int(os.environ.get("WATCHDOG_USEC", "0")) < self._longest_silence_us
            patience = [f"WATCHDOG_USEC={self._longest_silence_us}"] if is_hasty else []
            self._is_ready = notify("READY=1", *patience)
        notify(f"STATUS={as_text(report)}")
