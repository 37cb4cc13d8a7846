"""Answers only whom the pages are for: requests by a name that is allowed, from our own pages or by a link.

There is no password, and foreign pages can use the user's browser. By a name that a foreign page points here (DNS
rebinding) it could read answers: that shows in `Host`. What it loads from here, or a WebSocket that it opens, shows in
`Sec-Fetch-Site` and `Origin`.
"""

from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any
from urllib.parse import urlsplit

Scope = MutableMapping[str, Any]
Send = Callable[..., Awaitable[Any]]
App = Callable[[Scope, Callable[..., Awaitable[Any]], Send], Awaitable[None]]

OWN_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})
_OWN_SITES = {b"none", b"same-origin"}
_NAVIGATION = (b"navigate", b"document")
STRICT = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)
"""The page has neither scripts nor styles in itself, and asks no other host for anything, whatever an event says."""
OF_MARIMO = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; frame-ancestors 'none'; form-action 'self'; base-uri 'self'"
)
"""Scripts and styles in the page, and code that is made of text: dlt's dashboard needs them."""


def only_own_pages(
    app: App, *, names: Collection[str] = OWN_NAMES, policy: str = OF_MARIMO, takes_links: bool = False
) -> App:
    """The ASGI app, guarded. Links of other sites lead to its bare `/` alone, unless it takes them."""
    added = [
        (b"content-security-policy", policy.encode()),
        (b"x-frame-options", b"DENY"),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"same-origin"),
        (b"cross-origin-opener-policy", b"same-origin"),
        (b"cross-origin-resource-policy", b"same-origin"),
    ]

    async def guarded(scope: Scope, receive: Callable[..., Awaitable[Any]], send: Send) -> None:
        async def sent(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *added]
            await send(message)

        is_bare = scope.get("path") == "/" and not scope.get("query_string")
        headers = dict(scope.get("headers", ()))
        if scope["type"] in {"http", "websocket"} and not is_own(headers, names, links=takes_links or is_bare):
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
                return
            await sent({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
            hint = b"open the dashboard by its own address; a proxy's name has to be in DASHBOARD_ALLOWED_HOSTS"
            await send({"type": "http.response.body", "body": hint})
            return
        await app(scope, receive, sent)

    return guarded


def is_own(headers: dict[bytes, bytes], names: Collection[str] = OWN_NAMES, *, links: bool = False) -> bool:
    """True if a request came by one of our names, from our own page or none, or, where `links` are taken, by a link."""
    host = headers.get(b"host", b"").decode("latin-1")
    origin = headers.get(b"origin")
    is_link = (headers.get(b"sec-fetch-mode"), headers.get(b"sec-fetch-dest")) == _NAVIGATION
    if headers.get(b"sec-fetch-site", b"none") not in _OWN_SITES and not (links and is_link):
        return False
    try:
        is_ours = urlsplit(f"//{host}").hostname in names
        return is_ours and (origin is None or urlsplit(origin.decode("latin-1")).netloc == host)
    except ValueError:
        return False
