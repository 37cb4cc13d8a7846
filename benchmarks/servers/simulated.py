"""Runs the simulator as a process with many accounts, a token each, and reads its requests. Measures nothing."""

import json
import subprocess
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import urlopen

from pipelines.settings.settings import PROJECT_ROOT
from simulator.accounts import account_ids_of
from simulator.world import Plan, build_world

POLLED_UNTIL = timedelta(minutes=10)
"""Polls read up to now, or to the begin of their round; sweeps and comparisons end further back."""


class Asked(NamedTuple):
    """A request for events, as the simulator noted it."""

    at: datetime
    account_id: str
    token: str
    before: datetime

    @property
    def is_poll(self) -> bool:
        """True if the request belongs to a poll, which looks for new events."""
        return self.before > self.at - POLLED_UNTIL


class Simulated:
    """The running simulator."""

    def __init__(self, url: str, accounts: Sequence[str], accounts_file: Path) -> None:
        self.url, self.accounts, self.accounts_file = url, accounts, accounts_file
        self._control = url.removesuffix("/client/v4") + "/_simulator"

    def behave(self, **behaviour: Any) -> None:
        """Changes the behaviour towards all accounts, from now on."""
        self._order("behaviour", behaviour)

    def break_account(self, account_id: str, **fault: Any) -> None:
        """Makes one account fail, from now on."""
        self._order("faults", {"account_id": account_id, "times": None, **fault})

    def happen(self, account_id: str) -> tuple[str, datetime]:
        """Adds an event that is visible at once; returns its id and its time."""
        now = datetime.now(UTC)
        plan = Plan((account_id,), ("v1",), 1, now, now, seed=now.microsecond, delay=timedelta())
        (event,) = build_world(plan).events(account_id, "v1")
        order = {"time": event.time.isoformat(), "raw": event.raw.decode()}
        self._order("events", {"account_id": account_id, "version": "v1", "events": [order]})
        return json.loads(event.raw)["id"], now

    def asked(self) -> list[Asked]:
        """Returns all requests for events since the start."""
        with urlopen(f"{self._control}/requests") as answer:  # noqa: S310  # our own process
            requests = json.load(answer)
        return [
            Asked(
                datetime.fromisoformat(request["at"]),
                request["account_id"],
                request["token"],
                datetime.fromisoformat(request["params"]["before"]),
            )
            for request in requests
        ]

    def _order(self, what: str, fields: dict[str, Any]) -> None:
        with urlopen(f"{self._control}/{what}", json.dumps(fields).encode()):  # noqa: S310  # as above
            pass


@contextmanager
def simulated(folder: Path, accounts: int, *, options: Collection[str]) -> Iterator[Simulated]:
    """Runs the simulator as long as the block."""
    file = folder / "accounts.toml"
    command = [sys.executable, "-m", "simulator", "--account-count", str(accounts), "--token-each", "--versions", "v1"]
    command += ["--write-accounts", str(file), *options]
    with subprocess.Popen(command, cwd=PROJECT_ROOT, stdout=subprocess.PIPE, text=True) as process:  # ours
        try:
            assert process.stdout  # for the types
            yield Simulated(process.stdout.readline().strip(), account_ids_of(accounts), file)
        finally:
            process.terminate()


def polls_of(asked: Collection[Asked], accounts: Collection[str]) -> list[Asked]:
    """Returns the polls of some accounts in order, each once, however often its requests were sent."""
    seen, polls = set[tuple[str, datetime]](), []
    for request in sorted(asked):
        key = request.account_id, request.before
        if request.is_poll and request.account_id in accounts and key not in seen:
            seen.add(key)
            polls.append(request)
    return polls


def seconds_between(polls: Sequence[Asked]) -> list[float]:
    """Returns the seconds from each poll of an account to its next."""
    last, gaps = dict[str, datetime](), []
    for poll in polls:
        if poll.account_id in last:
            gaps.append((poll.at - last[poll.account_id]).total_seconds())
        last[poll.account_id] = poll.at
    return gaps


def longest_wait_seconds(polls: Sequence[Asked], accounts: Collection[str], begin: datetime, end: datetime) -> float:
    """Returns the longest time between `begin` and `end` in which some account was not polled."""
    last = {**dict.fromkeys(accounts, begin), **{poll.account_id: poll.at for poll in polls}}
    return max([*seconds_between(polls), *((end - at).total_seconds() for at in last.values())])


def cycle_seconds(polls: Sequence[Asked], accounts: Collection[str]) -> list[float]:
    """Returns the seconds from the first poll to the last, for each round in which all accounts were polled.

    A round ends when an account is polled a second time.
    """
    rounds: list[dict[str, datetime]] = [{}]
    for poll in polls:
        if poll.account_id in rounds[-1]:
            rounds.append({})
        rounds[-1][poll.account_id] = poll.at
    times = [its.values() for its in rounds if len(its) == len(accounts)]
    return [(max(its) - min(its)).total_seconds() for its in times]
