"""Limits the requests that are sent with a token: the loop's, and those of work in no hurry, which leaves it its part.

One token has 1,200 requests in 5 minutes for everything that uses it, the dashboard included; a token that exceeds them
is refused for 5 minutes. The API states the quota, and what is left of it, in its `Ratelimit` headers.
"""

import math
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from .errors import UnavailableError

REQUESTS = 1_200
WINDOW_SECONDS = 300.0
"""Cloudflare's limit for one token, as documented. Where the API states another quota, that is taken."""

SHARE = 0.5
"""Share of the quota. The other half is for the loop and for people: one process does not see what another sends."""

KEPT_BACK = 0.25
"""Share of the quota: when the API says that no more than this is left, requests wait until it counts anew."""

LOOP_SHARE = 0.9
"""The loop's share, its comparisons included: it is slowed down before the API refuses the token."""

LOOP_KEPT_BACK = 0.01
"""The loop goes on with what others keep back, but for the few requests that are under way at that time."""

_ITEM = re.compile(r";\s*([a-z]+)=(\d+)")


@dataclass
class Sent:
    """The requests sent with a token in the last 5 minutes, and what the API says of it: one count for all senders."""

    times: deque[float] = field(default_factory=deque)
    quota: int = REQUESTS
    left: float = math.inf
    counts_anew_at: float = 0.0
    """Until then, no more than what is left may be sent."""
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(eq=False, kw_only=True)
class Budget:
    """Shared by the threads that use a token: `wait` before a request, `note` what its answer says."""

    clock: Callable[[], float] = time.monotonic
    share: float = SHARE
    """Share of the quota; may be changed at any time."""
    kept_back: float = KEPT_BACK
    patience_seconds: float = math.inf
    sent: Sent = field(default_factory=Sent)

    def wait(self, sleep: Callable[[float], None]) -> None:
        """Sleeps until a request is within the budget, and counts it as sent.

        Raises:
            UnavailableError: that would take longer than `patience_seconds`.
        """
        while (seconds := self._take()) > 0:
            if seconds > self.patience_seconds:
                raise UnavailableError(f"the API's budget of requests is spent for the next {seconds:.0f} s")
            sleep(seconds)

    def note(self, headers: Mapping[str, str]) -> None:
        """Reads `Ratelimit` (requests left, seconds until they count anew) and `Ratelimit-Policy` (quota)."""
        stated, policy = numbers_in(headers.get("Ratelimit", "")), numbers_in(headers.get("Ratelimit-Policy", ""))
        with self.sent.lock:
            self.sent.quota = policy.get("q", self.sent.quota) or REQUESTS
            self.sent.left = stated.get("r", math.inf)
            self.sent.counts_anew_at = self.clock() + min(stated.get("t", WINDOW_SECONDS), WINDOW_SECONDS)

    def _take(self) -> float:
        """Zero if a request may be sent now, which it then is; otherwise the seconds to wait."""
        sent = self.sent
        with sent.lock:
            now = self.clock()
            while sent.times and sent.times[0] <= now - WINDOW_SECONDS:
                sent.times.popleft()
            if sent.left <= self.kept_back * sent.quota and sent.counts_anew_at > now:
                return sent.counts_anew_at - now
            requests = max(1, int(sent.quota * self.share))
            if len(sent.times) >= requests:
                return sent.times[-requests] + WINDOW_SECONDS - now
            sent.times.append(now)
            return 0.0


@dataclass(eq=False, kw_only=True)
class Budgets:
    """One `Budget` for each token, or the share of it that one of several processes has. Arguments as of `Budget`."""

    share: float = SHARE
    kept_back: float = KEPT_BACK
    patience_seconds: float = math.inf
    beside: "Budgets | None" = None
    """Both count into one total, and this one may use only a share of the other."""
    _budgets: dict[str, Budget] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _processes: int = 1

    def of(self, token_name: str) -> Budget:
        """The budget of a token; the same one at every call."""
        with self._lock:
            if token_name not in self._budgets:
                total = self.beside.of(token_name) if self.beside else Budget(share=1)
                share, patience = self.share / self._processes * total.share, self.patience_seconds
                budget = Budget(share=share, kept_back=self.kept_back, patience_seconds=patience, sent=total.sent)
                self._budgets[token_name] = budget
            return self._budgets[token_name]

    def divide_by(self, processes: int) -> None:
        """Leaves to this process what each of so many may send."""
        with self._lock:
            self._processes = processes
            for budget in self._budgets.values():
                budget.share = self.share / processes


def numbers_in(header: str) -> dict[str, int]:
    """The numbers of the first policy in a header: `"default";r=50;t=30`."""
    return {name: int(value[:9]) for name, value in _ITEM.findall(header.partition(",")[0])}
