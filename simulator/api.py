"""Answers requests as the Cloudflare API does: envelopes, bounds, errors, limits; misbehaves on command. No sockets."""

import json
import math
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

from .limits import Limits
from .parameters import LARGEST_PAGE, BadRequestError, bounded, decode_cursor, encode_cursor, size_of, time_of, whole
from .quota import Quota
from .world import SimulatedEvent, World

PREFIX = "/client/v4"
_ROUTES = {
    "v1": re.compile(PREFIX + r"/accounts/([^/]+)/audit_logs"),
    "v2": re.compile(PREFIX + r"/accounts/([^/]+)/logs/audit"),
    "tokens": re.compile(PREFIX + r"/(?:accounts/)?([^/]+)/tokens/verify"),
    "account": re.compile(PREFIX + r"/accounts/([^/]+)"),
}
_INVALID_TOKEN = {"code": 1000, "message": "Invalid API Token"}
_FORBIDDEN = {"code": 10000, "message": "Authentication error"}
_CHALLENGE = b"<!DOCTYPE html><html><head><title>Just a moment...</title></head><body></body></html>"
_NOT_FOUND = {"code": 7003, "message": "Could not route to the account, perhaps your object identifier is invalid?"}


@dataclass
class Reply:
    """An HTTP answer, after a delay. `cut` sends only so many bytes of the body and closes the connection."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    delay_seconds: float = 0


@dataclass
class Fault:
    """A misbehaviour: replaces the answer to matching requests, `times` times (None: for ever).

    Without `status` and `body`, the true answer is sent, with `headers`, `cut` and `latency_seconds` applied.
    """

    account_id: str | None = None
    version: str | None = None
    page: int | None = None
    times: int | None = 1
    status: int | None = None
    body: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    latency_seconds: float | None = None

    def matches(self, request: "Request") -> bool:
        """True if the answer to this request is to go wrong."""
        return (
            self.times != 0
            and self.account_id in {None, request.account_id}
            and self.version in {None, request.version}
            and self.page in {None, request.page}
        )


@dataclass
class Behaviour(Limits):
    """The server's behaviour, within and outside what the API documents."""

    page_cap: int = LARGEST_PAGE
    """The most events that a page has; more are left out silently."""
    sends_result_info: bool = False
    """True if v1 answers have `result_info`: the specification has none, some real answers do."""
    repeats_last_page: bool = False
    repeats_cursor: bool = False
    ignores_direction: bool = False
    clock_offset_seconds: float = 0
    sends_date: bool = True
    token_has_permission: bool = True
    requests_per_window: int = 1200
    """Requests that each token has in a window."""
    window_seconds: float = 300
    latency_seconds: float = 0
    """The delay of every answer; the real API's is 0.1 to 0.3."""


@dataclass(frozen=True)
class Request:
    """A request for events, as logged."""

    account_id: str
    version: str
    params: Mapping[str, str]
    page: int
    token: str
    at: datetime


