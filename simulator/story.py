"""The story as a world: weeks of work by the cast, and the incident of the night before today.

Deterministic from the seed and the clock. Each day of each actor has dice of its own, so a simulator that is started
again on the same day tells the same past.
"""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta

from .cast import ACCOUNTS, Account, Actor, Tool
from .deeds import DEEDS
from .incident import INCIDENT
from .records import Act, records_of
from .world import SimulatedEvent, World

HISTORY = timedelta(weeks=6)

_DAY = timedelta(days=1)
_LONGEST_DELAY = timedelta(seconds=2)
"""From an event to its visibility."""
_SATURDAY = 5
_WORKS_AT_WEEKENDS = 0.12
_SHARE_AT_WEEKENDS = 0.3
_FAILURE_RATE = 0.02
_MISTYPED_RATE = 0.08
"""Of the days on which somebody signs in only at the second attempt."""


def build_story(account_ids: Sequence[str], *, seed: int, now: datetime, before: datetime, live_rate: float) -> World:
    """The world of the HISTORY and of what comes before a time; the first account has the incident.

    From now on, much happens: `live_rate` deeds a minute in each account, as in fast motion.
    """
    world = World(account_ids)
    for number, account_id in enumerate(dict.fromkeys(account_ids)):
        account = ACCOUNTS[number % len(ACCOUNTS)]
        world.names[account_id] = account.name
        story = _AccountStory(account_id, account, seed, now)
        acts = [act for act in story.habits(before) if now - HISTORY <= act.time < before]
        acts += story.incident() if number == 0 else []
        acts += story.fast_motion(before, live_rate)
        for version, events in story.events(acts).items():
            world.add(account_id, version, events)
    return world


@dataclass(frozen=True)
class _AccountStory:
    account_id: str
    account: Account
    seed: int
    now: datetime

    def events(self, acts: Sequence[Act]) -> dict[str, list[SimulatedEvent]]:
        """The records of the acts by version, oldest first."""
        events: dict[str, list[SimulatedEvent]] = {"v1": [], "v2": []}
        for number, act in enumerate(acts):
            dice = self._dice(act.actor.name, act.time, number if act.time >= self.now else "")
            for version, (at, record) in records_of(act, dice).items():
                raw = json.dumps(record, separators=(",", ":")).encode()
                is_user_level = version == "v1" and "/user/" in act.deed.v2
                events[version].append(SimulatedEvent(at, raw, at + _LONGEST_DELAY * dice.random(), is_user_level))
        return {version: sorted(its_events) for version, its_events in events.items()}

    def habits(self, before: datetime) -> Iterator[Act]:
        """Everybody's days."""
        for number in range(-HISTORY.days, (before.date() - self.now.date()).days + 1):
            day = self.now.date() + number * _DAY
            for actor in self.account.actors:
                if number >= -actor.began_days_ago:
                    yield from self._day(actor, day, is_weekend=day.weekday() >= _SATURDAY)

    def incident(self) -> Iterator[Act]:
        """Yesterday, whatever time it is now."""
        day = self.now.date() - _DAY
        dice = self._dice("incident", day)
        for step in INCIDENT:
            for number in range(step.times):
                at = datetime.combine(day, time.fromisoformat(step.at), UTC)
                at += timedelta(seconds=number * step.every_seconds, microseconds=dice.randrange(10**6))
                act = self._act(at, step.who, step.tool, step.address, step.deed)
                yield replace(act, name=step.name, old=step.old, new=step.new, has_failed=step.has_failed)

    def fast_motion(self, before: datetime, rate: float) -> Iterator[Act]:
        """From now on; by those who are at work at this hour."""
        awake = [actor for actor in self.account.actors if actor.hours[0] <= self.now.hour < actor.hours[1]]
        dice = self._dice("fast motion", self.now)
        for _ in range(round(rate * (before - self.now).total_seconds() / 60)):
            yield self._habit(dice, dice.choice(awake), self.now + (before - self.now) * dice.random())

    def _dice(self, *words: object) -> random.Random:
        return random.Random(" ".join(map(str, (self.seed, self.account_id, *words))))  # noqa: S311  # not for secrets

    def _day(self, actor: Actor, day: date, *, is_weekend: bool) -> Iterator[Act]:
        dice = self._dice(actor.name, day)
        begin, minutes = datetime.combine(day, time(actor.hours[0]), UTC), 60 * (actor.hours[1] - actor.hours[0])
        if actor.every_minutes:
            begins = range(
                dice.randrange(5), 0 if is_weekend and actor.rests_at_weekends else minutes, actor.every_minutes
            )
            times = [start + dice.random() for start in begins for _ in range(actor.burst)]
        else:
            share = _SHARE_AT_WEEKENDS * (dice.random() < _WORKS_AT_WEEKENDS) if is_weekend else 1
            times = [minutes * dice.random() for _ in range(round(actor.a_day * dice.uniform(0.6, 1.3) * share))]
            if times:
                yield from self._sign_in(dice, actor, begin - timedelta(minutes=dice.uniform(1, 20)))
        for minute in sorted(times):
            yield self._habit(dice, actor, begin + timedelta(minutes=minute))

    def _sign_in(self, dice: random.Random, actor: Actor, at: datetime) -> Iterator[Act]:
        """Before work; now and then, the password is mistyped first."""
        tool = next(tool for tool in actor.tools if tool.context == "dash")
        act = replace(self._habit(dice, actor, at), deed=DEEDS["sign in"], name="", tool=tool, has_failed=False)
        if dice.random() < _MISTYPED_RATE:
            yield replace(act, time=at - timedelta(seconds=15), has_failed=True)
        yield act

    def _habit(self, dice: random.Random, actor: Actor, at: datetime) -> Act:
        has_moved = actor.moves and (self.now.date() - at.date()).days < actor.moves[0]
        address = actor.moves[1] if actor.moves and has_moved else actor.address
        act = self._act(at, actor, dice.choice(actor.tools), address, dice.choice(actor.deeds))
        old, new = dice.choice(act.deed.changes)
        act = replace(act, zone=dice.choice(self.account.zones), has_failed=dice.random() < _FAILURE_RATE)
        return replace(act, name=dice.choice(act.deed.names), old=old, new=new)

    def _act(self, at: datetime, actor: Actor, tool: Tool, address: str, deed: str) -> Act:
        return Act(at, self.account_id, self.account.name, self.account.zones[0], actor, tool, address, DEEDS[deed])
