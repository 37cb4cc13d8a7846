"""Fills in a query's variables and macros as Grafana does before it asks."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime

_MACRO = re.compile(r"\$__(\w+)\(([^)]*)\)")
_SECONDS = 60


def promql(text: str, instance: str, accounts: Sequence[str], window: str = "5m") -> str:
    """Several values are alternatives of a regular expression; each is escaped for it, and again for the string."""
    values = {"instance": re.escape(instance).replace("\\", "\\\\"), "account": f"({'|'.join(accounts)})"}
    times = dict.fromkeys(("__range", "__rate_interval"), window)
    for name, value in (values | times).items():
        text = text.replace(f"${name}", value)
    assert "$" not in text, text
    return text


def sql(text: str, since: datetime, before: datetime, search: str, **several: Sequence[str]) -> str:
    """Variables first: of several values each is a literal. Then macros, whose arguments end at the first bracket."""
    for name, values in several.items():
        text = text.replace(f"${name}", ",".join(map(_literal, values)))
    text = text.replace("${search:sqlstring}", _literal(search)).replace("$__interval", f"{_SECONDS}s")
    found = _MACRO.sub(lambda macro: _expanded(macro[1], macro[2], _time(since), _time(before)), text)
    assert "$" not in found, found
    return found


def _expanded(name: str, arguments: str, since: str, before: str) -> str:
    column = arguments.partition(",")[0]
    return {
        "timeFilter": f"{column} BETWEEN {since} AND {before}",
        "timeFrom": since,
        "timeTo": before,
        "timeGroupAlias": f'floor(extract(epoch from {column})/{_SECONDS})*{_SECONDS} AS "time"',
    }[name]


def _literal(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _time(time: datetime) -> str:
    return f"'{time.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}'"
