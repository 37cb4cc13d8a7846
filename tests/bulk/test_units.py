"""Units are handed out as there is room for them, wherever they are done, and end in any order."""

from concurrent.futures import Future
from itertools import count
from typing import Any

import pytest

from pipelines.bulk.units import BrokenUnitError, Pool, results_of
from sources.cloudflare_audit_logs.errors import AuditLogsError, TemporaryError


class Crew:
    """An executor that does as many units at once as its width, the youngest first."""

    def __init__(self, *widths: int) -> None:
        self.widths, self.looked = widths, count()
        self.in_hand: list[tuple[int, Future[int | AuditLogsError]]] = []
        self.most = 0

    def submit(self, unit: int) -> "Future[int | AuditLogsError]":
        """Starts a unit."""
        self.in_hand.append((unit, Future()))
        self.most = max(self.most, len(self.in_hand))
        return self.in_hand[-1][1]

    def width(self) -> int:
        """Asked before each look for more: a unit ends meanwhile."""
        if self.in_hand:
            unit, future = self.in_hand.pop()
            future.set_result(unit * unit)
        return self.widths[min(next(self.looked), len(self.widths) - 1)]


@pytest.mark.parametrize("widths", [(1,), (3,), (8,), (2, 5), (5, 1)])
def test_no_more_units_are_in_hand_than_there_is_room_for(widths: tuple[int, ...]) -> None:
    """Dask would count a worker's death against all that wait for it. A crew may grow and shrink."""
    crew = Crew(*widths)

    done = dict(results_of(range(12), Pool(crew.submit, crew.width)))

    assert done == {unit: unit * unit for unit in range(12)}
    assert crew.most <= max(widths)


def test_a_broken_unit_is_its_own_result_and_a_store_that_is_down_ends_all() -> None:
    """The others would meet that, too."""

    def submit(unit: Any) -> "Future[int | AuditLogsError]":
        future: Future[int | AuditLogsError] = Future()
        if isinstance(unit, AuditLogsError):
            future.set_exception(unit)
        else:
            future.set_result(unit)
        return future

    broken, down = BrokenUnitError("broken"), TemporaryError("the warehouse is not available")

    assert dict(results_of([1, broken, 2], Pool(submit, lambda: 1))) == {1: 1, broken: broken, 2: 2}
    with pytest.raises(TemporaryError, match="not available"):
        list(results_of([1, down, 2], Pool(submit, lambda: 1)))
