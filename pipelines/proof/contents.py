"""Digests of what events say, by which the contents of two sides are compared. Pure."""

import decimal
import hashlib
import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pyarrow as pa

from pipelines.load.held_keys import microseconds
from pipelines.warehouse.write import JSON_COLUMNS, storable_json
from sources.cloudflare_audit_logs.events import EventKey, event_keys
from sources.cloudflare_audit_logs.schema import ADDED_COLUMNS, EVENT_SCHEMA

_COMPARED = [name for name in EVENT_SCHEMA.names if name not in {"ingestion_time", *ADDED_COLUMNS}]


def contents_of(events: pa.Table) -> Iterator[tuple[EventKey, str]]:
    """Yields the key of each event and a digest of its content.

    The digest covers all columns but the time of ingestion and those that older releases lack: `raw_event` has all.
    JSON counts by its meaning, as `jsonb` keeps it: order and spaces of an object, the form of a number and what
    PostgreSQL cannot hold (NUL, lone surrogates) make no difference.
    """
    for row in events.select(_COMPARED).to_pylist():
        key = row["event_id"], microseconds(row["timestamp"])
        parts = [_meaning(value) if name in JSON_COLUMNS and value else value for name, value in row.items()]
        yield key, hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()


def copied_from_jsonb(held: pa.Table, shown: pa.Table) -> list[EventKey]:
    """Returns the events whose text is not the API's, as it shows them, but one that `jsonb` writes."""
    exact = dict(zip(event_keys(shown), shown["raw_event"].to_pylist(), strict=True))
    texts = zip(event_keys(held), held["raw_event"].to_pylist(), strict=True)
    return [key for key, text in texts if exact.get(key, text) != text and is_written_by_jsonb(text)]


def is_written_by_jsonb(text: str) -> bool:
    """True of each text that `jsonb` writes: short keys first, each once, a space behind colon and comma."""
    try:
        return _as_jsonb(json.loads(text, parse_float=_Literal, parse_int=_Literal)) == text
    except RecursionError:
        return False


class _Literal(str):
    """A number as it is written."""

    __slots__ = ()


def _as_jsonb(tree: Any) -> str:
    if isinstance(tree, dict):
        pairs = sorted((len(key := name.encode(errors="surrogatepass")), key, name) for name in tree)
        return "{" + ", ".join(f"{_as_jsonb(name)}: {_as_jsonb(tree[name])}" for *_, name in pairs) + "}"
    if isinstance(tree, list):
        return "[" + ", ".join(map(_as_jsonb, tree)) + "]"
    return tree if isinstance(tree, _Literal) else json.dumps(tree, ensure_ascii=False)


_EXACT = decimal.Context(prec=decimal.MAX_PREC, Emin=decimal.MIN_EMIN, Emax=decimal.MAX_EMAX)


def _meaning(text: str) -> str:
    try:
        tree = json.loads(storable_json(text), parse_float=_number, parse_int=_number)
        return json.dumps(tree, sort_keys=True, default=repr)
    except RecursionError:  # nested so deep that only its size is compared
        return str(len("".join(text.split())))


def _number(text: str) -> Decimal | str:
    try:
        number = Decimal(text)
        return _EXACT.normalize(number) if number else Decimal(0)
    except decimal.InvalidOperation:  # no number has such an exponent
        return text
