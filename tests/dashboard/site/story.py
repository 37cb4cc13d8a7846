"""The events that the tests of the pages look at: of two accounts, in both versions, some hostile."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from simulator.api import Api
from simulator.world import SimulatedEvent
from tests.factory import ACCOUNT, OTHER_ACCOUNT, ago, encoded, event_at, spread, v2_tree

ELSEWHERE = "http://evil.example/pixel.png"
HOSTILE = "<img src=x onerror=\"document.title='taken'\">'; DROP TABLE audit_logs; --"
FORMULA = '=HYPERLINK("http://evil.example","a")'
BOB: dict[str, Any] = {"email": "bob@example.com", "id": "b0b", "ip": "198.51.100.23", "type": "user"}
EVE: dict[str, Any] = {"email": "eve@example.com", "id": "e5e", "ip_address": "2001:db8:66::1", "type": "user"}
NIGHT = ago(hours=6).replace(minute=10, second=0, microsecond=0)
"""When eve came."""
VALUES: dict[str, Any] = {
    "oldValue": "",
    "newValue": "",
    "oldValueJson": {"ttl": 1, "same": "yes"},
    "newValueJson": {"ttl": 300, "same": "yes", "tag": HOSTILE, "content": "192.0.2.177"},
}


def tell(api: Api) -> None:
    """Alice's 40 events of 40 days; bob's three failures; eve, who signs in, makes a token and changes a record."""
    world = api.world
    world.add(ACCOUNT, "v1", spread(40, ago(days=40), ago(hours=30)))
    failed = {"action": {"result": False, "type": "token_roll"}}
    world.add(ACCOUNT, "v1", spread(3, ago(hours=5), ago(hours=4), actor=BOB, **failed))
    for seconds, result in ((0, "failure"), (10, "failure"), (20, "success")):
        signed_in = _v2_action("LOGIN", "update", result, NIGHT + timedelta(seconds=seconds))
        world.add(ACCOUNT, "v2", [_eves(NIGHT + timedelta(seconds=seconds), signed_in)])
    made = NIGHT + timedelta(minutes=2)
    eve_v1 = {"email": EVE["email"], "id": EVE["id"], "ip": EVE["ip_address"], "type": "user"}
    token = {"id": "tok-1", "type": "account"}
    world.add(
        ACCOUNT,
        "v1",
        [
            event_at(
                made,
                action={"result": True, "type": "token_create"},
                actor=eve_v1,
                resource=token,
                newValue='{"name": "deploy"}',
            )
        ],
    )
    session = {"token_id": "tok-0", "token_name": "ci"}
    posted = {"method": "POST", "uri": "/user/tokens", "status_code": 200, "cf_ray_id": "ray-1"}
    world.add(
        ACCOUNT, "v2", [_eves(made, _v2_action("Create Token", "create", "success", made), by=session, raw=posted)]
    )
    world.add(OTHER_ACCOUNT, "v1", [event_at(ago(hours=2), actor={**BOB, "ip": "::ffff:198.51.100.23"}, **VALUES)])
    bait = {"email": f"{ELSEWHERE}.jpg", "id": ELSEWHERE, "ip": f"{ELSEWHERE}.gif", "type": ELSEWHERE}
    fields: dict[str, Any] = {"action": {"result": False, "type": HOSTILE}, "metadata": {"zone_name": ELSEWHERE}}
    on = {"id": FORMULA, "type": f"https://evil.example/t.svg#{HOSTILE}"}
    world.add(OTHER_ACCOUNT, "v1", [event_at(ago(hours=3), actor=bait, resource=on, newValue=ELSEWHERE, **fields)])


def _v2_action(description: str, kind: str, result: str, at: Any) -> dict[str, Any]:
    return {"description": description, "result": result, "time": f"{at:%Y-%m-%dT%H:%M:%S.%fZ}", "type": kind}


def _eves(at: Any, action: dict[str, Any], by: Mapping[str, str] | None = None, **fields: Any) -> SimulatedEvent:
    account = {"id": ACCOUNT, "name": "ACME & Sons"}
    tree = v2_tree(action=action, actor={**EVE, "context": "dash", **(by or {})}, account=account, **fields)
    return SimulatedEvent(at, encoded(tree), at)
