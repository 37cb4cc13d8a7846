"""A file that is read in parts from where each part costs a request: its end is there at once, as Parquet needs it."""

import io
from collections.abc import Callable
from typing import Any

END_BYTES = 65_536
"""pyarrow asks for so much of a file's end first."""


class PartedFile(io.RawIOBase):
    """Reads parts of a file when they are asked for.

    Args:
        size: of the file, in bytes.
        end: its last bytes; all of it, if they are as many.
        read_part: gets the bytes from a first to a last one, both included.
    """

    def __init__(self, size: int, end: bytes, read_part: Callable[[int, int], bytes]) -> None:
        super().__init__()
        self._size, self._end, self._read_part = size, end, read_part
        self._position = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """Where the next read begins."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves there."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fills the buffer, unless the file ends before."""
        view = memoryview(buffer).cast("B")
        first, last = self._position, min(self._position + len(view), self._size)
        if last <= first:
            return 0
        end_begins = self._size - len(self._end)
        is_there = first >= end_begins
        part = self._end[first - end_begins : last - end_begins] if is_there else self._read_part(first, last - 1)
        view[: len(part)] = part
        self._position += len(part)
        return len(part)
