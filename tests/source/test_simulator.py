"""The simulator answers as the API does: it knows nothing of our client."""

import json
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from cloudflare import Cloudflare

from pipelines.settings.settings import PROJECT_ROOT
from simulator.api import Api, Fault
from simulator.quota import largest_burst
from simulator.server import Server, serving
from simulator.world import Plan, build_world
from tests.conftest import TOKEN
from tests.factory import ACCOUNT, OTHER_ACCOUNT, ago, event_at, ids, spread


@pytest.fixture
def server(api: Api) -> Iterator[Server]:
    """The simulator on loopback."""
    with serving(api) as server:
        yield server


def get(server: Server, path: str, token: str = TOKEN, **params: Any) -> requests.Response:
    """A GET as any client would send it."""
    return get_from(server.url, path, token, **params)


def get_from(url: str, path: str, token: str, **params: Any) -> requests.Response:
    """The same, of a server elsewhere."""
    headers = {"Authorization": f"Bearer {token}"}
    return requests.get(f"{url}/accounts/{path}", params=params, headers=headers, timeout=60)


@pytest.mark.parametrize("count", [0, 30, 75])
def test_the_official_client_pages_through_v1(api: Api, server: Server, count: int) -> None:
    """Each event once, in pages of 30."""
    events = spread(count, ago(days=2), ago(minutes=1)) if count else []
    api.world.add(ACCOUNT, "v1", events)

    with Cloudflare(api_token=TOKEN, base_url=server.url) as client:
        seen = [entry.id for entry in client.audit_logs.list(account_id=ACCOUNT, per_page=30) if entry]

    assert sorted(str(event_id) for event_id in seen) == sorted(ids(events))


def test_the_newest_come_first_unless_asked_otherwise(api: Api, server: Server) -> None:
    """The default order is the documented one, in both versions."""
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


def test_too_many_requests_block_the_token(api: Api, server: Server) -> None:
    """For the whole window, with the time left."""
    api.behaviour.requests_per_window = 3

    answers = [get(server, f"{ACCOUNT}/audit_logs") for _ in range(5)]

    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert 290 <= int(answers[-1].headers["Retry-After"]) <= 300
    assert answers[0].headers["Ratelimit"] == '"default";r=2;t=300'


def test_a_token_of_an_account_is_refused_for_the_others(api: Api, server: Server) -> None:
    """A token of one account is known but refused for others; the token of all works for both."""
    api.tokens = {"one": {ACCOUNT}, "two": {OTHER_ACCOUNT}}

    asked = [(ACCOUNT, "one"), (ACCOUNT, "two"), (OTHER_ACCOUNT, "two"), (OTHER_ACCOUNT, TOKEN), (ACCOUNT, "three")]
    statuses = [get(server, f"{account}/audit_logs", token=token).status_code for account, token in asked]
    known = [get(server, f"{ACCOUNT}/tokens/verify", token=token).status_code for token in ("two", "three")]

    assert statuses == [200, 403, 200, 200, 403]
    assert known == [200, 401]


def test_each_token_has_a_budget_of_its_own(api: Api, server: Server) -> None:
    """Each token has its own budget, and the log says who asked, and when."""
    api.tokens = {"one": {ACCOUNT}, "two": {ACCOUNT}}
    api.behaviour.requests_per_window = 2

    asked = ["one", "one", "one", "two"]
    answers = [get(server, f"{ACCOUNT}/audit_logs", token=token) for token in asked]

    assert [answer.status_code for answer in answers] == [200, 200, 429, 200]
    assert [answer.headers["Ratelimit"][len('"default";') :] for answer in answers[2:]] == ["r=0;t=300", "r=1;t=300"]
    assert [request.token for request in api.requests] == asked
    assert largest_burst([request.at for request in api.requests], timedelta(minutes=5)) == 4


@pytest.mark.parametrize(
    ("seconds", "most"), [([], 0), ([0, 100, 299], 3), ([0, 300], 1), ([900, 0, 1, 2, 301, 302], 3)]
)
def test_the_largest_burst_is_that_of_any_window(seconds: list[int], most: int) -> None:
    """Not only of those that begin at multiples of it."""
    begin = ago(days=1)

    assert largest_burst([begin + timedelta(seconds=n) for n in seconds], timedelta(seconds=300)) == most


