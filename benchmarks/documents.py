"""Writes tables of measurements as Markdown, and puts them into the docs."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

Row = Mapping[str, str]


def as_markdown(rows: Sequence[Row]) -> str:
    """Returns a table with every column that some row has."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns, ["---"] * len(columns), *([row.get(name, "") for name in columns] for row in rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def put_into(document: Path, name: str, text: str) -> None:
    """Replaces the text between `<!-- name -->` and `<!-- end -->`."""
    place = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
    document.write_text(place.sub(lambda match: f"{match[1]}\n{text}\n{match[2]}", document.read_text()))
