"""Lets only this host's own pages talk to the dashboard: it has no password, and foreign pages can use the browser.

A foreign page in the user's browser can open a WebSocket to loopback, and by a name that it points there (DNS
rebinding) it can read answers, too. Both show: in `Origin` and in `Host`. Where it leads the browser here by a link,
`Sec-Fetch-Site` does.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

Scope = MutableMapping[str, Any]
Send = Callable[..., Awaitable[Any]]
App = Callable[[Scope, Callable[..., Awaitable[Any]], Send], Awaitable[None]]

_OWN_SITES = {b"none", b"same-origin"}
_OWN_NAMES = {"127.0.0.1", "localhost"}
_POLICY = (
    b"default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    b"style-src 'self' 'unsafe-inline'; frame-ancestors 'none'; form-action 'self'; base-uri 'self'"
)
"""Scripts and styles in the page, and code that is made of text: marimo and Vega need them."""
_NO_FRAME = (b"x-frame-options", b"DENY")


def only_own_pages(app: App) -> App:
    """The ASGI app, for requests whose host is loopback and whose page, if they come from one, is ours."""

    async def guarded(scope: Scope, receive: Callable[..., Awaitable[Any]], send: Send) -> None:
        is_bare = scope.get("path") == "/" and not scope.get("query_string")
        if scope["type"] in {"http", "websocket"} and not is_own(dict(scope["headers"]), is_bare=is_bare):
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
                return
            await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": b"open the dashboard by its own address"})
            return
        await app(scope, receive, _with_policy(send))

    return guarded


def _with_policy(send: Send) -> Send:
    """Whatever an event may bring the page to do, the browser asks no other host for anything."""

    async def sent(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], (b"content-security-policy", _POLICY), _NO_FRAME]
        await send(message)

    return sent


def is_own(headers: dict[bytes, bytes], *, is_bare: bool = False) -> bool:
    """True if a request came by our name, from our own page or none; links elsewhere may lead to the bare `/` alone."""
    host = headers.get(b"host", b"").decode("latin-1")
    origin = headers.get(b"origin")
    if not is_bare and headers.get(b"sec-fetch-site", b"none") not in _OWN_SITES:
        return False
    try:
        is_ours = urlsplit(f"//{host}").hostname in _OWN_NAMES
        return is_ours and (origin is None or urlsplit(origin.decode("latin-1")).netloc == host)
    except ValueError:
        return False
