"""The events of the simulated accounts: what happened when, and when the API shows it. Deterministic from a seed."""

import bisect
import json
import random
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(order=True, frozen=True)
class SimulatedEvent:
    """One event: its time, its exact JSON, and when the API begins to show it."""

    time: datetime
    raw: bytes = field(compare=False)
    visible_at: datetime = field(compare=False, default=EPOCH)
    is_user_level: bool = field(compare=False, default=False)


class World:
    """The events by account and version, in the order of their time."""

    def __init__(self, account_ids: Iterable[str]) -> None:
        self.account_ids = set(account_ids)
        self.names: dict[str, str] = {}
        """Of accounts that have one."""
        self._events: dict[tuple[str, str], list[SimulatedEvent]] = {}

    def add(self, account_id: str, version: str, events: Iterable[SimulatedEvent]) -> None:
        """Adds events behind those of the same time."""
        self.account_ids.add(account_id)
        known = self._events.setdefault((account_id, version), [])
        for event in events:
            bisect.insort_right(known, event)

    def forget(self, account_id: str, version: str) -> None:
        """Shows none of the events of an account any more, as the API does when they are too old."""
        self._events.pop((account_id, version), None)

    def visible(
        self, account_id: str, version: str, since: datetime, before: datetime, now: datetime, *, hide_user_logs: bool
    ) -> list[SimulatedEvent]:
        """Returns the events that the API shows of `[since, before)` at `now`, oldest first."""
        events = self._events.get((account_id, version), [])
        first = bisect.bisect_left(events, since, key=lambda event: event.time)
        last = bisect.bisect_left(events, before, key=lambda event: event.time)
        return [
            event
            for event in events[first:last]
            if event.visible_at <= now and not (hide_user_logs and event.is_user_level)
        ]

    def events(self, account_id: str, version: str) -> list[SimulatedEvent]:
        """Every event of the account, oldest first."""
        return list(self._events.get((account_id, version), []))

    def raw(self, account_id: str, version: str) -> list[bytes]:
        """The JSON of every event of the account, as sent, oldest first."""
        return [event.raw for event in self.events(account_id, version)]


@dataclass(frozen=True)
class Plan:
    """The contents of a world: `count` events for each account and version between two times."""

    account_ids: tuple[str, ...]
    versions: tuple[str, ...]
    count: int
    since: datetime
    before: datetime
    seed: int = 0
    delay: timedelta = timedelta(seconds=2)
    """The longest time from an event to its visibility."""
    padding: int = 0
    """Bytes that each event is padded with."""


def build_world(*plans: Plan) -> World:
    """The world of some plans: the same plans give the same bytes."""
    world = World([account_id for plan in plans for account_id in plan.account_ids])
    for number, plan in enumerate(plans):
        _fill(world, plan, seed=f"{plan.seed} {number}")
    return world


def _fill(world: World, plan: Plan, *, seed: str) -> None:
    for account_id in plan.account_ids:
        for version in plan.versions:
            dice = random.Random(f"{seed} {account_id} {version}")  # noqa: S311  # not for secrets
            make = _make_v1 if version == "v1" else _make_v2
            span = (plan.before - plan.since).total_seconds()
            times = sorted(plan.since + timedelta(seconds=dice.random() * span) for _ in range(plan.count))
            world.add(account_id, version, [_event(dice, make, account_id, time, plan) for time in times])


def _event(dice: random.Random, make: Any, account_id: str, time: datetime, plan: Plan) -> SimulatedEvent:
    tree, is_user_level = make(dice, account_id, written(dice, time))
    padding = {"padding": "x" * plan.padding} if plan.padding else {}
    raw = json.dumps({**tree, **padding}, separators=(",", ":")).encode()
    return SimulatedEvent(time, raw, time + plan.delay * dice.random(), is_user_level)


