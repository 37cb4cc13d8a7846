"""How many requests those who are in no hurry may send: what is left of a token's budget after the loop and people.

One token has 1,200 requests in 5 minutes for everything that uses it, the dashboard included; who goes over is shut out
for 5 minutes. The API says in its `Ratelimit` headers what is left.
"""

import math
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping

from .errors import UnavailableError

REQUESTS = 1_200
WINDOW_SECONDS = 300.0
"""Cloudflare's limit for one token, as documented."""

SHARE = 0.5
"""Of the limit. The other half is the loop's and the people's: what one process counts, another does not see."""

KEPT_BACK = 0.25
"""Of the quota that the API states: when no more than this is left, we wait until it counts anew."""

_ITEM = re.compile(r";\s*([a-z]+)=(\d+)")


ONE_TOKEN = "CLOUDFLARE_API_TOKEN"  # noqa: S105  # the name of the setting


def token_group(account_id: str) -> str:  # noqa: ARG001  # all accounts are read with one token
    """The name of the token that an account is read with: accounts of one token share its budget."""
    return ONE_TOKEN


class Budget:
    """Shared by the threads that use a token beside the loop: `wait` before a request, `note` what its answer says."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        requests: int = round(REQUESTS * SHARE),
        patience_seconds: float = math.inf,
    ) -> None:
        self._clock, self._patience_seconds = clock, patience_seconds
        self.requests = requests
        """In 5 minutes; may be changed at any time."""
        self._lock = threading.Lock()
        self._sent: deque[float] = deque()
        self._closed_until = 0.0

    def wait(self, sleep: Callable[[float], None]) -> None:
        """Sleeps until a request is within the budget, and counts it as sent.

        Raises:
            UnavailableError: that would take longer than our patience.
        """
        while (seconds := self._take()) > 0:
            if seconds > self._patience_seconds:
                raise UnavailableError(f"the API's budget of requests is spent for the next {seconds:.0f} s")
            sleep(seconds)

    def note(self, headers: Mapping[str, str]) -> None:
        """Reads `Ratelimit` (requests left, seconds until they count anew) and `Ratelimit-Policy` (quota)."""
        stated, policy = numbers_in(headers.get("Ratelimit", "")), numbers_in(headers.get("Ratelimit-Policy", ""))
        if stated.get("r", math.inf) <= KEPT_BACK * policy.get("q", REQUESTS):
            with self._lock:
                self._closed_until = self._clock() + min(stated.get("t", WINDOW_SECONDS), WINDOW_SECONDS)

    def _take(self) -> float:
        """Zero if a request may be sent now, which it then is; otherwise the seconds to wait."""
        with self._lock:
            now = self._clock()
            while self._sent and self._sent[0] <= now - WINDOW_SECONDS:
                self._sent.popleft()
            if self._closed_until > now:
                return self._closed_until - now
            if len(self._sent) >= self.requests:
                return self._sent[-self.requests] + WINDOW_SECONDS - now
            self._sent.append(now)
            return 0.0


class Budgets:
    """That of each token, or the share of it that one of several processes has."""

    def __init__(self) -> None:
        self._lock, self._budgets, self._requests = threading.Lock(), dict[str, Budget](), round(REQUESTS * SHARE)

    def of(self, group: str) -> Budget:
        """The one of a token; the same at every call."""
        with self._lock:
            return self._budgets.setdefault(group, Budget(requests=self._requests))

    def divide_by(self, processes: int) -> None:
        """Leaves to this process what each of so many may send."""
        with self._lock:
            self._requests = max(1, int(REQUESTS * SHARE) // processes)
            for budget in self._budgets.values():
                budget.requests = self._requests


def numbers_in(header: str) -> dict[str, int]:
    """The numbers of the first policy in a header: `"default";r=50;t=30`."""
    return {name: int(value[:9]) for name, value in _ITEM.findall(header.partition(",")[0])}
