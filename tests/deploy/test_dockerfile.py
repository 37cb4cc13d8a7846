"""The Dockerfile is in order, and what its steps build runs: replayed in a folder, without an engine."""

import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from simulator.api import Api
from tests.factory import ACCOUNT, ago, ids, spread
from tests.stores import Stores

from .dockerfile import DOCKERFILE, Replay, instructions, is_ignored


def test_hadolint_has_nothing_to_say() -> None:
    """Not even for information."""
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert hadolint, "install the development packages: make setup-dev"

    done = subprocess.run([hadolint, "--no-color", DOCKERFILE], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (0, "")


def test_bases_are_pinned_and_users_are_not_root() -> None:
    """To the patch version; each final stage descends from the one that sets the user."""
    steps = list(instructions())
    bases = [arguments.split(" AS ") for name, arguments in steps if name == "FROM"]
    stages = {stage: parent for parent, stage in bases}
    users = [arguments for name, arguments in steps if name == "USER"]

    foreign = [parent for parent in stages.values() if parent not in stages]
    assert all(re.fullmatch(r"python:\d+\.\d+\.\d+-slim-[a-z]+(@sha256:[0-9a-f]{64})?", base) for base in foreign)
    assert users == ["10001"]
    assert {stages[final] for final in ("runtime", "dashboard", "with-tests")} == {"app"}
    assert list(stages)[-1] == "runtime"


def test_packages_come_with_hashes_alone() -> None:
    """From the lock files; the project itself needs no index."""
    installs = [arguments for name, arguments in instructions() if "pip install" in arguments]

    assert len(installs) == 6
    assert all("--require-hashes -r" in it or "--no-deps --no-build-isolation -e ." in it for it in installs)


def test_all_that_runs_is_made_slim_and_compiled_alike() -> None:
    """The dashboard's stage differs from that of the loop in its packages alone."""
    made = [arguments for name, arguments in instructions() if "slim.py" in arguments]

    assert len(made) == 2
    assert len(set(made)) == 1
    assert "compileall" in made[0]


@pytest.mark.parametrize(
    ("path", "ignored"),
    [
        *((path, True) for path in (".env", ".env.local", ".git", ".git/HEAD", ".venv/bin/python", "data/lake/x")),
        *((path, True) for path in (".dlt/secrets.toml", "secrets/token", "pipelines/__pycache__/run.pyc")),
        *((path, True) for path in ("cloudflare_audit_pipeline.egg-info/PKG-INFO", "docker-compose.override.yml")),
        *((path, False) for path in (".env.example", ".dlt/config.toml", "pipelines/ask.py", "pyproject.toml")),
        *((path, False) for path in ("tests/data", "simulator/__main__.py", "locks/dev.lock")),
    ],
)
def test_the_build_sees_no_secret_and_all_that_it_needs(path: str, ignored: bool) -> None:  # noqa: FBT001  # a parameter of the table
    """`.dockerignore`, as the replay reads it."""
    assert is_ignored(path) == ignored


@contextmanager
def answering(status: int) -> Iterator[str]:
    """A server that gives this status to `/livez`, and 404 to all else; yields its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/livez" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Keeps quiet."""

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield str(server.server_address[1])
        server.shutdown()


@pytest.mark.parametrize(("status", "is_healthy"), [(200, True), (503, False)])
def test_the_health_check_asks_livez(status: int, is_healthy: bool) -> None:  # noqa: FBT001  # a parameter of the table
    """Where there is a port to ask."""
    check = next(json.loads(arguments[arguments.index("[") :]) for n, arguments in instructions() if n == "HEALTHCHECK")

    with answering(status) as port:
        done = subprocess.run(check, env={**os.environ, "METRICS_PORT": port}, capture_output=True, check=False)
    without = subprocess.run(check, env={"PATH": os.environ["PATH"]}, capture_output=True, check=False)

    assert (done.returncode == 0) == is_healthy
    assert without.returncode == 0


@pytest.mark.long
@pytest.mark.integration
@pytest.mark.timeout(900)
def test_what_the_steps_build_runs_and_writes_into_its_volume_alone(
    api: Api, environment: Mapping[str, str], stores: Stores, server_dir: Path
) -> None:
    """So its root can be read-only, and nothing that a run needs was taken out."""
    folder = server_dir / "image"
    folder.mkdir()
    events = spread(20, ago(hours=1), ago(minutes=1))
    api.world.add(ACCOUNT, "v1", events)
    image = Replay(folder, "runtime")
    before = _state(image.root)

    shown = image.run("python3", "pipelines/run.py", "--help")
    unset = image.run("python3", "pipelines/run.py")
    loaded = image.run("python3", "pipelines/run.py", "--once", "--json", **environment)
    state = image.run("dlt", "pipeline", "cloudflare_audit_warehouse", "info", **environment)

    assert (len(image.skipped), shown.returncode, unset.returncode) == (2, 0, 2)
    assert "CLOUDFLARE_API_TOKEN is missing" in unset.stderr
    assert loaded.returncode == 0, loaded.stderr
    assert stores.ids() == (sorted(ids(events)),) * 2
    assert state.returncode == 0, state.stderr
    assert "cloudflare_audit_warehouse" in state.stdout
    assert _state(image.root) == before


def _state(root: Path) -> dict[str, tuple[int, int]]:
    """Every file below with its size and time."""
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in root.rglob("*")}
