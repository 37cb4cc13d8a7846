"""The rows of a parametrized test: one for each rule always, the others in the long tests."""

from collections.abc import Iterable
from typing import Any

import pytest


def rows(*always: Any, long: Iterable[Any]) -> list[Any]:
    """The arguments of `parametrize`; a row of several values is a tuple."""
    others = [row if isinstance(row, tuple) else (row,) for row in long]
    return [*always, *(pytest.param(*values, marks=pytest.mark.long) for values in others)]
