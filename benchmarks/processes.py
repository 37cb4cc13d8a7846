"""Reads from the kernel the children, CPU and peak memory of other processes."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def descendants_of(pid: int) -> Iterator[int]:
    """Yields the children of a process, and theirs."""
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, text_of(children).split()):
            yield child
            yield from descendants_of(child)


def peak_memory_of(pid: int) -> int:
    """Returns VmHWM in bytes; zero for a process that has ended."""
    found = re.search(r"VmHWM:\s+(\d+) kB", text_of(Path(f"/proc/{pid}/status")))
    return int(found[1]) * 1024 if found else 0


def cpu_of(pid: int, *, with_ended: bool = False) -> float:
    """Returns CPU seconds, optionally with those of its ended children; zero for a process that has ended."""
    fields = text_of(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return sum(map(int, fields[11 : 15 if with_ended else 13])) / TICKS


def cpu_of_server(postmaster: int) -> float:
    """Returns CPU seconds of PostgreSQL: the postmaster, its children, and its ended children."""
    children = text_of(Path(f"/proc/{postmaster}/task/{postmaster}/children")).split()
    return cpu_of(postmaster, with_ended=True) + sum(cpu_of(int(pid)) for pid in children)


def text_of(file: Path) -> str:
    """Returns a file of `/proc`; empty for a process that has ended, even between opening and reading (ESRCH)."""
    try:
        return file.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
