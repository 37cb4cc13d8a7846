"""The alert rules: valid, true to the metrics of the code, each tried both ways, and explained in the runbook."""

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.servers.commands import wait_until
from pipelines.seals.key_file import SealKey, write_new
from pipelines.seals.pure.notes import SignerKey
from pipelines.settings.settings import PROJECT_ROOT
from pipelines.watch.metrics import METRICS
from simulator.api import Api
from tests.factory import ACCOUNT, ago, raw_event, spread
from tests.prometheus import FOLDER, PROMTOOL, needs_prometheus, prometheus_of
from tests.watching import watched_loop

CASES = ("alerts_test.yml", "alerts_days_test.yml")
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count")}


def _rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def _series() -> set[str]:
    """The names that a scrape brings."""
    kinds = {metric.name: metric.kind(metric.name, metric.meaning).type for metric in METRICS}
    return {name + suffix for name, kind in kinds.items() for suffix in SUFFIXES.get(kind, ("",))}


@needs_prometheus
@pytest.mark.parametrize(
    "check",
    [
        ("check", "rules", "alerts.yml"),
        ("check", "config", "prometheus.yml"),
        ("check", "config", "prometheus.compose.yml"),
        ("test", "rules", *CASES),
    ],
)
def test_promtool_finds_nothing_wrong(check: tuple[str, ...]) -> None:
    """The rules, the scrape configuration, and the cases of each alert."""
    done = subprocess.run([PROMTOOL, *check], cwd=FOLDER, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_is_seen_to_fire_and_not_to_fire() -> None:
    """A rule that always fires, or never, has a case that fails."""
    tests = [test for name in CASES for test in yaml.safe_load((FOLDER / name).read_text())["tests"]]
    cases = [(case["alertname"], bool(case.get("exp_alerts"))) for test in tests for case in test["alert_rule_test"]]

    assert set(cases) == {(rule["alert"], fires) for rule in _rules() for fires in (True, False)}


def test_the_rules_use_metrics_that_there_are() -> None:
    """A misspelt one would never fire, and nobody would know."""
    used = {name for rule in _rules() for name in re.findall(r"cloudflare_audit_\w+", rule["expr"])}

    assert used
    assert used <= _series()


def test_each_alert_says_what_it_is_and_where_to_read_on() -> None:
    """The runbook has a paragraph for each, and for no other."""
    headings = re.findall(r"^## (\w+)$", (PROJECT_ROOT / "docs/runbook.md").read_text(), re.MULTILINE)

    assert headings == [rule["alert"] for rule in _rules()]
    for rule in _rules():
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert rule["annotations"].keys() == {"summary", "description", "runbook"}
        assert rule["annotations"]["runbook"] == f"docs/runbook.md#{rule['alert'].lower()}"


def test_the_documented_line_makes_the_runbooks_links_absolute() -> None:
    """We do not know where somebody reads our pages; every rule gets the name that Alertmanager makes a link of."""
    text = (PROJECT_ROOT / "docs/watch/metrics.md").read_text()
    (script,) = re.findall(r"```sh\n(pages=.*?)```", text, re.DOTALL)

    made = subprocess.run(
        ["/bin/sh", "-ec", re.sub(r" > \S+", "", script)], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True
    )

    rules = [rule for group in yaml.safe_load(made.stdout)["groups"] for rule in group["rules"]]
    links = [rule["annotations"]["runbook_url"] for rule in rules]
    pages = re.findall("https://[^ \\n]*", script)[0]
    assert links == [f"{pages}/{rule['annotations']['runbook']}" for rule in _rules()] != []


# --- a real Prometheus ------------------------------------------------------------------------------------------------


@needs_prometheus
@pytest.mark.integration
def test_prometheus_scrapes_a_running_loop(api: Api, environment: Mapping[str, str], tmp_path: Path) -> None:
    """Each metric of the code answers a query, and an alert fires that should, and no other."""
    api.world.add(ACCOUNT, "v1", [*spread(20, ago(hours=1), ago(minutes=1)), raw_event("{}", time=ago(minutes=1))])

    key_file = tmp_path / "seal.key"
    write_new(key_file, SealKey(SignerKey.generate("test")))
    sealing = {**environment, "SEAL_KEY_FILE": str(key_file)}

    with watched_loop(sealing, tmp_path) as loop, prometheus_of(loop, tmp_path) as ask:
        wait_until(lambda: bool(ask("cloudflare_audit_last_seal_timestamp_seconds")))
        wait_until(lambda: bool(ask("cloudflare_audit_last_success_timestamp_seconds")))
        unanswered = [name for name in sorted(_series()) if not ask(name)]
        stored = ask("sum by (destination) (cloudflare_audit_events_stored_total)")
        wait_until(lambda: bool(ask('ALERTS{alertstate="firing"}')))
        alerts = {alert["metric"]["alertname"] for alert in ask('ALERTS{alertstate="firing"}')}

    assert unanswered == []
    assert {row["metric"]["destination"]: float(row["value"][1]) for row in stored} == {"warehouse": 20, "lake": 20}
    assert alerts == {"AuditQuarantine"}
