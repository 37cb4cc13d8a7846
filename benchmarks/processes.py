"""What the kernel says of other processes: their children, their CPU, and the most memory that they had."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


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


def cpu_of(pid: int, *, with_ended: bool = False) -> float:
    """Seconds, with those of its children that have ended if told to; zero of a process that has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    return sum(map(int, fields[11 : 15 if with_ended else 13])) / TICKS


def cpu_of_server(postmaster: int) -> float:
    """Seconds of PostgreSQL: of the postmaster, its children, and those that have ended."""
    children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
    return cpu_of(postmaster, with_ended=True) + sum(cpu_of(int(pid)) for pid in children)