def test_thirty_two_slow_answers_take_as_long_as_one(api: Api, server: Server) -> None:
    """Each takes the latency; nobody waits for the others, even for one that hangs."""
    api.behaviour.latency_seconds = 1
    api.faults.append(Fault(account_id=OTHER_ACCOUNT, latency_seconds=4))

    def seconds_of(account_id: str) -> float:
        begun = time.monotonic()
        assert get(server, f"{account_id}/audit_logs").status_code == 200
        return time.monotonic() - begun

    with ThreadPoolExecutor(33) as pool:
        hanging = pool.submit(seconds_of, OTHER_ACCOUNT)
        others = list(pool.map(seconds_of, [ACCOUNT] * 32))

    assert 1 <= min(others) <= max(others) < 20
    assert hanging.result() >= 4


def test_the_same_seed_gives_the_same_bytes() -> None:
    """The same seed gives the same bytes, and another seed gives others."""
    plan = Plan((ACCOUNT,), ("v1", "v2"), 20, ago(days=1), ago())

    first, again = build_world(plan), build_world(plan)
    other = build_world(Plan(plan.account_ids, plan.versions, plan.count, plan.since, plan.before, seed=1))

    assert first.raw(ACCOUNT, "v2") == again.raw(ACCOUNT, "v2") != other.raw(ACCOUNT, "v2")


@contextmanager
def simulator(*arguments: str) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """A process of its own and its URL."""
    command = [sys.executable, "-m", "simulator", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=PROJECT_ROOT) as process:
        try:
            assert process.stdout
            yield process.stdout.readline().strip(), process
        finally:
            process.kill()


def test_it_runs_as_a_process_of_its_own_and_takes_commands() -> None:
    """Prints its URL, misbehaves on command, ends on SIGTERM."""
    with simulator("--accounts", ACCOUNT, "--versions", "v1", "--events", "40") as (url, process):
        headers = {"Authorization": f"Bearer {TOKEN}"}
        fine = requests.get(f"{url}/accounts/{ACCOUNT}/audit_logs", headers=headers, timeout=60)
        control = url.removesuffix("/client/v4") + "/_simulator"
        requests.post(f"{control}/faults", data=json.dumps({"status": 503}), timeout=60)
        broken = requests.get(f"{url}/accounts/{ACCOUNT}/audit_logs", headers=headers, timeout=60)
        logged = requests.get(f"{control}/requests", timeout=60).json()
        process.send_signal(signal.SIGTERM)
        code = process.wait(120)

    assert (len(fine.json()["result"]), broken.status_code, len(logged), code) == (40, 503, 2, 0)
    assert abs(datetime.fromisoformat(logged[0]["at"]) - datetime.now(UTC)) < timedelta(minutes=1)


def test_its_limits_are_options_and_commands() -> None:
    """The process starts with the limits of its options; `POST /_simulator/behaviour` changes them."""
    options = (
        "--shows-at-most",
        "5",
        "--end-of-results",
        "error",
        "--refuses-with",
        "422",
        "--event-bytes",
        "9000",
        "--events",
        "20",
    )
    with simulator(*options) as (url, _):
        account = f"{url}/accounts/{'a' * 32}/audit_logs"
        headers = {"Authorization": f"Bearer {TOKEN}"}
        page = requests.get(account, params={"per_page": "4"}, headers=headers, timeout=60)
        past = requests.get(account, params={"per_page": "5", "page": "2"}, headers=headers, timeout=60)
        control = url.removesuffix("/client/v4") + "/_simulator/behaviour"
        requests.post(control, json={"shows_at_most": 0, "largest_page": 3}, timeout=60)
        large = requests.get(account, params={"per_page": "4"}, headers=headers, timeout=60)

    assert (len(page.json()["result"]), len(page.json()["result"][0]["padding"])) == (4, 9_000)
    assert (past.status_code, large.status_code) == (422, 422)


def test_a_thousand_accounts_with_a_token_each_cost_next_to_nothing(tmp_path: Path) -> None:
    """The file names each account and the file of its token, both for this user alone."""
    file = tmp_path / "accounts.toml"

    begun = time.monotonic()
    with simulator("--account-count", "1000", "--token-each", "--write-accounts", str(file)) as (url, process):
        seconds = time.monotonic() - begun
        accounts = tomllib.loads(file.read_text())["accounts"]
        tokens = [Path(account["token_file"]) for account in accounts]
        answers = [
            get_from(url, f"{account['id']}/audit_logs", token.read_text())
            for account, token in zip(accounts[:5], tokens, strict=False)
        ]
        memory = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())

    assert [answer.status_code for answer in answers] == [200] * 5
    assert len({account["id"] for account in accounts}) == len(set(tokens)) == 1000
    assert {path.stat().st_mode & 0o777 for path in (file, *tokens)} == {0o600}
    assert seconds < 60
    assert memory
    assert int(memory[1]) < 60_000
