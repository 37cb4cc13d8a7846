"""Shards divide the accounts for good, and a stream's position in a store is found whatever their number was."""

import argparse
import re
from collections.abc import Iterable
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.cli.main_job import budgets_of
from pipelines.load.store import joined
from pipelines.settings.settings import read_settings
from pipelines.settings.shards import WHOLE, Shard, sibling_pattern
from sources.cloudflare_audit_logs import Position
from sources.cloudflare_audit_logs.budget import LOOP_SHARE
from tests.factory import ACCOUNT, OTHER_ACCOUNT, time_of

WAREHOUSE, LAKE = "cloudflare_audit_warehouse", "cloudflare_audit_lake"
EPOCH = time_of("2026-11-25T00:00:00Z")

counts = st.integers(1, 200)


@pytest.mark.parametrize(
    ("account_id", "numbers"), [(ACCOUNT, [1, 1, 3, 2, 31]), (OTHER_ACCOUNT, [1, 2, 2, 5, 72]), ("a", [1, 2, 2, 5, 44])]
)
def test_an_account_is_always_the_same_shards(account_id: str, numbers: list[int]) -> None:
    """On every host and in every version: these never change."""
    for count, number in zip((1, 2, 3, 5, 74), numbers, strict=True):
        assert [shard.number for shard in Shard(1, count).all if shard.takes(account_id)] == [number]


@given(st.text(), counts)
def test_an_account_is_one_shards_alone(account_id: str, count: int) -> None:
    """None is left out, none is polled twice."""
    assert sum(shard.takes(account_id) for shard in Shard(1, count).all) == 1


def test_shards_divide_a_tokens_requests_as_they_divide_its_accounts() -> None:
    """Together they send no more than one loop would."""
    ids = [f"{number:032x}" for number in range(6)]
    environment = {"CLOUDFLARE_API_TOKEN": "secret", "CLOUDFLARE_ACCOUNT_ID": ",".join(ids)}
    settings = read_settings(environment, now=EPOCH)
    (token_name,) = {account.token_name for account in settings.accounts.values()}

    shares = [budgets_of(settings, shard).of(token_name).share for shard in Shard(1, 2).all]

    assert shares == pytest.approx([LOOP_SHARE * 4 / 6, LOOP_SHARE * 2 / 6])
    assert budgets_of(settings, WHOLE).of(token_name).share == LOOP_SHARE


@given(counts, st.data())
def test_a_shard_is_what_is_written(count: int, data: st.DataObject) -> None:
    """A shard is written as it is read."""
    shard = Shard(data.draw(st.integers(1, count)), count)

    assert Shard.parse(str(shard)) == shard


@pytest.mark.parametrize(
    "text", ["", "3", "0/3", "1/0", "-1/3", "1/3/3", "1 of 3", "1/3 ", "\u0661/3", "1/99999", "a/b"]
)
def test_what_is_no_shard_is_told_how_to_write_one(text: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(argparse.ArgumentTypeError, match="write it as 1/3"):
        Shard.parse(text)


def test_a_shard_after_the_last_one_is_refused() -> None:
    """A replica too many, say."""
    with pytest.raises(argparse.ArgumentTypeError, match="no shard 4/3: the last one is 3/3"):
        Shard.parse("4/3")


@given(counts, st.data())
def test_siblings_are_told_by_their_names(count: int, data: st.DataObject) -> None:
    """All of one store, whatever their number; not those that have no cursor."""
    shard = Shard(data.draw(st.integers(1, count)), count)
    pattern = re.compile(sibling_pattern(WAREHOUSE))

    assert pattern.match(WAREHOUSE + shard.suffix)
    for purpose in ("sweep", "backfill", "backfill_worker_0", "repair_warehouse"):
        assert not pattern.match(f"{WAREHOUSE}{shard.suffix}_{purpose}")
    assert not pattern.match(LAKE + shard.suffix)
    assert re.match(sibling_pattern(WAREHOUSE, LAKE), LAKE + shard.suffix)


def test_the_whole_is_called_as_ever() -> None:
    """The whole has the name that it always had, also if it is written as one of one."""
    assert Shard.parse("1/1") == WHOLE
    assert (WHOLE.suffix, Shard(2, 3).suffix) == ("", "_shard_2_of_3")


def positions(*pairs: tuple[int, int]) -> list[Position]:
    """Makes positions from pairs of minutes."""
    return [Position(*(EPOCH + timedelta(minutes=minute) for minute in pair)) for pair in pairs]


intervals = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), max_size=8).map(
    lambda drawn: positions(*((begin, begin + length) for begin, length in drawn))
)


@pytest.mark.parametrize(
    ("held", "together"),
    [
        (positions(), None),
        (positions((5, 9)), (5, 9)),
        (positions((5, 9), (0, 7)), (0, 9)),
        (positions((5, 9), (0, 5)), (0, 9)),
        (positions((6, 9), (0, 5)), (0, 5)),
        (positions((1, 2), (0, 9)), (0, 9)),
        (positions((0, 0), (0, 9)), (0, 9)),
    ],
)
def test_what_is_held_ends_at_the_first_hole(held: list[Position], together: tuple[int, int] | None) -> None:
    """Events behind the first hole are read again."""
    assert joined(held) == (positions(together)[0] if together else None)


@given(intervals, st.randoms())
def test_no_minute_counts_as_held_that_none_holds(held: list[Position], dice: object) -> None:
    """The union begins with the earliest, has no hole, and could not go further; the order does not matter."""
    union = joined(held)
    dice.shuffle(held)  # type: ignore[attr-defined]

    assert joined(held) == union
    if union is None:
        assert not held
        return
    assert union.begin == min(position.begin for position in held)
    minutes = [union.begin + timedelta(minutes=number) for number in range((union.cursor - union.begin).seconds // 60)]
    assert all(_holds(held, minute) for minute in minutes)
    assert not _holds(held, union.cursor)


@given(intervals, intervals)
def test_who_holds_more_stands_no_earlier(held: list[Position], more: list[Position]) -> None:
    """Joining in parts is joining all, where the parts meet no hole: a shard stores what it has inherited."""
    union = joined(held)

    assert union is None or joined([*held, union]) == union
    assert union is None or joined([*held, union, *more]) == joined([*held, *more])


def _holds(held: Iterable[Position], minute: object) -> bool:
    return any(position.begin <= minute < position.cursor for position in held)  # type: ignore[operator]
