"""The one place that makes events for tests."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from simulator.world import SimulatedEvent
from sources.cloudflare_audit_logs.times import parse_time

ACCOUNT = "023e105f4ecef8ad9ca31a8372d0c353"
OTHER_ACCOUNT = "4bb334f7c94c4a29a045f03944f072e5"

_numbers = count(1)


def v1_tree(**fields: Any) -> dict[str, Any]:
    """A v1 event as the API documents it; `fields` replace its own, None takes one out."""
    tree = {
        "action": {"result": True, "type": "rec_add"},
        "actor": {"email": "alice@example.com", "id": "f6b5de03", "ip": "198.41.129.166", "type": "user"},
        "id": f"event-{next(_numbers)}",
        "interface": "API",
        "metadata": {"name": "www", "zone_name": "example.com"},
        "newValue": "low",
        "oldValue": "high",
        "owner": {"id": ACCOUNT},
        "resource": {"id": "10715065315", "type": "dns.record"},
        "when": "2026-11-20T10:00:00Z",
    }
    return _replaced(tree, fields)


def v2_tree(**fields: Any) -> dict[str, Any]:
    """A v2 event as the API documents it; `fields` replace its own, None takes one out."""
    tree = {
        "account": {"id": ACCOUNT, "name": "Example Account"},
        "action": {"description": "Add Member", "result": "success", "time": "2026-11-20T10:00:00Z", "type": "create"},
        "actor": {
            "context": "dash",
            "email": "alice@example.com",
            "id": "f6b5de03",
            "ip_address": "198.41.129.166",
            "token_id": "token-1",
            "token_name": "ci",
            "type": "user",
        },
        "id": f"event-{next(_numbers)}",
        "raw": {"cf_ray_id": "8e9b1c60ef9e1c9a", "method": "POST", "status_code": 200, "uri": "/members"},
        "resource": {"id": "r1", "product": "members", "request": {}, "response": {}, "scope": {}, "type": "member"},
        "zone": {"id": "z1", "name": "example.com"},
    }
    return _replaced(tree, fields)


def encoded(tree: Mapping[str, Any]) -> bytes:
    """The event as the API would send it."""
    return json.dumps(tree, separators=(",", ":")).encode()


def event_at(
    time: datetime, *, visible_at: datetime | None = None, version: str = "v1", **fields: Any
) -> SimulatedEvent:
    """An event that happened at a time, for the simulator."""
    written = f"{time.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
    tree = v1_tree(when=written, **fields) if version == "v1" else v2_tree(**_v2_times(written), **fields)
    return SimulatedEvent(time, encoded(tree), visible_at or time)


def raw_event(raw: str | bytes, *, time: datetime) -> SimulatedEvent:
    """An event of any bytes, which the simulator files under `time`."""
    return SimulatedEvent(time, raw if isinstance(raw, bytes) else raw.encode(), time)


def spread(count_: int, since: datetime, before: datetime, **fields: Any) -> list[SimulatedEvent]:
    """Events at even distances in `[since, before)`."""
    distance = (before - since) / count_
    return [event_at(since + index * distance, **fields) for index in range(count_)]


def ago(**units: float) -> datetime:
    """A time in the past, cut to milliseconds."""
    time = datetime.now(UTC) - timedelta(**units)
    return time.replace(microsecond=time.microsecond // 1000 * 1000)


def ids(events: list[SimulatedEvent]) -> set[str]:
    """The ids of events."""
    return {json.loads(event.raw)["id"] for event in events}


def time_of(text: str) -> datetime:
    """A time that is known to be readable."""
    time = parse_time(text)
    assert time is not None
    return time


def _v2_times(written: str) -> dict[str, Any]:
    return {"action": {"description": "Add", "result": "success", "time": written, "type": "create"}}


def _replaced(tree: dict[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in {**tree, **fields}.items() if value is not None}
