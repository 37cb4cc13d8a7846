"""`python -m tests.loop.way ID [options of run.py]`: runs it, and prints the files that are handed an event, in order.

A file is handed the event if one of its functions gets it, or returns it: as text or bytes, as Arrow rows, as an object
that has such rows, or as a file of them.
"""

import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import pyarrow as pa

from pipelines import run
from pipelines.settings.settings import PROJECT_ROOT
from sources.cloudflare_audit_logs.files import PageFile, RowFile

DEPTH = 3


class Way:
    """The files of ours, in the order in which they are handed the event."""

    def __init__(self, event_id: str) -> None:
        self.files: dict[str, str] = {}
        self._id, self._bytes = event_id, event_id.encode()

    def follow(self, frame: FrameType, event: str, result: Any) -> None:
        """A profile function: called at each call and return."""
        code = frame.f_code
        if event not in {"call", "return"} or not code.co_filename.startswith(str(PROJECT_ROOT)):
            return
        file = str(Path(code.co_filename).relative_to(PROJECT_ROOT))
        if file in self.files or file.startswith((".venv", "tests")):
            return
        values = list(frame.f_locals.values()) if event == "call" else [result]
        if any(self._carries(value, DEPTH) for value in values):
            self.files[file] = code.co_qualname

    def _carries(self, value: Any, depth: int) -> bool:
        match value:
            case bytes() | bytearray():
                return self._bytes in value
            case str():
                return self._id in value
            case pa.Table() | pa.RecordBatch():
                return "event_id" in value.schema.names and self._id in value.column("event_id").to_pylist()
            case Mapping() | Sequence():
                items = list(value.values()) if isinstance(value, Mapping) else value
                return depth > 0 and any(self._carries(item, depth - 1) for item in items)
            case _:
                return isinstance(value, RowFile | PageFile)


def main(arguments: Sequence[str]) -> int:
    """Runs it with the hook in every thread."""
    way = Way(arguments[0])
    threading.setprofile(way.follow)
    sys.setprofile(way.follow)
    code = run.main(arguments[1:])
    sys.setprofile(None)
    print("\n".join(f"{file} {function}" for file, function in way.files.items()))
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
