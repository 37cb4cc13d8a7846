"""The changes of an event: old and new values side by side, field by field, from its payload. Pure."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Change:
    """A field, with what it was and what it is, differing if they differ; None: it has no such value."""

    field: str
    old: str | None
    new: str | None


@dataclass(frozen=True)
class Comparison:
    """Two sides of an event and their names: v1 has old and new values, v2 a request and its response."""

    left: str
    right: str
    changes: list[Change]


_NAMES = ("name", "token_name", "email")


class Number(str):
    """A number as it was written: Python's would make two of them one."""

    __slots__ = ()


def parsed(text: str) -> Any:
    """JSON whose numbers are kept as they are written. Raises ValueError or RecursionError."""
    return json.loads(text, parse_float=Number, parse_int=Number, parse_constant=Number)


def as_json(value: Any, indent: str = "\n") -> str:
    """JSON of what `parsed` gives, on lines of its own; on one, if there is no indent."""
    if isinstance(value, Number):
        return str(value)
    inner = indent and f"{indent}  "
    if isinstance(value, dict) and value:
        parts = [f"{_quoted(str(name))}: {as_json(its, inner)}" for name, its in value.items()]
    elif isinstance(value, list) and value:
        parts = [as_json(its, inner) for its in value]
    else:
        return _quoted(value)
    first, last = "{}" if isinstance(value, dict) else "[]"
    between = f",{inner or ' '}"
    return f"{first}{inner}{between.join(parts)}{indent}{last}"


def comparison_of(event: Any) -> Comparison:
    """Whatever the payload is: what is missing on a side is None there, what is no object is one field."""
    if not isinstance(event, dict):
        return Comparison("Old", "New", [])
    if "action" in event and "newValue" not in event and isinstance(event.get("resource"), dict):
        resource = event["resource"]
        if "request" in resource or "response" in resource:
            return Comparison("Request", "Response", _changes(resource.get("request"), resource.get("response")))
    changes = _changes(event.get("oldValueJson"), event.get("newValueJson"))
    changes += _changes(_from_text(event.get("oldValue")), _from_text(event.get("newValue")))
    return Comparison("Old", "New", changes)


def name_of(event: Any) -> str:
    """The name of what an event touched, where it says one: in its new values or response, its old ones or request."""
    if not isinstance(event, dict):
        return ""
    resource = event.get("resource")
    response = resource.get("response") if isinstance(resource, dict) else None
    result = response.get("result") if isinstance(response, dict) else None
    request = resource.get("request") if isinstance(resource, dict) else None
    values = [
        _from_text(event.get(name)) for name in ("newValueJson", "newValue", "oldValueJson", "oldValue", "metadata")
    ]
    names = (side.get(key) for side in (response, result, request, *values) if isinstance(side, dict) for key in _NAMES)
    return next((name for name in names if isinstance(name, str) and name), "")


def _changes(old: Any, new: Any) -> list[Change]:
    """An empty side is none at all; within one, an empty value is a value."""
    left, right = (dict(_fields(side)) if side not in ("", None, {}) else {} for side in (old, new))
    return [_change(path, left, right) for path in dict.fromkeys([*left, *right])]


def _change(path: tuple[str, ...], left: dict[Any, Any], right: dict[Any, Any]) -> Change:
    name = ".".join(_quoted(part) if "." in part or not part else part for part in path) or "value"
    exact = [as_json(side[path], "") if path in side else None for side in (left, right)]
    shown = [_shown(side[path]) if path in side else None for side in (left, right)]
    old, new = exact if shown[0] == shown[1] and exact[0] != exact[1] else shown
    return Change(name, old, new)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) and value else as_json(value, "")


def _fields(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The leaves of an object by path; lists count as leaves, as their order is a part of what they say."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _fields(inner, (*path, str(name)))
    else:
        yield path, value


def _from_text(value: Any) -> Any:
    """Some products send JSON as text."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            return parsed(value)
        except (ValueError, RecursionError):
            return value
    return value


def _quoted(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
