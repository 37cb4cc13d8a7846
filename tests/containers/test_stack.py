"""The services of docker-compose.yml do what they say: load, notice, survive, and can do little else."""

import json
import re
import signal
from datetime import UTC, datetime, timedelta

import pytest

from pipelines.settings.settings import PROJECT_ROOT

from .engine import Project, docker, wait_until

OURS = ("ingestor", "simulator")
SERVICES = ("postgres", "seaweedfs", *OURS)
PROGRAMS = {"ingestor": "pipelines/run.py", "simulator": "-m simulator"}
COUNTS = "SELECT count(*), count(DISTINCT (account_id, timestamp, event_id, api_version)) FROM "
WRITES = """
import os
for path in ("/app/x", "/opt/venv/x", "/etc/x", "/tmp/x", "/var/lib/cloudflare-audit/x"):
    try:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY)); os.unlink(path); print(path)
    except OSError:
        pass
"""


def prove(project: Project) -> int:
    """Proves by reconcile.py, in the container, that the stores hold all events until now; returns their number.

    An event that the loop has not read yet is a gap (exit 3): it comes with the next poll.
    """
    now = datetime.now(UTC)
    options = ("--since", (now - timedelta(days=4)).isoformat(), "--before", now.isoformat(), "--json")

    def is_proved() -> bool:
        done = project.execute("ingestor", "python3", "pipelines/reconcile.py", *options, check=False)
        assert done.returncode in {0, 3, 75}, done.stderr
        return done.returncode == 0

    wait_until(is_proved, f"API, warehouse and lake are equal before {now}")
    until = f" WHERE timestamp < '{now.isoformat()}'"
    warehouse = project.execute("ingestor", "python3", "pipelines/psql.py", "-AtF,", "-c", f"{COUNTS}audit_logs{until}")
    lake = project.execute("ingestor", "python3", "pipelines/ask.py", "--json", f"{COUNTS}audit_logs(){until}")
    numbers = {int(number) for number in re.findall(r"\b\d+\b", warehouse.stdout + lake.stdout)}
    assert len(numbers) == 1, (warehouse.stdout, lake.stdout)
    return numbers.pop()


def test_both_stores_get_the_events_each_once(stack: Project) -> None:
    """As reconcile.py, PostgreSQL and DuckDB count them; more come while they do."""
    first = prove(stack)
    second = prove(stack)

    assert first >= 4000
    assert second > first


def test_every_command_does_its_work_in_the_container(stack: Project) -> None:
    """With the loop running beside it; convert.py alone would want it stopped."""
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    window = ("--since", (hour - timedelta(hours=6)).isoformat(), "--before", (hour - timedelta(hours=3)).isoformat())
    commands = {
        "backfill.py": window,
        "rehydrate.py": window,
        "compact.py": window,
        "retention.py": ("--dry-run",),
        "s3_policy.py": (),
        "status.py": (),
        "doctor.py": (),
    }

    ended = {
        name: stack.execute("ingestor", "python3", f"pipelines/{name}", *options, check=False)
        for name, options in commands.items()
    }

    assert {name: (done.returncode, done.stderr) for name, done in ended.items() if done.returncode} == {}
    state = stack.execute("ingestor", "dlt", "pipeline", "cloudflare_audit_lake", "info")
    assert "cloudflare_audit_lake" in state.stdout
    rehydrated = stack.execute("ingestor", "python3", "pipelines/psql.py", "-Atc", f"{COUNTS}audit_logs_rehydrated")
    events, distinct = map(int, rehydrated.stdout.split("|"))
    assert events == distinct > 100


@pytest.mark.parametrize("service", SERVICES)
def test_a_health_check_is_red_while_its_subject_hangs(stack: Project, service: str) -> None:
    """And green before and after."""
    assert stack.health(service) == "healthy"

    stack.signal(service, signal.SIGSTOP, PROGRAMS.get(service, ""))
    try:
        stack.wait_for(service, "unhealthy")
    finally:
        stack.signal(service, signal.SIGCONT, PROGRAMS.get(service, ""))

    stack.wait_for(service, "healthy")


