"""Decodes the events of one page into Arrow columns. Pure; loses nothing: what cannot be placed is quarantined.

`raw_event` is byte for byte the event's slice of the response. The typed columns are a reading of it, the same in
both stores; characters that PostgreSQL's text cannot hold (NUL, lone surrogates) are U+FFFD in them.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from .schema import EVENT_SCHEMA, QUARANTINE_SCHEMA, TIME
from .streams import Stream

KEY_COLUMNS = ["event_id", "timestamp"]
"""They tell the events of a stream apart."""


class Page(NamedTuple):
    """One page, decoded once for both destinations: `EVENT_SCHEMA` and `QUARANTINE_SCHEMA` rows."""

    events: pa.Table
    quarantined: pa.Table

    @property
    def keys(self) -> pa.Table:
        """The events' `KEY_COLUMNS`."""
        return self.events.select(KEY_COLUMNS)

    def event_groups(self) -> Iterator[pa.Table]:
        """The events, as a page on disk gives them."""
        yield self.events

    def quarantine_groups(self) -> Iterator[pa.Table]:
        """The quarantined events, likewise."""
        yield self.quarantined


class _Named(msgspec.Struct, gc=False):
    id: Any = None
    name: Any = None


class _Action(msgspec.Struct, gc=False):
    type: Any = None
    result: Any = None
    time: Any = None
    description: Any = None


class _Actor(msgspec.Struct, gc=False):
    id: Any = None
    email: Any = None
    type: Any = None
    ip: Any = None
    ip_address: Any = None
    context: Any = None
    token_id: Any = None
    token_name: Any = None
    token: Any = None


class _Resource(msgspec.Struct, gc=False):
    id: Any = None
    type: Any = None
    product: Any = None


class _V1(msgspec.Struct, gc=False):
    id: Any = None
    when: Any = None
    interface: Any = None
    action: _Action | None = None
    actor: _Actor | None = None
    resource: _Resource | None = None
    metadata: msgspec.Raw = msgspec.Raw()


class _V2(msgspec.Struct, gc=False):
    id: Any = None
    action: _Action | None = None
    actor: _Actor | None = None
    resource: _Resource | None = None
    zone: _Named | None = None
    raw: msgspec.Raw = msgspec.Raw()


class _MetadataZone(msgspec.Struct, gc=False):
    zone_id: Any = None
    zone_name: Any = None


_NO_ACTION, _NO_ACTOR, _NO_RESOURCE, _NO_ZONE = _Action(), _Actor(), _Resource(), _Named()

# One tuple an event, in this order; the time is parsed a column at a time.
_Row = tuple[Any, ...]
_ROW = (
    "event_id",
    "timestamp",
    "action_type",
    "action_result",
    "actor_id",
    "actor_email",
    "actor_type",
    "actor_context",
    "ip_address",
    "resource_type",
    "resource_id",
    "resource_product",
    "zone_id",
    "zone_name",
    "metadata",
)


def _v1_row(event: _V1) -> _Row:
    action, actor = event.action or _NO_ACTION, event.actor or _NO_ACTOR
    resource = event.resource or _NO_RESOURCE
    metadata = bytes(event.metadata)
    # Most events carry no zone: looking for the name first spares a second decoding.
    zone = _decode_zone(metadata) if b'"zone_' in metadata else _MetadataZone()
    return (
        event.id,
        event.when,
        action.type,
        action.result,
        actor.id,
        actor.email,
        actor.type,
        event.interface,
        actor.ip,
        resource.type,
        resource.id,
        resource.product,
        zone.zone_id,
        zone.zone_name,
        metadata.decode() or None,
    )


def _v2_row(event: _V2) -> _Row:
    action, actor = event.action or _NO_ACTION, event.actor or _NO_ACTOR
    resource, zone = event.resource or _NO_RESOURCE, event.zone or _NO_ZONE
    token = actor.token if isinstance(actor.token, dict) else {}
    metadata = {
        "description": action.description,
        "token_id": actor.token_id if actor.token_id is not None else token.get("id"),
        "token_name": actor.token_name if actor.token_name is not None else token.get("name"),
        "raw": event.raw if bytes(event.raw) else None,
    }
    return (
        event.id,
        action.time,
        action.type,
        action.result,
        actor.id,
        actor.email,
        actor.type,
        actor.context,
        actor.ip_address,
        resource.type,
        resource.id,
        resource.product,
        zone.id,
        zone.name,
        msgspec.json.encode({name: value for name, value in metadata.items() if value is not None}).decode(),
    )


class _Version(NamedTuple):
    event: type
    decode: Callable[[bytes], Any]
    row: Callable[[Any], _Row]


