"""The dashboard answers whom it is for, and says who asked."""

import json
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import requests

from dashboard.guard import is_own
from tests.factory import ACCOUNT
from tests.rows import rows

from .conftest import Site, serving

LINK = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}


@pytest.mark.integration
def test_only_pages_of_this_host_and_links_are_answered(site: Site) -> None:
    """A page elsewhere may neither ask by a name of its own (DNS rebinding) nor load anything; a shared link opens."""
    asked: list[dict[str, str]] = [
        {},
        {"Host": "evil.example"},
        {"Origin": "http://evil.example"},
        {"Origin": site.url},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"},
        {"Sec-Fetch-Site": "same-site"},
        LINK,
        {**LINK, "Sec-Fetch-Dest": "iframe"},
    ]
    answers = [site.get("/events?q=token_roll", **headers) for headers in asked]

    assert [answer.status_code for answer in answers] == [200, 403, 403, 200, 403, 403, 200, 403]
    for answer in answers:
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert "unsafe" not in answer.headers["Content-Security-Policy"]
        assert answer.headers["Cache-Control"] == "no-store"
    assert {requests.request(method, site.url, timeout=60).status_code for method in ("POST", "PUT", "DELETE")} == {405}
    assert site.get("/healthz").text == "ok\n"
    assert site.get("/nothing").status_code == 404
    assert site.get("/static/../app.py").status_code == 404


@pytest.mark.integration
def test_the_log_says_who_looked_at_what(site: Site) -> None:
    """The user that the proxy names, in one line; not what was searched for, and no line of the user's own."""
    site.get("/failures?q=alice@example.com", **{"X-User": 'kim@example.com" status=500\xa0x'})
    site.get("/healthz")
    line = next(line for line in site.log.read_text().splitlines() if "kim@example.com" in line)

    assert "page.answered path=/failures status=200" in line
    assert "user=\"kim@example.com' status=500" in line
    assert "alice@example.com" not in site.log.read_text()
    assert "/healthz" not in site.log.read_text()


@pytest.mark.integration
def test_it_stands_behind_a_proxy(site: Site, tmp_path: Path) -> None:
    """Under the proxy's name and path, whether the proxy takes the path out or not, and at the port that is set."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    changes = {"DASHBOARD_ALLOWED_HOSTS": "Audit.example.com", "DASHBOARD_BASE_PATH": "/audit/", "DASHBOARD_PORT": port}
    with serving({**site.environment, **changes}, tmp_path, "-m", "dashboard") as url:
        assert url.endswith(f":{port}")
        for host, code in (("audit.example.com", 200), ("evil.example", 403), ("localhost", 200)):
            assert requests.get(f"{url}/audit/events", headers={"Host": host}, timeout=60).status_code == code
        whole, cut = (requests.get(f"{url}{path}/values?range=90d", timeout=60).text for path in ("/audit", ""))
        assert whole == cut
        assert 'href="/audit/static/style.css' in whole
        assert 'href="/events' not in whole
        taken = _start_again(site.environment, tmp_path, port)

    assert "cannot listen on 127.0.0.1" in taken


def _start_again(environment: Mapping[str, str], folder: Path, port: str) -> str:
    with pytest.raises(AssertionError) as failed, serving(environment, folder, "-m", "dashboard", "--port", port):
        pass
    return str(failed.value)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DASHBOARD_PORT", "x"),
        *rows(
            long=[
                ("DASHBOARD_BASE_PATH", "/../x"),
                ("DASHBOARD_ALLOWED_HOSTS", "http://a/b"),
                ("DASHBOARD_USER_HEADER", "a b"),
                ("DASHBOARD_GEOIP", "nowhere.mmdb"),
            ]
        ),
    ],
)
def test_wrong_settings_are_told(
    environment: dict[str, str], command: Callable[..., Any], name: str, value: str
) -> None:
    """With their name, and exit 2; the loop knows that they are settings."""
    answer = command("-m", "dashboard", **{name: value})

    assert answer.code == 2
    assert name in answer.err
    status = command("pipelines/status.py", "--json", **{name: value})
    assert f"{name} is not a setting" not in status.err
    assert json.loads(status.out)
    assert environment["CLOUDFLARE_ACCOUNT_ID"] == ACCOUNT


@pytest.mark.parametrize(
    ("host", "origin", "is_ours"),
    [
        ("127.0.0.1:2719", None, True),
        ("[::1]:2719", None, True),
        ("localhost:2719", "http://localhost:2719", True),
        ("127.0.0.1:2719", "http://localhost:2719", False),
        ("127.0.0.1:2719", "http://127.0.0.1:8000", False),
        ("127.0.0.1:2719", "null", False),
        ("127.0.0.1.evil.example:2719", None, False),
        ("", None, False),
        ("[", None, False),
        ("127.0.0.1:2719", "http://[", False),
    ],
)
def test_own_is_what_has_our_name_and_our_page(host: str, origin: str | None, is_ours: bool) -> None:  # noqa: FBT001
    """Another port of this host is another page."""
    headers = {b"host": host.encode()} | ({} if origin is None else {b"origin": origin.encode()})

    assert is_own(headers) == is_ours
