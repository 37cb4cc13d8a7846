"""A real Prometheus with the configuration of `deploy/prometheus`, where the command is installed."""

import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from pipelines.settings.settings import PROJECT_ROOT

from .watching import Watched

FOLDER = PROJECT_ROOT / "deploy/prometheus"
PROMETHEUS, PROMTOOL = shutil.which("prometheus") or "", shutil.which("promtool") or ""
needs_prometheus = pytest.mark.skipif(
    not (PROMETHEUS and PROMTOOL),
    reason="prometheus and promtool are not installed (Debian: apt-get install --no-install-recommends prometheus)",
)

Ask = Callable[[str], list[dict[str, Any]]]


@contextmanager
def prometheus_of(loop: Watched, folder: Path) -> Iterator[Ask]:
    """A Prometheus with our configuration, but for the address and a pace of its own; yields how to query it."""
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    config["scrape_configs"][0]["static_configs"] = [{"targets": [f"{loop.host}:{loop.port}"]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    shutil.copy(FOLDER / "alerts.yml", folder)
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    flags = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb"]
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen([PROMETHEUS, *flags, f"--web.listen-address={address}"], stdout=log, stderr=log)
    try:
        yield lambda query: _ask(address, query)
    finally:
        process.terminate()
        process.wait(120)


def _ask(address: str, query: str) -> list[dict[str, Any]]:
    """The result of an instant query; none as long as nothing answers."""
    try:
        answer = requests.get(f"http://{address}/api/v1/query", params={"query": query}, timeout=60)
    except requests.ConnectionError:
        return []
    result: list[dict[str, Any]] = answer.json()["data"]["result"] if answer.ok else []
    return result
