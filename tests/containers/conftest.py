"""The images, built once, and the services, started once; nothing of them is left behind."""

import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.settings.settings import PROJECT_ROOT

from .engine import Project, docker

collect_ignore_glob = [] if os.environ.get("TEST_CONTAINERS") else ["test_*.py"]
"""Only `make test-containers` asks for them."""

TARGETS = {
    "cloudflare-audit-pipeline": "runtime",
    "cloudflare-audit-dashboard": "dashboard",
    "cloudflare-audit-pipeline-tests": "with-tests",
}
PASSWORDS = ("PG_PASSWORD", "S3_SECRET_KEY", "READER_PASSWORD", "GRAFANA_PASSWORD")
ACCOUNT = "a" * 32
_sizes: dict[str, str] = {}


@pytest.fixture(scope="session", autouse=True)
def _engine() -> None:
    """Ends the run in one sentence where it cannot be done."""
    if shutil.which("docker") is None:
        pytest.exit("make test-containers needs Docker: no command `docker` is here", 2)
    for asked in (("info",), ("compose", "version"), ("buildx", "version")):
        said = docker(*asked, check=False)
        if said.returncode:
            pytest.exit(f"make test-containers needs `docker {' '.join(asked)}`: {said.stderr.strip()}", 2)
    for image in _foreign_images():
        if docker("image", "inspect", image, check=False).returncode and docker("pull", image, check=False).returncode:
            pytest.exit(f"make test-containers needs the image {image}, which is not here and cannot be pulled", 2)


def _foreign_images() -> list[str]:
    base = re.findall(r"^FROM (\S+:\S+) AS", (PROJECT_ROOT / "Dockerfile").read_text(), re.MULTILINE)
    compose = (PROJECT_ROOT / "docker-compose.yml").read_text()
    return [*base, *re.findall(r"image: (timescale\S+|chrislusf\S+|prom/\S+)", compose)]


@pytest.fixture(scope="session")
def folder(_engine: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of this repository, with an `.env` made of the example, as a user makes it."""
    folder = tmp_path_factory.mktemp("project")
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=PROJECT_ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (PROJECT_ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT_ROOT / name, folder / name)
    text = (folder / ".env.example").read_text().replace("COMPOSE_PROFILES=minio", "COMPOSE_PROFILES=seaweedfs")
    text = text.replace("CLOUDFLARE_ACCOUNT_ID=\n", f"CLOUDFLARE_ACCOUNT_ID={ACCOUNT}\n")
    for name in PASSWORDS:
        text = re.sub(rf"^{name}=.*$", f"{name}={secrets.token_urlsafe(24)}", text, flags=re.MULTILINE)
    (folder / ".env").write_text(text)
    (folder / "secrets").mkdir()
    (folder / "secrets/cloudflare_api_token").write_text("simulated-token\n")
    shutil.copy(PROJECT_ROOT / "tests/containers/override.yml", folder / "docker-compose.override.yml")
    return folder


@pytest.fixture(scope="session")
def passwords(folder: Path) -> dict[str, str]:
    """The secrets of the project, made for this run, by name."""
    text = (folder / ".env").read_text()
    return {name: re.findall(rf"^{name}=(.+)$", text, re.MULTILINE)[0] for name in PASSWORDS}


@pytest.fixture(scope="session")
def project(folder: Path) -> Iterator[Project]:
    """The images, built; in the end no container, volume or network is left of it."""
    project = Project(folder, f"audit-test-{secrets.token_hex(4)}", "cloudflare-audit-pipeline")
    project.compose("--profile", "*", "build", "--quiet")
    for image, target in TARGETS.items():
        bytes_ = int(docker("image", "inspect", "-f", "{{.Size}}", image).stdout)
        _sizes[image] = f"{target}: {bytes_ / 1e6:.0f} MB"
    yield project
    project.compose("--profile", "*", "down", "--volumes", "--timeout", "60")
    assert project.left() == ""


@pytest.fixture(scope="session")
def stack(project: Project) -> Project:
    """Stores, simulator and loop, all healthy."""
    project.compose("up", "--detach", "--wait", "--wait-timeout", "240")
    return project


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The images' sizes."""
    if _sizes:
        terminalreporter.write_line(f"images: {', '.join(_sizes.values())}")