class LimitError(BadRequestError):
    """A query beyond the server's limits."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Api:
    """The API's answers about a world. Safe to call from several threads.

    `token` is valid for all accounts, those of `tokens` for the accounts listed with them; each has its own budget.
    """

    def __init__(
        self,
        world: World,
        *,
        token: str,
        clock: Callable[[], datetime],
        tokens: Mapping[str, Collection[str]] | None = None,
    ) -> None:
        self.world, self.clock = world, clock
        self.behaviour = Behaviour()
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.token, self.tokens = token, dict(tokens or {})
        self._quotas: defaultdict[str, Quota] = defaultdict(Quota)
        self._lock = threading.Lock()

    def answer(self, target: str, authorization: str) -> Reply:
        """The answer to a GET."""
        parts = urlsplit(target)
        params = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        version, account_id = next(
            ((version, match[1]) for version, route in _ROUTES.items() if (match := route.fullmatch(parts.path))),
            ("", ""),
        )
        with self._lock:
            page = int(params["page"]) if params.get("page", "").isdecimal() else self._cursor_page(params)
            token = authorization.removeprefix("Bearer ")
            request = Request(account_id, version, params, page, token, self.clock())
            self.requests.append(request)
            limited, rate_headers = self._limit(request)
            fault = next((fault for fault in self.faults if fault.matches(request)), None)
            if fault and fault.times is not None:
                fault.times -= 1
        reply = limited or self._misbehave(fault, lambda: self._answer(request))
        reply.delay_seconds = self.behaviour.latency_seconds
        reply.headers = {**rate_headers, **reply.headers}
        if fault and fault.latency_seconds is not None:
            reply.delay_seconds = fault.latency_seconds
        elif request.version in {"v1", "v2"}:
            reply.delay_seconds += self.behaviour.latency_of_page(size_of(params))
        return reply

    def _answer(self, request: Request) -> Reply:
        if self.behaviour.challenge:
            return Reply(403, _CHALLENGE, {"Content-Type": "text/html"})
        if request.version == "tokens":
            active = b'{"errors":[],"messages":[],"result":{"id":"f267e341","status":"active"},"success":true}'
            is_known = request.token == self.token or request.token in self.tokens
            return Reply(body=active) if is_known else _failure(401, _INVALID_TOKEN)
        is_good = request.token == self.token or request.account_id in self.tokens.get(request.token, ())
        if not is_good or not self.behaviour.token_has_permission:
            return _failure(403, _FORBIDDEN)
        if request.account_id not in self.world.account_ids:
            return _failure(404, _NOT_FOUND)
        answers = {"v1": self._v1, "v2": self._v2, "account": self._account}
        try:
            return answers[request.version](request)
        except BadRequestError as error:
            return _failure(error.status, {"message": str(error)})

    def _account(self, request: Request) -> Reply:
        """Shows the account's name. A world without names is one whose token may not read them."""
        name = self.world.names.get(request.account_id)
        if name is None:
            return _failure(403, _FORBIDDEN)
        result = {"id": request.account_id, "name": name, "type": "standard"}
        return Reply(body=_json({"errors": [], "messages": [], "result": result, "success": True}))

    def _v1(self, request: Request) -> Reply:
        size = min(bounded(request.params, "per_page"), self.behaviour.page_cap)
        page = whole(request.params.get("page", "1"), "page", low=1)
        all_events = self._events(request, datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))
        events = self._shown(request, all_events, (page - 1) * size)
        counted = events if self.behaviour.end_of_results == "no_cursor" else all_events
        pages = math.ceil(len(counted) / size)
        if self.behaviour.repeats_last_page:
            page = min(page, max(pages, 1))
        info = {
            "page": page,
            "per_page": size,
            "count": len(counted),
            "total_count": len(counted),
            "total_pages": pages,
        }
        shown = events[(page - 1) * size : page * size]
        return self._success(shown, info if self.behaviour.sends_result_info else None)

    def _v2(self, request: Request) -> Reply:
        for name in ("since", "before"):
            if name not in request.params:
                message = f"Invalid format for parameter {name}: query parameter '{name}' is required"
                raise BadRequestError(message)
        size = min(bounded(request.params, "limit"), self.behaviour.page_cap)
        all_events = self._events(request, None, None)
        start = decode_cursor(request.params["cursor"]) if request.params.get("cursor") else 0
        events = self._shown(request, all_events, start)
        shown = events[start : start + size]
        is_silent = self.behaviour.end_of_results == "no_cursor" or start >= len(events)
        has_more = start + size < len(events if is_silent else all_events)
        if self.behaviour.repeats_cursor:
            return self._success(shown, {"count": str(len(shown)), "cursor": encode_cursor(start)})
        cursor = {"cursor": encode_cursor(start + size)} if has_more else {}
        return self._success(shown, {"count": str(len(shown)), **cursor})

    def _shown(self, request: Request, events: Sequence[SimulatedEvent], start: int) -> Sequence[SimulatedEvent]:
        """Returns the events of a range that this server shows; raises LimitError."""
        since = time_of(request.params, "since", datetime.min.replace(tzinfo=UTC))
        before = time_of(request.params, "before", self.clock())
        refusal = self.behaviour.refusal(since, before, size_of(request.params), len(events), start)
        if refusal:
            raise LimitError(refusal, self.behaviour.refuses_with)
        return self.behaviour.shown(events)

    def _success(self, events: Sequence[SimulatedEvent], result_info: Mapping[str, Any] | None) -> Reply:
        info = b"" if result_info is None else b',"result_info":' + json.dumps(result_info).encode()
        result = b"[" + b",".join(event.raw for event in events) + b"]"
        result = b"null" if self.behaviour.null_result and not events else result
        return Reply(body=b'{"errors":[],"messages":[],"result":' + result + info + b',"success":true}')

    def _events(self, request: Request, since: datetime | None, before: datetime | None) -> list[SimulatedEvent]:
        direction = request.params.get("direction", "desc")
        if direction not in {"asc", "desc"}:
            raise BadRequestError("direction must be asc or desc")
        events = self.world.visible(
            request.account_id,
            request.version,
            time_of(request.params, "since", since),
            time_of(request.params, "before", before),
            self.clock(),
            hide_user_logs=request.params.get("hide_user_logs") == "true",
        )
        is_ascending = direction == "asc" and not self.behaviour.ignores_direction
        return events if is_ascending else events[::-1]

    def _limit(self, request: Request) -> tuple[Reply | None, dict[str, str]]:
        """The answer to a token that is blocked, and the headers of every answer on the token's budget."""
        most, seconds = self.behaviour.requests_per_window, self.behaviour.window_seconds
        quota = self._quotas[request.token]
        blocked_seconds = quota.count(request.at, most, timedelta(seconds=seconds))
        headers = {
            "Ratelimit": f'"default";r={max(0, most - len(quota.times))};t={seconds:.0f}',
            "Ratelimit-Policy": f'"default";q={most};w={seconds:.0f}',
        }
        if not blocked_seconds:
            return None, headers
        reply = _failure(
            429, {"code": 10429, "message": "Rate limited. Please wait and consider throttling your request speed"}
        )
        reply.headers["Retry-After"] = str(math.ceil(blocked_seconds))
        return reply, headers

    def _cursor_page(self, params: Mapping[str, str]) -> int:
        if not params.get("cursor"):
            return 1
        try:
            size = min(bounded(params, "limit"), self.behaviour.page_cap)
            return decode_cursor(params["cursor"]) // size + 1
        except BadRequestError:
            return 1

    @staticmethod
    def _misbehave(fault: Fault | None, answer: Callable[[], Reply]) -> Reply:
        if fault is None:
            return answer()
        reply = answer() if fault.status is None and fault.body is None else Reply(fault.status or 200)
        if fault.body is not None:
            reply.body = fault.body.encode("utf-8", "surrogateescape")
        reply.headers.update(fault.headers)
        reply.cut = fault.cut
        return reply


def _failure(status: int, error: Mapping[str, Any]) -> Reply:
    return Reply(status, _json({"errors": [error], "messages": [], "result": None, "success": False}))


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()
