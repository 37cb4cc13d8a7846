"""Adds many events to a warehouse at once; PostgreSQL itself makes them."""

from datetime import datetime, timedelta
from pathlib import Path

_SQL = Path(__file__).with_suffix(".sql")


def insert_events(schema: str, events: int, before: datetime, span: timedelta) -> str:
    """Returns the statement that adds so many events to `audit_logs`, evenly over the time before `before`."""
    text = _SQL.read_text()
    names = {"schema": schema, "events": events, "before": before.isoformat(), "seconds": span.total_seconds()}
    for name, value in names.items():
        text = text.replace(f"{{{name}}}", str(value))
    return text
