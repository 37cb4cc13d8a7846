"""`python -m benchmarks.servers.prepared_api --events N …`: a Cloudflare with prepared pages, to cost little.

Serves v1 pages of 1,000 events, oldest first, for all events or those after a time: bytes from memory, over connections
that are kept. Prints its URL when it is ready. `POST /add` adds events of now.
"""

import argparse
import bisect
import json
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from simulator.world import Plan, SimulatedEvent, build_world

PAGE = 1_000
DISTINCT = 20_000
"""Events that the simulator makes. Further events are copies with other ids and times."""

_HEAD, _TAIL = b'{"errors":[],"messages":[],"result":[', b'],"success":true}'


class Events:
    """The events of one account, in the order of their times."""

    def __init__(self) -> None:
        self.times: list[str] = []
        self.raw: list[bytes] = []
        self._pages: dict[int, bytes] = {}

    def prepare(self, account_id: str, count: int, since: datetime, before: datetime) -> None:
        """Makes the events, and all their pages."""
        plan = Plan((account_id,), ("v1",), min(count, DISTINCT), since, before)
        made = build_world(plan).events(account_id, "v1")
        step = (before - since) / count
        for number in range(count):
            self._add(made[number % len(made)], number, since + number * step)
        for first in range(0, count, PAGE):
            self._pages[first] = self._page(first)

    def add(self, template: SimulatedEvent, number: int, at: datetime) -> None:
        """Adds one event, the newest."""
        self._add(template, number, at)
        self._pages.clear()

    def page(self, since: str, before: str, number: int, size: int) -> bytes:
        """Returns a page of `[since, before)`, times as RFC 3339 with microseconds."""
        first = bisect.bisect_left(self.times, since) + (number - 1) * size
        last = bisect.bisect_left(self.times, before)
        if size == PAGE and first + PAGE <= last and first in self._pages:
            return self._pages[first]
        return _HEAD + b",".join(self.raw[first : min(first + size, last)]) + _TAIL

    def _page(self, first: int) -> bytes:
        return _HEAD + b",".join(self.raw[first : first + PAGE]) + _TAIL

    def _add(self, template: SimulatedEvent, number: int, at: datetime) -> None:
        tree = json.loads(template.raw)
        when = f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}Z"
        raw = template.raw.replace(tree["when"].encode(), when.encode())
        suffix = f"{number:012x}"
        self.raw.append(raw.replace(tree["id"].encode(), f"{tree['id'][:-12]}{suffix}".encode()))
        self.times.append(when)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: "_Server"

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        account_id = parts.path.split("/")[4]
        params = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        events = self.server.accounts[account_id]
        number, size = int(params.get("page", "1")), int(params.get("per_page", "100"))
        self._send(events.page(params["since"], params["before"], number, size))

    def do_POST(self) -> None:
        order = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        now = datetime.now(UTC)
        for account_id in order["account_id"].split(","):
            events = self.server.accounts[account_id]
            for _ in range(order["events"]):
                self.server.added += 1
                number = len(events.raw)
                events.add(self.server.template, number, now + timedelta(microseconds=self.server.added))
        self._send(json.dumps({"at": now.isoformat()}).encode())

    def _send(self, body: bytes) -> None:
        self.send_response_only(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Date", formatdate(usegmt=True))
        self.send_header("Ratelimit-Policy", '"default";q=1000000;w=300')  # the loop is measured, not the quota
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, accounts: dict[str, Events], template: SimulatedEvent) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.accounts, self.template, self.added = accounts, template, 0


def main(arguments: Sequence[str] | None = None) -> None:
    """Serves until it is killed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.servers.prepared_api", description=__doc__)
    parser.add_argument("--events", type=int, required=True, help="of the first account")
    parser.add_argument("--hours", type=float, required=True, help="over which they are spread, until 20 minutes ago")
    parser.add_argument("--account", action="append", required=True)
    options = parser.parse_args(arguments)
    before = datetime.now(UTC) - timedelta(minutes=20)
    accounts = {account_id: Events() for account_id in options.account}
    if options.events:
        since = before - timedelta(hours=options.hours)
        accounts[options.account[0]].prepare(options.account[0], options.events, since, before)
    (template,) = build_world(Plan(("template",), ("v1",), 1, before, before)).events("template", "v1")
    with _Server(accounts, template) as server:
        print(f"http://127.0.0.1:{server.server_address[1]}/client/v4", flush=True)
        sys.stderr.write(f"ready at {time.time():.0f}\n")
        server.serve_forever()


if __name__ == "__main__":
    main()
