"""Calculates which limit a size meets first, and the fewest tokens and processes that are enough. Pure."""

import math
from dataclasses import replace

from pipelines.loop.cycle import READERS
from pipelines.loop.cycles import READERS_OF_A_QUEUE
from pipelines.proof.reconciler import LONGEST_SECONDS, SHARE_OF_INTERVAL
from sources.cloudflare_audit_logs.budget import LOOP_SHARE, REQUESTS, WINDOW_SECONDS

from .bill import (
    DISK_BYTES,
    HEADROOM,
    MACHINE_BYTES,
    MACHINE_CORES,
    MACHINE_HOUR_PRICE,
    PUT_PRICE,
    WAREHOUSE_DAYS,
    machine_count,
)
from .model import DAY, Need, Plan, Size, UnitCosts, need_of

# Assumed, not measured: how far away the API and a real S3 are. Your own: `cloudflare_audit_poll_duration_seconds` and
# `cloudflare_audit_load_duration_seconds`.
API_REQUEST_SECONDS = 0.15
OBJECT_SECONDS = 0.06
"""A GET and a PUT of an object, one after the other."""


def limits_of(size: Size, plan: Plan, need: Need, comparison_seconds: float) -> dict[str, float]:
    """Returns how full each limit is: 1.0 is full. For limits of a process, the average of the processes."""
    a_process = 1 / (DAY * plan.processes)
    machines = machine_count(need)
    in_loop = need.stretches if plan.compares_in_loop else 0.0
    comparing = min(SHARE_OF_INTERVAL, LONGEST_SECONDS / plan.poll_seconds)
    tokens = min(plan.tokens, size.accounts)
    readers = min(READERS * plan.processes, READERS_OF_A_QUEUE * tokens)
    return {
        "a token's requests": need.requests / DAY * WINDOW_SECONDS / tokens / (LOOP_SHARE * REQUESTS),
        "waiting for the API": need.requests / DAY * API_REQUEST_SECONDS / readers,
        "objects, one after the other": need.rewrites * OBJECT_SECONDS * a_process,
        "comparisons": in_loop * (comparison_seconds + API_REQUEST_SECONDS) / comparing * a_process,
        "a process's CPU": need.cpu * a_process,
        "memory": need.memory / plan.processes / MACHINE_BYTES,
        "PostgreSQL's CPU": need.postgres_cpu / DAY / MACHINE_CORES,
        "PostgreSQL's size": need.warehouse_bytes * WAREHOUSE_DAYS / DISK_BYTES,
        "the price of PUTs": need.puts * PUT_PRICE / (machines * MACHINE_HOUR_PRICE * 24),
    }


PROCESS_LIMITS = (
    "waiting for the API",
    "objects, one after the other",
    "comparisons",
    "a process's CPU",
    "memory",
)
"""The limits that more processes relieve."""


def first_limit(limits: dict[str, float]) -> tuple[str, float]:
    """Returns the limit that is met first when the size grows: the fullest."""
    return max(limits.items(), key=lambda item: item[1])


def arrange(size: Size, poll_seconds: float, cost: UnitCosts) -> Plan:
    """Returns the fewest tokens and processes with which all their limits keep their headroom.

    If the loop cannot keep up with comparing, the plan assumes `reconcile.py` from a timer instead.
    """
    plan = Plan(poll_seconds=poll_seconds)
    need = need_of(size, plan, cost)
    filled = limits_of(size, plan, need, cost.comparison)["a token's requests"]
    plan = replace(plan, tokens=min(size.accounts, math.ceil(filled / HEADROOM)))
    limits = limits_of(size, plan, need, cost.comparison)
    compares_in_loop = limits["comparisons"] <= HEADROOM
    limits["comparisons"] *= compares_in_loop
    return replace(
        plan,
        compares_in_loop=compares_in_loop,
        # Each process loads on its own. That cost is left out: it is small beside what made the process necessary.
        processes=min(size.accounts, math.ceil(max(limits[name] for name in PROCESS_LIMITS) / HEADROOM)),
    )
