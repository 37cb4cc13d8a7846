"""Counts what the clients of this process asked of the API, and keeps what it said is left. Asks nothing itself."""

import threading
from collections import Counter
from collections.abc import Callable, Mapping

from .budget import numbers_in

NO_ANSWER = "none"
"""The code of a request that got no answer, or none that came to its end."""


class Traffic:
    """Shared by threads. `on_answer` is called after each request, whatever became of it."""

    def __init__(self, on_answer: Callable[[], None] = lambda: None) -> None:
        self._on_answer, self._lock = on_answer, threading.Lock()
        self._requests: Counter[str] = Counter()
        self._left: dict[str, int] = {}
        self.retries = 0
        """Requests that were sent again after one that failed."""

    @property
    def requests(self) -> dict[str, int]:
        """The number of requests, retries included, by the HTTP status of the answer, or `none`."""
        with self._lock:
            return dict(self._requests)

    @property
    def left(self) -> int | None:
        """Requests that are left to the token that has fewest, as the API said in its latest answers."""
        with self._lock:
            return min(self._left.values(), default=None)

    def note(self, code: str, headers: Mapping[str, str], token_name: str = "") -> None:
        """Counts a request, and reads what its answer says of the token's budget."""
        stated = numbers_in(headers.get("Ratelimit", ""))
        with self._lock:
            self._requests[code] += 1
            if "r" in stated:
                self._left[token_name] = stated["r"]
        self._on_answer()

    def note_retry(self) -> None:
        """Counts a request that is about to be sent again."""
        with self._lock:
            self.retries += 1
