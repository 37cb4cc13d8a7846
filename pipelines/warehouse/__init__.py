"""PostgreSQL, and TimescaleDB where it is there. Knows nothing of the lake."""

from typing import Any


def __getattr__(name: str) -> Any:
    """Gives `AuditWarehouse` under the name that stored dlt states record; imported when asked for alone."""
    if name != "AuditWarehouse":
        raise AttributeError(name)
    from .destination import AuditWarehouse  # noqa: PLC0415

    return AuditWarehouse
