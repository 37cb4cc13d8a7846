"""Asks the loop to end: the first SIGTERM or SIGINT lets the loads under way finish, a second one ends all.

A signal's handler runs in the middle of whatever the main thread does, with its locks held: it hands the signal on, to
a thread that may take its time, and does nothing else.
"""

import os
import signal
import threading
from functools import partial
from queue import SimpleQueue
from typing import Any

from pipelines.host.logs import log

from .systemd import notify


def stop_on_signals(longest_seconds: float) -> threading.Event:
    """Returns an event that the first signal sets. If the process runs on for so long, it ends as if killed: safe."""
    stop, signals = threading.Event(), SimpleQueue[int]()

    def hand_on(number: int, _: Any) -> None:
        signal.signal(number, signal.SIG_DFL)
        signals.put(number)  # which may be called in the middle of itself, unlike an event's `set`

    threading.Thread(target=_stop_on_signal, args=(signals, stop, longest_seconds), daemon=True).start()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, hand_on)
    return stop


def _stop_on_signal(signals: SimpleQueue[int], stop: threading.Event, longest_seconds: float) -> None:
    number = signals.get()
    timer = threading.Timer(longest_seconds, _end_now)
    timer.daemon = True
    timer.start()
    log.info("run.stopping", signal=signal.Signals(number).name)
    notify("STOPPING=1")
    stop.set()  # the last thing: the process may end at once


def _end_now() -> None:
    hint = "a load took too long to finish; the next start goes on from the destinations"
    words = threading.Thread(
        target=partial(log.error, "run.stopped", hint=hint), daemon=True
    )  # nobody may read the log
    words.start()
    words.join(1)
    os._exit(75)
