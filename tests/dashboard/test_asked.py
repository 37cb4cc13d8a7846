"""What an investigator's address asks for: any time, any order, what is filtered, and what was touched."""

import asyncio
from typing import Any
from urllib.parse import quote

import pytest
from starlette.requests import Request

from dashboard.app import Dashboard
from pipelines.settings.dashboard import DashboardSettings

from .conftest import SECTIONS, Site
from .site.reading import query_of
from .site.story import EVE

pytestmark = pytest.mark.integration

BOTH = pytest.mark.parametrize("store", ["warehouse", "lake"])


@BOTH
def test_what_was_touched_stands_in_the_list(site: Site, store: str) -> None:
    """By the name that the event says, before its id, which is what is searched for."""
    page = site.look("tokens", store=store, version="v1", q=f"actor:{EVE['email']}")
    listed = site.look("events", store=store, version="v1", q=f"actor:{EVE['email']}")

    for cell in (page.rows()[0]["Resource"], listed.rows()[0]["Resource"]):
        assert cell.text == "deploy tok-1"
        assert query_of(next(cell.all("a")).attributes["href"])["q"].endswith("resource:tok-1")


@BOTH
def test_events_can_be_read_from_the_first(site: Site, store: str) -> None:
    """By a link, whose address other links keep; their export is in the same order."""
    listed = site.look("events", store=store, version="v2")
    turned = site.page(listed.link("oldest first"))
    times = [[row["Time (UTC)"].text for row in page.rows()] for page in (listed, turned)]
    exported = site.get(turned.link("JSON")).json()

    assert times[1] == sorted(times[0])
    assert [row["timestamp"] for row in exported] == sorted(row["timestamp"] for row in exported)
    assert site.page(turned.link("newest first")).text == listed.text


@pytest.mark.parametrize("path", ["failures", "sign-ins", "tokens", "first-seen"])
def test_nothing_is_said_of_what_was_filtered(site: Site, path: str) -> None:
    """That nobody signed in or nothing failed is said of all events alone; a link leads to them."""
    page = site.look(path, q="actor:nobody")
    whole = site.page(page.link("without them"))

    assert "That is with search and filters" in page.text
    assert "That is with search" not in whole.text
    assert query_of(page.link("without them")) == {"range": "90d"}


@pytest.mark.parametrize("path", SECTIONS)
def test_the_ends_of_the_calendar_can_be_asked_for(site: Site, path: str) -> None:
    """As times, and in the key of an event; there is nothing, and nothing breaks."""
    key = quote("a v1 9999-12-31T23:59:59.999999+00:00 x")
    for query in ("from=9999-12-31", "from=0001-01-01&to=9999-12-31", "to=0001-01-01", f"event={key}&older={key}"):
        assert site.page(f"/{path}?{query}").status == 200, query


def test_an_error_that_nobody_foresaw_is_one_sentence() -> None:
    """No traceback, and no empty page."""
    scope = {"type": "http", "method": "GET", "path": "/x", "query_string": b"format=csv&table=x", "headers": []}
    answer = asyncio.run(Dashboard(DashboardSettings()).answer(Request(scope, _silent), "no section"))

    assert answer.status_code == 500
    assert bytes(answer.body).startswith(b"This page cannot be shown (KeyError)")
    assert bytes(answer.body).count(b"\n") == 1


async def _silent() -> Any:
    await asyncio.sleep(60)
