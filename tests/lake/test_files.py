"""A file of a folder lake is replaced whole, or left as it was."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipelines.lake.objects import write_file


def test_a_reader_sees_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    """Never a torn or missing one."""
    path, stop = tmp_path / "state.json", threading.Event()
    contents = [str(number).encode() * 200_000 for number in range(2)]
    write_file(tmp_path, path, contents[0])

    def read() -> set[bytes]:
        seen = set()
        while not stop.is_set():
            seen.add(path.read_bytes())
        return seen

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        for number in range(200):
            write_file(tmp_path, path, contents[number % 2])
        stop.set()

    assert reading.result() <= set(contents)
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [path]


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    """Neither a temporary file nor a change."""
    (tmp_path / "taken" / "full").mkdir(parents=True)

    with pytest.raises(OSError, match="taken"):
        write_file(tmp_path, tmp_path / "taken", b"text")

    assert not [file for file in tmp_path.rglob("*") if file.is_file()]
