"""The Parquet lake, in a folder or a bucket. Knows nothing of the warehouse."""

from typing import Any


def __getattr__(name: str) -> Any:
    """Gives `AuditLake` under the name that stored dlt states record; imported when asked for alone."""
    if name != "AuditLake":
        raise AttributeError(name)
    from .destination import AuditLake  # noqa: PLC0415

    return AuditLake
