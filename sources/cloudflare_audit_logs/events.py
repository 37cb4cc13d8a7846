"""Decodes the events of one page into Arrow columns. Pure; loses nothing: what cannot be placed is quarantined.

`raw_event` is byte for byte the event's slice of the response. The typed columns are a reading of it, the same in
both stores; characters that PostgreSQL's text cannot hold (NUL, lone surrogates) are U+FFFD in them.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from .schema import EVENT_SCHEMA, QUARANTINE_SCHEMA, TIME
from .streams import Stream
from .times import parse_times

KEY_COLUMNS = ["event_id", "timestamp"]
"""They tell the events of a stream apart."""

EventKey = tuple[str, int]
"""Event id and time (microseconds since the epoch): the event's key within its stream."""


class Page(NamedTuple):
    """One page, decoded once for both destinations: `EVENT_SCHEMA` and `QUARANTINE_SCHEMA` rows."""

    events: pa.Table
    quarantined: pa.Table

    @property
    def keys(self) -> pa.Table:
        """The events' `KEY_COLUMNS`."""
        return self.events.select(KEY_COLUMNS)

    def event_groups(self) -> Iterator[pa.Table]:
        """The events, as a `PageFile` gives them."""
        yield self.events

    def quarantine_groups(self) -> Iterator[pa.Table]:
        """The quarantined events, likewise."""
        yield self.quarantined


def decode_page(slices: Sequence[bytes], stream: Stream, received_at: datetime) -> Page:
    """Every slice ends in exactly one of the two tables of the page."""
    rows: list[tuple[Any, ...]] = []
    readable: list[bytes] = []
    unplaced: list[_Unplaced] = []
    for raw in slices:
        try:
            if not raw.isascii():
                raw.decode()
            rows.append(_read_row(raw, stream.api_version))
            readable.append(raw)
        except UnicodeDecodeError as error:
            unplaced.append((raw, f"not UTF-8: {error.reason} at byte {error.start}", None))
        except _UnreadableError as error:
            unplaced.append((raw, str(error), None))

    columns: dict[str, Sequence[Any]] = dict.fromkeys(_ROW, ())
    if rows:
        columns = dict(zip(_ROW, zip(*rows, strict=True), strict=True))
    times = parse_times(columns["timestamp"])
    ids = _id_column(columns["event_id"], readable)
    is_placed = times.is_valid()
    for index in pc.indices_nonzero(pc.invert(is_placed)).to_pylist():
        reason = f"no readable time: {columns['timestamp'][index]!r:.100}"
        unplaced.append((readable[index], reason, ids[index].as_py()))

    count = len(readable)
    columns["action_result"] = [_result(value) for value in columns["action_result"]]
    values = {
        **{name: _text_column(columns[name]) for name in _ROW[2:]},
        "event_id": ids,
        "timestamp": times,
        "account_id": pa.repeat(pa.scalar(stream.account_id), count),
        "api_version": pa.repeat(pa.scalar(stream.api_version), count),
        "raw_event": pa.array(readable, pa.string()),
        "ingestion_time": pa.repeat(pa.scalar(received_at, TIME), count),
    }
    events = pa.table([values[name] for name in EVENT_SCHEMA.names], schema=EVENT_SCHEMA)
    return Page(events.filter(is_placed) if unplaced else events, _quarantine(unplaced, stream, received_at))


# --- rows ------------------------------------------------------------------------------------------------------------

_ROW = [*KEY_COLUMNS, *EVENT_SCHEMA.names[EVENT_SCHEMA.get_field_index("action_type") :][:13]]
"""The columns that an event gives, from `action_type` to `metadata`: one tuple an event, in the order of the schema."""


def _struct(name: str, fields: str, **options: Any) -> Any:
    """A class of these fields: each of any type, and None where an event lacks it."""
    return msgspec.defstruct(name, [(field, Any, None) for field in fields.split()], gc=False, **options)


_Action = _struct("_Action", "type result time description")
_Actor = _struct("_Actor", "id email type ip ip_address context token_id token_name token")
_Resource = _struct("_Resource", "id type product")
_Zone = _struct("_Zone", "id name")
_NESTED = {"action": _Action, "actor": _Actor, "resource": _Resource, "zone": _Zone}
_MetadataZone = _struct("_MetadataZone", "id name", rename={"id": "zone_id", "name": "zone_name"})


_Event = msgspec.defstruct(
    "_Event",
    [
        *((field, Any, None) for field in ("id", "when", "interface")),
        *((field, kind | None, None) for field, kind in _NESTED.items()),
        *((field, msgspec.Raw, msgspec.Raw()) for field in ("metadata", "raw")),
    ],
    gc=False,
)
"""Both versions' fields: `when`, `interface` and `metadata` are v1's, `zone` and `raw` v2's."""

_NO_ACTION, _NO_ACTOR, _NO_RESOURCE, _NO_ZONE = _Action(), _Actor(), _Resource(), _Zone()
_decode_event = msgspec.json.Decoder(_Event).decode
_decode_zone = msgspec.json.Decoder(_MetadataZone).decode
_REFUSALS = (msgspec.MsgspecError, UnicodeError, RecursionError)
"""The errors of msgspec's decoders."""


def _row(event: Any, version: str) -> tuple[Any, ...]:
    action, actor = event.action or _NO_ACTION, event.actor or _NO_ACTOR
    resource, zone = event.resource or _NO_RESOURCE, _NO_ZONE
    if version == "v1":
        time, context, address = event.when, event.interface, actor.ip
        metadata = bytes(event.metadata)
        text = metadata.decode() or None
        if b'"zone_' in metadata:  # most events carry no zone: this spares a second decoding
            try:
                zone = _decode_zone(metadata)
            except _REFUSALS:
                zone = _NO_ZONE
    else:
        time, context, address = action.time, actor.context, actor.ip_address
        text, zone = _v2_metadata(event, action, actor), event.zone or _NO_ZONE
    return (
        event.id,
        time,
        action.type,
        action.result,
        actor.id,
        actor.email,
        actor.type,
        context,
        address,
        resource.type,
        resource.id,
        resource.product,
        zone.id,
        zone.name,
        text,
    )


