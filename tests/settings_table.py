"""`python -m tests.settings_table`: writes the table of docs/settings.md anew, from config.example.env."""

import re
from collections.abc import Iterator

from pipelines.settings.settings import PROJECT_ROOT

PAGE = PROJECT_ROOT / "docs" / "settings.md"
BEGIN, END = "<!-- settings -->\n", "<!-- end -->\n"
SHOWN_AS_EXAMPLES = {"PG_HOST", "INITIAL_CHECKPOINT"}
"""These settings have no default; the example file shows a value of another kind."""

_NAME = re.compile(
    r'"((?:ACCOUNTS|CLOUDFLARE|DASHBOARD|HEARTBEAT|LOG|METRICS|PG|RECONCILE|S3|SEAL|SWEEP|TIMESCALE)_[A-Z_]+'
    r'|POLL_INTERVAL_SECONDS|INITIAL_CHECKPOINT|DATA_DIR)"'
)


def names_in_code() -> set[str]:
    """Every setting that is read."""
    files = (PROJECT_ROOT / "pipelines" / "settings").glob("*.py")
    return {name for file in files for name in _NAME.findall(file.read_text())}


def page_with_table() -> str:
    """docs/settings.md as it should be."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    return f"{before}{BEGIN}{''.join(_tables())}\n{END}{rest.partition(END)[2]}"


def _tables() -> Iterator[str]:
    """A heading and a table for each section of the example, a line for each setting."""
    comment: list[str] = []
    for line in (PROJECT_ROOT / "config.example.env").read_text().splitlines():
        setting = re.fullmatch(r"(#?)([A-Z][A-Z0-9_]+)=(.*)", line)
        if section := re.fullmatch(r"# --- (.*) ---", line):
            yield f"\n## {section[1]}\n\n| name | default | meaning |\n| --- | --- | --- |\n"
        elif setting:
            yield f"| `{setting[2]}` | {_default(*setting.groups())} | {' '.join(comment)} |\n"
        comment = [*comment, line.lstrip("# ")] if line.startswith("# ") and not section else []


def _default(mark: str, name: str, value: str) -> str:
    if not mark:
        return "required"
    if name in SHOWN_AS_EXAMPLES:
        return f"none; such as `{value}`"
    return f"`{value}`" if value else "none"


if __name__ == "__main__":
    PAGE.write_text(page_with_table())
