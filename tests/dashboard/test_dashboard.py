"""The page shows the contents of the stores: in a browser, on real stores that the pipeline filled."""

import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from benchmarks.servers.commands import Finished
from benchmarks.servers.seaweed import Bucket
from pipelines.loop.report import Report
from simulator.api import Api
from tests.factory import ACCOUNT, OTHER_ACCOUNT, ago, encoded, event_at, raw_event, spread, v1_tree
from tests.rows import rows
from tests.stores import Stores

from .conftest import Look

pytestmark = [pytest.mark.browser, pytest.mark.integration]

Poll = Callable[..., Report]
Dashboard = Callable[..., Any]
BOB = {"actor": {"email": "bob@example.com", "id": "b0b", "ip": "198.51.100.23", "type": "user"}}
ELSEWHERE = "http://evil.example/pixel.png"
HOSTILE = "<img src=x onerror=\"document.title='taken'\">'; DROP TABLE audit_logs; --"
BOTH = pytest.mark.parametrize("store", rows("Warehouse", long=["Lake"]))
"""`test_stores` asks both the same; `test_a_bucket_is_shown_as_a_folder_is` shows a lake."""


@pytest.fixture
def in_a_bucket(environment: dict[str, str], bucket: Bucket) -> None:
    """The lake is one."""
    environment |= bucket.settings("dashboard")


@pytest.fixture
def filled(api: Api, poll: Poll) -> None:
    """Two accounts: alice's of 40 days, bob's failures of today, in the other account an event of today."""
    api.world.add(ACCOUNT, "v1", spread(40, ago(days=40), ago(hours=30)))
    failed = {"action": {"result": False, "type": "token_roll"}}
    api.world.add(ACCOUNT, "v1", spread(3, ago(hours=5), ago(hours=4), **BOB, **failed))
    values: dict[str, Any] = {
        "oldValueJson": {"ttl": 1, "same": "yes"},
        "newValueJson": {"ttl": 300, "same": "yes", "tag": HOSTILE},
    }
    api.world.add(OTHER_ACCOUNT, "v1", [event_at(ago(hours=2), oldValue="", newValue="", **values)])
    poll(CLOUDFLARE_ACCOUNT_ID=f"{ACCOUNT},{OTHER_ACCOUNT}", INITIAL_CHECKPOINT=ago(days=50).isoformat())


def number(page: Any, name: str) -> str:
    """A key number of the header, once it is there."""
    text: str = page.locator(".number", has_text=name).locator("b").inner_text()
    return text


def wait_for_number(page: Any, name: str, value: str) -> None:
    """Until the page has answered."""
    page.locator(".number", has_text=name).locator("b", has_text=re.compile(f"^{value}$")).wait_for()


@BOTH
@pytest.mark.usefixtures("filled")
def test_the_overview_has_the_numbers_of_the_store(dashboard: Dashboard, look: Look, store: str) -> None:
    """Key numbers, the events by time, and who, what and from where."""
    with dashboard() as url:
        page = look(f"{url}/?store={store}&range=Last+90+days")

        wait_for_number(page, "Events", "44")
        assert (number(page, "Failed"), number(page, "Actors"), number(page, "Addresses")) == ("3", "2", "2")
        assert page.locator(".ranking", has_text="Who").locator("li").all_inner_texts() == [
            "alice@example.com\n41",
            "bob@example.com\n3\n3",
        ]
        assert page.locator(".vega-embed canvas").bounding_box()["width"] > 800


@pytest.mark.usefixtures("in_a_bucket", "filled")
def test_a_bucket_is_shown_as_a_folder_is(dashboard: Dashboard, look: Look, tmp_path: Path) -> None:
    """Its numbers, and an event of it; no copy of it is kept."""
    with dashboard(TMPDIR=str(tmp_path)) as url:
        page = look(f"{url}/?store=Lake&range=Last+90+days&section=Events&search=token_roll")
        wait_for_number(page, "Events", "3")
        page.locator("table.rows a").first.click()
        page.locator(".event", has_text="bob@example.com").wait_for()
        assert not list(tmp_path.rglob("*.parquet"))


