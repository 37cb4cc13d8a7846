"""The dashboard is served to pages of this host alone."""

import socket
from collections.abc import Callable
from typing import Any

import pytest
import requests

from dashboard.guard import is_own


@pytest.mark.integration
def test_only_pages_of_this_host_are_served(dashboard: Callable[..., Any]) -> None:
    """A page elsewhere may neither ask by a name of its own (DNS rebinding) nor open the WebSocket."""
    pytest.importorskip("marimo", reason="the dashboard's packages are not installed: make dashboard")
    with dashboard() as url:
        host = url.removeprefix("http://")
        asked: list[dict[str, str]] = [
            {},
            {"Host": "evil.example"},
            {"Origin": "http://evil.example"},
            {"Origin": url},
            {"Sec-Fetch-Site": "cross-site"},
        ]
        linked = [
            requests.get(f"{url}/?search=a", headers={"Sec-Fetch-Site": site}, timeout=60).status_code
            for site in ("cross-site", "same-site", "none", "same-origin")
        ]
        answers = [requests.get(url, headers=headers, timeout=60) for headers in asked]
        codes = [answer.status_code for answer in answers]
        own, foreign = (_upgraded(host, origin) for origin in (url, "http://evil.example"))

    assert codes == [200, 403, 403, 200, 200]
    assert linked == [403, 403, 200, 200]
    assert answers[0].headers["X-Frame-Options"] == "DENY"
    assert "default-src 'self' data: blob:;" in answers[0].headers["Content-Security-Policy"]
    assert "101" in own
    assert "403" in foreign


def _upgraded(host: str, origin: str) -> str:
    """The first line of the answer to a WebSocket's request."""
    name, port = host.split(":")
    lines = [
        "GET /ws?session_id=s_12345 HTTP/1.1",
        f"Host: {host}",
        f"Origin: {origin}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ]
    with socket.create_connection((name, int(port)), timeout=60) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        return connection.recv(200).decode(errors="replace").splitlines()[0]


@pytest.mark.parametrize(
    ("host", "origin", "is_ours"),
    [
        ("127.0.0.1:2719", None, True),
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
