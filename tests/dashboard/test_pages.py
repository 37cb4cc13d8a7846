"""The pages show the contents of the stores, and every view is an address."""

import html
from datetime import timedelta
from urllib.parse import quote

import pytest

from tests.factory import ACCOUNT, OTHER_ACCOUNT
from tests.rows import rows

from .conftest import SECTIONS, Site
from .site.reading import Page, query_of
from .site.story import ELSEWHERE, EVE, FORMULA, HOSTILE, NIGHT

pytestmark = pytest.mark.integration

BOTH = pytest.mark.parametrize("store", ["warehouse", "lake"])


@BOTH
def test_the_overview_counts_deeds_once(site: Site, store: str) -> None:
    """A token that eve made has a record in v1 and in v2, and is one deed; sign-ins, in v2 alone, are three."""
    page = site.look("", store=store)

    assert page.numbers["Deeds, at least"] == "49"
    assert (page.numbers["Records"], page.numbers["Failed"]) == ("50", "6")
    assert (page.numbers["Actors"], page.numbers["Addresses"]) == ("4", "5")
    assert "46 in v1, 4 in v2" in page.text
    assert "the records of one actor from one address count once" in page.text
    eve = next(one for one in page.root.all("li") if EVE["email"] in one.text)
    assert eve.text == f"{EVE['email']} 2 4"


@BOTH
def test_of_one_version_there_are_records_alone(site: Site, store: str) -> None:
    """Nothing is reckoned then, and nothing said of it."""
    page = site.look("", store=store, version="v1")

    assert page.numbers["Records"] == "46"
    assert "Deeds, at least" not in page.numbers
    assert "count once" not in page.text


def test_rates_are_of_the_time_that_has_events(site: Site) -> None:
    """Eve's four records of one day are four a day, not four in 90 days."""
    page = site.look("", q=f"actor:{EVE['email']}", version="v2")

    assert "4.0 a day (days with events: 1)" in page.text


@BOTH
@pytest.mark.parametrize(
    ("query", "number"),
    [
        ({}, 50),
        ({"account": OTHER_ACCOUNT}, 2),
        ({"version": "v2"}, 4),
        ({"failures": "1"}, 6),
        ({"q": "BOB@"}, 4),
        ({"q": "bob -failure"}, 1),
        ({"q": "address:198.51.100.0/24"}, 4),
        ({"q": "2001:db8::/32"}, 5),
        ({"q": "2001:0DB8:66::0001"}, 5),
        ({"q": "::ffff:198.51.100.23"}, 4),
        ({"q": '"198.51.100.23"'}, 4),
        ({"q": '"Create Token"'}, 1),
        ({"q": "192.0.2.177"}, 0),
        ({"q": "text:192.0.2.177"}, 1),
        ({"q": "new:192.0.2.177 -old:192.0.2.177"}, 1),
        ({"q": "actor:*@example.com"}, 49),
        ({"q": 'resource:""'}, 0),
        ({"range": "24h"}, 10),
        ({"range": "24h", "from": "2001-01-01", "to": "2002-01-01"}, 0),
    ],
)
def test_filters_change_what_is_shown(site: Site, store: str, query: dict[str, str], number: int) -> None:
    """Account, version, failures, search and time, each by its name in the address, in both stores."""
    page = site.look("events", store=store, **query)

    assert len(page.rows() if number else []) == number
    assert f"{number:,} records" in page.text


@BOTH
def test_an_event_opens_in_its_place_with_both_sides_compared(site: Site, store: str) -> None:
    """Without a script by its link, with one by the same link as a fragment; what is near it is a click away."""
    listed = site.look("events", store=store, account=OTHER_ACCOUNT, q="result:success")
    address = next(listed.rows()[0]["Time (UTC)"].all("a")).attributes["href"].partition("#")[0]
    page, fragment = site.page(address), Page(200, site.get(address, **{"X-Fragment": "1"}).text)

    for shown in (page, fragment):
        article = next(shown.root.all("article", class_="event"))
        sides = next(article.all("table", class_="sides"))
        cells = [
            [one.text for one in row.content if not isinstance(one, str)] for row in next(sides.all("tbody")).all("tr")
        ]
        assert cells == [
            ["ttl", "1", "300"],
            ["same", "yes", "yes"],
            ["tag", "none", HOSTILE],
            ["content", "none", "192.0.2.177"],
        ]
        assert '"ttl": 300' in next(article.all("pre")).text
        assert "5 records" not in shown.html
    assert len(page.rows()) == len(listed.rows())
    assert not list(fragment.root.all("main"))
    near = [
        one for one in next(page.root.all("article")).all("a") if one.text.startswith(("this ", "an hour", "a day"))
    ]
    assert [site.page(one.attributes["href"]).text.partition(" ")[0] for one in near] == ["1", "1", "1", "1"]


@BOTH
def test_who_is_new_is_told(site: Site, store: str) -> None:
    """Bob was never seen before today; alice was, in the weeks before."""
    page = site.look("first-seen", store=store, range="24h", account=ACCOUNT)

    assert {row["Actor"].text for row in page.rows()} == {"bob@example.com", EVE["email"]}
    assert {row["Address"].text for row in page.rows(1)} == {"198.51.100.23", EVE["ip_address"]}


