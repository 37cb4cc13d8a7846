"""The search is read alike whatever it holds, and finds the same events in both stores."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dashboard.ask import questions
from dashboard.ask.conditions import EXPRESSIONS, Filters
from dashboard.ask.search import FIELDS, TEXTS, SearchError, Term, has, network_of, parse
from dashboard.ask.stores import EventStore, LakeStore, WarehouseStore, ask, resolved
from dashboard.view import view_of

from .conftest import Site
from .site.story import BOB, ELSEWHERE, EVE, FORMULA, HOSTILE

NOW = datetime.now(UTC)
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
TERMS = st.builds(Term, ANY_TEXT.filter(bool), st.sampled_from(["", *FIELDS, *TEXTS]), st.booleans()) | st.builds(
    Term, st.just(""), st.sampled_from(list(FIELDS))
)


@given(st.lists(TERMS, max_size=10))
def test_what_is_written_is_read_again(terms: list[Term]) -> None:
    """Whatever a value holds, quotes and colons, spaces and stars: a link narrows by just that."""
    assert parse(" ".join(map(str, terms))) == tuple(terms)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60) | st.text('ab:"\\-* 1./', max_size=20))
def test_any_text_is_terms_or_one_message(text: str) -> None:
    """And the terms, written again, are the same ones."""
    try:
        terms = parse(text)
    except SearchError:
        return
    assert parse(" ".join(map(str, terms))) == terms
    assert bool(terms) == bool(text.strip())


@given(ANY_TEXT, st.sampled_from(sorted(FIELDS.keys() - {"account", "version"})), st.lists(TERMS, max_size=3))
def test_a_link_adds_one_term(value: str, name: str, before: list[Term]) -> None:
    """The address of a value has it as its last term, and the terms that were there."""
    view = view_of([("q", " ".join(map(str, before)))], "events", NOW)
    query = dict(pair for pair in _pairs(view.narrowed(name, value)))

    assert set(parse(query["q"])) == {*before, Term(value, name)}


def _pairs(address: str) -> list[tuple[str, str]]:
    return parse_qsl(urlsplit(address).query, keep_blank_values=True)


@given(st.ip_addresses(), st.integers(0, 128))
def test_networks_are_those_of_pythons_ipaddress(address: Any, bits: int) -> None:
    """Of either kind; an IPv4 address is the same in an IPv6 one."""
    bits = min(bits, address.max_prefixlen)
    network = network_of(f"{address}/{bits}")

    assert network is not None
    assert has(network, str(address))
    assert has(network, str(address).upper())
    if address.version == 4:
        assert network == ip_network(f"{address}/{bits}", strict=False)
        assert has(network, f"::ffff:{address}")
        assert network_of(f"::ffff:{address}") == ip_network(str(address))
    other = ip_address(int(address) ^ 1 << (address.max_prefixlen - 1))
    assert has(network, str(other)) == (bits == 0)


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("alice bob", [Term("alice"), Term("bob")]),
        ('"alice bob" -x', [Term("alice bob"), Term("x", is_not=True)]),
        ("Actor:a@b -ip:10.0.0.0/8", [Term("a@b", "actor"), Term("10.0.0.0/8", "address", is_not=True)]),
        ("2001:db8::/32", [Term("2001:db8::/32", "address")]),
        ("dead:beef::1", [Term("dead:beef::1", "address")]),
        ("-10.0.0.0/8", [Term("10.0.0.0/8", "address", is_not=True)]),
        ("1.2.3.4", [Term("1.2.3.4", "address")]),
        ("-2001:0db8:bad::5", [Term("2001:0db8:bad::5", "address", is_not=True)]),
        ("::ffff:203.0.113.66", [Term("::ffff:203.0.113.66", "address")]),
        ('"1.2.3.4" text:1.2.3.4', [Term("1.2.3.4"), Term("1.2.3.4", "text")]),
        ('198.51 1.2.3 "300.1.1.1/24"', [Term("198.51"), Term("1.2.3"), Term("300.1.1.1/24")]),
        ('address:198.51.* address:"x y"', [Term("198.51.*", "address", is_pattern=True), Term("x y", "address")]),
        ("actor:*@b", [Term("*@b", "actor", is_pattern=True)]),
        ('actor:"*@b"', [Term("*@b", "actor")]),
        ('zone:""', [Term("", "zone")]),
        (r'"a \"b\" \\"', [Term('a "b" \\')]),
        ("a-b 10:30 x/y", [Term("a-b"), Term("10:30"), Term("x/y")]),
        ("  ", []),
    ],
)
def test_a_search_is_read_as_the_page_says(text: str, terms: list[Term]) -> None:
    """Words, phrases, fields, networks, stars, and what is not to be there."""
    assert list(parse(text)) == terms


def test_every_field_has_its_sql() -> None:
    """The search knows a field only if both stores do."""
    assert FIELDS.keys() == EXPRESSIONS.keys()


# --- Both stores -----------------------------------------------------------------------------------------------------

WORDS = [
    "alice",
    "BOB@",
    "eve",
    "token",
    "Create Token",
    "LOGIN",
    ELSEWHERE,
    HOSTILE,
    FORMULA,
    "%",
    "_",
    "'",
    "\\",
    "\0",
    "zzz",
    "\u0131",
    "198.51",
]
VALUES = {
    "actor": ["alice@example.com", "BOB@example.com", EVE["email"], f"{ELSEWHERE}.jpg"],
    "actor_id": [BOB["id"], "B0B"],
    "context": ["API", "dash"],
    "token": ["tok-0", "TOK-0"],
    "action": ["rec_add", "TOKEN_ROLL", "create", HOSTILE],
    "description": ["login", "Create Token"],
    "result": ["success", "failure"],
    "address": [
        BOB["ip"],
        "198.51.100.0/24",
        "::ffff:198.51.100.23",
        "2001:db8::/32",
        EVE["ip_address"],
        "0.0.0.0/0",
        f"{ELSEWHERE}.gif",
    ],
    "type": ["dns.record", "member"],
    "resource": ["10715065315", FORMULA, "tok-1"],
    "product": ["members"],
    "zone": ["example.com", ELSEWHERE],
    "account": ["a"],
    "version": ["v1", "v2"],
    "event": ["event-1"],
    "old": ["high", "ttl", '"ttl":1', '"ttl": 1'],
    "new": ["low", "300", "192.0.2.177", HOSTILE[:20]],
    "text": ["ray-1", "192.0.2.177", "www", "alice", "/user/tokens", "a\0b"],
}
IN_WORLD = st.sampled_from(sorted(VALUES)).flatmap(
    lambda name: st.builds(Term, st.sampled_from(VALUES[name]), st.just(name), st.booleans())
)
PATTERNS = st.builds(
    Term, st.sampled_from(["*", "*@example.com", "a*c*", "*e", "%", "_*", "t?ken*", "*$*"]),
    st.sampled_from(["actor", "action", "resource", "zone", "token"]), st.booleans(), st.just(value=True),
)  # fmt: skip
EMPTY = st.builds(
    Term, st.just(""), st.sampled_from(["zone", "product", "token", "resource", "context"]), st.booleans()
)
WORDS_IN = st.builds(Term, st.sampled_from(WORDS), st.just(""), st.booleans())


class Both:
    """Two stores with the same events."""

    def __init__(self, stores: list[EventStore], everything: Filters, events: list[dict[str, Any]]) -> None:
        self.stores, self.everything, self.events = stores, everything, events

    def __repr__(self) -> str:
        return "both"  # hypothesis would show all events


@pytest.fixture(scope="module")
def both(site: Site) -> Iterator[Both]:
    """The stores of the site, and all its events as the warehouse lists them."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in site.environment.items():
            patch.setenv(name, value)
        stores: list[EventStore] = [WarehouseStore(), LakeStore()]
        everything = Filters(NOW - timedelta(days=90), NOW)
        listed, whole = ask(stores[0], questions.events(everything), questions.all_columns(everything, 1_000))
        payloads = {(row["event_id"], row["api_version"]): row for row in whole}
        rows = [{**payloads[row["event"], row["version"]], **row} for row in listed]
        yield Both(stores, everything, rows)