_VERSIONS = {
    "v1": _Version(_V1, msgspec.json.Decoder(_V1).decode, _v1_row),
    "v2": _Version(_V2, msgspec.json.Decoder(_V2).decode, _v2_row),
}
_decode_zone_strictly = msgspec.json.Decoder(_MetadataZone).decode


def decode_page(slices: Sequence[bytes], stream: Stream, received_at: datetime) -> Page:
    """Every slice ends in exactly one of the two tables of the page."""
    version = _VERSIONS[stream.api_version]
    rows: list[_Row] = []
    texts: list[str] = []
    quarantine = _Quarantine(stream, received_at)
    for raw in slices:
        try:
            text = raw.decode()
            rows.append(_read_row(raw, version))
            texts.append(text)
        except _UnreadableError as error:
            quarantine.add(raw, reason=str(error))
        except UnicodeDecodeError as error:
            quarantine.add(raw, reason=f"not UTF-8: {error.reason} at byte {error.start}")

    columns: dict[str, Sequence[Any]] = dict.fromkeys(_ROW, ())
    if rows:
        columns = dict(zip(_ROW, zip(*rows, strict=True), strict=True))
    times = parse_times(columns["timestamp"])
    ids = [_event_id(value, text) for value, text in zip(columns["event_id"], texts, strict=True)]
    is_placed = times.is_valid()
    for index in pc.indices_nonzero(pc.invert(is_placed)).to_pylist():
        reason = f"no readable time: {columns['timestamp'][index]!r:.100}"
        quarantine.add(texts[index].encode(), reason=reason, event_id=ids[index])

    count = len(texts)
    columns["action_result"] = [_result(value) for value in columns["action_result"]]
    values = {
        **{name: _text_column(columns[name]) for name in _ROW[2:]},
        "event_id": pa.array(ids, pa.string()),
        "timestamp": times,
        "account_id": pa.repeat(pa.scalar(stream.account_id), count),
        "api_version": pa.repeat(pa.scalar(stream.api_version), count),
        "raw_event": pa.array(texts, pa.string()),
        "ingestion_time": pa.repeat(pa.scalar(received_at, TIME), count),
    }
    events = pa.table([values[name] for name in EVENT_SCHEMA.names], schema=EVENT_SCHEMA)
    return Page(events if quarantine.is_empty else events.filter(is_placed), quarantine.table())


class _UnreadableError(Exception):
    """An event that is not a JSON object, or not JSON at all."""


_LONGEST_INTEGER = 4_000  # digits; Python refuses to read more than 4,300


def _read_row(raw: bytes, version: _Version) -> _Row:
    try:
        return version.row(version.decode(raw))
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return _read_row_leniently(raw, version)


def _read_row_leniently(raw: bytes, version: _Version) -> _Row:
    """Reads what the fast decoder refuses: lone surrogates, numbers without bound, objects of another shape."""
    try:
        tree = _load_leniently(raw)
        if not isinstance(tree, dict):
            msg = f"not an object: {type(tree).__name__}"
            raise _UnreadableError(msg)
        nested = {"action", "actor", "resource", "zone"}
        tree = {name: value for name, value in tree.items() if name not in nested or isinstance(value, dict)}
        for name in {"metadata", "raw"} & tree.keys():
            tree[name] = msgspec.Raw(json.dumps(tree[name]).encode())
        return version.row(msgspec.convert(tree, version.event))
    except (ValueError, RecursionError) as error:
        msg = f"not readable as JSON: {error}"
        raise _UnreadableError(msg) from error


def _load_leniently(text: str | bytes) -> Any:
    """JSON of any size and shape; numbers that Python cannot hold stay text."""
    return json.loads(text, parse_int=_integer, parse_float=_real, parse_constant=str)


def _integer(text: str) -> int | str:
    return int(text) if len(text) <= _LONGEST_INTEGER else text


def _real(text: str) -> float | str:
    number = float(text)
    return number if math.isfinite(number) else text


def _decode_zone(metadata: bytes) -> _MetadataZone:
    try:
        return _decode_zone_strictly(metadata)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return _MetadataZone()


# --- times -----------------------------------------------------------------------------------------------------------

_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d)(?::(\d\d)(?:\.(\d+))?)? ?([Zz]|([+-]\d\d)(?::?(\d\d))?)?", re.ASCII
)
"""RFC 3339, and what is written for it: no seconds, no zone, `+0530`, `+05`, a space before them."""

_USUAL_LENGTHS = len("2026-11-20T10:00:00Z"), len("2026-11-20T10:00:00.123456Z")
"""Texts of these lengths that end in Z, Arrow reads a column at a time, and as we do. Of other forms it reads some."""

_LEAP_SECOND = "60"


EARLIEST, LATEST = datetime(1900, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)
"""What lies outside is no event's time (Go writes the year 1 for none), and Python cannot reckon with all of it."""


