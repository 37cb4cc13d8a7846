"""What the kernel says of other processes: their children, and the most memory that they had."""

import re
from collections.abc import Iterator
from pathlib import Path


def descendants_of(pid: int) -> Iterator[int]:
    """The children of a process, and theirs."""
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, children.read_text().split()):
            yield child
            yield from descendants_of(child)


def peak_memory_of(pid: int) -> int:
    """VmHWM, in bytes; zero of a process that has ended."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except FileNotFoundError:
        return 0
    return int(found[1]) * 1024 if found else 0
