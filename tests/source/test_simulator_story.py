"""The simulator's story: people with habits, both records of a deed, one night; in shapes that were published."""

import ipaddress
import json
import re
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import pytest
import requests

from simulator.api import Api
from simulator.cast import ACCOUNTS
from simulator.deeds import DEEDS
from simulator.incident import INCIDENT
from simulator.server import serving
from simulator.story import HISTORY, build_story
from simulator.world import World
from tests.factory import ACCOUNT, OTHER_ACCOUNT
from tests.samples import V1_EVENTS, V2_PAGE

NOW = datetime(2026, 11, 25, 14, 30, tzinfo=UTC)
_DOCUMENTATION = [
    ipaddress.ip_network(net) for net in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32")
]


@cache
def story(now: datetime = NOW, seed: int = 0, live_minutes: int = 0) -> World:
    """Two accounts."""
    before = now + timedelta(minutes=live_minutes)
    return build_story((ACCOUNT, OTHER_ACCOUNT), seed=seed, now=now, before=before, live_rate=60)


def events(version: str, now: datetime = NOW, account: str = ACCOUNT) -> list[dict[str, Any]]:
    """An account's events, as sent."""
    return [json.loads(raw) for raw in story(now).raw(account, version)]


def texts(value: Any) -> Iterator[str]:
    """Every text in a tree."""
    if isinstance(value, dict):
        for part in value.values():
            yield from texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from texts(part)
    elif isinstance(value, str):
        yield value


def test_the_same_seed_and_clock_tell_the_same_and_another_seed_something_else() -> None:
    """Byte for byte."""
    again = build_story((ACCOUNT, OTHER_ACCOUNT), seed=0, now=NOW, before=NOW, live_rate=60)

    assert len(again.raw(ACCOUNT, "v2")) > 5_000
    assert again.raw(ACCOUNT, "v2") == story().raw(ACCOUNT, "v2")
    assert story(seed=1).raw(ACCOUNT, "v2") != again.raw(ACCOUNT, "v2")


def test_a_simulator_that_starts_later_on_the_same_day_tells_the_same_past() -> None:
    """Whoever has loaded it finds it again, but for the hours that have become too old."""
    later = NOW + timedelta(hours=3)

    for version in ("v1", "v2"):
        before = {event.raw for event in story().events(ACCOUNT, version) if event.time >= later - HISTORY}
        after = {event.raw for event in story(later).events(ACCOUNT, version) if event.time < NOW}
        assert len(before) > 5_000
        assert before - after == set()


def test_the_records_have_the_fields_that_were_published() -> None:
    """Of both versions; `info` and the values in JSON are in some."""
    (published,) = json.loads(V2_PAGE)["result"]
    v1_published = [json.loads(event) for event in V1_EVENTS]

    assert {key for event in events("v1") for key in event} == {key for event in v1_published for key in event}
    assert {key for event in events("v2") for key in event} == set(published)
    for part in ("account", "action", "actor", "raw", "resource", "zone"):
        assert {key for event in events("v2") for key in event.get(part, {})} == set(published[part]), part
    for part in ("action", "actor", "owner", "resource"):
        fields = {key for event in v1_published for key in event[part]}
        assert {key for event in events("v1") for key in event[part]} == fields, part


def test_the_values_are_those_that_the_api_reference_lists() -> None:
    """Types, contexts, results; and the path that was called has no placeholder left."""
    found = events("v2")

    assert {event["action"]["type"] for event in found} == {"create", "update", "delete"}
    assert {event["action"]["result"] for event in found} == {"success", "failure"}
    assert {event["actor"]["type"] for event in found} == {"user", "account", "system"}
    assert {event["actor"].get("context") for event in found} == {"dash", "api_token", "oauth", None}
    assert {event["interface"] for event in events("v1")} == {"UI", "API", ""}
    for version in ("v1", "v2"):
        assert [text for event in events(version) for text in texts(event) if re.search(r"[{}]", text)] == []


def test_every_name_and_address_is_one_for_documentation() -> None:
    """Nobody's domain and nobody's host is in it."""
    both = [event for account in (ACCOUNT, OTHER_ACCOUNT) for v in ("v1", "v2") for event in events(v, account=account)]
    words = [word for event in both for text in texts(event) for word in re.split(r"[\s/\"()@,]+", text)]
    addresses = [word for word in words if re.fullmatch(r"\d+(\.\d+){3}|[0-9a-f:]*:[0-9a-f:]*:[0-9a-f:]+", word)]
    domains = {word for word in words if re.fullmatch(r"[\w.-]+\.(com|net|org|example)", word)}

    assert len(addresses) > 10_000
    assert {it for it in addresses if not any(ipaddress.ip_address(it) in net for net in _DOCUMENTATION)} == set()
    assert len(domains) > 10
    assert {it for it in domains if not re.search(r"(^|\.)(example\.(com|net|org)|[\w-]+\.example)$", it)} == set()


