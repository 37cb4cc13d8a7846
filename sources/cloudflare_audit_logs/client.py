"""Asks the API one question at a time, with retries. Knows HTTP; knows neither pages nor events.

The token goes to the configured host alone: redirects are not followed, and no `.netrc` replaces it.
"""

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import partial
from http import HTTPStatus
from types import TracebackType
from typing import Self

import requests
import tenacity
import urllib3

from .access import is_about_access
from .answers import Answer, excerpt, is_envelope, parse_answer
from .budget import Budget
from .connections import Connections
from .errors import (
    BadAnswerError,
    ClockError,
    RateLimitedError,
    RefusedError,
    RefusedRequestError,
    TooMuch,
    UnavailableError,
    UnknownPathError,
)
from .traffic import NO_ANSWER, Traffic

PERMISSION_HINT = (
    'check {token_name}: it needs the permission "Account Settings: Read" on this account; '
    '"Access: Audit Logs Read" is another product\'s and does not work'
)
CLOCK_TOLERANCE = timedelta(minutes=5)
RATE_LIMIT_BLOCK = timedelta(minutes=5)
"""How long Cloudflare shuts a token out that went over 1,200 requests in 5 minutes."""

LONGEST_ANSWER = 10
"""An answer may take this many timeouts in all."""

LARGEST_ANSWER = 256 * 1024 * 1024
"""Bytes, unpacked: 1,000 events of 256 KB. One that never ends would take the memory of all accounts."""

LONGEST_RETRY_AFTER = timedelta(hours=1)

_MALFORMED_TOKEN = b"Invalid format for Authorization header"
"""Of an HTTP 400: the text is no token at all, but a global API key, say."""

_WINDOW_STATUSES = {400, 408, 413, 414, 422, 500, 504, 524}
"""Of answers to a window that may be too long, too full, too deep or too slow: a smaller one may be answered."""

_OF_THE_TOKEN = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND}
"""The API's word on a token or an account; HTML with such a status is somebody else's."""

_SLOW = (requests.ReadTimeout, urllib3.exceptions.ReadTimeoutError)


