"""What is shown can be taken along, as CSV and as JSON."""

import csv
import io
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboard import export
from dashboard.ask.conditions import Filters
from dashboard.ask.deadline import Deadline
from dashboard.ask.stores import LakeStore, WarehouseStore
from dashboard.view import view_of
from pipelines.loop.report import Report
from simulator.api import Api
from sources.cloudflare_audit_logs.schema import EVENT_SCHEMA
from tests.factory import ACCOUNT, ago, ids, spread
from tests.rows import rows

from .conftest import Site
from .site.story import FORMULA, HOSTILE

CELL = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.none() | st.integers()


@given(st.lists(st.dictionaries(st.sampled_from(["a", "b"]), CELL), max_size=5))
def test_what_is_written_can_be_read(given_rows: list[dict[str, Any]]) -> None:
    """Each cell of CSV as it was, but for a quote before what a spreadsheet would take for a formula; JSON exactly."""
    as_csv, as_json = ("".join(export.written(kind, ["a", "b"], given_rows)) for kind in ("csv", "json"))

    read = list(csv.DictReader(io.StringIO(as_csv, newline="")))
    expected = [{name: "" if row.get(name) is None else str(row[name]) for name in ("a", "b")} for row in given_rows]
    for line, wanted, row in zip(read, expected, given_rows, strict=True):
        for name, text in wanted.items():
            is_risky = isinstance(row.get(name), str) and text[:1] in set("=+-@\t\r\n") - {""}
            assert line[name] == (f"'{text}" if is_risky else text)
            assert not (isinstance(row.get(name), str) and line[name][:1] in set("=+-@"))
    assert json.loads(as_json) == [{name: row.get(name) for name in ("a", "b")} for row in given_rows]


@given(st.text())
def test_a_files_name_is_safe_whatever_is_searched_for(search: str) -> None:
    """Of a header and of any file system, and not too long."""
    view = view_of({"q": search, "from": "2026-11-20", "to": "2026-11-20"}.items(), "events", ago())

    name = export.file_name(view, "all-2")

    assert re.fullmatch(r"audit-warehouse-events-all-2-20261120T000000-20261121T000000(-[\w.@]{1,40})?", name, re.ASCII)


@pytest.mark.integration
@pytest.mark.parametrize("store", ["warehouse", "lake"])
def test_events_are_exported_whole(site: Site, store: str) -> None:
    """Every one that the filters leave, with all columns and the payload; the file's name says if all are."""
    address = f"/events?range=90d&store={store}&q=account:4bb334f7c94c4a29a045f03944f072e5"
    as_csv, as_json = (site.get(f"{address}&format={kind}") for kind in ("csv", "json"))
    lines = list(csv.DictReader(io.StringIO(as_csv.content.decode(), newline="")))
    events = as_json.json()

    its = rf'attachment; filename="audit-{store}-events-all-2-\d{{8}}T\d{{6}}-\d{{8}}T\d{{6}}-account_4bb334f7\w+\.csv"'
    assert re.fullmatch(its, as_csv.headers["Content-Disposition"])
    assert [*lines[0]] == [*events[0]] == EVENT_SCHEMA.names
    assert [line["event_id"] for line in lines] == [event["event_id"] for event in events]
    assert json.loads(events[0]["raw_event"])["newValueJson"]["tag"] == HOSTILE
    assert lines[1]["resource_id"] == f"'{FORMULA}"
    assert events[1]["resource_id"] == FORMULA
    assert as_csv.headers["Content-Type"].startswith("text/csv")


@pytest.mark.integration
@pytest.mark.parametrize(
    ("path", "table", "number"),
    [
        ("failures", "failures", 3),
        ("values", "values", 4),
        ("first-seen", "address", 5),
        *rows(long=[("sign-ins", "sign-ins", 1), ("tokens", "changes", 5)]),
    ],
)
def test_tables_are_exported_as_they_are_shown(site: Site, path: str, table: str, number: int) -> None:
    """Each with the columns of the page."""
    page = site.page(f"/{path}?range=90d")
    answer = site.get(next(link for link in page.links() if f"table={table}" in link and "format=json" in link))

    assert len(answer.json()) == number
    assert site.get(f"/{path}?range=90d&format=csv&table=nothing").status_code == 404


@pytest.mark.integration
def test_what_stands_beside_a_value_has_a_column(site: Site) -> None:
    """The operation of failures and of what was done to tokens, and the token's name."""
    failed = site.get("/failures?range=90d&version=v2&table=failures&format=json").json()
    changed = site.get("/tokens?range=90d&version=v2&table=changes&format=json").json()

    assert [row["description"] for row in failed] == ["LOGIN"]
    assert [(row["description"], row["token_name"]) for row in changed] == [("Create Token", "ci")]


@pytest.mark.integration
def test_an_export_that_is_cut_says_so(api: Api, poll: Callable[..., Report], monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the newest events, or the oldest, over as many days as it takes."""
    events = spread(30, ago(days=3), ago(hours=1))
    api.world.add(ACCOUNT, "v1", events)
    poll()
    monkeypatch.setattr(export, "MOST_EVENTS", 17)

    for store in (WarehouseStore(), LakeStore()):
        filters = Filters(ago(days=9), ago())
        days = export.days_of(store, filters, Deadline())
        found = [row["event_id"] for row in export.events(store, filters, days)]
        oldest = [row["event_id"] for row in export.events(store, filters, days, is_oldest_first=True)]

        assert sum(day["events"] for day in days) == 30
        assert len(found) == 17
        assert set(found) == ids(events[-17:])
        assert set(oldest) == ids(events[:17])
