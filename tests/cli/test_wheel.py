"""The wheel, installed into an environment in an empty folder, is the whole program, and one name in site-packages."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.servers.commands import wait_until
from pipelines.settings.settings import PROJECT_ROOT
from simulator.api import Api
from tests.factory import ACCOUNT, ago, spread
from tests.stores import Stores

PARTS = ("dashboard", "pipelines", "simulator", "sources")
BUILT_OF = ("cloudflare_audit", *PARTS, "pyproject.toml", "setup.py", "README.md", "LICENSE", "config.example.env")


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel, and an empty folder to work in."""

    root: Path

    @property
    def site(self) -> Path:
        """Its site-packages."""
        (site,) = self.root.glob("lib/python*/site-packages")
        return site

    @property
    def program(self) -> Path:
        """The command."""
        return self.root / "bin" / "cloudflare-audit"

    def run(self, folder: Path, *arguments: str, **changes: str | None) -> "subprocess.CompletedProcess[str]":
        """Runs the command in the folder; nothing leads back to the checkout."""
        return self.execute(folder, str(self.program), *arguments, **changes)

    def execute(self, folder: Path, *command: str, **changes: str | None) -> "subprocess.CompletedProcess[str]":
        """Runs a program in the folder likewise."""
        return subprocess.run(
            command, cwd=folder, env=_env(**changes), capture_output=True, text=True, timeout=240, check=False
        )


def _env(**changes: str | None) -> dict[str, str]:
    merged: Mapping[str, str | None] = {**os.environ, "PYTHONPATH": None, "DATA_DIR": None, **changes}
    return {name: value for name, value in merged.items() if value is not None}


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Builds the wheel of a copy, and installs it alone: its dependencies are those of the tests."""
    source, root = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel") / "environment"
    for name in BUILT_OF:
        copy = shutil.copytree if (PROJECT_ROOT / name).is_dir() else shutil.copy2
        copy(PROJECT_ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    wheels = [f"--wheel-dir={root.parent}", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "wheel", *wheels, str(source)], check=True, env=_env())
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(root)], check=True)
    (wheel,) = root.parent.glob("*.whl")
    subprocess.run([*pip, f"--python={root}/bin/python", "install", "--no-deps", str(wheel)], check=True, env=_env())
    found = Installed(root)
    # A folder on the path, whose own .pth files are not read: an editable installation in it stays unknown.
    (found.site / "of_the_tests.pth").write_text(os.path.dirname(os.path.dirname(pytest.__file__)))  # noqa: PTH120
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty one, as a user has it who has no checkout."""
    found = tmp_path / "empty"
    found.mkdir()
    return found


def test_the_wheel_adds_one_name(installed: Installed) -> None:
    """No `pipelines`, `tests` or `sources` of ours lies among somebody's packages."""
    added = {path.name for path in installed.site.iterdir()} - {"of_the_tests.pth", "__pycache__"}

    assert {name for name in added if not name.endswith(".dist-info")} == {"cloudflare_audit"}
    (top,) = installed.site.glob("cloudflare_audit_pipeline-*.dist-info/top_level.txt")
    assert top.read_text().split() == ["cloudflare_audit"]


def test_the_wheel_has_every_file_that_the_code_has(installed: Installed) -> None:
    """SQL, CSS and the example of the settings are inside, as they are in the checkout."""
    app = installed.site / "cloudflare_audit" / "app"
    ours = [path for part in PARTS for path in (PROJECT_ROOT / part).rglob("*") if "__pycache__" not in path.parts]
    files = {str(path.relative_to(PROJECT_ROOT)): path.read_bytes() for path in ours if path.is_file()}

    assert {name for name in files if not name.endswith(".py")} >= {"pipelines/warehouse/sql/tables.sql"}
    assert {
        name for name, text in files.items() if not (app / name).is_file() or (app / name).read_bytes() != text
    } == set()
    assert (app.parent / "config.example.env").read_bytes() == (PROJECT_ROOT / "config.example.env").read_bytes()


