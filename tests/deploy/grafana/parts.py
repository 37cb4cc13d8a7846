"""The parts of a Grafana dashboard as its JSON model has them. Knows no metric and no table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]
COLUMNS = 24
GREEN, YELLOW, RED = "green", "yellow", "red"


@dataclass(frozen=True)
class Source:
    """A data source, which the reader chooses at the top of the page."""

    variable: str
    label: str
    plugin: str

    @property
    def reference(self) -> Json:
        """As panels, queries and variables name it."""
        return {"type": self.plugin, "uid": f"${{{self.variable}}}"}

    def as_variable(self) -> Json:
        """The choice."""
        return {"type": "datasource", "name": self.variable, "label": self.label, "query": self.plugin} | _SHOWN


METRICS = Source("metrics", "Prometheus", "prometheus")
WAREHOUSE = Source("warehouse", "Warehouse", "grafana-postgresql-datasource")
_SHOWN = {"hide": 0, "skipUrlSync": False, "multi": False, "includeAll": False}


@dataclass(frozen=True)
class Panel:
    """What a panel asks and shows; `queries` by the legend of their series, or by a name for a table."""

    title: str
    kind: str
    source: Source
    queries: dict[str, str]
    description: str = ""
    width: int = 12
    height: int = 8
    defaults: Json = field(default_factory=dict)
    overrides: Sequence[Json] = ()
    options: Json = field(default_factory=dict)

    def targets(self) -> list[Json]:
        """Its queries as the data source takes them."""
        return [self._target(chr(ord("A") + n), name, text) for n, (name, text) in enumerate(self.queries.items())]

    def _target(self, ref: str, legend: str, text: str) -> Json:
        is_table = self.kind == "table"
        if self.source is METRICS:
            asked = {"expr": text, "legendFormat": legend, "range": not is_table, "instant": is_table}
            return {"refId": ref, "format": "table" if is_table else "time_series"} | asked
        shape = "time_series" if self.kind == "timeseries" else "table"
        return {"refId": ref, "format": shape, "rawSql": text, "rawQuery": True, "editorMode": "code"}


def stat(title: str, source: Source, queries: dict[str, str], unit: str = "short", **more: Any) -> Panel:
    """A number, green without `steps`: (from this value on, color)."""
    steps = [(None, GREEN), *more.pop("steps", ())]
    options = {
        "colorMode": "value",
        "graphMode": "none",
        "justifyMode": "auto",
        "orientation": "auto",
        "textMode": more.pop("text", "auto"),
        "wideLayout": True,
        "showPercentChange": False,
        "percentChangeColorMode": "standard",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    }
    found = {"mode": "absolute", "steps": [{"value": value, "color": color} for value, color in steps]}
    defaults = {"unit": unit, "thresholds": found, "noValue": "none"} | more.pop("defaults", {})
    return Panel(title, "stat", source, queries, defaults=defaults, options=options, **{"width": 4, "height": 4} | more)


def lines(title: str, source: Source, queries: dict[str, str], unit: str = "short", **more: Any) -> Panel:
    """Series over time; `bars` stacks them."""
    drawn = {"drawStyle": "bars", "fillOpacity": 80, "stacking": {"mode": "normal", "group": "A"}}
    custom = drawn if more.pop("bars", False) else {"drawStyle": "line", "fillOpacity": 5, "showPoints": "never"}
    options = {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    defaults = {"unit": unit, "min": 0, "custom": custom}
    return Panel(title, "timeseries", source, queries, defaults=defaults, options=options, **more)


def table(title: str, source: Source, query: str, links: Json | None = None, **more: Any) -> Panel:
    """Rows; a value of a column in `links` leads to its address."""
    overrides = [
        {
            "matcher": {"id": "byName", "options": column},
            "properties": [{"id": "links", "value": [{"title": "only this", "url": url, "targetBlank": False}]}],
        }
        for column, url in (links or {}).items()
    ]
    options = {"showHeader": True, "cellHeight": "sm", "frameIndex": 0}
    return Panel(title, "table", source, {"rows": query}, overrides=overrides, options=options, **more)


def laid_out(rows: Mapping[str, Sequence[Panel]]) -> list[Json]:
    """The panels of each headed row, from left to right."""
    found: list[Json] = []
    top = 0
    for heading, panels in rows.items():
        found.append(_row(len(found) + 1, heading, top))
        top += 1
        left = tallest = 0
        for panel in panels:
            if left + panel.width > COLUMNS:
                top, left, tallest = top + tallest, 0, 0
            place = {"x": left, "y": top, "w": panel.width, "h": panel.height}
            found.append(_panel(len(found) + 1, panel, place))
            left, tallest = left + panel.width, max(tallest, panel.height)
        top += tallest
    return found


def _row(number: int, heading: str, top: int) -> Json:
    place = {"x": 0, "y": top, "w": COLUMNS, "h": 1}
    return {"type": "row", "id": number, "title": heading, "collapsed": False, "gridPos": place, "panels": []}


def _panel(number: int, panel: Panel, place: Json) -> Json:
    found = {
        "type": panel.kind,
        "id": number,
        "title": panel.title,
        "description": panel.description,
        "gridPos": place,
        "datasource": panel.source.reference,
        "targets": [{"datasource": panel.source.reference} | target for target in panel.targets()],
        "fieldConfig": {"defaults": panel.defaults, "overrides": list(panel.overrides)},
        "options": panel.options,
    }
    return found if panel.description else {name: part for name, part in found.items() if name != "description"}


def choice(name: str, label: str, source: Source, query: Any) -> Json:
    """A variable whose values are asked for; several may be chosen, all are by default."""
    many = {"multi": True, "includeAll": True, "current": {"selected": True, "text": ["All"], "value": ["$__all"]}}
    asked = {"type": "query", "name": name, "label": label, "datasource": source.reference, "query": query}
    return asked | _SHOWN | many | {"refresh": 2, "sort": 1, "regex": ""}


def text_box(name: str, label: str) -> Json:
    """A variable that the reader types."""
    empty = {"selected": False, "text": "", "value": ""}
    return {"type": "textbox", "name": name, "label": label, "query": "", "current": empty} | _SHOWN


def dashboard(uid: str, title: str, since: str, variables: Sequence[Json], rows: Mapping[str, Sequence[Panel]]) -> Json:
    """The whole, as a file of `deploy/grafana/dashboards` has it."""
    return {
        "uid": uid,
        "title": title,
        "tags": ["cloudflare-audit"],
        "schemaVersion": 41,
        "timezone": "utc",
        "editable": True,
        "graphTooltip": 1,
        "refresh": "1m",
        "time": {"from": since, "to": "now"},
        "templating": {"list": list(variables)},
        "annotations": {"list": []},
        "links": [
            {
                "type": "dashboards",
                "title": "Cloudflare audit",
                "tags": ["cloudflare-audit"],
                "icon": "external link",
                "tooltip": "",
                "url": "",
                "asDropdown": False,
                "targetBlank": False,
                "includeVars": False,
                "keepTime": True,
            }
        ],
        "panels": laid_out(rows),
    }
