"""The simulator is right about the API, whoever asks: it knows nothing of our client."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import requests
from cloudflare import Cloudflare

from pipelines.settings import PROJECT_ROOT
from simulator.api import Api
from simulator.server import Server, serving
from simulator.world import Plan, build_world

from .conftest import TOKEN
from .factory import ACCOUNT, ago, event_at, ids, spread


@pytest.fixture
def server(api: Api) -> Iterator[Server]:
    """The simulator on loopback."""
    with serving(api) as server:
        yield server


def get(server: Server, path: str, token: str = TOKEN, **params: Any) -> requests.Response:
    """A GET as any client would send it."""
    headers = {"Authorization": f"Bearer {token}"}
    return requests.get(f"{server.url}/accounts/{path}", params=params, headers=headers, timeout=10)


@pytest.mark.parametrize("count", [0, 30, 75])
def test_the_official_client_pages_through_v1(api: Api, server: Server, count: int) -> None:
    """Each event once, in pages of 30."""
    events = spread(count, ago(days=2), ago(minutes=1)) if count else []
    api.world.add(ACCOUNT, "v1", events)

    with Cloudflare(api_token=TOKEN, base_url=server.url) as client:
        seen = [entry.id for entry in client.audit_logs.list(account_id=ACCOUNT, per_page=30) if entry]

    assert sorted(str(event_id) for event_id in seen) == sorted(ids(events))


def test_the_newest_come_first_unless_asked_otherwise(api: Api, server: Server) -> None:
    """As documented for both versions."""
    api.world.add(ACCOUNT, "v1", spread(3, ago(hours=3), ago(hours=1)))

    default = get(server, f"{ACCOUNT}/audit_logs").json()["result"]
    ascending = get(server, f"{ACCOUNT}/audit_logs", direction="asc").json()["result"]

    assert default == ascending[::-1]
    assert ascending == sorted(ascending, key=lambda event: event["when"])


def test_events_are_sent_byte_for_byte_in_the_documented_envelope(api: Api, server: Server) -> None:
    """v1 without `result_info`, v2 with a count in text."""
    event = event_at(ago(hours=1))
    api.world.add(ACCOUNT, "v1", [event])
    api.world.add(ACCOUNT, "v2", [event])

    v1 = get(server, f"{ACCOUNT}/audit_logs")
    v2 = get(server, f"{ACCOUNT}/logs/audit", since=ago(days=1).isoformat(), before=ago().isoformat()).json()

    assert event.raw in v1.content
    assert set(v1.json()) == {"errors", "messages", "result", "success"}
    assert v2["result_info"] == {"count": "1"}


def test_an_event_is_shown_from_its_visibility_on(api: Api, server: Server) -> None:
    """Which may be minutes after its time."""
    now = datetime.now(UTC)
    api.world.add(ACCOUNT, "v1", [event_at(now - timedelta(hours=1), visible_at=now + timedelta(minutes=5))])

    before = get(server, f"{ACCOUNT}/audit_logs").json()["result"]
    api.clock = lambda: now + timedelta(minutes=6)
    after = get(server, f"{ACCOUNT}/audit_logs").json()["result"]

    assert (len(before), len(after)) == (0, 1)


@pytest.mark.parametrize(
    ("path", "params", "status", "message"),
    [
        ("{account}/audit_logs", {"per_page": 0}, 400, "per_page"),
        ("{account}/audit_logs", {"per_page": 1001}, 400, "per_page"),
        ("{account}/audit_logs", {"since": "yesterday"}, 400, "since"),
        ("{account}/audit_logs", {"direction": "up"}, 400, "direction"),
        (
            "{account}/logs/audit",
            {"since": "2026-01-01"},
            400,
            "Invalid format for parameter before: query parameter 'before' is required",
        ),
        ("{account}/logs/audit", {"since": "2026-01-01", "before": "2026-02-01", "cursor": "x"}, 400, "cursor"),
        ("nobody/audit_logs", {}, 404, "object identifier"),
    ],
)
def test_what_the_api_refuses_is_refused(
    server: Server, path: str, params: dict[str, Any], status: int, message: str
) -> None:
    """With its status and envelope."""
    answer = get(server, path.format(account=ACCOUNT), **params)

    assert answer.status_code == status
    assert answer.json()["success"] is False
    assert message in answer.json()["errors"][0]["message"]


def test_a_wrong_token_is_an_authentication_error(server: Server) -> None:
    """403 and code 10000, as the API answers it."""
    answer = get(server, f"{ACCOUNT}/audit_logs", token="wrong")

    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (403, 10000)


def test_too_many_requests_shut_the_token_out(api: Api, server: Server) -> None:
    """For the whole window, with the time left."""
    api.behaviour.requests_per_window = 3

    answers = [get(server, f"{ACCOUNT}/audit_logs") for _ in range(5)]

    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert 290 <= int(answers[-1].headers["Retry-After"]) <= 300
    assert answers[0].headers["Ratelimit"] == '"default";r=2;t=300'


def test_the_same_seed_gives_the_same_bytes() -> None:
    """And another seed others."""
    plan = Plan((ACCOUNT,), ("v1", "v2"), 20, ago(days=1), ago())

    first, again = build_world(plan), build_world(plan)
    other = build_world(Plan(plan.account_ids, plan.versions, plan.count, plan.since, plan.before, seed=1))

    assert first.raw(ACCOUNT, "v2") == again.raw(ACCOUNT, "v2") != other.raw(ACCOUNT, "v2")


def test_it_runs_as_a_process_of_its_own_and_takes_commands() -> None:
    """Prints its URL, misbehaves when told to, ends on SIGTERM."""
    command = [sys.executable, "-m", "simulator", "--accounts", ACCOUNT, "--versions", "v1", "--events", "40"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=PROJECT_ROOT) as process:
        assert process.stdout
        url = process.stdout.readline().strip()
        headers = {"Authorization": f"Bearer {TOKEN}"}
        fine = requests.get(f"{url}/accounts/{ACCOUNT}/audit_logs", headers=headers, timeout=10)
        control = url.removesuffix("/client/v4") + "/_simulator"
        requests.post(f"{control}/faults", data=json.dumps({"status": 503}), timeout=10)
        broken = requests.get(f"{url}/accounts/{ACCOUNT}/audit_logs", headers=headers, timeout=10)
        logged = requests.get(f"{control}/requests", timeout=10).json()
        process.send_signal(signal.SIGTERM)
        code = process.wait(10)

    assert (len(fine.json()["result"]), broken.status_code, len(logged), code) == (40, 503, 2, 0)