def _v2_metadata(event: Any, action: Any, actor: Any) -> str:
    token = actor.token if isinstance(actor.token, dict) else {}
    metadata = {
        "description": action.description,
        "token_id": actor.token_id if actor.token_id is not None else token.get("id"),
        "token_name": actor.token_name if actor.token_name is not None else token.get("name"),
        "raw": event.raw if bytes(event.raw) else None,
    }
    return msgspec.json.encode({name: value for name, value in metadata.items() if value is not None}).decode()


class _UnreadableError(Exception):
    """An event that is not a JSON object, or not JSON at all."""


def _read_row(raw: bytes, version: str) -> tuple[Any, ...]:
    try:
        return _row(_decode_event(raw), version)
    except _REFUSALS:
        return _read_row_leniently(raw, version)


def _read_row_leniently(raw: bytes, version: str) -> tuple[Any, ...]:
    """Reads what the fast decoder refuses: lone surrogates, numbers without bound, objects of another shape."""
    try:
        tree = _load_leniently(raw)
        if not isinstance(tree, dict):
            msg = f"not an object: {type(tree).__name__}"
            raise _UnreadableError(msg)
        tree = {name: value for name, value in tree.items() if name not in _NESTED or isinstance(value, dict)}
        for name in {"metadata", "raw"} & tree.keys():
            tree[name] = msgspec.Raw(json.dumps(tree[name]).encode())
        return _row(msgspec.convert(tree, _Event), version)
    except (ValueError, RecursionError) as error:
        msg = f"not readable as JSON: {error}"
        raise _UnreadableError(msg) from error


_LONGEST_INTEGER = 4_000  # digits; Python refuses to read more than 4,300


def _load_leniently(text: str | bytes) -> Any:
    """JSON of any size and shape; a number that Python cannot hold stays text."""
    return json.loads(
        text,
        parse_int=lambda digits: int(digits) if len(digits) <= _LONGEST_INTEGER else digits,
        parse_float=lambda digits: number if math.isfinite(number := float(digits)) else digits,
        parse_constant=str,
    )


_Unplaced = tuple[bytes, str, str | None]
"""An event as sent, why it cannot be placed, and its id if it can be read."""


def _quarantine(unplaced: Sequence[_Unplaced], stream: Stream, received_at: datetime) -> pa.Table:
    rows = [
        {
            "digest": hashlib.sha256(raw).hexdigest(),
            "account_id": stream.account_id,
            "api_version": stream.api_version,
            "received_at": received_at,
            "reason": reason,
            "event_id": event_id,
            "raw_event": raw.decode(errors="backslashreplace"),
        }
        for raw, reason, event_id in unplaced
    ]
    return pa.Table.from_pylist(rows, schema=QUARANTINE_SCHEMA)


# --- ids and text ----------------------------------------------------------------------------------------------------

_NOT_STORABLE = re.compile("[\x00\ud800-\udfff]")


def event_keys(events: pa.Table) -> list[EventKey]:
    """The keys of the events in a table, row by row."""
    times = events["timestamp"].cast(TIME).cast(pa.int64())
    return list(zip(events["event_id"].to_pylist(), times.to_pylist(), strict=True))


def _result(value: Any) -> Any:
    if value is True:
        return "success"
    return "failure" if value is False else value


def _id_column(values: Sequence[Any], raws: Sequence[bytes]) -> pa.Array:
    """The ids of events, of which nearly all have one that is text."""
    with suppress(pa.ArrowInvalid, pa.ArrowTypeError, UnicodeError):
        ids = pa.array(values, pa.string())
        if all(values) and _is_storable(ids):
            return ids
    return pa.array([_event_id(value, raw.decode()) for value, raw in zip(values, raws, strict=True)], pa.string())


def _event_id(value: Any, text: str) -> str:
    """The event's id as text; without one, the hash of its canonical JSON.

    An id that is no text is its JSON; characters that the stores cannot hold are escaped as in JSON.
    """
    id_text = value if isinstance(value, str) else _as_text(value)
    if not id_text:
        return canonical_hash(text)
    return json.dumps(id_text)[1:-1] if _NOT_STORABLE.search(id_text) else id_text


def canonical_hash(text: str) -> str:
    """SHA-256 of the event with sorted keys and no spaces: the same event gives the same id however it is written."""
    canonical = text  # of an event nested deeper than can be written again
    with suppress(RecursionError):
        canonical = json.dumps(_load_leniently(text), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _as_text(value: Any) -> str | None:
    """A value of another type as its JSON; None if it is nested deeper than can be written: `raw_event` has it."""
    try:
        return value if value is None or isinstance(value, str) else json.dumps(value)
    except RecursionError:
        return None


def _text_column(values: Sequence[Any]) -> pa.Array:
    """The values as text that both stores can hold. Nearly all columns are: the column is checked, not each value."""
    with suppress(pa.ArrowInvalid, pa.ArrowTypeError, UnicodeError):
        texts = pa.array(values, pa.string())
        if _is_storable(texts):
            return texts
    return pa.array([text and _NOT_STORABLE.sub("\ufffd", text) for text in map(_as_text, values)], pa.string())


def _is_storable(texts: pa.Array) -> bool:
    """True if no text of a new column has a NUL; lone surrogates do not get into one."""
    data = texts.buffers()[2]
    return data is None or b"\x00" not in data.to_pybytes()
