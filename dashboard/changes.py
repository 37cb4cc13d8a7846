"""What an event changed: old and new values side by side, field by field, from its payload. Pure."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Change:
    """A field, with what it was and what it is; None: it has no such value."""

    field: str
    old: str | None
    new: str | None


@dataclass(frozen=True)
class Comparison:
    """Two sides of an event and their names: v1 has old and new values, v2 a request and its response."""

    left: str
    right: str
    changes: list[Change]


def comparison_of(event: Any) -> Comparison:
    """Whatever the payload is: what is missing on a side is None there, what is no object is one field."""
    if not isinstance(event, dict):
        return Comparison("Old", "New", [])
    if "action" in event and "newValue" not in event and isinstance(event.get("resource"), dict):
        resource = event["resource"]
        if "request" in resource or "response" in resource:
            return Comparison("Request", "Response", _changes(resource.get("request"), resource.get("response")))
    changes = _changes(event.get("oldValueJson"), event.get("newValueJson"))
    changes += _changes(_parsed(event.get("oldValue")), _parsed(event.get("newValue")))
    return Comparison("Old", "New", changes)


def _changes(old: Any, new: Any) -> list[Change]:
    left, right = dict(_fields(old)), dict(_fields(new))
    return [Change(name or "value", left.get(name), right.get(name)) for name in dict.fromkeys([*left, *right])]


def _fields(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """The leaves of an object by path; lists count as leaves, as their order is a part of what they say."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _fields(inner, f"{path}.{name}" if path else str(name))
    elif value not in {None, ""} if isinstance(value, str | None) else True:
        yield path, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _parsed(value: Any) -> Any:
    """Some products send JSON as text."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value
