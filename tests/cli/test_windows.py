"""A window is read to its end, or it does not count."""

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from simulator.api import Api
from simulator.server import serving
from sources.cloudflare_audit_logs.answers import Answer
from sources.cloudflare_audit_logs.client import AuditLogsClient, open_session
from sources.cloudflare_audit_logs.errors import BadAnswerError
from sources.cloudflare_audit_logs.paging import read_window
from sources.cloudflare_audit_logs.streams import Stream, Window
from tests.conftest import TOKEN
from tests.factory import ACCOUNT, ago, event_at, spread

Read = Callable[..., list[bytes]]
SINCE, BEFORE = ago(days=2), ago(minutes=1)


@pytest.fixture
def read(api: Api) -> Iterator[Read]:
    """Reads a window of the simulator's account through the real client."""
    with serving(api) as server, open_session() as session:
        client = AuditLogsClient(session, server.url, TOKEN, clock=lambda: datetime.now(UTC), sleep=lambda _: None)

        def read(
            version: str = "v1", *, per_page: int = 100, direction: str = "asc", hide: bool = False
        ) -> list[bytes]:
            pages = read_window(
                client.get,
                Stream(ACCOUNT, version),
                Window(SINCE, BEFORE),
                direction=direction,
                per_page=per_page,
                hide_user_logs=hide,
            )
            return [raw for page in pages for raw in page]

        yield read


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("direction", ["asc", "desc"])
@pytest.mark.parametrize("count", [0, 1, 99, 100, 101, 200, 250])
def test_a_window_of_any_length_is_read_whole(api: Api, read: Read, version: str, direction: str, count: int) -> None:
    """On the edge of a page as within one."""
    api.world.add(ACCOUNT, version, spread(count, SINCE, BEFORE, version=version) if count else [])

    assert sorted(read(version, direction=direction)) == sorted(api.world.raw(ACCOUNT, version))


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_every_page_is_asked_with_the_same_window(api: Api, read: Read, version: str) -> None:
    """A `before` that moves would let pages shift under the reader."""
    api.world.add(ACCOUNT, version, spread(250, SINCE, BEFORE, version=version))

    read(version)

    fixed = [{k: v for k, v in request.params.items() if k not in {"page", "cursor"}} for request in api.requests]
    assert len(fixed) == 3
    assert fixed[0] == fixed[1] == fixed[2]
    assert (fixed[0]["direction"], fixed[0]["before"]) == ("asc", f"{BEFORE:%Y-%m-%dT%H:%M:%S.%fZ}")


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("sends_info", [True, False])
def test_a_server_that_caps_its_pages_is_read_whole(api: Api, read: Read, version: str, *, sends_info: bool) -> None:
    """A page of 100 is not the last one, whether `result_info` says so or is missing."""
    api.world.add(ACCOUNT, version, spread(330, SINCE, BEFORE, version=version))
    api.behaviour.page_cap, api.behaviour.sends_result_info = 100, sends_info

    assert sorted(read(version, per_page=1000)) == sorted(api.world.raw(ACCOUNT, version))


@pytest.mark.parametrize("total", [{"total_count": 250}, {"total_count": "250"}, {"total_pages": 3}])
def test_a_v1_page_shorter_than_stated_is_not_the_last_if_there_is_more(total: dict[str, Any]) -> None:
    """A server that caps its pages may still repeat the size that it was asked for."""

    def get(_: str, params: Mapping[str, str | int]) -> Answer:
        page = int(params["page"])
        slices = [b"%d" % number for number in range(250)][(page - 1) * 100 : page * 100]
        return Answer(slices, {"page": page, "per_page": 1000, **total})

    pages = read_window(
        get, Stream(ACCOUNT, "v1"), Window(SINCE, BEFORE), direction="asc", per_page=1000, hide_user_logs=False
    )

    assert sum(len(page) for page in pages) == 250


def test_a_short_page_ends_v1_in_one_request(api: Api, read: Read) -> None:
    """An idle poll costs one request."""
    api.world.add(ACCOUNT, "v1", spread(99, SINCE, BEFORE))

    read(per_page=1000)

    assert len(api.requests) == 1


def test_a_short_v2_page_with_a_cursor_is_not_the_last() -> None:
    """Only an absent or empty page cursor ends v2."""
    answers = [
        Answer([b"1"], {"count": "1", "cursor": "a"}),
        Answer([], {"cursor": "b"}),
        Answer([b"2"], {"cursor": ""}),
    ]
    window = Window(SINCE, BEFORE)

    pages = read_window(
        lambda _, __: answers.pop(0),
        Stream(ACCOUNT, "v2"),
        window,
        direction="asc",
        per_page=100,
        hide_user_logs=False,
    )

    assert list(pages) == [[b"1"], [b"2"]]


@pytest.mark.parametrize(("version", "behaviour"), [("v1", "repeats_last_page"), ("v2", "repeats_cursor")])
def test_a_server_that_repeats_itself_is_stopped(api: Api, read: Read, version: str, behaviour: str) -> None:
    """A repeated page or cursor is an error, not the end of the window."""
    api.world.add(ACCOUNT, version, spread(200, SINCE, BEFORE, version=version))
    setattr(api.behaviour, behaviour, True)

    with pytest.raises(BadAnswerError, match="repeats"):
        read(version)


def test_empty_pages_without_end_are_stopped() -> None:
    """Empty pages are stopped even if each has a page cursor of its own."""
    numbers = iter(range(100_000))
    pages = read_window(
        lambda _, __: Answer([], {"cursor": str(next(numbers))}),
        Stream(ACCOUNT, "v2"),
        Window(SINCE, BEFORE),
        direction="asc",
        per_page=100,
        hide_user_logs=False,
    )

    with pytest.raises(BadAnswerError, match="without end"):
        list(pages)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_events_that_appear_while_a_window_is_read_do_not_hide_others(
    api: Api, read: Read, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages drift; what was visible from the beginning is read nevertheless."""
    first = spread(250, SINCE, BEFORE, version=version)
    api.world.add(ACCOUNT, version, first)
    answer = api.answer

    def drifting(target: str, authorization: str):  # type: ignore[no-untyped-def]  # noqa: ANN202
        reply = answer(target, authorization)
        late = [event_at(SINCE + timedelta(minutes=len(api.requests)), version=version) for _ in range(7)]
        api.world.add(ACCOUNT, version, late)
        return reply

    monkeypatch.setattr(api, "answer", drifting)

    assert {event.raw for event in first} <= set(read(version))


def test_user_level_events_are_hidden_on_request(api: Api, read: Read) -> None:
    """v1 has a parameter for it."""
    api.world.add(ACCOUNT, "v1", spread(3, SINCE, BEFORE))

    read(hide=True)

    assert api.requests[-1].params["hide_user_logs"] == "true"
