"""A page becomes rows: every slice ends in exactly one of two tables, its text byte for byte."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sources.cloudflare_audit_logs.events import Page, canonical_hash, decode_page
from sources.cloudflare_audit_logs.streams import Stream
from sources.cloudflare_audit_logs.times import parse_time
from tests.factory import ACCOUNT, encoded, v1_tree, v2_tree

RECEIVED = datetime(2026, 11, 24, tzinfo=UTC)


def decode(*slices: bytes, version: str = "v1") -> Page:
    """A page of one account."""
    return decode_page(slices, Stream(ACCOUNT, version), RECEIVED)


def only_row(raw: bytes, version: str = "v1") -> dict[str, Any]:
    """The one row of a page of one event, which is not quarantined."""
    page = decode(raw, version=version)
    assert page.quarantined.num_rows == 0, page.quarantined.to_pylist()
    (row,) = page.events.to_pylist()
    return dict(row)


@pytest.mark.parametrize(
    ("text", "microsecond"),
    [
        ("2026-11-20T10:00:00Z", 0),
        *((f"2026-11-20T10:00:00.{'987654321'[:digits]}Z", int(f"{'987654'[:digits]:0<6}")) for digits in range(1, 10)),
    ],
)
def test_times_of_0_to_9_fraction_digits_are_cut_to_microseconds(text: str, microsecond: int) -> None:
    """Never rounded: .9999999 must not become the next second."""
    row = only_row(encoded(v1_tree(when=text)))

    assert row["timestamp"] == datetime(2026, 11, 20, 10, 0, 0, microsecond, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("2026-11-20T12:00:00+02:00", "2026-11-20T10:00:00+00:00"),
        ("2026-11-20t10:00:00z", "2026-11-20T10:00:00+00:00"),
        ("2026-11-20 10:00:00", "2026-11-20T10:00:00+00:00"),
        ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00+00:00"),
        ("2024-02-29T23:59:59.9999999Z", "2024-02-29T23:59:59.999999+00:00"),
    ],
)
def test_other_forms_of_time_are_read_as_utc(text: str, meaning: str) -> None:
    """Offsets, small letters, no zone, leap seconds and leap days."""
    assert parse_time(text) == datetime.fromisoformat(meaning)
    assert only_row(encoded(v1_tree(when=text)))["timestamp"] == datetime.fromisoformat(meaning)


@pytest.mark.parametrize(
    "when",
    [
        *("yesterday", "", "2026-13-01T00:00:00Z", "2026-11-20", 1763632800, None, {}, "\ud800"),
        *("0000-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "0001-01-01T00:00:00+05:00", "9999-12-31T23:59:59Z"),
    ],
)
def test_an_event_without_readable_time_is_quarantined_and_the_others_are_not(when: Any) -> None:
    """It is never dropped, and never blocks its page."""
    odd = json.dumps({**v1_tree(), "when": when}).encode()
    fine = encoded(v1_tree())

    page = decode(fine, odd, fine)

    assert page.events["raw_event"].to_pylist() == [fine.decode()] * 2
    assert page.quarantined["raw_event"].to_pylist() == [odd.decode()]
    assert "no readable time" in page.quarantined["reason"][0].as_py()


@pytest.mark.parametrize(
    "raw",
    [b"3", b'"text"', b"null", b"[]", b"{nope}", b"\xff\xfe", b'{"id":"x\xff"}', b"[" * 100_000 + b"]" * 100_000],
    ids=["number", "text", "null", "list", "not JSON", "not UTF-8", "half UTF-8", "deep"],
)
def test_what_is_not_an_event_is_quarantined_with_its_text(raw: bytes) -> None:
    """With the reason, and the neighbours as they are."""
    page = decode(raw, encoded(v1_tree()))

    assert page.events.num_rows == 1
    assert page.quarantined["raw_event"].to_pylist() == [raw.decode(errors="backslashreplace")]
    assert page.quarantined["reason"][0].as_py()


def test_an_event_without_id_gets_the_hash_of_its_content() -> None:
    """However its keys are ordered and spaced; an empty id is none."""
    tree = v1_tree(id=None)
    turned = json.dumps(dict(reversed(tree.items())), indent=2).encode()

    first, second = only_row(encoded(tree))["event_id"], only_row(turned)["event_id"]

    assert first == second == canonical_hash(json.dumps(tree))
    assert only_row(encoded({**tree, "id": ""}))["event_id"] != first


@pytest.mark.parametrize(
    ("written", "event_id"), [("123", "123"), ('"10715065315"', "10715065315"), ("9" * 5000, "9" * 5000)]
)
def test_an_id_of_any_kind_is_text(written: str, event_id: str) -> None:
    """A number, a number in text, a number that no language holds."""
    raw = json.dumps({**v1_tree(), "id": "HERE"}).replace('"HERE"', written).encode()

    assert only_row(raw)["event_id"] == event_id


def test_ids_that_the_stores_cannot_hold_stay_apart() -> None:
    """Escaped, not replaced: two ids must not become one."""
    ids = [r"a\u0000", r"a\ud800", r"a\udfff", "a\ufffd"]

    rows = [only_row(encoded(v1_tree(id="HERE")).replace(b"HERE", text.encode())) for text in ids]

    assert len({row["event_id"] for row in rows}) == len(ids)
    assert rows[0]["event_id"] == r"a\u0000"


@pytest.mark.parametrize(
    ("result", "meaning"),
    [(True, "success"), (False, "failure"), ("success", "success"), ("", ""), ("partial", "partial"), (None, None)],
)
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_results_are_text_whatever_was_sent(version: str, result: Any, meaning: str | None) -> None:
    """Boolean in v1, text in v2, and enums grow."""
    time = {"time": "2026-11-20T10:00:00Z"}
    tree = {**(v1_tree() if version == "v1" else v2_tree()), "action": {"result": result, "type": "new_kind", **time}}

    row = only_row(encoded(tree), version)

    assert (row["action_result"], row["action_type"]) == (meaning, "new_kind")


@pytest.mark.parametrize("actor", [None, "system", [], {}, {"type": "system"}])
def test_an_actor_may_be_missing_or_of_another_shape(actor: Any) -> None:
    """System events have none; the rest of the event is read all the same."""
    row = only_row(json.dumps({**v1_tree(id="e"), "actor": actor}).encode())

    assert (row["event_id"], row["actor_email"], row["resource_type"]) == ("e", None, "dns.record")


@pytest.mark.parametrize("actor", [{"token": {"id": "t", "name": "ci"}}, {"token_id": "t", "token_name": "ci"}])
def test_an_actors_token_is_read_nested_and_flat(actor: Any) -> None:
    """The spec says one thing, the live API does another."""
    metadata = json.loads(only_row(encoded(v2_tree(actor=actor)), "v2")["metadata"])

    assert (metadata["token_id"], metadata["token_name"]) == ("t", "ci")


@pytest.mark.parametrize("value", [True, "high", 5, 1.5, None, {"a": [1]}])
def test_metadata_is_json_whatever_its_values_are(value: Any) -> None:
    """A boolean in one event, a text in the next: one column of JSON."""
    row = only_row(encoded(v1_tree(metadata={"value": value, "zone_name": "example.com"})))

    assert json.loads(row["metadata"])["value"] == value
    assert row["zone_name"] == "example.com"


def test_typed_columns_have_a_substitute_for_what_the_stores_cannot_hold() -> None:
    """The payload keeps the very text."""
    raw = encoded(v1_tree(actor={"email": "HERE"})).replace(b"HERE", rb"a\u0000b\ud800c")

    row = only_row(raw)

    assert row["actor_email"] == "a\ufffdb\ufffdc"
    assert row["raw_event"] == raw.decode()


@pytest.mark.parametrize("number", ["1e400", "-1e999999", "9" * 5000, "NaN", "1.10"])
def test_numbers_beyond_any_type_leave_the_event_as_it_is(number: str) -> None:
    """The payload keeps the very digits."""
    raw = encoded(v1_tree(metadata={"ttl": "HERE"})).replace(b'"HERE"', number.encode())

    assert only_row(raw)["raw_event"] == raw.decode()


def test_duplicate_keys_and_odd_spaces_are_kept_in_the_payload() -> None:
    """Byte for byte means byte for byte."""
    raw = b'{ "id" : "a",\t"id":"b" ,"when":"2026-11-20T10:00:00Z",\n"x":1.10 }'

    assert only_row(raw)["raw_event"].encode() == raw


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
event_like = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(
        ("id", "when", "action", "actor", "resource", "metadata", "zone", "raw", "interface"), json_values
    ),
)


@pytest.mark.parametrize("version", ["v1", "v2"])
@given(values=st.lists(event_like | json_values | st.binary(max_size=20), max_size=6))
def test_every_slice_ends_in_exactly_one_table(version: str, values: list[Any]) -> None:
    """Whatever the API sends."""
    slices = [value if isinstance(value, bytes) else json.dumps(value).encode() for value in values]

    page = decode(*slices, version=version)

    kept = page.events["raw_event"].to_pylist() + page.quarantined["raw_event"].to_pylist()
    assert sorted(kept) == sorted(raw.decode(errors="backslashreplace") for raw in slices)


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("depth", [900, 980, 984, 986, 990, 1_000, 5_000])
def test_text_nested_too_deep_to_be_written_again_holds_up_nothing(version: str, depth: int) -> None:
    """In a typed column, or in an event without id; somewhere near 985 Python's writer of JSON gives up."""
    deep = b"[" * depth + b"]" * depth
    tree = v1_tree(interface="DEEP") if version == "v1" else v2_tree(actor={"context": "DEEP"})
    raw = encoded(tree).replace(b'"DEEP"', deep)
    without_id = encoded({name: value for name, value in tree.items() if name != "id"}).replace(b'"DEEP"', deep)

    page = decode(raw, without_id, encoded(v1_tree() if version == "v1" else v2_tree()), version=version)

    assert page.events.num_rows + page.quarantined.num_rows == 3
    assert page.events.num_rows >= 1