@BOTH
def test_failures_sign_ins_and_tokens_have_sections(site: Site, store: str) -> None:
    """Who failed at what, who signed in from where, which tokens were made and used."""
    failed = site.look("failures", store=store, q="actor:bob@example.com").rows(1)
    eves = site.look("failures", store=store, q=f"actor:{EVE['email']}").rows(1)
    signed_in = site.look("sign-ins", store=store).rows()
    tokens = site.look("tokens", store=store, q=f"actor:{EVE['email']}")

    assert [cell.text for cell in failed[0].values()][:6] == [
        "bob@example.com",
        "token_roll",
        "dns.record",
        "example.com",
        "198.51.100.23",
        "3",
    ]
    assert [[cell.text for cell in row.values()][:4] for row in signed_in] == [
        [EVE["email"], EVE["ip_address"], "3", "2"]
    ]
    assert [(row["Action"].text, row["Failed records"].text) for row in eves] == [("update LOGIN", "2")]
    assert {row["Action"].text for row in tokens.rows()} == {"token_create", "create Create Token"}


@BOTH
def test_rare_values_are_reachable(site: Site, store: str) -> None:
    """Every value of a field, the rarest first, in pages."""
    page = site.look("values", store=store, field="action", order="rarest")
    counts = [int(row["Records"].text) for row in page.rows()]

    assert counts == sorted(counts)
    assert len(counts) == len({row["Action"].text for row in page.rows()}) == 6
    assert site.look("values", store=store, field="action", page="1").text.count("the 200 before") == 1


@pytest.mark.parametrize("path", SECTIONS)
def test_hostile_values_are_text(site: Site, path: str) -> None:
    """No element, address or script comes from an event, and none is in the page itself."""
    for query in (
        {},
        {"q": HOSTILE.split()[0]},
        {"q": '"><script>alert(1)</script>'},
        {"field": HOSTILE, "order": HOSTILE, "event": HOSTILE, "older": HOSTILE},
    ):
        page = site.look(path, **query)

        assert page.status in {200, 400}
        assert not list(page.root.all("img"))
        assert [one.attributes["src"] for one in page.root.all("script")] == ["/static/events.js"]
        assert all(link.startswith(("/", "#")) for link in page.links())
        assert " style=" not in page.html
        assert " onclick=" not in page.html
    if path in {"", "events", "failures", "values"}:
        assert html.escape(f"{ELSEWHERE}.jpg") in site.look(path).html


@pytest.mark.parametrize(
    "search",
    [
        '"',
        "foo:bar",
        "-",
        "actor:",
        "address:10.0.0.0/99",
        "300.1.1.1/24",
        "203.0.113.0/99",
        "2001:db8::/129",
        "300.1.1.1",
        "address:notanip",
        "a" * 3_000,
    ],
)
def test_a_wrong_search_gets_one_message(site: Site, search: str) -> None:
    """And no events that it might not mean."""
    page = site.look("events", q=search)
    alerts = [one.text for one in page.root.all("p", role="alert")]

    assert page.status == 400
    assert len(alerts) == 1
    assert alerts[0].startswith("The search cannot be read: ")
    assert not list(next(page.root.all("main")).all("table"))


def test_what_an_address_asks_for_in_vain_is_said(site: Site) -> None:
    """An account, a time, a store, an event that are not there; the page shows what it can."""
    page = site.page("/events?account=nobody&range=soon&store=cellar&version=v3&event=a+v1+2026-01-01T00:00:00+e")

    for text in (
        "there is no account nobody",
        "there is no range soon",
        "there is no store cellar",
        "there is no version v3",
        "There is no such event",
    ):
        assert text in page.text
    assert page.status == 200


def test_where_nothing_is_found_the_page_says_where_to_look(site: Site) -> None:
    """In a longer time; in old and new values, if words were looked for."""
    page = site.look("events", q="192.0.2.177")

    assert "No events here" in page.text
    assert "1 records" in site.page(page.link("Look in old and new values, too")).text
    assert query_of(page.link("last 365 days"))["range"] == "365d"


def test_accounts_have_names_beside_their_ids(site: Site) -> None:
    """From the events here; what is not known is not said."""
    page = site.look("events", q=f"version:v2 actor:{EVE['email']}")

    assert {row["Account"].text for row in page.rows()} == {f"ACME & Sons {ACCOUNT}"}


@pytest.mark.parametrize("path", rows("events", long=[one for one in SECTIONS if one != "events"]))
def test_pages_can_be_used_without_seeing_them(site: Site, path: str) -> None:
    """Each field has a label, each table titles, the headings are in order, and the language is said."""
    page = site.look(path, **({"event": "x"} if path == "events" else {}))
    labelled = [one for label in page.root.all("label") for tag in ("input", "select") for one in label.all(tag)]
    fields = [
        one for tag in ("input", "select") for one in page.root.all(tag) if one.attributes.get("type") != "hidden"
    ]

    assert len(labelled) == len(fields)
    assert all(one.attributes.get("scope") for one in page.root.all("th"))
    assert len(list(page.root.all("h1"))) == len(list(page.root.all("main"))) == 1
    assert next(page.root.all("html")).attributes["lang"] == "en"
    assert all(one.attributes.get("aria-label") for one in page.root.all("nav"))
    assert all(
        one.attributes.get("aria-label") for one in page.root.all("svg") if one.attributes.get("aria-hidden") != "true"
    )


def test_a_time_of_the_night_is_found_by_its_address(site: Site) -> None:
    """In UTC, to the minute; of a day, the whole day."""
    begin, end = NIGHT, NIGHT + timedelta(minutes=1)
    minute = site.page(f"/events?from={quote(f'{begin:%Y-%m-%d %H:%M}')}&to={quote(f'{end:%Y-%m-%d %H:%M}')}")
    day = site.page(f"/events?from={begin:%Y-%m-%d}&to={begin:%Y-%m-%d}&version=v2")

    assert len(minute.rows()) == 3
    assert len(day.rows()) == 4
    assert FORMULA not in minute.text
