"""`python -m tests.dashboard.site.screenshots URL`: makes docs/images anew from a dashboard that is served at the URL.

`make demo`, then `DATA_DIR=data/demo make dashboard`, and its address.
"""

import sys

from playwright.sync_api import sync_playwright

from pipelines.settings.settings import PROJECT_ROOT
from tests.dashboard.conftest import CHROMIUM

IMAGES = PROJECT_ROOT / "docs" / "images"


def main(url: str) -> None:
    """Takes the overview, and an event of v1, which has old and new values."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 1080})
        page.goto(f"{url}/?range=7d")
        page.screenshot(path=IMAGES / "dashboard.png")
        page.goto(f"{url}/events?range=7d&version=v1&q=address:2001:db8:bad::5")
        page.locator("a[data-event]").last.click()
        page.locator(".event").wait_for()
        page.screenshot(path=IMAGES / "event.png", clip={"x": 0, "y": 0, "width": 1400, "height": 900})
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1].rstrip("/"))