def written(dice: random.Random, time: datetime) -> str:
    """Returns a time as the API writes it: with 0, 3, 5 or 6 digits of a second's fraction, never later than itself."""
    digits = dice.choice([0, 3, 5, 6])
    fraction = f".{time:%f}"[: 1 + digits] if digits else ""
    return f"{time:%Y-%m-%dT%H:%M:%S}{fraction}Z"


_PEOPLE = [("alice", "203.0.113.7"), ("bob", "198.51.100.23"), ("carol", "2001:db8:12::1a"), ("dan", "192.0.2.99")]
_CHANGES = [
    ("dns.record", "rec_add", "dns"),
    ("dns.record", "rec_del", "dns"),
    ("firewall.rule", "change_setting", "firewall"),
    ("r2.bucket", "create", "r2"),
    ("d1.database", "create", "d1"),
    ("account.member", "invite", "members"),
    ("token", "token_roll", "api_tokens"),
    ("user", "login", "users"),
]
_FAILURE_RATE = 0.03
_ZONES = ["example.com", "example.net", "shop.example"]


def _make_v1(dice: random.Random, account_id: str, when: str) -> tuple[Mapping[str, Any], bool]:
    (person, address), (kind, action, _) = dice.choice(_PEOPLE), dice.choice(_CHANGES)
    zone = dice.choice(_ZONES)
    return {
        "action": {"result": dice.random() > _FAILURE_RATE, "type": action},
        "actor": {
            "email": f"{person}@example.com",
            "id": uuid.uuid5(uuid.NAMESPACE_DNS, person).hex,
            "ip": address,
            "type": "user",
        },
        "id": str(uuid.UUID(int=dice.getrandbits(128))),
        "interface": dice.choice(["UI", "API"]),
        "metadata": {"zone_name": zone, "name": f"host-{dice.randrange(500)}.{zone}", "ttl": dice.choice([1, 60, 300])},
        "newValue": f"192.0.2.{dice.randrange(256)}",
        "newValueJson": {"content": f"192.0.2.{dice.randrange(256)}", "note": f"{dice.getrandbits(1600):x}"},
        "oldValue": f"192.0.2.{dice.randrange(256)}",
        "oldValueJson": {"content": f"192.0.2.{dice.randrange(256)}", "note": f"{dice.getrandbits(800):x}"},
        "owner": {"id": account_id},
        "resource": {"id": str(dice.getrandbits(40)), "type": kind},
        "when": when,
    }, action == "login"


def _make_v2(dice: random.Random, account_id: str, time: str) -> tuple[Mapping[str, Any], bool]:
    (person, address), (kind, action, product) = dice.choice(_PEOPLE), dice.choice(_CHANGES)
    zone = dice.choice(_ZONES)
    has_succeeded = dice.random() > _FAILURE_RATE
    return {
        "account": {"id": account_id, "name": f"Account {account_id}"},
        "action": {
            "description": action.replace("_", " "),
            "result": "success" if has_succeeded else "failure",
            "time": time,
            "type": dice.choice(["create", "update", "delete"]),
        },
        "actor": {
            "context": dice.choice(["dash", "api_token"]),
            "email": f"{person}@example.com",
            "id": uuid.uuid5(uuid.NAMESPACE_DNS, person).hex,
            "ip_address": address,
            "token": {"id": f"{dice.getrandbits(64):016x}", "name": "ci"},
            "type": "user",
        },
        "id": str(uuid.UUID(int=dice.getrandbits(128))),
        "raw": {
            "cf_ray_id": f"{dice.getrandbits(64):016x}",
            "method": "PUT",
            "status_code": 200 if has_succeeded else 400,
            "uri": f"/client/v4/accounts/{account_id}/{product}",
            "user_agent": "Mozilla/5.0",
        },
        "resource": {
            "id": str(dice.getrandbits(40)),
            "product": product,
            "request": {"note": f"{dice.getrandbits(2000):x}"},
            "response": {"ok": True},
            "scope": {},
            "type": kind,
        },
        "zone": {"id": f"{uuid.uuid5(uuid.NAMESPACE_DNS, zone).hex}", "name": zone},
    }, False
