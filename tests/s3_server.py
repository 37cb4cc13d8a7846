"""An S3 server in memory that speaks the dialects of S3 on command. It checks no signature; `weed mini` does that."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

from .s3_dialects import Dialect, Refusal, Rule


class Stored(NamedTuple):
    """An object."""

    body: bytes
    etag: str


class Request(NamedTuple):
    """A request that came."""

    method: str
    key: str
    headers: dict[str, str]
    """Names in small letters."""
    body: bytes


@dataclass
class Place:
    """The objects, and how the server speaks of them at the moment."""

    dialect: Dialect
    may_delete: bool = True
    hangs: bool = False
    """Accepts, and never answers."""
    unwilling: str = ""
    """A key that is not replaced, whatever the condition."""
    objects: dict[str, Stored] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def bodies(self, prefix: str) -> dict[str, bytes]:
        """The objects below a prefix."""
        with self.lock:
            return {key: held.body for key, held in self.objects.items() if key.startswith(prefix)}

    def speaks(self, **changes: object) -> None:
        """Changes the dialect under the clients."""
        self.dialect = replace(self.dialect, **changes)  # type: ignore[arg-type]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, place: Place) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.place = place

    def handle_error(self, *_: object) -> None:
        """Clients that are killed hang up."""


@contextmanager
def serving(dialect: Dialect) -> Iterator[tuple[str, Place]]:
    """The server's address and its objects, as long as the block runs; it has the bucket `lake`."""
    place = Place(dialect)
    with _Server(place) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", place
        finally:
            place.hangs = False
            server.shutdown()
            thread.join()


