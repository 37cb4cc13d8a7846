"""Servers that show to everyone what they were sent: an API, a PostgreSQL and an S3 store, each of its own protocol."""

import socket
import struct
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import quote

_ENCRYPTION_REQUESTS = (80877103, 80877104)
_LOREM = "x" * 185


class Echo(NamedTuple):
    """An answer of the API, of a token."""

    status: int
    body: Callable[[str], str]
    headers: Callable[[str], Mapping[str, str]] = lambda _: {}
    reason: Callable[[str], str | None] = lambda _: None


PLACES = {
    "a page": Echo(502, lambda token: f"<html>GET / HTTP/1.1 Authorization: Bearer {token}</html>"),
    "a page that is cut": Echo(500, lambda token: f"{_LOREM}{token} and more"),
    "a page of success": Echo(200, lambda token: f"<html>{token}</html>"),
    "an error": Echo(200, lambda token: f'{{"success": false, "errors": [{{"message": "{token}"}}]}}'),
    "a refusal": Echo(400, lambda token: f'{{"errors": [{{"message": "Invalid header: {token}"}}]}}'),
    "an unauthorized": Echo(401, lambda token: f'{{"token": "{token}"}}'),
    "a forbidden": Echo(403, lambda token: f"<p>{token}</p>"),
    "a not found": Echo(404, lambda token: f"/accounts?{quote(token)}"),
    "a redirect": Echo(301, lambda token: token, lambda token: {"Location": f"https://example.com/{token}"}),
    "a rate limit": Echo(429, lambda token: token, lambda token: {"Retry-After": token}),
    "a date": Echo(503, lambda token: token, lambda token: {"Date": token}),
    "a reason": Echo(503, lambda token: token, reason=lambda token: f"No {token}"),
    "a length": Echo(200, lambda token: token, lambda token: {"Content-Length": token}),
    "an encoding": Echo(200, lambda token: token, lambda token: {"Content-Encoding": "gzip", "X-Token": token}),
    "Base64": Echo(502, lambda token: b64encode(f"Bearer {token}".encode()).decode()),
}
"""By where the token is: the account's number chooses."""


class _Api(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        token = self.headers["Authorization"].removeprefix("Bearer ")
        account_id = self.path.partition("/accounts/")[2].partition("/")[0]
        is_account = account_id.isdecimal() and "verify" not in self.path
        echo = list(PLACES.values())[int(account_id)] if is_account else PLACES["a page"]
        self.send_response_only(echo.status, echo.reason(token))
        for name, value in echo.headers(token).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(echo.body(token).encode())

    def log_message(self, *_: object) -> None:
        """Keeps quiet."""


def account_ids() -> list[str]:
    """An account for each place."""
    return [f"{number:032}" for number in range(len(PLACES))]


@contextmanager
def echoing_api() -> Iterator[str]:
    """The URL of an API that shows the token wherever it can."""
    with _serving(_Api) as port:
        yield f"http://127.0.0.1:{port}/client/v4"


@contextmanager
def echoing_s3(*secrets: str) -> Iterator[str]:
    """The endpoint of a store that refuses all, and knows more than it should say."""

    class _S3(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_any(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            shown = " ".join([*secrets, self.headers.get("Authorization", "")])
            texts = f"<Message>{shown}</Message><StringToSign>{shown}</StringToSign>"
            body = f"<Error><Code>AccessDenied</Code>{texts}</Error>"
            self.send_response(403)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(0 if self.command == "HEAD" else len(body)))
            self.end_headers()
            self.wfile.write(b"" if self.command == "HEAD" else body.encode())

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_any

        def log_message(self, *_: object) -> None:
            """Keeps quiet."""

    with _serving(_S3) as port:
        yield f"http://127.0.0.1:{port}"


@contextmanager
def _serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield server.server_port
        server.shutdown()


@contextmanager
def echoing_postgres() -> Iterator[int]:
    """The port of a server that asks for the password as it is, and refuses it with all that it got."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server, ExitStack():

        def accept() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=_refuse, args=[client], daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield int(server.getsockname()[1])
        server.shutdown(socket.SHUT_RDWR)


def _refuse(client: socket.socket) -> None:
    with client, client.makefile("rwb", buffering=0) as stream:
        try:
            while struct.unpack("!i", _message(stream)[:4])[0] in _ENCRYPTION_REQUESTS:
                stream.write(b"N")
            stream.write(b"R" + struct.pack("!ii", 8, 3))
            stream.read(1)
            password = _message(stream).rstrip(b"\0")
            said = b'password authentication failed: "' + password + b'" at postgresql://someone:' + password + b"@host"
            fields = b"SFATAL\0VFATAL\0C28P01\0M" + said + b"\0\0"
            stream.write(b"E" + struct.pack("!i", 4 + len(fields)) + fields)
        except (OSError, struct.error):  # it hung up
            return


def _message(stream: socket.SocketIO) -> bytes:
    (length,) = struct.unpack("!i", stream.read(4) or b"")
    return stream.read(length - 4) or b""
