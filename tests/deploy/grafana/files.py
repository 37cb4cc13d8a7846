"""The files that Grafana is given."""

import json

from pipelines.settings.settings import PROJECT_ROOT

from . import events, loop
from .parts import Json

GRAFANA = PROJECT_ROOT / "deploy" / "grafana"
FOLDER = GRAFANA / "dashboards"
DASHBOARDS = {"loop.json": loop.build, "events.json": events.build}


def text_of(dashboard: Json) -> str:
    """As it is in its file."""
    return json.dumps(dashboard, indent=1) + "\n"
