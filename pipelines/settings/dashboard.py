"""The settings of the dashboard, which has no token and loads nothing. What they may be is checked when it starts."""

# ruff: noqa: RUF009  # setting() is dataclasses.field()

from dataclasses import dataclass
from pathlib import Path

from . import values
from .reader import setting

DEFAULT_PORT = 2719


@dataclass(frozen=True)
class DashboardSettings:
    """Where the dashboard is served, and for whom."""

    host: str = setting("DASHBOARD_HOST", values.hostname, "127.0.0.1")
    port: int | None = setting("DASHBOARD_PORT", values.whole(0, 65_535), None)
    """None: the default, or a free one if that is taken. Zero: a free one."""
    allowed_hosts: tuple[str, ...] = setting("DASHBOARD_ALLOWED_HOSTS", values.hostnames, ())
    """The names by which browsers may ask for it, besides this host's own loopback."""
    base_path: str = setting("DASHBOARD_BASE_PATH", values.base_path, "")
    """A slash and a path, or nothing."""
    user_header: str = setting("DASHBOARD_USER_HEADER", values.header_name, "")
    """The header in which an authenticating proxy names the user."""
    geoip: Path | None = setting("DASHBOARD_GEOIP", Path, None)
    """A database of countries (.mmdb)."""
