"""The charts: what changed when, and which hours were compared. Colours that show on a light and on a dark page."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import altair as alt

from .questions import Filters, bucket_seconds
from .stores import Row

EVENTS, FAILURES, COMPLETE = "#4c6ef5", "#f76707", "#12b886"
_DIM, _FAINT = "#868e96", "#868e9633"
_STATUS = {"complete": COMPLETE, "gap": FAILURES}
_DAY_PIXELS = 16
_NO_MENU = {"embedOptions": {"actions": False}}


def by_time(rows: Sequence[Row], filters: Filters) -> alt.Chart:
    """Events by time, those that failed on top."""
    size = timedelta(seconds=bucket_seconds(filters))
    bars = [
        {
            "begins": _milliseconds(max(row["begins"], filters.since)),
            "ends": _milliseconds(min(row["begins"] + size, filters.before)),
            "when": f"{row['begins']:%Y-%m-%d %H:%M}",
            "kind": kind,
            "events": count,
        }
        for row in rows
        for kind, count in (("failed", row["failures"]), ("succeeded", row["events"] - row["failures"]))
        if count
    ]
    time = alt.Scale(type="utc", domainMin=_milliseconds(filters.since), domainMax=_milliseconds(filters.before))
    kinds = alt.Scale(domain=["succeeded", "failed"], range=[EVENTS, FAILURES])
    chart = (
        alt.Chart(alt.InlineData(values=bars))
        .mark_bar(binSpacing=1)
        .encode(
            x=alt.X("begins:T", bin="binned", scale=time, title=None, axis=alt.Axis(tickCount=6, labelFlush=True)),
            x2="ends:T",
            y=alt.Y("events:Q", title=None, axis=alt.Axis(tickCount=4, format="~s")),
            color=alt.Color("kind:N", scale=kinds, legend=alt.Legend(title=None, orient="top", offset=4)),
            order=alt.Order("kind:N", sort="descending"),
            tooltip=[
                alt.Tooltip("when:N", title="from (UTC)"),
                alt.Tooltip("kind:N", title="result"),
                alt.Tooltip("events:Q", title="events", format=","),
            ],
        )
    )
    return _styled(chart, height=220)


def completeness(checks: Sequence[Row]) -> alt.Chart:
    """A square an hour (UTC), a row a day: complete, or with a gap; what was never compared is empty."""
    squares = [
        {
            "day": f"{check['hour']:%Y-%m-%d}",
            "hour": check["hour"].hour,
            **{name: check[name] for name in ("status", "api_events", "warehouse_events", "lake_events")},
        }
        for check in checks
    ]
    days = len({square["day"] for square in squares})
    status = alt.Scale(domain=list(_STATUS), range=list(_STATUS.values()))
    counts = [alt.Tooltip(f"{name}_events:Q", title=name, format=",") for name in ("api", "warehouse", "lake")]
    chart = (
        alt.Chart(alt.InlineData(values=squares))
        .mark_rect()
        .encode(
            x=alt.X(
                "hour:O",
                title=None,
                scale=alt.Scale(domain=list(range(24)), padding=0.1),
                axis=alt.Axis(labelAngle=0, labelOverlap=True),
            ),
            y=alt.Y("day:O", title=None, sort="descending", scale=alt.Scale(padding=0.1)),
            color=alt.Color("status:N", scale=status, legend=alt.Legend(title=None, orient="top")),
            tooltip=["day:N", "hour:O", "status:N", *counts],
        )
    )
    return _styled(chart, height=max(2, days) * _DAY_PIXELS)


def _styled(chart: alt.Chart, **properties: Any) -> alt.Chart:
    axis = {"labelColor": _DIM, "gridColor": _FAINT, "domain": False, "ticks": False, "labelPadding": 6, "grid": False}
    styled: alt.Chart = (
        chart.properties(width="container", background="transparent", usermeta=_NO_MENU, **properties)
        .configure_view(stroke=None)
        .configure_axis(**axis)
        .configure_axisY(grid=True)
        .configure_legend(labelColor=_DIM, symbolType="square", padding=0)
    )
    return styled


def _milliseconds(time: datetime) -> int:
    return round(time.timestamp() * 1000)