@pytest.mark.integration
@settings(max_examples=60)
@given(terms=st.lists(IN_WORLD | PATTERNS | EMPTY | WORDS_IN, min_size=1, max_size=3))
def test_both_stores_find_the_same_as_a_reader_would(both: Both, terms: list[Term]) -> None:
    """Every search, in the warehouse and in the lake; told by the values of each event, without SQL."""
    asked = replace(both.everything, terms=tuple(terms))
    expected = [row["event"] for row in both.events if all(_holds(term, row) for term in terms)]

    for store in both.stores:
        ((*found,),) = ask(store, questions.events(resolved(store, asked)))
        assert [row["event"] for row in found] == expected, (store.name, [str(term) for term in terms])


def _holds(term: Term, row: Mapping[str, Any]) -> bool:
    return _is_true(term, row) != term.is_not


def _is_true(term: Term, row: Mapping[str, Any]) -> bool:
    """A second reading of what a term means."""
    value = term.value.replace("\0", "\ufffd")
    shown = {"actor_id": row["actor_id"], "context": row["actor_context"], "product": row["resource_product"], **row}
    payload, given_ = json.loads(row["raw_event"]), (shown.get(term.field) or "")
    if term.network:
        return has(term.network, row["ip_address"] or "")
    if term.field in TEXTS or not term.field:
        return _is_in_text(term.field, value, row, payload)
    if term.is_pattern:
        parts = value.lower().split("*")
        return bool(given_) and _matches(given_.lower(), parts)
    if term.field in {"actor_id", "token", "resource", "account", "version", "event"} or not value:
        return bool(given_ == value)
    return bool(given_.lower() == value.lower())


def _is_in_text(name: str, value: str, row: Mapping[str, Any], payload: Mapping[str, Any]) -> bool:
    names = (
        *("actor_email", "actor_id", "actor_type", "actor_context", "action_type", "description", "action_result"),
        *("ip_address", "resource_type", "resource_id", "resource_product", "zone_name", "zone_id", "event_id"),
    )
    columns = any(value.lower() in (row[one] or "").lower() for one in names)
    resource = payload.get("resource") or {}
    old = [payload.get("oldValue"), payload.get("oldValueJson")]
    new = [payload.get("newValue"), payload.get("newValueJson"), resource.get("request"), resource.get("response")]
    texts = {"": [], "old": old, "new": new, "text": [*old, *new, json.loads(row["metadata"] or "null")]}[name]
    written = [
        text if isinstance(text, str) else json.dumps(text, ensure_ascii=False) for text in texts if text is not None
    ]
    inside = any(value.lower().replace(" ", "") in text.lower().replace(" ", "") for text in written)
    return inside or (name in {"", "text"} and columns)


def _matches(text: str, parts: list[str]) -> bool:
    """True if the parts come one after the other, the first at the begin, the last at the end."""
    if len(parts) == 1:
        return text == parts[0]
    first, *middle, last = parts
    if not text.startswith(first) or not text[len(first) :].endswith(last):
        return False
    rest = text[len(first) : len(text) - len(last)]
    for part in middle:
        if (at := rest.find(part)) < 0:
            return False
        rest = rest[at + len(part) :]
    return True
