"""`python -m benchmarks.scale [--write]`: what 1, 100 and 10,000 accounts cost, and which limit they meet first.

Measures the unit costs on a small scale on this machine (`unit_costs`, under two minutes), calculates the sizes from
them (`model`, `limits`, `bill`), and prints the tables. --write puts them into docs/scale/model.md.
"""

import argparse
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import fields
from datetime import UTC, datetime

from benchmarks.documents import Row, as_markdown, put_into
from pipelines.settings.settings import PROJECT_ROOT

from .bill import LAKE_MONTHS, MONTH_DAYS, WAREHOUSE_DAYS, bill_of, machine_count, postgres_count
from .limits import arrange, first_limit, limits_of
from .model import DAY, GB, Plan, Size, UnitCosts, need_of
from .unit_costs import measure

DOCUMENT = PROJECT_ROOT / "docs" / "scale" / "model.md"
SIZES = [Size(accounts, events) for events in (1_000, 1_000_000) for accounts in (1, 100, 10_000)]
INTERVALS = (30.0, 300.0)

UNITS = {
    "request": ("client CPU of a poll of an account in one version that finds nothing", 1e3, "ms"),
    "reread_event": ("client CPU of an event that a poll reads again", 1e6, "µs"),
    "swept_event": ("client CPU of an event that a sweep reads again", 1e6, "µs"),
    "new_event": ("client CPU of a new event, into both stores", 1e6, "µs"),
    "new_event_postgres": ("PostgreSQL's CPU of a new event", 1e6, "µs"),
    "load": ("client CPU of a poll that brings something, into both stores", 1e3, "ms"),
    "load_postgres": ("PostgreSQL's CPU of such a poll", 1e3, "ms"),
    "rewrite": ("client CPU of each object that it rewrites", 1e3, "ms"),
    "held_event": ("client CPU of each event that such an object holds", 1e6, "µs"),
    "comparison": ("client CPU of comparing six hours of an account in one version", 1e3, "ms"),
    "memory": ("memory of a process", 1e-6, "MB"),
    "account_memory": ("memory of each account and version", 1e-3, "KB"),
    "known_event_memory": ("memory of each event in the safety lag", 1, "bytes"),
    "warehouse_event": ("an event in the warehouse, indexes included, not compressed", 1, "bytes"),
    "lake_event": ("an event in the lake", 1, "bytes"),
    "object_bytes": ("an object, before its events", 1e-3, "KB"),
    "load_puts": ("dlt's own PUTs of a load", 1, ""),
    "load_gets": ("dlt's own GETs of a load", 1, ""),
    "load_lists": ("dlt's own LISTs of a load", 1, ""),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, calculates and prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/scale/model.md")
    options = parser.parse_args(arguments)
    cost = measure()
    where = f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end"
    for title, rows in tables(cost).items():
        text = as_markdown(rows)
        print(f"\n{title}\n{text}")
        if options.write:
            put_into(DOCUMENT, title, f"{text}\nReckoned from what was measured {where}.\n")


def tables(cost: UnitCosts) -> dict[str, list[Row]]:
    """Returns the tables by their names in the document."""
    return {
        "units": list(_units(cost)),
        "needs": [_needs(size, cost) for size in SIZES],
        "limits": [_limits(size, cost) for size in SIZES],
        "arranged": [_arranged(size, seconds, cost) for size in SIZES for seconds in INTERVALS],
    }


def _units(cost: UnitCosts) -> Iterator[Row]:
    for field in fields(cost):
        what, factor, unit = UNITS[field.name]
        yield {"one of each": what, "takes": f"{_number(getattr(cost, field.name) * factor)} {unit}".strip()}


def _needs(size: Size, cost: UnitCosts) -> Row:
    """Returns what a month takes at the defaults, as if one process were enough."""
    need = need_of(size, Plan(), cost)
    return {
        **_size(size),
        "API requests": _number(need.requests * MONTH_DAYS),
        "rows": _number(need.events * MONTH_DAYS),
        "objects": _number(need.objects * MONTH_DAYS),
        "PUTs": _number(need.puts * MONTH_DAYS),
        "PUTs an object": _number(need.rewrites / need.objects),
        "lake (GB)": _number(need.lake_bytes * MONTH_DAYS / GB),
        "read and written again (GB)": _number(need.moved_bytes * MONTH_DAYS / GB),
        "warehouse (GB)": _number(need.warehouse_bytes * MONTH_DAYS / GB),
        "CPU (cores)": _number(need.cpu / DAY),
        "PostgreSQL (cores)": _number(need.postgres_cpu / DAY),
        "memory (MB)": _number(need.memory / 1e6),
    }


def _limits(size: Size, cost: UnitCosts) -> Row:
    """Returns how full each limit is at the defaults, with one token and one process."""
    plan = Plan()
    limits = limits_of(size, plan, need_of(size, plan, cost), cost.comparison)
    name, share = first_limit(limits)
    return {**_size(size), "first limit": name, **{limit: _percent(full) for limit, full in limits.items()}} | {
        "first limit": f"**{name}**" if share >= 1 else f"{name}, not met"
    }


def _arranged(size: Size, poll_seconds: float, cost: UnitCosts) -> Row:
    """Returns the fewest tokens, processes and machines that are enough, and the bill of a month."""
    plan = arrange(size, poll_seconds, cost)
    need = need_of(size, plan, cost)
    bill = bill_of(need)
    return {
        **_size(size),
        "poll every (s)": f"{poll_seconds:.0f}",
        "tokens": f"{plan.tokens:,}",
        "processes": f"{plan.processes:,}",
        "hours are compared by": "the loop" if plan.compares_in_loop else "`reconcile.py`",
        "PostgreSQL servers": f"{postgres_count(need):,}",
        "machines": f"{machine_count(need):,}",
        "machines ($)": _number(bill.machines),
        f"disk of {WAREHOUSE_DAYS} days ($)": _number(bill.disk),
        "PUTs ($)": _number(bill.puts),
        "other requests ($)": _number(bill.other_requests),
        f"lake of {LAKE_MONTHS} months ($)": _number(bill.lake),
        "a month ($)": _number(bill.total),
    }


def _size(size: Size) -> Row:
    return {"accounts": f"{size.accounts:,}", "events a day each": f"{size.events_a_day:,}"}


def _percent(share: float) -> str:
    return f"{_number(share * 100)} %"


def _number(value: float) -> str:
    """Returns two significant digits, whole above 100: the measurements are no more exact."""
    if not value:
        return "0"
    digits = 1 - math.floor(math.log10(abs(value)))
    return f"{round(value, digits):,.{max(0, digits)}f}"


if __name__ == "__main__":
    main()