def test_help_and_version_need_nothing(installed: Installed, folder: Path) -> None:
    """And say where settings and data are looked for."""
    shown, version = installed.run(folder, "--help"), installed.run(folder, "--version")

    assert (shown.returncode, shown.stderr, version.stderr) == (0, "", "")
    assert {"ask", "demo", "run", "status", "dashboard"} <= {
        line.split()[0] for line in shown.stdout.splitlines() if line
    }
    assert f"the current directory, {folder}" in shown.stdout
    assert version.stdout.startswith("cloudflare-audit 1.")


def test_dlt_in_the_same_environment_is_not_ours(installed: Installed, folder: Path) -> None:
    """Somebody's own dlt project finds its own context, and loads none of our code."""
    script = (
        "import dlt, json, sys; from dlt.common.runtime.run_context import active;"
        "print(json.dumps([type(active()).__name__, sorted(m for m in sys.modules if m.startswith('cloudflare_audit')),"
        " 'pipelines' in sys.modules]))"
    )

    done = installed.execute(folder, f"{installed.root}/bin/python", "-W", "error::UserWarning", "-c", script)

    plugin = ["cloudflare_audit", "cloudflare_audit.dlt_plugin"]
    assert json.loads(done.stdout) == ["RunContext", plugin, False], done.stderr


def test_without_settings_the_main_job_says_what_to_write(installed: Installed, folder: Path) -> None:
    """Exit 2, and nothing is made."""
    done = installed.run(folder, "run", "--once", CLOUDFLARE_API_TOKEN=None, CLOUDFLARE_ACCOUNT_ID=None)

    assert (done.returncode, list(folder.iterdir())) == (2, [])
    assert "CLOUDFLARE_API_TOKEN" in done.stderr


@pytest.mark.integration
def test_a_poll_and_the_questions_work_from_the_wheel(
    installed: Installed, folder: Path, api: Api, environment: dict[str, str], stores: Stores
) -> None:
    """Settings come from the `.env` of the current folder, both stores have the events, and dlt's command works."""
    api.world.add(ACCOUNT, "v1", spread(50, ago(hours=3), ago(minutes=1)))
    settings = installed.run(folder, "--print-settings").stdout
    own = {name: value for name, value in environment.items() if name != "DATA_DIR"}
    lines = [line for line in settings.splitlines() if line.partition("=")[0] not in own]
    (folder / ".env").write_text("\n".join([*lines, *(f"{name}={value}" for name, value in own.items())]))
    (folder / ".env").chmod(0o600)

    done = installed.run(folder, "run", "--once", "--json")
    status = installed.run(folder, "status", "--json")
    asked = installed.run(folder, "ask", "--json", "SELECT count(*) AS n FROM audit_logs()")
    info = installed.run(folder, "dlt", "pipeline", "cloudflare_audit_warehouse", "info")

    assert (done.returncode, json.loads(done.stdout)["new"]) == (0, {"warehouse": 50, "lake": 50}), done.stderr
    assert (status.returncode, status.stderr) == (0, "")
    assert json.loads(asked.stdout) == {"n": 50}, asked.stderr
    assert f"audit_logs_v1_{ACCOUNT}" in info.stdout, info.stderr
    assert len(stores.warehouse()) == 50
    assert sorted(path.name for path in folder.iterdir()) == [".env", "data"]


@pytest.mark.integration
@pytest.mark.long
def test_the_dashboard_serves_from_the_wheel(installed: Installed, folder: Path) -> None:
    """It needs no checkout either."""
    log = folder / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [installed.program, "dashboard", "--port", "0"], cwd=folder, env=_env(), stdout=output, stderr=output
        )
    try:
        wait_until(lambda: process.poll() is not None or "http://127.0.0.1:" in log.read_text())
        assert process.poll() is None, log.read_text()
    finally:
        process.terminate()
        process.wait(60)


@pytest.mark.integration
@pytest.mark.long
def test_the_demo_runs_from_the_wheel(installed: Installed, folder: Path) -> None:
    """In the empty folder, with processes of its own; the poll above is its shorter witness."""
    done = installed.run(folder, "demo")

    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert list(folder.glob("data/demo/lake/cloudflare/audit_logs/*/*/*/events.parquet"))
