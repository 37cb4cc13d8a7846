"""The pages in a browser: an event opens in its place, and the page fits its window."""

import re
from typing import Any

import pytest

from tests.rows import rows

from .conftest import Look, Site
from .site.story import EVE

pytestmark = [pytest.mark.browser, pytest.mark.integration]

_CONTRAST = """() => {
  const parts = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (text) => parts(text).slice(0, 3).map((c) => c / 255)
    .map((c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (one) => {
    for (; one; one = one.parentElement) {
      const color = getComputedStyle(one).backgroundColor;
      if ((parts(color)[3] ?? 1) > 0) return color;
    }
    return getComputedStyle(document.documentElement).backgroundColor;
  };
  const texts = "a, td, th, dt, dd, p, small, label, h1, h2, summary, button, em, b";
  const seen = [...document.querySelectorAll(texts)];
  return seen.filter((one) => one.innerText?.trim() && one.checkVisibility()).map((one) => {
    const [a, b] = [light(getComputedStyle(one).color), light(ground(one))].sort((x, y) => y - x);
    return [(a + 0.05) / (b + 0.05), one.tagName, one.innerText.slice(0, 30)];
  }).sort((x, y) => x[0] - y[0])[0];
}"""


def test_an_event_opens_without_loading_the_page(site: Site, look: Look) -> None:
    """One small answer; the place stays; Back closes it, F5 and its address show it again."""
    page = look(f"{site.url}/events?range=90d", height=600)
    page.evaluate("window.is_the_same = true")
    link = page.locator("a[data-event]").nth(30)
    link.scroll_into_view_if_needed()
    before = page.evaluate("scrollY")
    with page.expect_response(lambda answer: "event=" in answer.url) as answer:
        link.click()
    page.locator("tr.opened .event").wait_for()

    assert answer.value.status == 200
    assert len(answer.value.body()) < 10_000
    assert page.evaluate("window.is_the_same")
    assert abs(page.evaluate("scrollY") - before) < 600
    opened = page.url
    assert "event=" in opened
    page.locator("a[data-event]").nth(2).click()
    page.wait_for_url(lambda url: url != opened)
    page.go_back()
    page.wait_for_url(opened)
    page.locator("tr.opened").wait_for()
    assert page.locator("tr.opened").count() == 1
    page.go_back()
    page.locator("tr.opened").wait_for(state="detached")
    assert page.evaluate("window.is_the_same")
    page.goto(opened)
    page.reload()
    page.locator("tr.opened .event").wait_for()
    page.locator(".event .close").click()
    page.locator(".event").wait_for(state="detached")
    assert "event=" not in page.url


def test_it_is_used_by_the_keyboard(site: Site, look: Look) -> None:
    """A search by Enter, a value by Enter; the address follows, and Back goes back."""
    page = look(f"{site.url}/events?range=90d")
    page.get_by_label("Search").fill(f"actor:{EVE['email']}")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name=re.compile("^5 records")).wait_for()
    page.get_by_role("link", name="token_create").focus()
    page.keyboard.press("Enter")
    page.get_by_role("heading", name=re.compile("^1 records")).wait_for()
    page.locator("a[data-event]").focus()
    page.keyboard.press("Enter")
    page.locator(".event").wait_for()
    page.go_back()
    page.go_back()
    page.get_by_role("heading", name=re.compile("^5 records")).wait_for()
    page.get_by_text("all accounts").click()
    page.get_by_label("ACME & Sons").check()
    page.get_by_role("button", name="Look").click()
    page.wait_for_url("**account=**")
    page.get_by_role("heading", name=re.compile("^5 records")).wait_for()


@pytest.mark.parametrize(
    ("scheme", "width"), rows(("dark", 400), ("light", 1400), long=[("light", 400), ("dark", 1400)])
)
def test_pages_fit_and_can_be_read(site: Site, look: Look, scheme: str, width: int) -> None:
    """Nothing sticks out; text stands out from its ground; nothing is asked of another host, whatever an event says."""
    page = look(f"{site.url}/", width=width, scheme=scheme)
    for path in (
        "",
        "events?version=v1",
        "failures",
        "first-seen",
        "sign-ins",
        "tokens",
        "values",
        "completeness",
        "health",
    ):
        page.goto(f"{site.url}/{path}{'&' if '?' in path else '?'}range=90d")
        if path.startswith("events"):
            page.locator("a[data-event]").first.click()
            page.locator(".event").wait_for()
        ratio, *what = page.evaluate(_CONTRAST)

        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        assert ratio >= 4.5, (path, what)
        assert page.title() != "taken"


def test_a_page_is_small(site: Site, look: Look) -> None:
    """A few requests, all to its own host, and a few dozen kilobytes."""
    sizes: dict[str, int] = {}

    def note(answer: Any) -> None:
        sizes[answer.url] = int(answer.headers.get("content-length", 0)) or len(answer.body())

    page = look("about:blank")
    page.on("response", note)
    page.goto(f"{site.url}/?range=90d")
    page.wait_for_load_state("networkidle")

    assert 3 <= len(sizes) <= 5
    assert sum(sizes.values()) < 40_000
