"""A random history of loads, repairs, thefts and seals: both verifiers say exactly what a model says."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.lake.partitions import HOUR
from pipelines.warehouse.seals import SealRows

from .made_lake import BEGIN, MadeLake, row

pytestmark = pytest.mark.integration

HOURS = 4


class Model:
    """What was sealed of each hour, what is there now, and what was permitted since."""

    def __init__(self, lake: MadeLake) -> None:
        self.lake, self.count = lake, 0
        self.sealed: dict[int, set[str]] = {}
        self.held: dict[int, set[str]] = {hour: set() for hour in range(HOURS)}
        self.old: set[str] = set()
        """Names that came with a time of long ago, which no load has."""
        self.may_go: dict[int, set[str]] = {}
        self.may_come: dict[int, set[str]] = {}
        self.there: set[int] = set()

    def verdict(self, hour: int) -> str | None:
        """The verdict on an hour; None: it is simply intact."""
        if hour not in self.sealed:
            return "unsealed" if hour in self.there else None
        gone, extra = self.sealed[hour] - self.held[hour], self.held[hour] - self.sealed[hour]
        unexplained = gone - self.may_go.get(hour, set())
        foreign = {name for name in extra & self.old if name not in self.may_come.get(hour, set())}
        if unexplained:
            return "altered" if extra else "missing"
        if foreign:
            return "foreign"
        if gone or extra & self.may_come.get(hour, set()):
            return "amended"
        return "extended" if extra else None

    def write(self, hour: int, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
        """Changes an object."""
        self.lake.put(hour, change(self.lake.held(hour)))
        self.held[hour] = {one["event_id"] for one in self.lake.held(hour)}
        self.there.add(hour)

    def add(self, hour: int, *, is_old: bool) -> None:
        """Adds an event: as a load does, or as one who forges its time."""
        self.count += 1
        name = f"n{self.count:03}"
        if is_old:
            self.old.add(name)
        seen = BEGIN if is_old else self.lake.now
        self.write(hour, lambda rows: [*rows, row(hour, name, seen=seen)])

    def remove(self, hour: int, *, is_permitted: bool) -> None:
        """Takes an event out: as a repair does, which says so before, or as an attacker."""
        if not self.held[hour]:
            return
        name = min(self.held[hour])
        if is_permitted:
            self.lake.amend(hour, removes=[self.lake.leaf(hour, name)])
            self.may_go.setdefault(hour, set()).add(name)
        self.write(hour, lambda rows: [one for one in rows if one["event_id"] != name])

    def bring_back(self, hour: int) -> None:
        """Adds an event with an old time, as a repair from the warehouse does, which says so before."""
        self.count += 1
        name = f"n{self.count:03}"
        found = row(hour, name, seen=BEGIN)
        scratch = self.lake.copy("scratch")
        scratch.put(hour, [found])
        self.lake.amend(hour, adds=[scratch.leaf(hour, name)])
        self.may_come.setdefault(hour, set()).add(name)
        self.old.add(name)
        self.write(hour, lambda rows: [*rows, found])

    def seal(self) -> None:
        """Seals what is closed and not altered."""
        alarms = {hour for hour in range(HOURS) if self.verdict(hour) in {"altered", "missing", "foreign"}}
        self.lake.now += timedelta(hours=2)
        self.lake.seal()
        assert {(hour - BEGIN) // HOUR for hour in self.lake.alarms} == alarms
        for hour in range(HOURS):
            if hour not in alarms:
                changed = self.sealed.get(hour) != self.held[hour]
                self.sealed[hour] = set(self.held[hour])
                if changed:
                    self.may_go.pop(hour, None)
                    self.may_come.pop(hour, None)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "add", "forge", "repair", "steal", "bring back", "seal", "seal"]),
        st.integers(0, HOURS - 1),
    ),
    min_size=1,
    max_size=10,
)


@settings(max_examples=25)
@given(steps=STEPS)
def test_the_verdicts_on_a_random_history_are_exact(rows: SealRows, steps: list[tuple[str, int]]) -> None:
    """Loads and repairs are no alarm, thefts and forgeries are, and no seal changes that."""
    with TemporaryDirectory() as folder:
        lake = MadeLake(Path(folder) / "lake", rows)
        lake.init()
        model = Model(lake)
        actions: dict[str, Callable[[int], None]] = {
            "add": lambda hour: model.add(hour, is_old=False),
            "forge": lambda hour: model.add(hour, is_old=True),
            "repair": lambda hour: model.remove(hour, is_permitted=True),
            "steal": lambda hour: model.remove(hour, is_permitted=False),
            "bring back": model.bring_back,
            "seal": lambda _: model.seal(),
        }
        for action, hour in steps:
            actions[action](hour)
            expected = {hour: verdict for hour in range(HOURS) if (verdict := model.verdict(hour))}
            if model.sealed:
                words = lake.verdicts()
                found = {hour: words[f"hour {hour}"] for hour in range(HOURS) if f"hour {hour}" in words}
                assert found == expected
