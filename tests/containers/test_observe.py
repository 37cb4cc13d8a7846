"""The services that only look: the role they read as, Prometheus, the dashboard, and Grafana where it is to be had."""

import json
import re
import signal

import pytest

from .engine import Project, docker, wait_until

DENIED = (
    "INSERT INTO audit_logs_quarantine DEFAULT VALUES",
    "DELETE FROM audit_logs",
    "TABLE _dlt_version",
    "CREATE TABLE t ()",
)


def as_reader(project: Project, password: str, sql: str) -> str:
    """What psql prints to the role that only reads, or its error."""
    address = f"postgresql://audit_reader:{password}@127.0.0.1/audit"
    done = project.execute("postgres", "psql", address, "-XAtc", sql, check=False)
    return (done.stdout + done.stderr).strip()


@pytest.fixture(scope="module")
def reader(stack: Project, passwords: dict[str, str]) -> Project:
    """Has made the role; twice, as each `up` does: before the loop's first tables, it may be, and after them."""
    password = passwords["READER_PASSWORD"]
    stack.compose("run", "--rm", "reader")
    wait_until(lambda: as_reader(stack, password, "SELECT count(*) > 1000 FROM audit_logs") == "t", "events are read")
    stack.compose("run", "--rm", "reader")
    return stack


def test_the_reader_reads_events_and_nothing_else(reader: Project, passwords: dict[str, str]) -> None:
    """With the password of `.env`."""
    password = passwords["READER_PASSWORD"]

    assert as_reader(reader, password, "SELECT count(*) >= 0 FROM audit_completeness") == "t"
    for sql in DENIED:
        assert re.search("read-only|permission denied", as_reader(reader, password, sql)), sql
    assert "authentication failed" in as_reader(reader, "x" + password, "SELECT 1")


def test_prometheus_watches_the_loop_with_the_alerts(reader: Project) -> None:
    """Its check is red while it hangs, too."""
    reader.compose("--profile", "seaweedfs", "--profile", "observe", "up", "--detach", "prometheus")
    reader.wait_for("prometheus", "healthy")

    def asked(path: str) -> str:
        return reader.execute("prometheus", "wget", "-q", "-O", "-", f"http://127.0.0.1:9090/api/v1/{path}").stdout

    wait_until(lambda: '"health":"up"' in asked("targets"), "the loop is scraped")
    (group,) = json.loads(asked("rules"))["data"]["groups"]
    assert len(group["rules"]) > 10
    assert {rule["health"] for rule in group["rules"]} <= {"ok", "unknown"}
    reader.signal("prometheus", signal.SIGSTOP)
    reader.wait_for("prometheus", "unhealthy")
    reader.signal("prometheus", signal.SIGCONT)
    reader.wait_for("prometheus", "healthy")


def test_grafana_has_its_dashboards_and_its_data_sources(reader: Project, passwords: dict[str, str]) -> None:
    """By its own interface, as admin with the password of `.env`."""
    image = next(
        line for line in reader.compose("--profile", "*", "config", "--images").stdout.split() if "grafana" in line
    )
    if docker("image", "inspect", image, check=False).returncode and docker("pull", image, check=False).returncode:
        pytest.skip(f"{image} is not here and cannot be pulled")
    reader.compose("--profile", "seaweedfs", "--profile", "observe", "up", "--detach", "grafana")
    reader.wait_for("grafana", "healthy")

    def asked(path: str) -> str:
        address = f"http://admin:{passwords['GRAFANA_PASSWORD']}@127.0.0.1:3000/api/{path}"
        return reader.execute("grafana", "wget", "-q", "-O", "-", address).stdout

    assert {found["uid"] for found in json.loads(asked("search?type=dash-db"))} == {"audit-loop", "audit-events"}
    for source in ("audit-prometheus", "audit-postgres"):
        assert json.loads(asked(f"datasources/uid/{source}/health"))["status"] == "OK"


def test_the_dashboard_answers_as_the_reader(reader: Project) -> None:
    """Healthy on a read-only root; its check is red while it hangs."""
    reader.compose("--profile", "seaweedfs", "--profile", "dashboard", "up", "--detach", "dashboard")
    reader.wait_for("dashboard", "healthy")
    page = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:2719/').read().decode())"
    wait_until(lambda: "@" in reader.python("dashboard", page), "the page shows who did something")

    reader.signal("dashboard", signal.SIGSTOP, "-m dashboard")
    reader.wait_for("dashboard", "unhealthy")
    reader.signal("dashboard", signal.SIGCONT, "-m dashboard")
    reader.wait_for("dashboard", "healthy")
    environment = reader.inspect("dashboard")["Config"]["Env"]
    assert "PG_USER=audit_reader" in environment
