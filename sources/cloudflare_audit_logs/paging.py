"""Reads a window of a stream page by page. A window counts only if its last page was seen.

Both versions are asked with a fixed `before` and the same parameters on every page. v1 counts pages, v2 hands on a
page cursor. Nothing is assumed of `since` and `before` being inclusive: windows overlap, and events are told apart by
id.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from .answers import Answer
from .errors import BadAnswerError
from .streams import Stream, Window

Get = Callable[[str, Mapping[str, str | int]], Answer]

SMALLEST_FULL_PAGE = 100
"""A server may cap a page below what was asked and say nothing of it: a page this long is never taken for the last."""

MOST_EMPTY_PAGES = 1_000
"""A v2 page cursor that leads to nothing but empty pages is taken for an endless one."""


def read_window(
    get: Get, stream: Stream, window: Window, *, direction: str, per_page: int, hide_user_logs: bool
) -> Iterator[list[bytes]]:
    """Yields the events of each page as sent, in the order of the API, until the window has been read whole.

    Raises:
        AccountError: the window could not be read to its end; what was yielded so far is a part of it.
    """
    common: dict[str, str | int] = {
        "since": _rfc3339(window.since),
        "before": _rfc3339(window.before),
        "direction": direction,
    }
    account = f"accounts/{stream.account_id}"
    if stream.api_version == "v1":
        params = {**common, "per_page": per_page, "hide_user_logs": str(hide_user_logs).lower()}
        return _read_v1(get, f"{account}/audit_logs", params)
    return _read_v2(get, f"{account}/logs/audit", {**common, "limit": per_page})


def _read_v1(get: Get, path: str, params: Mapping[str, str | int]) -> Iterator[list[bytes]]:
    number, events, seen = 1, 0, _SeenPages()
    while True:
        answer = get(path, {**params, "page": number})
        seen.check(answer.slices)
        if answer.slices:
            yield answer.slices
        events += len(answer.slices)
        stated = _whole_number(answer.info.get("total_count"))
        if not answer.slices and stated is not None and events < stated:
            raise _ended_early(f"{events} of {stated} events")
        if _is_last_v1_page(answer, number, events, asked=int(params["per_page"])):
            return
        number += 1


def _is_last_v1_page(answer: Answer, number: int, events: int, *, asked: int) -> bool:
    """The spec promises no `result_info`; where there is one, its totals are believed when they say that there is more.

    Args:
        answer: of page `number`.
        number: of the page, from 1.
        events: read so far.
        asked: events a page.
    """
    if not answer.slices:
        return True
    for total, read in ("total_pages", number), ("total_count", events):
        stated = _whole_number(answer.info.get(total))
        if stated is not None and read < stated:
            return False
    full = _whole_number(answer.info.get("per_page")) or min(asked, SMALLEST_FULL_PAGE)
    return len(answer.slices) < full


def _read_v2(get: Get, path: str, params: Mapping[str, str | int]) -> Iterator[list[bytes]]:
    cursors: set[str] = set()
    cursor, empty, last, seen = "", 0, 0, _SeenPages()
    while True:
        answer = get(path, {**params, "cursor": cursor} if cursor else params)
        seen.check(answer.slices)
        if answer.slices:
            yield answer.slices
        empty, last = (0, len(answer.slices)) if answer.slices else (empty + 1, last)
        cursor = str(answer.info.get("cursor") or "")
        if not cursor and empty and 0 < last < int(params["limit"]):
            raise _ended_early(f"a page of {last} events was to be followed by others")
        if not cursor:
            return
        if cursor in cursors or empty > MOST_EMPTY_PAGES:
            raise BadAnswerError("the API repeats a page cursor without end", detail=f"after {len(cursors)} pages")
        cursors.add(cursor)


def _ended_early(said: str) -> BadAnswerError:
    """The API said that there is more, and shows no more: whoever reads asks for what follows."""
    return BadAnswerError("the API ended a window before its end", detail=said, too_much="window")


class _SeenPages:
    """Stops a server that repeats a page for ever. A page that only overlaps another (drift) is fine."""

    def __init__(self) -> None:
        self._pages: set[tuple[int, bytes, bytes]] = set()
        """How many events each had, its first and its last one."""

    def check(self, slices: Sequence[bytes]) -> None:
        if not slices:
            return
        page = len(slices), slices[0], slices[-1]
        if page in self._pages:
            raise BadAnswerError("the API repeats a page", detail=f"after {len(self._pages)} pages")
        self._pages.add(page)


def _whole_number(value: Any) -> int | None:
    """A count as the API sends it: a number in one place, text in another."""
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _rfc3339(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
