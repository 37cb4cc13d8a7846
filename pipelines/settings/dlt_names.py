"""Says if dlt's own names can say anything of the destinations: if not, the settings alone do, and dlt is not asked.

Errs on the side of asking dlt, which takes a second of CPU to load.
"""

import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

from .settings import PROJECT_ROOT

_NAMES = ("DESTINATION", "CREDENTIALS", "PROVIDERS")
"""The sections that our loads leave to users (`pipelines/load/dlt_settings.py`), and where dlt may look besides."""
_OURS = {"runtime"}
"""The sections of the `config.toml` that comes with the project."""


def dlt_is_silent(environment: Mapping[str, str], root: Path = PROJECT_ROOT) -> bool:
    """True if no variable and no file of dlt's can name a destination or its credentials."""
    if any(name.startswith("DLT_") or any(part in name.upper() for part in _NAMES) for name in environment):
        return False
    return all(_is_ours(file) for folder in _folders(environment, root) for file in folder.glob("*.toml"))


def _folders(environment: Mapping[str, str], root: Path) -> Iterator[Path]:
    """The places of dlt's files: the project's, and those that are a user's, root's, or nobody's."""
    yield root / ".dlt"
    yield Path.home() / ".dlt"
    yield Path("/var/dlt")
    yield Path(tempfile.gettempdir(), "dlt")
    if "XDG_DATA_HOME" in environment:
        yield Path(environment["XDG_DATA_HOME"], "dlt")


def _is_ours(file: Path) -> bool:
    try:
        return tomllib.loads(file.read_text()).keys() <= _OURS
    except (OSError, ValueError):
        return False
