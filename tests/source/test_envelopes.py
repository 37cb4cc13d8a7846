"""An answer is a list of events as sent, or it is none: no answer is not an empty answer."""

import json
from typing import Any

import pytest
from hypothesis import given

from sources.cloudflare_audit_logs.answers import _parse_leniently, parse_answer
from sources.cloudflare_audit_logs.errors import BadAnswerError
from tests.factory import encoded, v1_tree
from tests.samples import V2_PAGE

from .test_decoding import json_values


def envelope(*slices: bytes, rest: bytes = b'"success":true') -> bytes:
    """An answer with these events."""
    return b'{"errors":[],"result":[' + b",".join(slices) + b"]," + rest + b"}"


def test_events_are_slices_of_the_body() -> None:
    """Byte for byte, odd spaces included."""
    events = [b'{ "id" :1.10}', encoded(v1_tree()), b'{"a":"]}\\"{"}']

    assert parse_answer(envelope(*events)).slices == events


def test_an_empty_page_is_an_answer() -> None:
    """An empty page without `result_info`, as the API sends it, is read as no events."""
    answer = parse_answer(b'{"errors":[],"messages":[],"result":[],"success":true}')

    assert (answer.slices, answer.info) == ([], {})


@pytest.mark.parametrize("rest", [b"", b',"errors":[]', b',"errors":null,"result_info":{"cursor":"c"}'])
def test_null_is_an_empty_page_where_nothing_went_wrong(rest: bytes) -> None:
    """Another list of Cloudflare's answers so. A `result` that is not there at all is none."""
    answer = parse_answer(b'{"success":true,"result":null' + rest + b"}")

    assert answer.slices == []
    assert answer.info == ({"cursor": "c"} if b"cursor" in rest else {})


def test_errors_beside_success_are_not_failures() -> None:
    """The published v2 answer has some."""
    answer = parse_answer(V2_PAGE)

    assert len(answer.slices) == 1
    assert answer.info["count"] == "1"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html><body>502</body></html>",
        b'{"success":false,"errors":[{"code":10000,"message":"Authentication error"}],"result":[]}',
        b'{"success":true,"result":null,"errors":[{"code":1}]}',
        b'{"success":true}',
        b'{"result":[]}',
        b'{"success":true,"result":{}}',
        b"[]",
        b'"text"',
        envelope(encoded(v1_tree()))[:-20],
        envelope(encoded(v1_tree()), encoded(v1_tree()))[:-100],
    ],
)
def test_what_is_not_a_list_of_events_is_no_answer(body: bytes) -> None:
    """It must never be counted as "no events"."""
    with pytest.raises(BadAnswerError):
        parse_answer(body)


@pytest.mark.parametrize(
    "odd",
    [rb'{"a":"\ud800"}', b'{"a":NaN}', b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}", b'{"a":"\n"}'],
    ids=["lone surrogate", "NaN", "deep", "control character"],
)
def test_one_odd_event_does_not_block_its_page(odd: bytes) -> None:
    """Where the fast parser refuses the page, brackets and strings are enough to slice it."""
    events = [encoded(v1_tree()), odd, encoded(v1_tree())]

    answer = parse_answer(envelope(*events, rest=b'"result_info":{"cursor":"c"},"success":true'))

    assert answer.slices == events
    assert answer.info == {"cursor": "c"}


def test_a_result_elsewhere_in_the_answer_is_not_taken() -> None:
    """Only the one at the top level holds the events."""
    body = rb'{"messages":[{"result":[1]}],"result":["\ud800"],"success":true}'

    assert parse_answer(body).slices == [rb'"\ud800"']


@given(values=json_values)
def test_slicing_by_brackets_agrees_with_the_parser(values: Any) -> None:
    """On everything that both can read."""
    events = [json.dumps(value, allow_nan=False).encode() for value in _finite(values)]
    body = envelope(*events, rest=b'"result_info":{"count":"1"},"success":true')

    _, slices = _parse_leniently(body)

    assert slices == events == parse_answer(body).slices


def _finite(value: Any) -> list[Any]:
    """Values that JSON and the fast parser can both express: no NaN, no lone surrogate, no number beyond 64 bits."""
    try:
        text = json.dumps(value, allow_nan=False)
        text.encode().decode("unicode_escape").encode()
    except ValueError:
        return []
    is_small = all(len(part) < len("1" * 19) for part in text.replace(".", " ").replace(",", " ").split())
    return [value, value] if is_small else []
