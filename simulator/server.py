"""The simulator as an HTTP server, on loopback by default. `/_simulator/…` takes commands, all else is the API."""

import gzip
import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from .api import PREFIX, Api, Fault, Reply
from .world import SimulatedEvent

_WORTH_COMPRESSING = 1024


class Server(ThreadingHTTPServer):
    """Serves one `Api`."""

    daemon_threads = True
    request_queue_size = 128
    """Clients that may connect at once; others would try again a second later."""

    def __init__(self, api: Api, port: int = 0, host: str = "127.0.0.1") -> None:
        super().__init__((host, port), _Handler)
        self.api = api

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores a client that hung up; any other error is a defect and is shown."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    @property
    def url(self) -> str:
        """The value for `CLOUDFLARE_API_URL`."""
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}{PREFIX}"


@contextmanager
def serving(api: Api, port: int = 0, host: str = "127.0.0.1") -> Iterator[Server]:
    """Serves from a thread until the block ends."""
    with Server(api, port, host) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # headers and body in one write
    server: Server

    def do_GET(self) -> None:  # http.server's name
        api = self.server.api
        if self.path == "/_simulator/requests":
            self._send(_json([asdict(request) for request in api.requests]))
            return
        reply = api.answer(self.path, self.headers.get("Authorization", ""))
        time.sleep(reply.delay_seconds)
        self._send(reply)

    def do_POST(self) -> None:  # http.server's name
        api = self.server.api
        command = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/_simulator/faults":
            api.faults.append(Fault(**command))
        elif self.path == "/_simulator/behaviour":
            api.behaviour = replace(api.behaviour, **command)
        elif self.path == "/_simulator/events":
            api.world.add(command["account_id"], command["version"], [_event(event) for event in command["events"]])
        else:
            self._send(Reply(404))
            return
        self._send(_json({"done": True}))

    def _send(self, reply: Reply) -> None:
        api, body = self.server.api, reply.body
        now = api.clock() + timedelta(seconds=api.behaviour.clock_offset_seconds)
        date = {"Date": format_datetime(now, usegmt=True)} if api.behaviour.sends_date else {}
        headers = {"Content-Type": "application/json", **date, **reply.headers}
        if "gzip" in self.headers.get("Accept-Encoding", "") and len(body) > _WORTH_COMPRESSING:
            body = gzip.compress(body, 1)
            headers["Content-Encoding"] = "gzip"
        self.send_response_only(reply.status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body if reply.cut is None else body[: reply.cut])
        self.close_connection = self.close_connection or reply.cut is not None
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # http.server's name
        """Writes no log: `/_simulator/requests` lists the requests."""


def _event(event: dict[str, str]) -> SimulatedEvent:
    time = datetime.fromisoformat(event["time"])
    return SimulatedEvent(time, event["raw"].encode(), datetime.fromisoformat(event.get("visible_at", event["time"])))


def _json(value: Any) -> Reply:
    return Reply(body=json.dumps(value, default=str).encode())
