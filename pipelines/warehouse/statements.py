"""Reads the SQL of `sql/`: files of statements, some in named sections, with names that are filled in."""

import re
from pathlib import Path

_FOLDER = Path(__file__).with_name("sql")
_SECTION = re.compile(r"^-- \[(.+)\]$", re.MULTILINE)
_STATEMENT = re.compile(r"(?:\$body\$.*?\$body\$|[^;])+", re.DOTALL)
"""Up to a semicolon that is not in the body of a function."""


def statements_of(file: str, **names: object) -> list[str]:
    """The statements of a file, with `{name}` filled in."""
    return _statements((_FOLDER / file).read_text(), names)


def sections_of(file: str, **names: object) -> dict[str, list[str]]:
    """The statements of a file by section (`-- [name]`), with `{name}` filled in."""
    _, *parts = _SECTION.split((_FOLDER / file).read_text())
    return {title: _statements(text, names) for title, text in zip(parts[::2], parts[1::2], strict=True)}


def _statements(text: str, names: dict[str, object]) -> list[str]:
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("--")]
    text = "\n".join(lines)
    for name, value in names.items():
        text = text.replace(f"{{{name}}}", str(value))
    return [statement.strip() for statement in _STATEMENT.findall(text) if statement.strip()]
