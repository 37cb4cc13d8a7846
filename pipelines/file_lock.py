"""A lock on a file that says who holds it. The kernel undoes it when the process ends, however it ends."""

import fcntl
import os
import socket
from typing import IO

from sources.cloudflare_audit_logs.errors import TemporaryError


def take_file_lock(file: IO[str], what: str, *, hint: str) -> None:
    """Locks a file that is open to read and append, and writes into it who that is; safe to repeat.

    Raises:
        TemporaryError: another process, which is named, does `what`.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        raise TemporaryError(f"another process {what}", detail=f"held by {file.read()}", hint=hint) from error
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
