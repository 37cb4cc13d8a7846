"""Sends one request at a time to the API, with retries. Knows HTTP; knows neither pages nor events.

The token goes to the configured host alone: redirects are not followed, and no `.netrc` replaces it.
"""

import http.cookiejar
import time
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import cached_property, partial
from http import HTTPStatus
from typing import Any

import requests
import tenacity
import urllib3

from .answers import Answer, check_status, parse_answer
from .budget import Budget
from .errors import BadAnswerError, ClockError, RateLimitedError, RefusedError, UnavailableError, UnknownPathError
from .traffic import NO_ANSWER, Traffic

CLOCK_TOLERANCE = timedelta(minutes=5)
RATE_LIMIT_BLOCK = timedelta(minutes=5)
"""The time for which Cloudflare refuses a token that sent over 1,200 requests in 5 minutes."""

LONGEST_RETRY_AFTER = timedelta(hours=1)

LONGEST_ANSWER = 10
"""An answer may take this many timeouts in all."""

LARGEST_ANSWER = 256 * 1024 * 1024
"""Bytes, unpacked: 1,000 events of 256 KB. One that never ends would take the memory of all accounts."""

MOST_CONNECTIONS = 256
"""Kept open for all threads and tokens of a session."""


def open_session() -> requests.Session:
    """A session for several threads and tokens: its connections are used again, and no cookie is kept."""
    session = requests.Session()
    session.headers.update({"Accept": "application/json", "User-Agent": "cloudflare-audit-pipeline"})
    session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=()))
    for scheme in ("https://", "http://"):
        session.mount(scheme, requests.adapters.HTTPAdapter(pool_maxsize=MOST_CONNECTIONS))
    return session


