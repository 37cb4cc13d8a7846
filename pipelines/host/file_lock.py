"""A lock on a file that says who holds it. The kernel undoes it when the process ends, however it ends."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import IO

from sources.cloudflare_audit_logs.errors import TemporaryError


class HeldElsewhereError(TemporaryError):
    """Another process does this work: the lock is its."""


def take_file_lock(file: IO[str], what: str, *, hint: str) -> None:
    """Locks a file that is open to read and append; it holds the holder's name, for the error. Safe to repeat."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        raise HeldElsewhereError(f"another process {what}", detail=f"held by {file.read()}", hint=hint) from error
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()


@contextmanager
def free_number(folder: Path) -> Iterator[int]:
    """The lowest number that no other process on this host has taken in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in count():
        with (folder / f"{number}.lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield number
            return


def holder_of(path: Path) -> str | None:
    """The holder of a file's lock, as the file names it; None: nobody, or this system does not say.

    Read from the kernel's list: trying the lock could make a process fail that takes it at this moment.
    """
    try:
        inode = path.stat().st_ino
        locked = {line.split()[5].rpartition(":")[2] for line in Path("/proc/locks").read_text().splitlines()}
        return path.read_text(errors="replace") if str(inode) in locked else None
    except OSError:
        return None