@BOTH
@pytest.mark.usefixtures("filled")
def test_filters_change_what_is_shown(dashboard: Dashboard, look: Look, store: str) -> None:
    """Time, account, text, failures alone; each by its control."""
    with dashboard() as url:
        page = look(f"{url}/?store={store}")
        wait_for_number(page, "Events", r"\d+")

        page.get_by_label("Time (UTC)").select_option("Last 24 hours")
        wait_for_number(page, "Events", "4")
        page.get_by_role("switch").click()
        wait_for_number(page, "Events", "3")
        page.get_by_role("switch").click()
        page.get_by_placeholder("actor, address").fill("BOB@")
        page.keyboard.press("Tab")
        wait_for_number(page, "Actors", "1")
        wait_for_number(page, "Events", "3")
        page.get_by_placeholder("actor, address").fill(HOSTILE)
        page.keyboard.press("Tab")
        wait_for_number(page, "Events", "0")
        assert page.get_by_text("No events here").is_visible()
        page.get_by_placeholder("actor, address").fill("")
        page.keyboard.press("Tab")
        wait_for_number(page, "Events", "4")
        page.get_by_text("All accounts").click()
        page.get_by_role("option", name=OTHER_ACCOUNT).click()
        wait_for_number(page, "Events", "1")
        page.locator("marimo-refresh button").first.click()
        page.get_by_text("All accounts").wait_for(state="hidden")
        wait_for_number(page, "Events", "1")


@BOTH
@pytest.mark.usefixtures("filled")
def test_an_event_opens_with_old_and_new_values_side_by_side(dashboard: Dashboard, look: Look, store: str) -> None:
    """An opened event shows old and new values, and an attacker's text in it stays text."""
    with dashboard() as url:
        page = look(f"{url}/?store={store}&range=Last+24+hours&section=Events")
        page.get_by_role("heading", name="The newest 4").wait_for()

        page.locator("table.rows a").first.click()

        page.locator(".event").wait_for()
        assert page.locator(".sides > *").all_inner_texts()[1:] == [
            *("Old", "New"),
            *("ttl", "1", "300"),
            *("same", "yes", "yes"),
            *("tag", "none", HOSTILE),
        ]
        assert page.locator(".sides .differs").all_inner_texts() == ["1", "300", "none", HOSTILE]
        page.get_by_text("The whole event").click()
        assert '"ttl": 300' in page.locator(".event pre").inner_text()
        assert page.title() != "taken"
        page.locator("marimo-refresh button").first.click()
        page.get_by_role("link", name="close").click()
        page.locator(".event").wait_for(state="detached")


def test_an_event_cannot_make_the_browser_ask_elsewhere(api: Api, poll: Poll, dashboard: Dashboard, look: Look) -> None:
    """An address in an event is text, in lists and in the event: neither an image nor a link."""
    bait: dict[str, Any] = {"email": f"{ELSEWHERE}.jpg", "id": ELSEWHERE, "ip": f"{ELSEWHERE}.gif", "type": ELSEWHERE}
    fields: dict[str, Any] = {"action": {"result": False, "type": ELSEWHERE}, "metadata": {"zone_name": ELSEWHERE}}
    on: dict[str, Any] = {"id": ELSEWHERE, "type": f"https://evil.example/t.svg#{HOSTILE}"}
    api.world.add(ACCOUNT, "v1", [event_at(ago(hours=3), actor=bait, resource=on, newValue=ELSEWHERE, **fields)])
    poll()
    with dashboard() as url:
        for section in ("Overview", "First+seen", "Failures", "Events"):
            page = look(f"{url}/?section={section}")
            page.get_by_text(ELSEWHERE).first.wait_for()
            if section == "Events":
                page.locator("table.rows a").first.click()
                page.locator(".event").wait_for()

            assert page.locator("[src*='evil'], [href^='http'][href*='evil'], [onerror]").count() == 0


@BOTH
@pytest.mark.usefixtures("filled")
def test_who_and_what_is_new_is_told(dashboard: Dashboard, look: Look, store: str) -> None:
    """Bob was never seen before today; alice was, in the weeks before."""
    with dashboard() as url:
        page = look(f"{url}/?store={store}&range=Last+24+hours&section=First+seen&account={ACCOUNT}")

        page.get_by_role("cell", name="bob@example.com").first.wait_for()
        assert page.get_by_role("cell", name="198.51.100.23").count() == 2
        assert page.get_by_role("cell", name="alice@example.com").count() == 0


@BOTH
@pytest.mark.usefixtures("filled")
def test_what_failed_is_told(dashboard: Dashboard, look: Look, store: str) -> None:
    """For whom, and how often."""
    with dashboard() as url:
        page = look(f"{url}/?store={store}&range=Last+7+days&section=Failures")

        row = page.locator("table.rows tbody tr").first
        row.wait_for()
        assert row.locator("td").all_inner_texts()[:5] == [
            "bob@example.com",
            "token_roll",
            "dns.record",
            "198.51.100.23",
            "3",
        ]
        assert page.locator("table.rows tbody tr").count() == 1


