"""Grafana's dashboards are what the code makes, and each query is answered by a real server."""

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.servers.commands import Finished, wait_until
from pipelines.watch.metrics import METRICS
from simulator.api import Api
from simulator.world import SimulatedEvent
from tests.factory import ACCOUNT, ago, encoded, raw_event, spread, v2_tree
from tests.faults.stores.test_least_rights import roles
from tests.faults.stores.test_reader import Reader, reader
from tests.prometheus import needs_prometheus, prometheus_of
from tests.watching import watched_loop

from .compose_file import compose_file
from .grafana import filled_in
from .grafana.files import DASHBOARDS, FOLDER, GRAFANA, text_of

__all__ = ["reader", "roles"]

Json = dict[str, Any]
BUILT = {name: build() for name, build in DASHBOARDS.items()}
PROVISIONED = {path.parent.name: yaml.safe_load(path.read_text()) for path in GRAFANA.glob("provisioning/*/*.yml")}


def panels(name: str) -> list[Json]:
    """Those that ask something."""
    return [panel for panel in BUILT[name]["panels"] if panel["type"] != "row"]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_the_file_is_what_the_code_makes(name: str) -> None:
    """`python -m tests.deploy.grafana` writes it anew."""
    assert (FOLDER / name).read_text() == text_of(BUILT[name])
    assert {path.name for path in FOLDER.iterdir()} == set(DASHBOARDS)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_lie_side_by_side(name: str) -> None:
    """None over another, none beyond the page, each with a number of its own."""
    places = [panel["gridPos"] for panel in BUILT[name]["panels"]]

    taken = [(x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])]
    assert len(taken) == len(set(taken))
    assert max(x for x, _ in taken) < 24
    assert len({panel["id"] for panel in BUILT[name]["panels"]}) == len(places)


def test_provisioning_names_what_there_is() -> None:
    """The sources that the dashboards choose from, by variables that Compose sets; no password in a file."""
    sources = PROVISIONED["datasources"]["datasources"]
    (provider,) = PROVISIONED["dashboards"]["providers"]
    grafana = compose_file({})["services"]["grafana"]

    chosen = {v["query"] for built in BUILT.values() for v in built["templating"]["list"] if v["type"] == "datasource"}
    used = set(re.findall(r"\$(\w+)", str(PROVISIONED)))
    mounted = dict(volume.split(":")[:2] for volume in grafana["volumes"] if volume.startswith("./"))
    assert {source["type"] for source in sources} == chosen
    assert used <= set(grafana["environment"])
    assert [s["secureJsonData"] for s in sources if "secureJsonData" in s] == [{"password": "$READER_PASSWORD"}]
    assert mounted["./deploy/grafana/dashboards"] == provider["options"]["path"]
    assert Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]).name in DASHBOARDS


def test_the_loop_s_dashboard_asks_for_metrics_that_there_are() -> None:
    """A misspelt one would show nothing."""
    known = {metric.name for metric in METRICS}

    used = set(re.findall(r"cloudflare_audit_\w+", text_of(BUILT["loop.json"])))

    assert {name.removesuffix("_bucket") for name in used} <= known
    assert len(used) > 15


@needs_prometheus
@pytest.mark.integration
def test_every_query_to_prometheus_is_answered(api: Api, environment: Mapping[str, str], tmp_path: Path) -> None:
    """By series of a running loop, one event of which is quarantined; so are the variables."""
    api.world.add(ACCOUNT, "v1", [*spread(20, ago(hours=1), ago(minutes=1)), raw_event("{}", time=ago(minutes=1))])
    texts = [target["expr"] for panel in panels("loop.json") for target in panel["targets"]]

    with watched_loop(environment, tmp_path) as loop, prometheus_of(loop, tmp_path) as ask:
        instance = f"{loop.host}:{loop.port}"
        queries = [filled_in.promql(text, instance, [ACCOUNT]) for text in texts]
        with suppress(RuntimeError):  # what is not answered is named below
            wait_until(lambda: all(map(ask, queries)))
        unanswered = [query for query in queries if not ask(query)]
        asked = [v["query"]["query"] for v in BUILT["loop.json"]["templating"]["list"] if v["type"] == "query"]
        values = [_label_values(ask, filled_in.promql(text, instance, [ACCOUNT])) for text in asked]

    assert len(queries) > 20
    assert unanswered == []
    assert values == [{instance}, {ACCOUNT}]


def _label_values(ask: Callable[[str], list[Json]], text: str) -> set[str]:
    found = re.fullmatch(r"label_values\((.+), (\w+)\)", text)
    assert found, text
    return {row["metric"][found[2]] for row in ask(found[1])}


@pytest.fixture
def incident(api: Api, command: Callable[..., Finished], reader: Reader) -> Reader:
    """Events of both versions, one that failed, a sign-in, one quarantined; compared once, with a gap."""
    api.world.add(ACCOUNT, "v1", spread(5, ago(hours=3), ago(hours=2)))
    when = ago(hours=2)
    action = {"description": "Login", "result": "failure", "time": f"{when:%Y-%m-%dT%H:%M:%S.%fZ}", "type": "login"}
    api.world.add(ACCOUNT, "v2", [SimulatedEvent(when, encoded(v2_tree(action=action)), when)])
    api.world.add(ACCOUNT, "v1", [raw_event("{}", time=ago(minutes=90))])
    reader.make()
    reader.make()
    done = command("pipelines/run.py", "--once", CLOUDFLARE_API_VERSION="v1,v2")
    assert done.code == 0, done.err
    reader.as_owner("DELETE FROM {schema}.audit_logs WHERE event_id = (SELECT min(event_id) FROM {schema}.audit_logs)")
    window = ("--since", ago(hours=4).isoformat(), "--before", ago(hours=1).isoformat())
    assert command("pipelines/reconcile.py", *window, CLOUDFLARE_API_VERSION="v1,v2").code == 3
    return reader


@pytest.mark.integration
def test_every_query_to_the_warehouse_is_answered(incident: Reader) -> None:
    """With rows, as the role that only reads; so are the variables. A link's column is there."""
    versions = ("v1", "v2")

    def asked(text: str, search: str = "") -> list[Json]:
        filled = filled_in.sql(text, ago(days=1), ago(minutes=0), search, account=[ACCOUNT, "it's"], version=versions)
        return incident.ask(filled)

    answers = {panel["title"]: asked(panel["targets"][0]["rawSql"]) for panel in panels("events.json")}
    queries = [v["query"] for v in BUILT["events.json"]["templating"]["list"] if v["type"] == "query"]

    assert [title for title, rows in answers.items() if not rows] == []
    numbers = {
        panel["title"]: answers[panel["title"]][0]["n"] for panel in panels("events.json") if panel["type"] == "stat"
    }
    assert numbers == {
        "Events": 5,
        "Actors": 1,
        "Addresses": 1,
        "Failed": 1,
        "Sign-ins": 1,
        "Hours with gaps": 1,
    }
    for panel in panels("events.json"):
        linked = {override["matcher"]["options"] for override in panel["fieldConfig"]["overrides"]}
        assert not linked or linked & set(answers[panel["title"]][0]), panel["title"]
    assert [{next(iter(row.values())) for row in asked(query)} for query in queries] == [{ACCOUNT}, set(versions)]
    for panel in panels("events.json"):
        if panel["title"] in {"Who", "Failed actions", "The newest events"}:
            assert asked(panel["targets"][0]["rawSql"], "no' such") == []
            assert asked(panel["targets"][0]["rawSql"], "ALICE@")
