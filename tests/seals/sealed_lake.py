"""A sealed folder lake, as a test changes and verifies it."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.servers.commands import Finished


@dataclass
class SealedLake:
    """The lake's folder, and the commands that work on it."""

    root: Path
    key_file: Path
    command: Callable[..., Finished]
    public_key: str = ""

    def init(self) -> None:
        """Makes the key."""
        made = self.command("pipelines/seal.py", "--init")
        assert made.code == 0, made.err
        self.public_key = made.out.strip()

    def run(self, **changes: str) -> Finished:
        """Polls once, which seals what is due."""
        done = self.command("pipelines/run.py", "--once", **changes)
        assert done.code == 0, done.err
        return done

    @property
    def seals(self) -> list[Path]:
        """The seals by number."""
        return sorted((self.root / "cloudflare/_seals").rglob("*.seal"), key=lambda path: path.name)

    @property
    def objects(self) -> list[Path]:
        """The objects of hours, in order."""
        return sorted((self.root / "cloudflare/audit_logs").rglob("*.parquet"))

    def entries(self) -> Iterator[dict[str, Any]]:
        """All lines of all seals."""
        for path in self.seals:
            for line in path.read_text().partition("\n\n")[0].split("\n")[1:]:
                yield json.loads(line)

    def killed(self, point: str, nth: int, *arguments: str) -> None:
        """Runs a command that kills itself when it passes a point for the nth time."""
        done = self.command("-m", "tests.faults.dying", point, str(nth), "KILL", *arguments)
        assert done.code in {-9, 137}, (done.code, done.err)

    def verify(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        """Verifies the lake as an auditor does: without settings, by the public key."""
        done = self.command(
            "pipelines/verify.py", "--lake", str(self.root), "--key", self.public_key, "--json", *arguments
        )
        assert done.out, done.err
        return done.code, json.loads(done.out)

    def verdicts(self, *arguments: str) -> set[str]:
        """What is not simply intact: verdicts of hours and copies, kinds of the chain."""
        code, found = self.verify(*arguments)
        alarms = {one["verdict"] for one in found["problems"] if one["is_alarm"]}
        alarms |= {one["kind"] for one in found["chain"] if one["is_alarm"]}
        assert (code, found["ok"]) == ((3, False) if alarms else (0, True)), found
        return {one["verdict"] for one in found["problems"]} | {one["kind"] for one in found["chain"]}


def rewrite(path: Path, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    """Changes the rows of an object, as a tool of others would."""
    table = pq.ParquetFile(path).read()
    rows = pa.Table.from_pylist(change(table.to_pylist()), schema=table.schema)
    pq.write_table(rows, path)
