"""Imported first by every command: a signal during its imports ends it quietly, and no secret leaves it.

Does so in a process that runs one of `pipelines/*.py`; elsewhere (tests, Dask's workers) it changes nothing.
"""

import gc
import os
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

INTERRUPTED = 130
"""The exit code of a command that Ctrl-C or SIGTERM has ended, as shells have it."""

MOST_UNCOLLECTED = 50_000
"""New objects before the collector looks for garbage; Python's 700 cost a sixth of the imports, which leave none."""


def end(code: int) -> NoReturn:
    """Ends the process now, without threads that still wait for an answer: nothing that they do is needed."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # nobody reads on, or the disk is full
            code = code or 1
    os._exit(code)


def end_quietly_on_signals() -> None:
    """Until a command says otherwise, SIGINT and SIGTERM end it at once: nothing was begun yet, or all is done."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if _is_command() and signal.getsignal(number) is not signal.SIG_IGN:  # as `nohup` and `&` have it
            signal.signal(number, _end_quietly)


def interrupt_on_signals() -> None:
    """SIGTERM is as Ctrl-C: KeyboardInterrupt, so that what is being done is finished or undone."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGINT) is _end_quietly:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end_quietly(*_: Any) -> NoReturn:
    os._exit(INTERRUPTED)


def _is_command() -> bool:
    file = getattr(sys.modules["__main__"], "__file__", None)
    return file is not None and Path(file).resolve().parent == Path(__file__).resolve().parent.parent


end_quietly_on_signals()
if _is_command():
    gc.set_threshold(MOST_UNCOLLECTED)
    from pipelines.host.masking import learn_environment
    from pipelines.host.output import protect_streams

    learn_environment(os.environ)
    protect_streams()
