"""A Chromium without a window, and commands that serve a page."""

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import requests
from dotenv import dotenv_values

from benchmarks.servers.commands import finished, process_of, wait_until
from pipelines.settings.reader import OWN_PREFIXES
from pipelines.settings.settings import PROJECT_ROOT, PostgresSettings
from simulator.api import Api
from simulator.server import serving as running
from simulator.world import World
from tests.factory import ACCOUNT, OTHER_ACCOUNT, ago
from tests.stores import drop_schemas

from .site import story
from .site.reading import Page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@dataclass(frozen=True)
class Site:
    """A dashboard that is served."""

    url: str
    environment: Mapping[str, str]
    log: Path

    def get(self, path: str, **headers: str) -> requests.Response:
        """The answer to a request."""
        return requests.get(f"{self.url}{path}", headers=headers, timeout=60)

    def page(self, path: str) -> Page:
        """A page as a reader finds it."""
        answer = self.get(path)
        return Page(answer.status_code, answer.text)

    def look(self, path: str, **query: str) -> Page:
        """A page of the last 90 days."""
        return self.page(f"/{path}?{urlencode({'range': '90d', **query})}")


_ADDRESS = re.compile(r"http://[\w.]+:\d+")
Look = Callable[..., Any]
SECTIONS = ["", "events", "failures", "first-seen", "sign-ins", "tokens", "values", "completeness", "health"]


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """The browser; what needs it is skipped where it is not installed."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make setup-dev")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with api.sync_playwright() as playwright:
        # As root, in a container say, Chromium has no sandbox to offer; it sees pages of ours alone.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def look(chromium: Any) -> Iterator[Look]:
    """Opens a page; at the end of the test, no page may have had an error, or asked another host for anything."""
    troubles: list[str] = []

    def look(url: str, *, width: int = 1400, height: int = 1400, scheme: str = "light", forbidden: Any = ()) -> Any:
        context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        _open_contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(120_000)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("console", lambda said: troubles.append(said.text) if is_trouble(said, forbidden) else None)
        page.on("requestfinished", lambda asked: troubles.append(asked.url) if is_foreign(asked.url) else None)
        page.on("requestfailed", lambda asked: troubles.append(asked.url) if was_sent_elsewhere(asked) else None)
        page.goto(url)
        return page

    yield look
    _close_pages()
    assert troubles == []


_open_contexts: list[Any] = []


def _close_pages() -> None:
    """Before their server ends: what they were fetching then would be an error of theirs."""
    while _open_contexts:
        _open_contexts.pop().close()


def is_trouble(said: Any, forbidden: Any) -> bool:
    """Errors, and what the page's own process wrote to stderr; not that its server has ended, as it does last.

    Nor that the policy kept it from loading what is `forbidden`.
    """
    if "Content Security Policy" in said.text and any(url in said.text for url in forbidden):
        return False
    return "net::ERR_CONNECTION_REFUSED" not in said.text and (
        said.type == "error" or "STDERR" in said.text or said.text.startswith("WARN")
    )


def is_foreign(url: str) -> bool:
    """True if the URL is another host's."""
    return not re.match(r"(https?|ws)://(127\.0\.0\.1|localhost):|data:|blob:", url)


def was_sent_elsewhere(asked: Any) -> bool:
    """Not what the page's policy held back."""
    return is_foreign(asked.url) and asked.failure != "csp"


@contextmanager
def serving(environment: Mapping[str, str], folder: Path, *arguments: str) -> Iterator[str]:
    """A command that serves a page, as long as the block; its address. What it says goes into a file of the folder."""
    said = folder / "served.log"
    with said.open("w") as output, process_of(environment, *arguments, output=output, BROWSER="true") as process:
        wait_until(lambda: process.poll() is not None or _ADDRESS.search(said.read_text()) is not None, 120)
        found = _ADDRESS.search(said.read_text())
        assert found, said.read_text()
        try:
            yield found[0]
        finally:  # politely, so that it ends what it started
            _close_pages()
            process.terminate()
            process.wait(120)


@pytest.fixture
def dashboard(environment: Mapping[str, str], tmp_path: Path) -> Callable[..., Any]:
    """Serves the dashboard on the settings of a test, and what it adds to them."""
    return lambda **changes: serving({**environment, **changes}, tmp_path, "-m", "dashboard", "--port", "0")


@pytest.fixture(scope="session")
def site(postgres: PostgresSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The dashboard over the stores of `story`, for tests that only look."""
    folder = tmp_path_factory.mktemp("site")
    api = Api(World([ACCOUNT, OTHER_ACCOUNT]), token="simulated-token", clock=lambda: datetime.now(UTC))
    story.tell(api)
    schema = f"test_site_{os.getpid()}"
    blank = {name: "" for name in (*dotenv_values(PROJECT_ROOT / ".env"), *os.environ) if name.startswith(OWN_PREFIXES)}
    with running(api) as server:
        environment = blank | {
            "CLOUDFLARE_API_URL": server.url,
            "CLOUDFLARE_API_TOKEN": "simulated-token",
            "CLOUDFLARE_ACCOUNT_ID": f"{ACCOUNT},{OTHER_ACCOUNT}",
            "ACCOUNTS_FILE": os.devnull,
            "INITIAL_CHECKPOINT": ago(days=60).isoformat(),
            "DATA_DIR": str(folder / "data"),
            "PG_HOST": postgres.host,
            "PG_PORT": str(postgres.port),
            "PG_PASSWORD": postgres.password,
            "PG_SCHEMA": schema,
            "DASHBOARD_USER_HEADER": "X-User",
        }
        loaded = finished({**os.environ, **environment}, "pipelines/run.py", "--once")
        assert loaded.code == 0, loaded.err
        with serving(environment, folder, "-m", "dashboard", "--port", "0") as url:
            found = Site(url, environment, folder / "served.log")
            wait_until(lambda: "ACME" in found.get("/").text)  # the accounts' names are learned beside the pages
            yield found
    drop_schemas(postgres, schema)
