"""A folder whose files are written whole or not at all: temporary file, fsync, rename, fsync of the folder.

dlt writes its own files of a local lake in place; one that is torn by a crash would fail every later start.
"""

import os
from pathlib import Path
from typing import Any
from uuid import uuid4

from fsspec.implementations.local import LocalFileSystem

TEMPORARY_SUFFIX = ".partial"


class AtomicLocalFileSystem(LocalFileSystem):  # type: ignore[misc]  # fsspec has no types
    """fsspec's local file system with atomic, durable writes. Reading is as it was."""

    cachable = False

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        """Opens a file to read. Writing goes through the methods below: nothing is ever written in place."""
        if mode != "rb":
            raise NotImplementedError(f"{path} would be written in place (mode {mode})")
        return super()._open(path, mode=mode, **options)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        """Writes the file whole."""
        if mode == "create" and self.exists(path):
            raise FileExistsError(path)
        write_atomically(Path(self._strip_protocol(path)), value)

    def write_text(self, path: str, value: str, encoding: str | None = None, **_: Any) -> None:
        """Writes the file whole."""
        self.pipe_file(path, value.encode(encoding or "utf-8"))

    def put_file(self, lpath: str, rpath: str, **_: Any) -> None:
        """Copies a local file into place, whole."""
        self.pipe_file(rpath, Path(lpath).read_bytes())

    def makedirs(self, path: str, **_: Any) -> None:
        """Makes the folder, which may be there: dlt insists that a dataset's is not."""
        super().makedirs(path, exist_ok=True)


def write_atomically(path: Path, value: bytes) -> None:
    """Puts the bytes where a reader sees the old file or the new one, and a power cut leaves one of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}{TEMPORARY_SUFFIX}")
    try:
        with temporary.open("wb") as file:
            file.write(value)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
