"""The tally of an hour: how many events it has, and the digest of their keys (`proof/contents.py`). Pure."""

from datetime import UTC, datetime
from typing import Any, NamedTuple

HOUR_SECONDS = 3_600
_MODULUS = 2**64


class Tally(NamedTuple):
    """What is compared first."""

    events: int
    digest: int

    @classmethod
    def of_row(cls, row: dict[str, Any]) -> tuple[datetime, "Tally"]:
        """The hour and its tally, of a row of either query."""
        return datetime.fromtimestamp(row["hour"] * HOUR_SECONDS, UTC), cls(
            row["events"], int(row["digest"]) % _MODULUS
        )


NOTHING = Tally(0, 0)