class AuditLogsClient:
    """Asks the API with one token, for several threads. `sleep` and `clock` are the caller's: tests need no waiting."""

    def __init__(
        self,
        base_url: str,
        token: str,
        *,
        clock: Callable[[], datetime],
        sleep: Callable[[float], None],
        timeout_seconds: float = 30,
        max_retries: int = 3,
        backoff_seconds: float = 1,
        backoff_max_seconds: float = 300,
        budget: Budget | None = None,
        traffic: Traffic | None = None,
        connections: Connections | None = None,
        token_name: str = "CLOUDFLARE_API_TOKEN",  # noqa: S107  # the name of a setting
    ) -> None:
        self._base_url, self._token, self._auth = base_url.rstrip("/"), token, _BearerAuth(token)
        self._clock, self._sleep, self._budget = clock, sleep, budget
        self._timeout_seconds, self._traffic = timeout_seconds, traffic or Traffic()
        self._token_name = token_name
        self._connections = connections or Connections()
        self._retrying = partial(
            tenacity.Retrying,  # one for each request: it keeps notes for each thread that it ever ran in
            stop=tenacity.stop_after_attempt(1 + max_retries),
            wait=tenacity.wait_exponential_jitter(
                multiplier=backoff_seconds, max=backoff_max_seconds, jitter=backoff_seconds
            ),
            sleep=sleep,
            before_sleep=lambda _: self._traffic.note_retry(),
            reraise=True,
        )
        self.clock_offset: timedelta | None = None
        """How far this host's clock is ahead of the API's, as of the last answer that had a `Date`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._connections.close()

    def get(self, path: str, params: Mapping[str, str | int], *, is_patient: bool = True) -> Answer:
        """The API's answer to one GET, after retries of what may pass (5xx, no connection, a broken body).

        With `is_patient=False`, what may have been too much is not asked again, and a quarter of the timeout is waited
        for: the reader asks for less instead.

        Raises:
            RefusedError: 4xx but 429.
            RateLimitedError: 429, at once: its `until` may be minutes away, and other accounts need not wait for it.
            UnavailableError, BadAnswerError: still so after all retries.
            ClockError: the answer's `Date` is more than 5 minutes off this host's clock.
        """
        retrying = self._retrying(retry=tenacity.retry_if_exception(partial(_may_pass, is_patient=is_patient)))
        timeout_seconds = self._timeout_seconds / (1 if is_patient else 4)
        return retrying(lambda: parse_answer(self._fetch(path, params, timeout_seconds)))

    def knows_token(self, account_id: str) -> bool:
        """True if the API knows the token, whatever it may do: an account's own token, or a user's.

        Raises:
            AuditLogsError: the API did not say, or nothing of it is there.
        """
        unknown_paths = 0
        for owner in (f"accounts/{account_id}", "user"):
            try:
                self._fetch(f"{owner}/tokens/verify", {}, self._timeout_seconds)
            except UnknownPathError:
                unknown_paths += 1
            except RefusedError:
                continue
            else:
                return True
        if unknown_paths > 1:
            raise UnknownPathError("nothing of the API is at this address", hint="check CLOUDFLARE_API_URL")
        return False

    def _fetch(self, path: str, params: Mapping[str, str | int], timeout_seconds: float) -> bytes:
        if self._budget is not None:
            self._budget.wait(self._sleep)
        response, body = self._send(f"{self._base_url}/{path}", params, timeout_seconds)
        if self._budget is not None:
            self._budget.note(response.headers)
        self._check_clock(response)
        self._check_status(response, body)
        return body

    def _send(
        self, url: str, params: Mapping[str, str | int], timeout_seconds: float
    ) -> tuple[requests.Response, bytes]:
        code: str = NO_ANSWER
        headers: Mapping[str, str] = {}
        give_up_at = time.monotonic() + LONGEST_ANSWER * timeout_seconds
        try:
            with self._connections.session.get(
                url, params=params, auth=self._auth, timeout=timeout_seconds, allow_redirects=False, stream=True
            ) as response:
                body = _read(response, give_up_at)
                code, headers = str(response.status_code), response.headers
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            hint = "check CLOUDFLARE_API_URL, and the network from here to there"
            slow: TooMuch = "window" if isinstance(error, _SLOW) else ""
            raise UnavailableError(
                "the API cannot be reached", detail=_cause(error), hint=hint, too_much=slow
            ) from error
        finally:
            self._traffic.note(code, headers, self._token_name)
        return response, body

    def _check_clock(self, response: requests.Response) -> None:
        api_time = _parse_http_date(response.headers.get("Date"))
        if api_time is None:
            return
        self.clock_offset = offset = self._clock() - api_time
        if abs(offset) > CLOCK_TOLERANCE:
            direction = "ahead of" if offset > timedelta() else "behind"
            raise ClockError(
                f"this host's clock is {abs(offset).total_seconds():.0f} s {direction} the API's",
                hint="set the clock (chrony, systemd-timesyncd); nothing is loaded until then",
            )

    def _check_status(self, response: requests.Response, body: bytes) -> None:
        status = response.status_code
        if status == HTTPStatus.OK:
            return
        said = f"HTTP {status}: {excerpt(body)}"
        too_much: TooMuch = "window" if status in _WINDOW_STATUSES else ""
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            until = self._clock() + self._retry_after(response)
            raise RateLimitedError(
                f"rate limited by the API until {until:%H:%M:%S} UTC",
                until=until,
                hint="one token has 1,200 requests in 5 minutes, shared with the dashboard",
            )
        if status in _OF_THE_TOKEN and body.strip() and not is_envelope(body):
            hint = "a proxy, a firewall or a challenge page is in the way, or CLOUDFLARE_API_URL is wrong"
            raise UnavailableError("what answered is not the API", detail=said, hint=hint)
        if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN} or _MALFORMED_TOKEN in body:
            hint = PERMISSION_HINT.format(token_name=self._token_name)
            raise RefusedError("the API refuses the token for this account", detail=said, hint=hint)
        if status == HTTPStatus.NOT_FOUND:
            hint = "check CLOUDFLARE_ACCOUNT_ID and CLOUDFLARE_API_URL"
            raise UnknownPathError("the API does not know this account", detail=said, hint=hint)
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status == HTTPStatus.REQUEST_TIMEOUT:
            raise UnavailableError("the API is not available", detail=said, too_much=too_much)
        if status >= HTTPStatus.BAD_REQUEST and is_about_access(status, body):
            hint = "check CLOUDFLARE_API_VERSION, and what this account and its token may do"
            raise RefusedError("the API refuses the account", detail=said, hint=hint)
        if status >= HTTPStatus.BAD_REQUEST:
            raise RefusedRequestError("the API refuses the request", detail=said, too_much=too_much)
        raise BadAnswerError("the API answered without events", detail=said, hint="check CLOUDFLARE_API_URL")

    def _retry_after(self, response: requests.Response) -> timedelta:
        """What `Retry-After` asks for, as seconds or a date; 5 minutes where it is absent or absurd."""
        text = response.headers.get("Retry-After", "").strip()
        if text.isdecimal() and int(text[:9]) <= LONGEST_RETRY_AFTER.total_seconds():
            return timedelta(seconds=int(text[:9]))
        date = _parse_http_date(text)
        wait = timedelta(-1) if date is None else date - self._clock()
        return wait if timedelta() <= wait <= LONGEST_RETRY_AFTER else RATE_LIMIT_BLOCK


def _may_pass(error: BaseException, *, is_patient: bool) -> bool:
    """True of what is worth asking again as it is; an answer that is too large comes again as large."""
    if not isinstance(error, (UnavailableError, BadAnswerError)) or error.too_much == "page":
        return False
    return is_patient or not error.too_much


def _read(response: requests.Response, give_up_at: float) -> bytes:
    """The body, unless it trickles: the timeout of requests is for each packet, and would never come."""
    chunks, size = [], 0
    while chunk := response.raw.read1(decode_content=True):
        chunks.append(chunk)
        size += len(chunk)
        if size > LARGEST_ANSWER:
            hint = "a smaller page is asked for by itself; CLOUDFLARE_PER_PAGE sets the largest"
            raise BadAnswerError(
                "the API's answer does not end", detail=f"{size:,} bytes so far", hint=hint, too_much="page"
            )
        if time.monotonic() > give_up_at:
            detail = f"{size} bytes so far"
            raise UnavailableError("the API takes too long to answer", detail=detail, too_much="window")
    if response.raw.length_remaining:
        raise UnavailableError("the API's answer was cut off", detail=f"{response.raw.length_remaining} bytes missing")
    return b"".join(chunks)


class _BearerAuth(requests.auth.AuthBase):
    """Sets the header itself: a plain header would lose to an entry in the user's `.netrc`."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def _cause(error: BaseException) -> str:
    """The innermost words of a chain of connection errors, without the object addresses of the outer ones."""
    while error.__context__ is not None:
        error = error.__context__
    return f"{type(error).__name__}: {error}"


def _parse_http_date(text: str | None) -> datetime | None:
    try:
        return parsedate_to_datetime(text or "").astimezone(UTC)
    except (ValueError, TypeError):
        return None
