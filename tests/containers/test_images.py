"""What was built holds all that its commands need, and no more."""

import pytest

from pipelines.settings.settings import PROJECT_ROOT

from .conftest import ACCOUNT, TARGETS
from .engine import Project, docker

BARE = ("run", "--rm", "--read-only", "--tmpfs=/tmp", "--network=none", "--cap-drop=ALL", "--pull=never")
NOT_ALONE = {"demo.py", "psql.py"}
"""The first starts stores below the checkout, here the profile `demo` does; the second passes its options to psql."""
COMMANDS = sorted(
    path.name
    for path in (PROJECT_ROOT / "pipelines").glob("*.py")
    if '__name__ == "__main__"' in path.read_text() and path.name not in NOT_ALONE
)


def test_every_command_explains_itself_in_the_image(project: Project) -> None:
    """On a read-only root, without a network."""
    script = "for c in $@; do echo $c; python3 pipelines/$c --help >/dev/null || exit 1; done"

    done = docker(*BARE, "--entrypoint=sh", project.image, "-ec", script, "sh", *COMMANDS)

    assert len(COMMANDS) > 10
    assert done.stdout.split() == COMMANDS
    assert "usage" in docker(*BARE, "cloudflare-audit-dashboard", "--help").stdout
    assert "pipeline" in docker(*BARE, "--entrypoint=dlt", project.image, "--help").stdout


def test_without_settings_it_says_what_is_missing(project: Project) -> None:
    """And ends with 2."""
    done = docker(*BARE, project.image, check=False)

    assert done.returncode == 2
    assert "CLOUDFLARE_API_TOKEN is missing" in done.stderr


@pytest.mark.parametrize("image", ["cloudflare-audit-pipeline", "cloudflare-audit-dashboard"])
def test_nothing_that_was_left_needs_what_was_removed(project: Project, image: str) -> None:
    """Each shared library finds those that it is linked with; PostgreSQL 16's precompiler is nobody's."""
    assert project.image in TARGETS

    script = 'find /opt/venv -name "*.so*" -type f | while read f; do ldd $f 2>&1 | sed "s#^#$f#"; done'
    done = docker(*BARE, "--entrypoint=sh", image, "-c", script)

    missing = [line.split()[0] for line in done.stdout.splitlines() if "not found" in line]
    assert done.stdout.count("libc.so.6") > 50
    assert [line for line in missing if "libecpg" not in line] == []


@pytest.mark.parametrize("image", ["cloudflare-audit-pipeline", "cloudflare-audit-dashboard"])
def test_a_start_compiles_nothing(project: Project, image: str) -> None:
    """A read-only root could not keep it: every start would do it again."""
    assert project.image in TARGETS

    script = (
        "touch /tmp/now; for c in run reconcile ask; do python3 pipelines/$c.py --help >/dev/null; done; "
        "python3 -c 'import urllib.request'; find / -xdev -name '*.pyc' -newer /tmp/now"
    )
    done = docker("run", "--rm", "--user=0", "-e=PYTHONDONTWRITEBYTECODE=", "--entrypoint=sh", image, "-c", script)

    assert done.stdout == ""


def test_the_image_that_runs_has_neither_tests_nor_an_installer(project: Project) -> None:
    """The other one has."""
    script = (
        "import importlib.util as u; print([bool(u.find_spec(n)) for n in ('pytest', 'pip', 'tests', 'setuptools')])"
    )

    found = [
        docker(*BARE, "--entrypoint=python3", image, "-c", script).stdout.strip()
        for image in (project.image, "cloudflare-audit-pipeline-tests")
    ]

    assert found == [str([False] * 4), str([True] * 4)]


def test_the_integration_tests_pass_in_an_image_of_their_own(project: Project) -> None:
    """With a PostgreSQL and an S3 store that they start themselves, on a read-only root."""
    done = project.compose("run", "--rm", "tests")

    assert " passed" in done.stdout
    assert "failed" not in done.stdout


def test_the_image_alone_keeps_its_stores_in_its_volume(stack: Project) -> None:
    """Without PG_HOST and S3_BUCKET: the embedded PostgreSQL and a folder."""
    settings = {
        "CLOUDFLARE_API_URL": "http://simulator:8080/client/v4",
        "CLOUDFLARE_API_TOKEN": "simulated-token",
        "CLOUDFLARE_ACCOUNT_ID": ACCOUNT,
    }
    options = [f"--env={name}={value}" for name, value in settings.items()]
    script = (
        "python3 pipelines/run.py --once && python3 pipelines/psql.py -Atc 'SELECT count(*) > 1000 FROM audit_logs'"
    )

    done = docker(
        *(*BARE[:4], "--network", f"{stack.name}_default", "--cap-drop=ALL", "--security-opt=no-new-privileges:true"),
        *(*options, "--entrypoint=sh", stack.image, "-c", script),
    )

    assert done.stdout.splitlines()[-1] == "t"
