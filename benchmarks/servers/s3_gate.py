"""A gate before a real S3 server: passes requests on, notes them, or answers as a store in trouble would."""

import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit


class S3Request(NamedTuple):
    """A request to the store: an action as its policies name it, and the key (of a listing, the prefix)."""

    action: str
    bucket: str
    key: str


Refusal = tuple[int, str]
"""An HTTP status and an S3 error code."""

SLOW_DOWN: Refusal = (503, "SlowDown")
ACCESS_DENIED: Refusal = (403, "AccessDenied")
STORAGE_FULL: Refusal = (507, "XMinioStorageFull")


class Gate(ThreadingHTTPServer):
    """Forwards to one server; `refuse` is asked of each request."""

    daemon_threads = True

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = urlsplit(target).netloc
        self.refuse: Callable[[S3Request], Refusal | None] = lambda _: None
        self.requests: list[S3Request] = []
        self.drops_next_body = False

    @property
    def url(self) -> str:
        """The endpoint to be set."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: object) -> None:
        """Clients that are killed hang up."""


@contextmanager
def gate_before(target: str) -> Iterator[Gate]:
    """A gate, as long as the block runs."""
    with Gate(target) as gate:
        thread = threading.Thread(target=gate.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield gate
        finally:
            gate.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Gate

    def do_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        requests = _meaning(self.command, self.path, body)
        self.server.requests += requests
        if self.server.drops_next_body and self.command == "PUT":
            self.server.drops_next_body = False
            self._send_headers_alone()
            self._answer(500, [], b"")
            return
        refusal = next((found for request in requests if (found := self.server.refuse(request))), None)
        if refusal:
            status, code = refusal
            answer = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
            self._answer(status, [("Content-Type", "application/xml")], answer)
            return
        headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
        upstream = http.client.HTTPConnection(self.server.target, timeout=60)
        upstream.request(self.command, self.path, body, headers)
        if len(body) < int(self.headers.get("Content-Length", 0)):
            upstream.close()  # the client died; so do we
            return
        response = upstream.getresponse()
        self._answer(response.status, response.getheaders(), response.read())
        upstream.close()

    def _send_headers_alone(self) -> None:
        """Shows the store what it sees of a client that is killed between headers and body."""
        host, port = self.server.target.split(":")
        del self.headers["Expect"]  # answered already, by us: as proxies do
        with socket.create_connection((host, int(port))) as store:
            store.sendall(f"PUT {self.path} HTTP/1.1\r\n{self.headers}".encode())
            time.sleep(0.2)
        time.sleep(0.2)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_any  # http.server's names

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response_only(status)
        is_head = self.command == "HEAD"
        for name, value in headers:
            if name.lower() not in {"transfer-encoding", "connection"} | (set() if is_head else {"content-length"}):
                self.send_header(name, value)
        if not is_head:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(b"" if is_head else body)

    def log_message(self, *_: object) -> None:
        """Keeps quiet."""


def _meaning(method: str, target: str, body: bytes) -> list[S3Request]:
    parts = urlsplit(target)
    bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
    query = parse_qs(parts.query, keep_blank_values=True)
    if method == "POST" and "delete" in query:
        keys = [piece.partition("</Key>")[0] for piece in body.decode().split("<Key>")[1:]]
        return [S3Request("s3:DeleteObject", bucket, key) for key in keys]
    if method == "GET" and not key:
        return [S3Request("s3:ListBucket", bucket, query.get("prefix", [""])[0])]
    actions = {"GET": "s3:GetObject", "HEAD": "s3:GetObject", "PUT": "s3:PutObject", "DELETE": "s3:DeleteObject"}
    return [S3Request(actions.get(method, method), bucket, key)]