def test_sign_ins_are_in_v2_alone_and_scripts_and_old_values_in_v1_alone() -> None:
    """As the notes on the API say, so that both versions are worth reading."""
    v1, v2 = events("v1"), events("v2")
    sign_ins = [event for event in v2 if event["action"]["description"] == "LOGIN"]
    scripts = [event for event in v1 if event["resource"]["type"] == "worker.script"]

    assert len(sign_ins) > 100
    assert {event["action"]["type"] for event in sign_ins} == {"update"}
    assert len(scripts) > 100
    assert [event for event in v1 if "login" in event["action"]["type"].lower()] == []
    assert [
        event for event in v2 if "scripts/" in event["raw"].get("uri", "") and "secrets" not in event["raw"]["uri"]
    ] == []
    assert [event for event in v1 if event["oldValue"] or event.get("oldValueJson")]
    assert [text for event in v2 for text in event if text.startswith("old")] == []


def test_most_deeds_are_in_both_versions_by_records_with_ids_and_times_of_their_own() -> None:
    """v2's is less than a second later."""
    v1, v2 = story().events(ACCOUNT, "v1"), story().events(ACCOUNT, "v2")
    made = [json.loads(event.raw)["id"] for event in (*v1, *v2)]
    times = [event.time for event in v2]

    paired = sum(any(timedelta(0) < time - event.time < timedelta(seconds=1) for time in times) for event in v1[:200])

    assert len(set(made)) == len(made)
    assert paired > 0.8 * 200


def test_weekends_are_quieter_and_some_attempts_fail() -> None:
    """People rest; tokens do not. A refusal (4xx) is in v1 alone."""
    days = Counter(event.time.date() for event in story().events(ACCOUNT, "v1"))
    week = [count for day, count in days.items() if day.weekday() < 5 and day != NOW.date()]
    weekend = [count for day, count in days.items() if day.weekday() >= 5]
    failures = [sum(event["action"]["result"] in {False, "failure"} for event in events(v)) for v in ("v1", "v2")]

    assert max(weekend) < 0.7 * min(week[1:])
    assert 20 < failures[1] < failures[0] < 0.05 * len(events("v1"))


@pytest.mark.parametrize("at", ["00:00:30", "09:00:00", "23:59:00"])
def test_the_incident_is_all_of_yesterday_in_order_at_any_time_of_the_day(at: str) -> None:
    """From the first guess to the rotated key: each step in the version that records it."""
    now = datetime.fromisoformat(f"2026-11-25T{at}+00:00")
    strange = ("203.0.113.66", "2001:db8:bad::5")

    found = [event for event in events("v2", now) if event["actor"].get("ip_address") in strange]

    expected = [
        DEEDS[step.deed].summary
        for step in INCIDENT
        for _ in range(step.times)
        if step.address in strange and DEEDS[step.deed].v2
    ]
    assert [event["action"]["description"] for event in found] == expected
    assert {event["action"]["time"][:10] for event in found} == {"2026-11-24"}
    assert [event["action"]["type"] for event in events("v1", now) if event["actor"].get("ip") == strange[0]] == [
        "API_key_view",
        "token_create",
        "invite",
    ]


def test_the_token_that_was_made_is_the_one_that_is_used_and_revoked() -> None:
    """By its id: that is what an investigator follows."""
    by_deed = {event["action"]["description"]: event for event in events("v2") if "backup-sync" in json.dumps(event)}
    token_id = by_deed["Create Token"]["resource"]["id"]
    revoked = [event for event in events("v2") if event["action"]["description"] == "Delete Token"]

    assert by_deed["Delete Logpush job"]["actor"]["token_id"] == token_id
    assert [event["resource"]["id"] for event in revoked] == [token_id]


def test_the_present_is_in_fast_motion() -> None:
    """About as many deeds a minute as asked for, each visible within two seconds."""
    world = story(live_minutes=5)
    coming = [event for event in world.events(ACCOUNT, "v2") if event.time >= NOW]

    assert 200 < len(coming) < 400
    assert all(timedelta(0) <= event.visible_at - event.time <= timedelta(seconds=2) for event in coming)


def test_every_deed_is_done_by_somebody() -> None:
    """No row of the table is there for nothing, and none is missing."""
    habits = {deed for account in ACCOUNTS for actor in account.actors for deed in actor.deeds}

    assert habits | {step.deed for step in INCIDENT} | {"sign in"} == set(DEEDS)


def test_an_account_has_a_name() -> None:
    """`GET /accounts/{id}` shows it, as v2's events do."""
    api = Api(story(), token="t", clock=lambda: NOW)
    with serving(api) as server:
        answer = requests.get(f"{server.url}/accounts/{ACCOUNT}", headers={"Authorization": "Bearer t"}, timeout=60)

    assert answer.json()["result"] == {"id": ACCOUNT, "name": "Example Shop", "type": "standard"}
    assert {event["account"]["name"] for event in events("v2")} == {"Example Shop"}
