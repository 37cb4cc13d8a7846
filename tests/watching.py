"""A loop that is watched: a real process that serves its metrics and health at a free port."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import requests
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.servers.commands import process_of, wait_until

Sample = tuple[str, frozenset[tuple[str, str]]]


class Watched(NamedTuple):
    """Where it is reached."""

    host: str
    port: int

    def get(self, path: str) -> requests.Response:
        """Returns the server's answer."""
        return requests.get(f"http://{self.host}:{self.port}{path}", timeout=60)

    def value(self, name: str, **labels: str) -> float | None:
        """The sum of a metric's samples with these labels; None if there is none."""
        found = [value for (sample, its), value in self.samples().items() if sample == name and labels.items() <= its]
        return sum(found) if found else None

    def samples(self) -> dict[Sample, float]:
        """All that is to be scraped now."""
        families = text_string_to_metric_families(self.get("/metrics").text)
        return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


@contextmanager
def watched_loop(environment: Mapping[str, str], folder: Path, **changes: str) -> Iterator[Watched]:
    """`run.py` with a short interval, as long as the block runs."""
    log = folder / "loop.log"
    settings = {"POLL_INTERVAL_SECONDS": "0.3", "METRICS_PORT": "0", **changes}
    with log.open("w") as output, process_of(environment, "pipelines/run.py", output=output, **settings) as process:
        wait_until(lambda: "metrics.serving" in log.read_text() or process.poll() is not None)
        port = re.search(r"metrics\.serving host=\S+ port=(\d+)", log.read_text())
        assert port, log.read_text()
        yield Watched("127.0.0.1", int(port[1]))