def assert_plain(headers: dict[str, str]) -> None:
    """Nothing of newer clients' ways to send a body."""
    assert "aws-chunked" not in headers.get("content-encoding", "")
    assert not [name for name in headers if "checksum" in name or name in {"x-amz-trailer", "transfer-encoding"}]
    assert "STREAMING" not in headers.get("x-amz-content-sha256", "")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    @property
    def _place(self) -> Place:
        return self.server.place

    def do_any(self) -> None:
        while self._place.hangs:
            time.sleep(0.05)
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        parts = urlsplit(self.path)
        bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        headers = {name.lower(): value for name, value in self.headers.items()}
        if len(body) < length:
            self.close_connection = True  # the client died
            return
        self._place.requests.append(Request(self.command, key, headers, body))
        if bucket != "lake":
            self._refuse(404, "NoSuchBucket")
        elif key:
            getattr(self, f"_{self.command.lower()}", self._unknown)(key, body)
        elif self.command == "POST" and "delete" in query:
            self._delete_many(body.decode())
        elif self.command == "GET":
            self._list(query)
        else:
            self._answer(200, {})

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_any  # http.server's names

    def _unknown(self, *_: object) -> None:
        self._refuse(501, "NotImplemented")

    def _put(self, key: str, body: bytes) -> None:
        dialect = self._place.dialect
        with self._place.lock:
            refusal = self._refusal_of_put(key)
            if refusal is None:
                stored = self._place.objects[key] = Stored(body, dialect.etag(body))
        if refusal:
            self._refuse(*refusal)
        else:
            self._answer(200, self._etag(stored))

    def _refusal_of_put(self, key: str) -> Refusal | None:
        held = self._place.objects.get(key)
        dialect, if_match = self._place.dialect, self.headers.get("If-Match")
        if key == self._place.unwilling:
            return dialect.conflict
        if "If-None-Match" in self.headers:
            return _refusal(dialect.creates, None if held is None else dialect.conflict)
        if if_match is None:
            return None
        is_it = held is not None and if_match == dialect.wanted.format(held.etag)
        return _refusal(dialect.replaces, None if is_it else dialect.conflict if held else dialect.absent)

    def _get(self, key: str, _body: bytes) -> None:
        dialect, held, if_match = self._place.dialect, self._place.objects.get(key), self.headers.get("If-Match")
        if held is None:
            self._refuse(404, "NoSuchKey")
            return
        forms = {"strict": (dialect.wanted,), "enforced": (dialect.wanted, dialect.shown)}[dialect.get_condition]
        if if_match is not None and if_match not in {form.format(held.etag) for form in forms}:
            self._refuse(412, "PreconditionFailed")
            return
        first, _, last = self.headers.get("Range", "").removeprefix("bytes=").partition("-")
        if not first and not last:
            self._answer(200, self._etag(held), held.body)
            return
        size = len(held.body)
        begin = int(first) if first else max(0, size - int(last))
        part = held.body[begin : int(last) + 1 if first and last else size]
        if not part:
            self._refuse(416, "InvalidRange")
            return
        span = {"Content-Range": f"bytes {begin}-{begin + len(part) - 1}/{size}"}
        self._answer(206, {**self._etag(held), **span}, part)

    _head = _get

    def _delete(self, key: str, _: bytes) -> None:
        if not self._place.may_delete:
            self._refuse(403, "AccessDenied")
            return
        with self._place.lock:
            self._place.objects.pop(key, None)
        self._answer(204, {})

    def _delete_many(self, document: str) -> None:
        keys = [piece.partition("</Key>")[0] for piece in document.split("<Key>")[1:]]
        with self._place.lock:
            for key in keys if self._place.may_delete else []:
                self._place.objects.pop(key, None)
        self._answer(200, {}, b"<DeleteResult></DeleteResult>")

    def _list(self, query: dict[str, str]) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        limit = min(int(query.get("max-keys", 1000)), self._place.dialect.page)
        with self._place.lock:
            held = {key: item for key, item in self._place.objects.items() if key.startswith(prefix)}
        # A name, or the folder that it is in; each once, in order.
        names = sorted({_shown(key, prefix, delimiter) for key in held})
        names = [name for name in names if name > query.get("continuation-token", query.get("start-after", ""))]
        page, is_cut = names[:limit], len(names) > limit
        is_encoded = "encoding-type" in query
        items = "".join(_item(name, held, quote(name) if is_encoded else escape(name)) for name in page)
        token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if is_cut else ""
        cut = f"<IsTruncated>{str(is_cut).lower()}</IsTruncated>{token}<KeyCount>{len(page)}</KeyCount>"
        encoding = "<EncodingType>url</EncodingType>" if is_encoded else ""
        body = f"<ListBucketResult><Name>lake</Name>{encoding}{cut}{items}</ListBucketResult>"
        self._answer(200, {"Content-Type": "application/xml"}, body.encode())

    def _etag(self, held: Stored) -> dict[str, str]:
        shown = self._place.dialect.shown
        return {"ETag": shown.format(held.etag), "Last-Modified": "Fri, 27 Nov 2026 12:00:00 GMT"} if shown else {}

    def _refuse(self, status: int, code: str) -> None:
        kind = self._place.dialect.body
        bodies = {
            "xml": f"<Error><Code>{code}</Code><Message>{code} it is</Message></Error>",
            "html": f"<html><body><h1>{status}</h1><hr></body></html>",
            "none": "",
        }
        self._answer(
            status, {"Content-Type": "text/html" if kind == "html" else "application/xml"}, bodies[kind].encode()
        )

    def _answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        has_body = self.command != "HEAD" and status not in {204, 304}
        if status not in {204, 304}:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if has_body else b"")

    def log_message(self, *_: object) -> None:
        """Keeps quiet."""


def _refusal(rule: Rule, enforced: Refusal | None) -> Refusal | None:
    if rule == "ignored":
        return None
    return enforced if rule == "enforced" else rule


def _shown(key: str, prefix: str, delimiter: str) -> str:
    name, found, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key[len(prefix) :], "", "")
    return prefix + name + found


def _item(name: str, held: dict[str, Stored], shown: str) -> str:
    if name not in held:
        return f"<CommonPrefixes><Prefix>{shown}</Prefix></CommonPrefixes>"
    times = "<LastModified>2026-11-27T12:00:00.000Z</LastModified><StorageClass>STANDARD</StorageClass>"
    etag = f"<ETag>&quot;{held[name].etag}&quot;</ETag><Size>{len(held[name].body)}</Size>"
    return f"<Contents><Key>{shown}</Key>{etag}{times}</Contents>"
