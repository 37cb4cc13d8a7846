"""Limits by which a server refuses a query or leaves events out. Pure.

APIs of this kind have such limits; Cloudflare's is not known to.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeVar

Shown = TypeVar("Shown")


@dataclass
class Limits:
    """The limits of a server; zero is none."""

    shows_at_most: int = 0
    """Results that one query shows."""
    end_of_results: Literal["error", "empty", "no_cursor"] = "error"
    """The answer past that: a refusal, an empty page, or (v2) no page cursor, (v1) totals of only the shown results."""
    longest_range_seconds: float = 0
    """A longer range is refused."""
    most_in_range: int = 0
    """A range that holds more events is refused."""
    largest_page: int = 0
    """A larger page is refused, also if it is within what is documented."""
    refuses_with: int = 400
    """The status of all these refusals."""
    slow_page: int = 0
    """A larger page takes `slow_seconds`."""
    slow_seconds: float = 5
    null_result: bool = False
    """An empty page has `result: null`."""
    challenge: bool = False
    """A page of HTML, with 403, instead of any answer."""

    def refusal(self, since: datetime, before: datetime, size: int, events: int, start: int) -> str | None:
        """The reason to refuse a query from number `start` on, of `size` events a page, in a range of `events`."""
        if self.longest_range_seconds and (before - since).total_seconds() > self.longest_range_seconds:
            return "the time range is too long"
        if self.most_in_range and events > self.most_in_range:
            return "the time range holds too many results"
        if self.largest_page and size > self.largest_page:
            return "the page is too large"
        if self.shows_at_most and self.end_of_results == "error" and start >= self.shows_at_most:
            return "result window is too large"
        return None

    def shown(self, events: Sequence[Shown]) -> Sequence[Shown]:
        """The events that a query shows."""
        return events[: self.shows_at_most] if self.shows_at_most else events

    def latency_of_page(self, size: int) -> float:
        """The seconds that the size of a page adds."""
        return self.slow_seconds if self.slow_page and size > self.slow_page else 0.0