def parse_times(values: Sequence[Any]) -> pa.Array:
    """Times in UTC, cut (never rounded) to microseconds; null where there is no readable time."""
    texts = [value if isinstance(value, str) else None for value in values]
    times = _usual_times(texts)
    if times is None:
        times = pa.array([None if text is None else parse_time(text) for text in texts], TIME)
    is_possible = pc.and_(pc.greater_equal(times, EARLIEST), pc.less(times, LATEST))
    return pc.if_else(is_possible, times, pa.scalar(None, TIME))


def parse_time(text: str) -> datetime | None:
    """A time with 0 or more fraction digits; without a zone it is UTC; None if it is not one."""
    match = _TIME.fullmatch(text.strip())
    if match is None:
        return None
    day, minute, second, fraction, zone, hours, minutes = match.groups()
    is_leap = second == _LEAP_SECOND
    second = "59" if is_leap else second or "00"
    microseconds = f"{fraction or ''}000000"[:6]
    zone = "+00:00" if zone is None or zone in "Zz" else f"{hours}:{minutes or '00'}"
    try:
        time = datetime.fromisoformat(f"{day}T{minute}:{second}.{microseconds}{zone}").astimezone(UTC)
        return time + timedelta(seconds=1) if is_leap else time
    except (ValueError, OverflowError):
        return None


def _usual_times(texts: Sequence[str | None]) -> pa.Array | None:
    """The times of a column, all of them in the usual form; None if one is not."""
    try:
        column = pa.array(texts, pa.string())
        lengths = pc.min_max(pc.binary_length(column)).as_py()
        shortest, longest = _USUAL_LENGTHS
        is_usual = lengths["min"] is None or (shortest <= lengths["min"] and lengths["max"] <= longest)
        ends_in_z = pc.all(pc.ends_with(column, "Z")).as_py() is not False
        return pc.cast(column, TIME) if is_usual and ends_in_z else None
    except (pa.ArrowInvalid, UnicodeError):
        return None


# --- text ------------------------------------------------------------------------------------------------------------

_NOT_STORABLE = re.compile("[\x00\ud800-\udfff]")


def _text_column(values: Sequence[Any]) -> pa.Array:
    """The values as text that both stores can hold. Nearly always they are such: asked of the column, not of each."""
    try:
        texts = pa.array(values, pa.string())
    except (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeError):
        return pa.array([_storable(_as_text(value)) for value in values], pa.string())
    data = texts.buffers()[2]
    if data is None or b"\x00" not in data.to_pybytes():
        return texts
    return pa.array([_storable(value) for value in values], pa.string())


def _as_text(value: Any) -> str | None:
    """A value of another type as its JSON; none where it is nested deeper than can be written: `raw_event` has it."""
    try:
        return value if value is None or isinstance(value, str) else json.dumps(value)
    except RecursionError:
        return None


def _storable(text: str | None) -> str | None:
    # isascii and isprintable are answered without a scan of our own: they spare the regex nearly always.
    if text is None or text.isprintable():
        return text
    return _NOT_STORABLE.sub("\ufffd", text)


def _result(value: Any) -> Any:
    if value is True:
        return "success"
    return "failure" if value is False else value


def _event_id(value: Any, text: str) -> str:
    """The event's id as text; without one, the hash of its canonical JSON.

    An id that is no text is its JSON; characters that the stores cannot hold are escaped as in JSON.
    """
    id_text = _as_text(value)
    if not id_text:
        return canonical_hash(text)
    return json.dumps(id_text)[1:-1] if _NOT_STORABLE.search(id_text) else id_text


def canonical_hash(text: str) -> str:
    """SHA-256 of the event with sorted keys and no spaces: the same event gives the same id however it is written."""
    try:
        canonical = json.dumps(_load_leniently(text), sort_keys=True, separators=(",", ":"))
    except RecursionError:  # nested deeper than can be written again
        canonical = text
    return hashlib.sha256(canonical.encode()).hexdigest()


# --- quarantine ------------------------------------------------------------------------------------------------------


class _Quarantine:
    def __init__(self, stream: Stream, received_at: datetime) -> None:
        self._stream, self._received_at = stream, received_at
        self._rows: list[dict[str, Any]] = []

    @property
    def is_empty(self) -> bool:
        return not self._rows

    def add(self, raw: bytes, *, reason: str, event_id: str | None = None) -> None:
        row = {
            "digest": hashlib.sha256(raw).hexdigest(),
            "account_id": self._stream.account_id,
            "api_version": self._stream.api_version,
            "received_at": self._received_at,
            "reason": reason,
            "event_id": event_id,
            "raw_event": raw.decode(errors="backslashreplace"),
        }
        self._rows.append(row)

    def table(self) -> pa.Table:
        return pa.Table.from_pylist(self._rows, schema=QUARANTINE_SCHEMA)
