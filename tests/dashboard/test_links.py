"""Every view is an address, and every value, bar and number is a link to what it stands for."""

from urllib.parse import urlencode

import pytest

from tests.factory import ACCOUNT

from .conftest import SECTIONS, Site
from .site.reading import query_of

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("path", [one for one in SECTIONS if one not in {"completeness", "health"}])
def test_every_value_is_a_link_that_narrows(site: Site, path: str) -> None:
    """Of every table: the page it leads to has the value among its terms, and nothing that has another."""
    page = site.look(path)
    main = next(page.root.all("main"))
    narrowing = {
        one.attributes["href"]: one.text
        for one in main.all("a")
        if ":" in query_of(one.attributes["href"]).get("q", "")
    }

    assert len(narrowing) >= 3
    for address, text in list(narrowing.items())[:25]:
        found = site.page(address)
        assert found.status == 200, text
        assert "No events here" not in found.text, (address, text)


@pytest.mark.parametrize(
    ("path", "column"),
    [("failures", "Failed records"), ("values", "Records"), ("first-seen", "Records"), ("tokens", "Records")],
)
def test_a_count_leads_to_as_many_events(site: Site, path: str, column: str) -> None:
    """Whoever clicks a number sees the events that it counts."""
    table = 1 if path in {"tokens", "failures"} else 0
    counted = [row[column] for row in site.look(path).rows(table)]

    assert counted
    for cell in counted:
        address = next(cell.all("a")).attributes["href"]
        assert f"{cell.text} records" in site.page(address).text


def test_a_bar_leads_to_its_time(site: Site) -> None:
    """With as many deeds as it shows; the marks of the axis are in 24 hours."""
    page = site.look("", range="24h", version="v1")
    bars = [row for row in page.rows() if row["From (UTC)"].text]

    for row in bars:
        found = site.page(next(row["From (UTC)"].all("a")).attributes["href"])
        assert found.numbers["Records"] == row["Records"].text if "Records" in row else row["records"].text
    marks = [one.text for one in next(page.root.all("figure")).all("text")]
    assert any(mark.endswith(":00") for mark in marks)
    assert "PM" not in page.html


@pytest.mark.parametrize("path", SECTIONS)
def test_the_address_says_what_is_looked_at(site: Site, path: str) -> None:
    """Links to other sections keep the filters; an answer to the same address is the same, whoever asks."""
    query = {
        "range": "",
        "from": "2026-01-01 00:00",
        "to": "2026-01-02 00:00",
        "q": "actor:bob@example.com",
        "store": "lake",
        "account": ACCOUNT,
    }
    address = f"/{path}?{urlencode(query)}"
    page = site.page(address)
    tabs = [one.attributes["href"] for one in next(page.root.all("nav", class_="tabs")).all("a")]

    assert page.html == site.page(address).html or path == "health"
    assert len(tabs) == 8
    for tab in tabs:
        kept = query_of(tab)
        assert {name: kept[name] for name in query if query[name]} == {
            name: value for name, value in query.items() if value
        }


def test_an_opened_event_stays_open(site: Site) -> None:
    """Where the times are pinned, and in the other store."""
    listed = site.look("events", account=ACCOUNT)
    opened = site.page(next(listed.rows()[0]["Time (UTC)"].all("a")).attributes["href"].partition("#")[0])
    shown = next(opened.root.all("article")).text

    for address in (opened.link("pin these times"), opened.link("lake")):
        assert (
            next(site.page(address).root.all("article")).text.partition("Near it")[0] == shown.partition("Near it")[0]
        )


def test_a_relative_time_can_be_pinned(site: Site) -> None:
    """Its link names the times that are shown."""
    page = site.look("events", range="36h")
    pinned = page.link("pin these times")
    shown = [one.attributes["datetime"] for one in next(page.root.all("p", class_="looked-at")).all("time")]

    assert "range" not in query_of(pinned)
    assert [f"{at.replace(' ', 'T')}+00:00" for at in (query_of(pinned)["from"], query_of(pinned)["to"])] == shown
    assert "pin these times" not in site.page(pinned).html
