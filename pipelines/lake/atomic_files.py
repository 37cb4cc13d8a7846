"""A folder whose files are written whole or not at all: temporary file, fsync, rename, fsync of the folder.

dlt writes its own files of a local lake in place; one that is torn by a crash would fail every later start.
"""

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from fsspec.implementations.local import LocalFileSystem

_ABANDONED_AFTER_SECONDS = 60


class AtomicFolder:
    """Writes below a folder. Unfinished files lie in its `.partial`: on the same disk, found without a search."""

    def __init__(self, root: Path) -> None:
        self._partial = root / ".partial"

    def write(self, path: Path, value: bytes) -> None:
        """Puts the bytes where a reader sees the old file or the new one, and a power cut leaves one of them."""
        _make_folder(self._partial)
        _make_folder(path.parent)
        temporary = self._partial / uuid4().hex
        try:
            with temporary.open("wb") as file:
                file.write(value)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)

    def remove_abandoned(self) -> None:
        """Removes what killed writers left; what is younger than a minute may be that of a writer beside us."""
        for path in self._partial.glob("*"):
            with suppress(FileNotFoundError):
                if path.is_dir():  # not ours: S3_PREFIX may have named this place
                    continue
                if path.stat().st_mtime < time.time() - _ABANDONED_AFTER_SECONDS:
                    path.unlink()


class AtomicLocalFileSystem(LocalFileSystem):  # type: ignore[misc]  # fsspec has no types
    """fsspec's local file system with atomic, durable writes below a folder. Reading is as it was."""

    cachable = False

    def __init__(self, root: Path) -> None:
        super().__init__()
        self._folder = AtomicFolder(root)

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        """Opens a file to read. Writing goes through the methods below: nothing is ever written in place."""
        if mode != "rb":
            raise NotImplementedError(f"{path} would be written in place (mode {mode})")
        return super()._open(path, mode=mode, **options)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        """Writes the file whole."""
        if mode == "create" and self.exists(path):
            raise FileExistsError(path)
        self._folder.write(Path(self._strip_protocol(path)), value)

    def write_text(self, path: str, value: str, encoding: str | None = None, **_: Any) -> None:
        """Writes the file whole."""
        self.pipe_file(path, value.encode(encoding or "utf-8"))

    def put_file(self, lpath: str, rpath: str, **_: Any) -> None:
        """Copies a local file into place, whole."""
        self.pipe_file(rpath, Path(lpath).read_bytes())

    def makedirs(self, path: str, **_: Any) -> None:
        """Makes the folder, which may be there: dlt insists that a dataset's is not."""
        super().makedirs(path, exist_ok=True)


def _make_folder(path: Path) -> None:
    """Makes the folder and those above it so that a power cut does not take them away with what is in them."""
    if path.is_dir():
        return
    _make_folder(path.parent)
    path.mkdir(exist_ok=True)
    _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
