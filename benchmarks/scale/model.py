"""Calculates what many accounts take from unit costs. Pure: measures nothing, and knows no price and no limit."""

import math
from dataclasses import dataclass

DAY, GB = 86_400.0, 1e9

PAGE_EVENTS = 1_000
"""The most events in a page of the API, as Cloudflare documents it."""

STRETCH_HOURS = 6
"""The hours of an account that the loop compares at once."""


@dataclass(frozen=True)
class UnitCosts:
    """The cost of one of each: CPU in seconds, the rest in bytes or requests."""

    request: float
    """Client CPU of a poll of one account in one version that finds nothing."""
    reread_event: float
    swept_event: float
    new_event: float
    """Read, and loaded into both stores."""
    new_event_postgres: float
    load: float
    """The cost of a poll that brings something, whatever it brings."""
    load_postgres: float
    rewrite: float
    """The cost of each object that it touches."""
    held_event: float
    """The cost of each event that such an object holds already."""
    comparison: float
    """The cost of a stretch of six hours of one account in one version."""
    memory: float
    account_memory: float
    """In one version."""
    known_event_memory: float
    """The memory of each event that the next poll reads again."""
    warehouse_event: float
    lake_event: float
    object_bytes: float
    """The bytes of an object, before its events."""
    load_puts: float
    """dlt's own objects of a load, into the lake."""
    load_gets: float
    load_lists: float


@dataclass(frozen=True)
class Size:
    """The amount of work."""

    accounts: int
    events_a_day: int
    """The events of each account, in all versions together."""


@dataclass(frozen=True)
class Plan:
    """The way in which the pipeline is run. The values are the settings' defaults."""

    versions: int = 2
    """The versions of the API. Each is asked by itself, and holds an equal part of the events."""
    poll_seconds: float = 30.0
    lag_seconds: float = 900.0
    sweep_seconds: float = 3_600.0
    sweep_hours: float = 24.0
    ages: int = 3
    """The number of times that each hour is compared with the API."""
    compares_in_loop: bool = True
    tokens: int = 1
    processes: int = 1


@dataclass(frozen=True)
class Need:
    """The needs of a size with a plan, for a day of all accounts, in all processes together."""

    requests: float
    events: float
    objects: float
    """New objects, one per account and hour."""
    puts: float
    gets: float
    lists: float
    rewrites: float
    """PUTs of events; the others are dlt's."""
    stretches: float
    cpu: float
    postgres_cpu: float
    memory: float
    """At once."""
    lake_bytes: float
    moved_bytes: float
    """The bytes of objects that are read and written again."""
    warehouse_bytes: float


def requests_for(events: float) -> float:
    """Returns the requests of a window: another request follows a page of 100 events or more, none a shorter page."""
    full, rest = divmod(events, PAGE_EVENTS)
    return full + (2 if rest >= 100 else 1)  # noqa: PLR2004  # the API's smallest page, see paging


def need_of(size: Size, plan: Plan, cost: UnitCosts) -> Need:
    """Returns what the size takes, if its events come evenly and by chance."""
    rate, polls, sweeps = size.events_a_day / DAY, DAY / plan.poll_seconds, DAY / plan.sweep_seconds
    swept = rate * (plan.sweep_hours * 3_600 + plan.sweep_seconds)
    known = rate * (plan.lag_seconds + plan.poll_seconds)
    stretches = plan.versions * plan.ages * 24 / STRETCH_HOURS
    requests = plan.versions * polls * requests_for(known / plan.versions)
    requests += plan.versions * sweeps * requests_for(swept / plan.versions)
    requests += stretches * requests_for(rate * STRETCH_HOURS * 3_600 / plan.versions)
    rewrites = polls * _share_with_some(rate * plan.poll_seconds)
    held = rate * 3_600 / 2
    together = rate * plan.poll_seconds * size.accounts / plan.processes
    loads = plan.processes * polls * _share_with_some(together)
    cpu = requests * cost.request + polls * rate * plan.lag_seconds * cost.reread_event
    cpu += sweeps * swept * cost.swept_event + plan.ages * size.events_a_day * cost.swept_event
    cpu += size.events_a_day * cost.new_event + stretches * cost.comparison
    cpu += rewrites * (cost.rewrite + held * cost.held_event)
    objects = 24 * _share_with_some(rate * 3_600)
    events = size.accounts * size.events_a_day
    return Need(
        requests=size.accounts * requests,
        events=events,
        objects=size.accounts * objects,
        puts=size.accounts * rewrites + loads * cost.load_puts,
        gets=size.accounts * rewrites + loads * cost.load_gets,
        lists=loads * cost.load_lists,
        rewrites=size.accounts * rewrites,
        stretches=size.accounts * stretches,
        cpu=size.accounts * cpu + loads * cost.load,
        postgres_cpu=events * cost.new_event_postgres + loads * cost.load_postgres,
        memory=plan.processes * cost.memory
        + size.accounts * (plan.versions * cost.account_memory + known * cost.known_event_memory),
        lake_bytes=size.accounts * objects * cost.object_bytes + events * cost.lake_event,
        moved_bytes=2 * size.accounts * rewrites * (cost.object_bytes + held * cost.lake_event),
        warehouse_bytes=events * cost.warehouse_event,
    )


def _share_with_some(expected: float) -> float:
    """Returns the probability of at least one event, if so many are expected."""
    return -math.expm1(-expected)
