"""Grafana's own types, as its SDK has them, know every part of the dashboards."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from .grafana.files import DASHBOARDS, FOLDER


def parts_of(given: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Each value below with its path."""
    if isinstance(given, dict | list):
        for key, part in given.items() if isinstance(given, dict) else enumerate(given):
            yield from parts_of(part, f"{path}/{key}")
    else:
        yield path, given


@pytest.mark.parametrize("name", DASHBOARDS)
@pytest.mark.parametrize("mistake", ["", "justfyMode"])
def test_grafanas_schema_knows_every_part(name: str, mistake: str) -> None:
    """Read by Grafana's own types and written again, nothing is lost; a misspelt option would be."""
    plugins.register_default_plugins()
    given = json.loads((FOLDER / name).read_text())
    if mistake:
        given["panels"][1]["options"][mistake] = "auto"

    written = dict(parts_of(json.loads(json.dumps(Dashboard.from_json(given), cls=JSONEncoder))))

    lost = [path for path, value in parts_of(given) if path not in written or written[path] != value]
    assert [path.rpartition("/")[2] for path in lost] == ([mistake] if mistake else [])