@BOTH
@pytest.mark.usefixtures("filled")
def test_a_click_on_a_value_narrows_what_is_shown(dashboard: Dashboard, look: Look, store: str) -> None:
    """The other filters stay; and what an address asks for in vain is said."""
    with dashboard() as url:
        page = look(f"{url}/?store={store}&range=Last+90+days&failures=1&search=token_roll&account=nobody")
        wait_for_number(page, "Events", "3")
        assert page.get_by_text("there is no account nobody here").is_visible()

        page.get_by_role("link", name="bob@example.com").click()
        page.get_by_text("there is no account").wait_for(state="detached")

        wait_for_number(page, "Events", "3")
        assert page.get_by_role("switch").is_checked()
        assert page.get_by_placeholder("actor, address").input_value() == "token_roll bob@example.com"


def test_completeness_and_health_are_told(
    api: Api, poll: Poll, command: Callable[..., Finished], stores: Stores, dashboard: Dashboard, look: Look
) -> None:
    """Hours that were compared, the gap among them; cursors, last loads, quarantine of both destinations."""
    api.world.add(ACCOUNT, "v1", spread(6, ago(days=2), ago(days=2) + timedelta(hours=3)))
    api.world.add(ACCOUNT, "v1", [raw_event(encoded(v1_tree(when="soon")), time=ago(hours=3))])
    poll()
    min(stores.lake.rglob("events.parquet")).unlink()
    window = (f"--since={ago(days=3):%Y-%m-%d}", f"--before={ago(hours=1):%Y-%m-%dT%H:00Z}")
    assert command("pipelines/reconcile.py", *window, "--without-api").code == 3

    with dashboard() as url:
        page = look(f"{url}/?section=Completeness")
        gaps = page.locator("table.rows tbody tr")
        gaps.first.wait_for()
        shown = gaps.first.locator("td").all_inner_texts()
        assert "from=" in (gaps.first.get_by_role("link").get_attribute("href") or "")
        page.get_by_role("tab", name="Health").click()
        page.get_by_text("Quarantine").first.wait_for()

        assert (shown[0], shown[7]) == (ACCOUNT, shown[4])
        assert page.get_by_role("cell", name=f"v1 {ACCOUNT}").count() == 2
        assert page.get_by_role("cell", name="no readable time").count() == 2


def test_empty_stores_say_so(environment: dict[str, str], dashboard: Dashboard, look: Look) -> None:
    """In one sentence, with what to do."""
    with dashboard() as url:
        for store, sentence in (
            ("Warehouse", "the warehouse has no events yet"),
            ("Lake", "the lake has no events yet"),
        ):
            page = look(f"{url}/?store={store}")
            told = page.get_by_role("alert").inner_text()

            assert told.startswith(sentence)
            assert "start the pipeline: make run" in told
    assert environment["PG_PASSWORD"] not in told


@pytest.mark.parametrize("section", rows("Overview", long=["Completeness", "Health"]))
def test_stores_that_cannot_be_reached_say_so(
    environment: dict[str, str], dashboard: Dashboard, look: Look, bucket: Bucket, section: str
) -> None:
    """With what to check; the other store is a click away."""
    environment |= bucket.settings("nowhere") | {"S3_ENDPOINT": "http://127.0.0.1:9", "PG_PORT": "9"}
    with dashboard() as url:
        for store, name in (("Warehouse", "PG_HOST"), ("Lake", "S3_ENDPOINT")):
            page = look(f"{url}/?store={store}&section={section}")
            sentence = f"the {store.lower()} is not available"
            page.get_by_role("alert").filter(has_text=sentence).wait_for()
            page.wait_for_timeout(1_000)

            told = page.get_by_role("alert").all_inner_texts()

            assert len(told) == len(set(told))
            assert name in " ".join(told)
            assert environment["PG_PASSWORD"] not in page.content()


@pytest.mark.parametrize("scheme", rows("dark", long=["light"]))
@pytest.mark.usefixtures("filled")
def test_it_follows_the_browser_in_width_and_colours(dashboard: Dashboard, look: Look, scheme: str) -> None:
    """A phone at night: nothing sticks out, and text stands out from its ground."""
    with dashboard() as url:
        page = look(f"{url}/?range=Last+90+days", width=400, scheme=scheme)
        wait_for_number(page, "Events", "44")

        assert page.evaluate("document.querySelector('#App').scrollWidth") <= 400
        last = page.get_by_role("tab", name="Health").bounding_box()
        assert last["x"] + last["width"] <= 400
        assert page.evaluate("document.body.classList.contains('dark')") == (scheme == "dark")
