"""The records of a deed as the two versions of the API send them, with ids of their own. Pure."""

import random
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from .cast import Actor, Tool
from .deeds import Deed, Values
from .world import written

_ACTION_TYPES = {"POST": "create", "PUT": "update", "PATCH": "update", "DELETE": "delete"}
_REFUSED_RATE = 0.6
"""Of the failures: the API's 4xx, which v2 does not record."""


@dataclass(frozen=True)
class Act:
    """A deed, done."""

    time: datetime
    account_id: str
    account_name: str
    zone: str
    actor: Actor
    tool: Tool
    address: str
    deed: Deed
    name: str = ""
    old: str = ""
    new: str = ""
    has_failed: bool = False

    @property
    def actor_id(self) -> str:
        """Of a person, or of the account's token."""
        return "" if self.actor.kind == "system" else id_of(self.actor.email or self.actor.name)

    @property
    def resource_id(self) -> str:
        """The same resource has the same id in every act."""
        if self.deed.is_named:
            return self.name
        zone = self.zone if self.deed.is_of_zone else ""
        return id_of(self.deed.kind, zone, self.name) if self.name else self.actor_id


@cache
def id_of(*words: str) -> str:
    """Returns an id in the form of Cloudflare's: the same words have the same id."""
    return uuid.uuid5(uuid.NAMESPACE_DNS, " ".join(words)).hex


def records_of(act: Act, dice: random.Random) -> dict[str, tuple[datetime, Mapping[str, Any]]]:
    """Returns the act's record by version, each with its time: v2's is a little later."""
    later = act.time + timedelta(microseconds=dice.randrange(30_000, 900_000))
    is_refused = act.has_failed and act.deed.summary != "LOGIN" and dice.random() < _REFUSED_RATE
    ids = [str(uuid.UUID(int=dice.getrandbits(128), version=4)) for _ in range(2)]
    records: dict[str, tuple[datetime, Mapping[str, Any]]] = {}
    if act.deed.v1:
        records["v1"] = act.time, _v1(act, ids[0], written(dice, act.time))
    if act.deed.v2 and not is_refused:
        records["v2"] = later, _v2(act, ids[1], written(dice, later), f"{dice.getrandbits(64):016x}")
    return records


def _v1(act: Act, event_id: str, when: str) -> dict[str, Any]:
    action, kind = act.deed.v1.split()
    zone = {"zone_name": act.zone, "zone_id": id_of(act.zone)} if act.deed.is_of_zone else {}
    what = {"name": act.name} if act.name else {}
    if act.deed.kind == "token":
        what = {"token_name": act.name, "token_tag": act.resource_id}
    info = {"info": act.deed.info} if act.deed.info else {}
    resource_id = {"zone": id_of(act.zone), "account": act.actor_id}.get(kind, act.resource_id)
    return {
        "action": {**info, "result": not act.has_failed, "type": action},
        "actor": _without_empty(
            email=act.actor.email,
            id=act.actor_id,
            ip=act.address,
            type="system" if act.actor.kind == "system" else "user",
        ),
        "id": event_id,
        "interface": "UI" if act.tool.context == "dash" else "API" if act.tool.context else "",
        "metadata": {**what, **zone},
        **_value("newValue", _filled(act.deed.new, act)),
        **_value("oldValue", _filled(act.deed.old, act)),
        "owner": {"id": act.account_id},
        "resource": {"id": resource_id, "type": kind},
        "when": when,
    }


def _value(name: str, value: Any) -> dict[str, Any]:
    return {name: value} if isinstance(value, str) else {name: "", f"{name}Json": value}


def _v2(act: Act, event_id: str, time: str, ray_id: str) -> dict[str, Any]:
    method, path, product, kind = act.deed.v2.split()
    asked = _filled(act.deed.new, act)
    status = 200 if not act.has_failed else 403 if act.deed.summary == "LOGIN" else 500
    return {
        "account": {"id": act.account_id, "name": act.account_name},
        "action": {
            "description": act.deed.summary,
            "result": "failure" if act.has_failed else "success",
            "time": time,
            "type": "update" if act.deed.summary == "LOGIN" else _ACTION_TYPES[method],
        },
        "actor": {
            **_without_empty(context=act.tool.context, email=act.actor.email, id=act.actor_id, ip_address=act.address),
            **(
                {"token_id": id_of("token", "", act.tool.token), "token_name": act.tool.token} if act.tool.token else {}
            ),
            "type": act.actor.kind,
        },
        "id": event_id,
        "raw": {
            "cf_ray_id": ray_id,
            "method": method,
            "status_code": status,
            "uri": path.format(**_words(act)),
            "user_agent": act.tool.user_agent,
        }
        if act.tool.context
        else {},
        "resource": {
            "id": act.resource_id,
            "product": product,
            "request": {"value": asked} if isinstance(asked, str) else asked,
            "response": {} if act.has_failed else {"id": act.resource_id},
            "scope": {},
            "type": kind,
        },
        **({"zone": {"id": id_of(act.zone), "name": act.zone}} if act.deed.is_of_zone else {}),
    }


def _without_empty(**fields: str) -> dict[str, str]:
    return {name: value for name, value in fields.items() if value}


def _filled(template: Values, act: Act) -> Any:
    words = _words(act)

    def fill(part: Any) -> Any:
        if isinstance(part, str):
            return part.format(**words)
        if isinstance(part, Mapping):
            return {key: fill(value) for key, value in part.items()}
        return [fill(value) for value in part] if isinstance(part, list) else part

    return fill(template)


def _words(act: Act) -> dict[str, str]:
    return {
        "id": act.resource_id,
        "name": act.name,
        "old": act.old,
        "new": act.new,
        "zone": act.zone,
        "zone_id": id_of(act.zone),
        "ruleset_id": id_of("ruleset", act.zone),
        "account_id": act.account_id,
    }
