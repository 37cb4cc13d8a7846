"""Serves `/livez`, `/readyz` and `/metrics` from a thread of its own. Asks no store: shows what the loop has noted."""

import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import Any, NamedTuple

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from pipelines.fetch.api import Clock
from pipelines.host.logs import log
from pipelines.host.masking import masked
from sources.cloudflare_audit_logs.errors import AuditLogsError

from .metrics import PROGRAM, registry_of
from .running import Running

SLOWEST_CLIENT_SECONDS = 10


class Answer(NamedTuple):
    """An HTTP answer."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


@contextmanager
def serving_health(running: Running, clock: Clock) -> Iterator[None]:
    """Serves until the block ends; raises AuditLogsError if nothing can listen at this address and port."""
    host, port = running.settings.metrics_host, running.settings.metrics_port or 0
    try:
        server = _Server(host, port, running, clock)
    except (OSError, UnicodeError) as error:
        raise AuditLogsError(
            f"cannot listen on {address_of(host, port)} (METRICS_HOST, METRICS_PORT)",
            detail=str(error),
            hint="set METRICS_PORT to a free port, or 0 for any, and METRICS_HOST to an address of this host",
        ) from error
    with server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        log.info("metrics.serving", host=host, port=server.server_address[1])
        try:
            yield
        finally:
            server.shutdown()


def address_of(host: str, port: int) -> str:
    """Returns both as people write them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def liveness(running: Running) -> list[str]:
    """Returns the reason why the process does not count as alive: no line, or one."""
    silent, longest = running.progress.silent_seconds, running.progress.longest_silence_seconds
    return [f"no progress for {silent:.0f} s; {longest:.0f} s is the longest that it may take"] * (silent > longest)


def unreadiness(running: Running, clock: Clock) -> Iterator[str]:
    """Yields the reasons why new events do not get into the stores, without the details that the log has."""
    settings, failures = running.settings, running.report.failures
    if stopped_by := failures.stopped_by:
        yield f"polling: {stopped_by.message}"
    for destination in running.destinations:
        error = failures.destinations.get(destination.name)
        if not running.is_up(destination):
            yield f"{destination.name}: {error.message if error else 'not open yet'}"
    longest = timedelta(seconds=running.progress.longest_silence_seconds)
    refused = failures.accounts.refused_versions
    for stream in settings.streams:
        if stream in refused:
            continue
        failure = failures.accounts.failed.get(stream)
        if failure:
            yield f"account {stream.account_id} {stream.api_version}: {failure.message}"
        for destination in running.destinations:
            about = f"account {stream.account_id} {stream.api_version} in the {destination.name}"
            succeeded = running.report.flow(destination.name, stream).succeeded
            if succeeded is None:
                yield f"{about}: no poll was loaded whole yet"
            elif clock() - succeeded > longest:
                yield f"{about}: the last poll that was loaded whole began at {succeeded:%Y-%m-%dT%H:%M:%SZ}"


class _Server(ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, host: str, port: int, running: Running, clock: Clock) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._running, self._clock = running, clock
        self._registry = registry_of(running)
        super().__init__((host, port), _Handler)

    def answer(self, path: str) -> Answer:
        """Returns the answer to a GET."""
        if path == "/metrics":
            return Answer(200, masked(generate_latest(self._registry).decode()).encode(), CONTENT_TYPE_LATEST)
        if path == "/livez":
            return _verdict(liveness(self._running))
        if path == "/readyz":
            return _verdict([*liveness(self._running), *unreadiness(self._running, self._clock)])
        return Answer(404, b"/livez, /readyz and /metrics are here\n")

    def handle_error(self, *_: Any) -> None:
        """Ignores clients that hung up; any other error is a defect, and logged."""
        error = sys.exception()
        if not isinstance(error, ConnectionError | TimeoutError):
            log.error("metrics.failed", error=repr(error))


class _Handler(BaseHTTPRequestHandler):
    timeout = SLOWEST_CLIENT_SECONDS
    server_version, sys_version = PROGRAM, ""
    server: _Server

    def do_GET(self) -> None:  # http.server's name
        self.wfile.write(self._answer().body)

    def do_HEAD(self) -> None:  # http.server's name
        self._answer()

    def _answer(self) -> Answer:
        """Sends all that comes before the body."""
        answer = self.server.answer(self.path.partition("?")[0])
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        return answer

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # http.server's name
        """Keeps quiet: it is asked all day long."""


def _verdict(reasons: list[str]) -> Answer:
    return Answer(503 if reasons else 200, masked("\n".join(reasons or ["ok"]) + "\n").encode())