@dataclass(eq=False)
class AuditLogsClient:
    """Asks the API with one token, for several threads. `sleep` and `clock` are the caller's: tests need no waiting."""

    session: requests.Session
    base_url: str
    token: str = field(repr=False)
    _: KW_ONLY
    clock: Callable[[], datetime]
    sleep: Callable[[float], None]
    timeout_seconds: float = 30
    max_retries: int = 3
    backoff_seconds: float = 1
    backoff_max_seconds: float = 300
    budget: Budget | None = None
    traffic: Traffic = field(default_factory=Traffic)
    token_name: str = "CLOUDFLARE_API_TOKEN"  # noqa: S105  # the name of a setting
    clock_offset: timedelta | None = field(default=None, init=False)
    """The lead of this host's clock over the API's, as of the last answer that had a `Date`."""

    def get(self, path: str, params: Mapping[str, str | int], *, is_patient: bool = True) -> Answer:
        """The API's answer to one GET, after retries of what may pass (5xx, no connection, a broken body).

        With `is_patient=False`, a request that may have been too much is not sent again, and waits for a quarter of the
        timeout: the caller asks for less instead.

        Raises:
            RefusedError: 4xx but 429.
            RateLimitedError: 429, at once: its `until` may be minutes away, and other accounts need not wait for it.
            UnavailableError, BadAnswerError: still so after all retries.
            ClockError: the answer's `Date` is more than 5 minutes off this host's clock.
        """
        retrying = tenacity.Retrying(  # one for each request: it keeps notes for each thread that it ever ran in
            retry=tenacity.retry_if_exception(partial(_may_pass, is_patient=is_patient)),
            stop=tenacity.stop_after_attempt(1 + self.max_retries),
            wait=tenacity.wait_exponential_jitter(
                multiplier=self.backoff_seconds, max=self.backoff_max_seconds, jitter=self.backoff_seconds
            ),
            sleep=self.sleep,
            before_sleep=lambda _: self.traffic.note_retry(),
            reraise=True,
        )
        timeout_seconds = self.timeout_seconds / (1 if is_patient else 4)
        return retrying(lambda: parse_answer(self._fetch(path, params, timeout_seconds)))

    def knows_token(self, account_id: str) -> bool:
        """True if the API knows the token, whatever it may do: an account's own token, or a user's.

        Raises:
            AuditLogsError: the API did not say, or the address is not the API's.
        """
        unknown_paths = 0
        for owner in (f"accounts/{account_id}", "user"):
            try:
                self._fetch(f"{owner}/tokens/verify", {}, self.timeout_seconds)
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
        if self.budget is not None:
            self.budget.wait(self.sleep)
        response, body = self._send(f"{self.base_url.rstrip('/')}/{path}", params, timeout_seconds)
        if self.budget is not None:
            self.budget.note(response.headers)
        self._check_clock(response)
        if response.status_code == HTTPStatus.TOO_MANY_REQUESTS:
            until = self.clock() + self._retry_after(response)
            hint = "one token has 1,200 requests in 5 minutes, shared with the dashboard"
            raise RateLimitedError(f"rate limited by the API until {until:%H:%M:%S} UTC", until=until, hint=hint)
        check_status(response.status_code, body, self.token_name)
        return body

    def _send(
        self, url: str, params: Mapping[str, str | int], timeout_seconds: float
    ) -> tuple[requests.Response, bytes]:
        code: str = NO_ANSWER
        headers: Mapping[str, str] = {}
        auth = partial(_authorize, self.token)
        give_up_at = time.monotonic() + LONGEST_ANSWER * timeout_seconds
        try:
            request = self.session.prepare_request(requests.Request("GET", url, params=params, auth=auth))
            with self.session.send(
                request, timeout=timeout_seconds, allow_redirects=False, stream=True, **self._surroundings
            ) as response:
                body = _read(response, give_up_at)
                code, headers = str(response.status_code), response.headers
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            is_slow = isinstance(error, (requests.ReadTimeout, urllib3.exceptions.ReadTimeoutError))
            raise UnavailableError(
                "the API cannot be reached",
                detail=_cause(error),
                hint="check CLOUDFLARE_API_URL, and the network from here to there",
                too_much="window" if is_slow else "",
            ) from error
        finally:
            self.traffic.note(code, headers, self.token_name)
        return response, body

    @cached_property
    def _surroundings(self) -> Mapping[str, Any]:
        """The proxies and certificates that the environment names: looked up at each request, they take 1 ms."""
        found = self.session.merge_environment_settings(self.base_url, {}, stream=None, verify=None, cert=None)
        return {name: found[name] for name in ("proxies", "verify", "cert")}

    def _check_clock(self, response: requests.Response) -> None:
        api_time = _parse_http_date(response.headers.get("Date"))
        if api_time is None:
            return
        self.clock_offset = offset = self.clock() - api_time
        if abs(offset) > CLOCK_TOLERANCE:
            direction = "ahead of" if offset > timedelta() else "behind"
            raise ClockError(
                f"this host's clock is {abs(offset).total_seconds():.0f} s {direction} the API's",
                hint="set the clock (chrony, systemd-timesyncd); nothing is loaded until then",
            )

    def _retry_after(self, response: requests.Response) -> timedelta:
        """The wait that `Retry-After` asks for, as seconds or a date; 5 minutes where it is absent or absurd."""
        text = response.headers.get("Retry-After", "").strip()
        date, wait = _parse_http_date(text), timedelta(-1)
        if text.isdecimal():
            wait = timedelta(seconds=int(text[:9]))
        elif date is not None:
            wait = date - self.clock()
        return wait if timedelta() <= wait <= LONGEST_RETRY_AFTER else RATE_LIMIT_BLOCK


def _authorize(token: str, request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Sets the header itself: a header of the session would lose to an entry in the user's `.netrc`."""
    request.headers["Authorization"] = f"Bearer {token}"
    return request


def _may_pass(error: BaseException, *, is_patient: bool) -> bool:
    """True if the same request may be answered later; an answer that is too large comes again as large."""
    if not isinstance(error, (UnavailableError, BadAnswerError)) or error.too_much == "page":
        return False
    return is_patient or not error.too_much


def _read(response: requests.Response, give_up_at: float) -> bytes:
    """The body. The timeout of requests is for each packet, so a body that trickles would never meet it."""
    chunks, size = [], 0
    while chunk := response.raw.read1(decode_content=True):
        chunks.append(chunk)
        size += len(chunk)
        detail = f"{size:,} bytes so far"
        if size > LARGEST_ANSWER:
            hint = "the next page asked for is smaller; CLOUDFLARE_PER_PAGE sets the largest"
            raise BadAnswerError("the API's answer does not end", detail=detail, hint=hint, too_much="page")
        if time.monotonic() > give_up_at:
            raise UnavailableError("the API takes too long to answer", detail=detail, too_much="window")
    if response.raw.length_remaining:
        raise UnavailableError("the API's answer was cut off", detail=f"{response.raw.length_remaining} bytes missing")
    return b"".join(chunks)


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