@pytest.mark.parametrize("service", ["ingestor", "postgres", "seaweedfs"])
def test_what_is_killed_comes_back_and_nothing_is_lost_or_doubled(stack: Project, service: str) -> None:
    """The engine starts it again; the loop goes on from where its stores are."""
    before, starts = prove(stack), stack.starts(service)

    stack.signal(service, signal.SIGKILL, PROGRAMS.get(service, ""))
    wait_until(lambda: stack.starts(service) == starts + 1, f"{service} is started again")
    stack.wait_for(service, "healthy")

    assert prove(stack) > before


def test_a_stack_that_was_stopped_goes_on(stack: Project) -> None:
    """`stop` ends the loop in good time, with 0; `start` needs nothing else."""
    before = prove(stack)

    stack.compose("stop", "ingestor", "postgres", "seaweedfs")
    stopped = stack.inspect("ingestor")["State"]
    stack.compose("start", "ingestor")

    assert (stopped["ExitCode"], stopped["OOMKilled"]) == (0, False)
    for service in SERVICES:
        stack.wait_for(service, "healthy")
    assert prove(stack) > before


def test_a_stack_that_was_made_again_keeps_its_stores(stack: Project) -> None:
    """`up` after `down`: new containers, a new scratch folder, the same volumes."""
    before = prove(stack)

    stack.compose("rm", "--stop", "--force", "ingestor", "postgres", "seaweedfs")
    docker("volume", "rm", f"{stack.name}_scratch")
    stack.compose("up", "--detach", "--wait", "--wait-timeout", "240")

    assert prove(stack) > before


@pytest.mark.parametrize("service", OURS)
def test_our_processes_can_do_little(stack: Project, service: str) -> None:
    """As the kernel says: no root, no capability, nothing to gain, nothing to write on but their own."""
    status = stack.python(service, "print(open('/proc/self/status').read())")
    wrote = stack.python(service, WRITES).split()

    said = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert set(said["Uid"].split()) == {"10001"}
    assert (int(said["CapEff"], 16), int(said["CapBnd"], 16), said["NoNewPrivs"]) == (0, 0, "1")
    assert [path for path in wrote if path != "/var/lib/cloudflare-audit/x"] == ["/tmp/x"]  # noqa: S108  # the container's
    assert stack.inspect(service)["HostConfig"]["ReadonlyRootfs"]


def test_secrets_are_in_the_environment_of_who_needs_them_alone(stack: Project, passwords: dict[str, str]) -> None:
    """Not in a command, a label, a health check's output or an image; the token is a file's, and nowhere at all."""
    needed = {
        "postgres": {"PG_PASSWORD"},
        "seaweedfs": {"S3_SECRET_KEY"},
        "ingestor": {"PG_PASSWORD", "S3_SECRET_KEY", "READER_PASSWORD", "GRAFANA_PASSWORD"},
        "simulator": set(),
    }
    token = (stack.folder / "secrets/cloudflare_api_token").read_text().strip()

    for service, names in needed.items():
        said = stack.inspect(service)
        environment = "\n".join(said["Config"].pop("Env"))
        image = docker("history", "--no-trunc", said["Image"]).stdout + docker("inspect", said["Image"]).stdout
        rest = json.dumps(said) + image
        assert {name for name, secret in passwords.items() if secret in environment} == names, service
        assert [name for name, secret in passwords.items() if secret in rest] == [], service
        assert token not in environment + json.dumps(said), service


def test_no_secret_is_in_a_log(stack: Project, passwords: dict[str, str]) -> None:
    """After all that happened above, errors of lost stores among it."""
    logs = stack.compose("logs", "--no-color").stdout

    assert all(f"{service}-1" in logs for service in SERVICES)
    assert [name for name, secret in {**passwords, "token": "simulated-token"}.items() if secret in logs] == []


def test_every_image_of_the_compose_file_is_one_of_ours_or_pinned(stack: Project) -> None:
    """As Compose itself reads the file, in all profiles."""
    said = json.loads(stack.compose("--profile", "*", "config", "--format", "json").stdout)
    ours = {service["image"] for service in said["services"].values() if "build" in service}

    assert len(said["services"]) > 10
    assert all(image.startswith("cloudflare-audit-") for image in ours)
    assert "pytest" not in (PROJECT_ROOT / "docker-compose.yml").read_text().partition("run --rm tests ---")[0]
