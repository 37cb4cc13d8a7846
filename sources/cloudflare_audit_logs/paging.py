"""Reads a window of a stream page by page. A window counts only if its last page was seen.

Both versions are asked with a fixed `before` and the same parameters on every page. v1 counts pages, v2 hands on a
page cursor. Neither `since` nor `before` is assumed to be inclusive: windows overlap, and events are told apart by id.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC
from functools import partial
from itertools import count
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
        AccountError: the window could not be read to its end; the pages yielded so far are a part of it.
    """
    since, before = (f"{time.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}" for time in (window.since, window.before))
    params: dict[str, str | int] = {"since": since, "before": before, "direction": direction}
    if stream.api_version == "v1":
        params |= {"per_page": per_page, "hide_user_logs": str(hide_user_logs).lower()}
        answers = _v1_answers(partial(get, f"accounts/{stream.account_id}/audit_logs"), params, per_page)
    else:
        params["limit"] = per_page
        answers = _v2_answers(partial(get, f"accounts/{stream.account_id}/logs/audit"), params, per_page)

    seen: set[tuple[int, bytes, bytes]] = set()
    for slices in answers:
        # A server may repeat a page for ever. A page that only overlaps another (drift) is fine.
        page = len(slices), slices[0], slices[-1]
        if page in seen:
            raise BadAnswerError("the API repeats a page", detail=f"after {len(seen)} pages")
        seen.add(page)
        yield slices


def _v1_answers(
    get: Callable[[Mapping[str, str | int]], Answer], params: Mapping[str, str | int], per_page: int
) -> Iterator[list[bytes]]:
    """The spec promises no `result_info`; where it is sent, its totals are believed if they say that there is more."""
    events = 0
    for number in count(1):
        slices, info = get({**params, "page": number})
        if slices:
            yield slices
        events += len(slices)
        total = _whole_number(info.get("total_count"), events)
        if not slices and events < total:
            raise _ended_early(f"{events} of {total} events")
        has_more = events < total or number < _whole_number(info.get("total_pages"), number)
        full = _whole_number(info.get("per_page"), 0) or min(per_page, SMALLEST_FULL_PAGE)
        if not slices or (len(slices) < full and not has_more):
            return


def _v2_answers(
    get: Callable[[Mapping[str, str | int]], Answer], params: Mapping[str, str | int], per_page: int
) -> Iterator[list[bytes]]:
    cursors: set[str] = set()
    cursor, empty, last = "", 0, 0
    while True:
        slices, info = get({**params, "cursor": cursor} if cursor else params)
        if slices:
            yield slices
        empty, last = (0, len(slices)) if slices else (empty + 1, last)
        cursor = str(info.get("cursor") or "")
        if not cursor and empty and 0 < last < per_page:
            raise _ended_early(f"a page of {last} events was to be followed by others")
        if not cursor:
            return
        if cursor in cursors or empty > MOST_EMPTY_PAGES:
            raise BadAnswerError("the API repeats a page cursor without end", detail=f"after {len(cursors)} pages")
        cursors.add(cursor)


def _ended_early(said: str) -> BadAnswerError:
    """The API said that there is more, and shows no more: the rest is to be asked for by another query."""
    return BadAnswerError("the API ended a window before its end", detail=said, too_much="window")


def _whole_number(value: Any, default: int) -> int:
    """A count as the API sends it, a number or text; a default where it sends none."""
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else default
