"""PostgreSQL, and TimescaleDB where the server has it. Knows nothing of the lake."""

from typing import Any


def __getattr__(name: str) -> Any:
    """Imports `AuditWarehouse` when stored dlt states ask for it under this module's name."""
    if name != "AuditWarehouse":
        raise AttributeError(name)
    from .dlt_client import AuditWarehouse  # noqa: PLC0415

    return AuditWarehouse
