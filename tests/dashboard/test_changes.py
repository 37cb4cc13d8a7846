"""Old and new values of any payload, side by side."""

import json
from typing import Any

import pytest

from dashboard.changes import Change, as_json, comparison_of, name_of, parsed
from pipelines.settings.settings import PROJECT_ROOT
from tests.factory import v1_tree, v2_tree


@pytest.mark.parametrize(
    ("fields", "changes"),
    [
        ({}, [Change("value", "high", "low")]),
        ({"oldValue": '{"a": 1}', "newValue": '{"a": 2}'}, [Change("a", "1", "2")]),
        ({"oldValue": "", "newValue": "", "newValueJson": {"a": {"b": [1, 2]}}}, [Change("a.b", None, "[1, 2]")]),
        ({"oldValue": "", "newValue": "", "oldValueJson": {"a": False}}, [Change("a", "false", None)]),
        ({"oldValue": None, "newValue": 0}, [Change("value", None, "0")]),
        ({"oldValue": "{broken", "newValue": ""}, [Change("value", "{broken", None)]),
        ({"oldValue": "", "newValue": "", "oldValueJson": {}, "newValueJson": None}, []),
    ],
)
def test_v1_has_old_and_new_values(fields: dict[str, Any], changes: list[Change]) -> None:
    """Old and new values are shown, whether they are text, objects, JSON in text or on one side alone."""
    assert comparison_of(v1_tree(**fields)).changes == changes


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [
        ("12345678901234567.1", "12345678901234567.2", [("n", "12345678901234567.1", "12345678901234567.2")]),
        ("1.0", "1.00000000000000002", [("n", "1.0", "1.00000000000000002")]),
        ("1e400", "NaN", [("n", "1e400", "NaN")]),
        ('"1"', "1", [("n", '"1"', "1")]),
        ("null", '""', [("n", "null", '""')]),
        ("{}", "[]", [("n", "{}", "[]")]),
        ('"null"', "null", [("n", '"null"', "null")]),
        ("9" * 5000, "9" * 5000, [("n", "9" * 5000, "9" * 5000)]),
        ('{"a": {"b": 4}, "a.b": 3}', '{"a": {"b": 5}, "a.b": 3}', [("n.a.b", "4", "5"), ('n."a.b"', "3", "3")]),
    ],
)
def test_whatever_differs_looks_different(old: str, new: str, changes: list[tuple[str, str, str]]) -> None:
    """Numbers by each digit, texts from numbers, names with dots, and the kinds of nothing."""
    raw = f'{{"oldValueJson": {{"n": {old}, "k": ""}}, "newValueJson": {{"n": {new}}}}}'

    assert comparison_of(parsed(raw)).changes == [*(Change(*change) for change in changes), Change("k", '""', None)]
    assert as_json(parsed(raw), "") == raw
    assert parsed(as_json(parsed(raw))) == parsed(raw)


def test_v2_has_a_request_and_a_response() -> None:
    """A v2 event shows request and response, and says that it does."""
    resource = {"id": "r", "request": {"ttl": 1}, "response": {"ttl": 1, "ok": True}}

    found = comparison_of(v2_tree(resource=resource))

    assert (found.left, found.right) == ("Request", "Response")
    assert found.changes == [Change("ttl", "1", "1"), Change("ok", None, "true")]


@pytest.mark.parametrize("payload", [None, [], "text", {}, {"resource": 1, "action": 1}, {"newValueJson": [1]}])
def test_any_payload_is_compared(payload: Any) -> None:
    """A payload that is no event has nothing to compare, and is no error."""
    assert json.dumps([change.field for change in comparison_of(payload).changes])


def test_the_page_names_no_other_host() -> None:
    """Neither its style nor its script nor a template; the browser's tests see to the rest."""
    files = [path for folder in ("static", "templates") for path in (PROJECT_ROOT / "dashboard" / folder).iterdir()]

    assert len(files) >= 10
    for file in files:
        assert "://" not in file.read_text().replace('xmlns="http://www.w3.org/2000/svg"', ""), file


@pytest.mark.parametrize(
    ("event", "name"),
    [
        ({"newValueJson": {"name": "www.example.com"}, "oldValueJson": {"name": "old"}}, "www.example.com"),
        ({"newValue": '{"name": "from text"}', "metadata": {"name": "m"}}, "from text"),
        ({"newValue": "", "metadata": {"token_name": "ci", "zone_name": "example.com"}}, "ci"),
        ({"resource": {"request": {"name": "asked"}, "response": {"id": "1"}}}, "asked"),
        ({"resource": {"response": {"result": {"name": "made"}}}}, "made"),
        ({"resource": {"response": []}, "newValueJson": {"name": {"a": 1}}}, ""),
        (None, ""),
    ],
)
def test_what_was_touched_has_the_name_that_its_event_says(event: Any, name: str) -> None:
    """The new one before the old one; the zone's is another."""
    assert name_of(event) == name
