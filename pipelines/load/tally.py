"""The tally of an hour: the number of its events, and the digest of their keys (`lake/key_tallies.py`). Pure."""

from datetime import UTC, datetime
from typing import Any, NamedTuple


class Tally(NamedTuple):
    """Compared first: two sides with the same tally of an hour hold the same events."""

    events: int
    digest: int

    @classmethod
    def of_row(cls, row: dict[str, Any]) -> tuple[datetime, "Tally"]:
        """Returns the hour and its tally, of a row that PostgreSQL or DuckDB has counted."""
        return datetime.fromtimestamp(row["hour"] * 3_600, UTC), cls(row["events"], int(row["digest"]) % 2**64)


NOTHING = Tally(0, 0)
