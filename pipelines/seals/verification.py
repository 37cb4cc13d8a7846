"""Verifies a lake, or a copy of one, with a public key: all seals, then each hour and each day copy. Never writes.

Nothing but the lake is asked: neither a network, if it is a folder, nor a warehouse, nor settings.
"""

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from hashlib import sha256
from itertools import islice
from operator import itemgetter
from typing import Any, NamedTuple, TypeVar

from pipelines.lake.ask.places import Found, Part, Place
from pipelines.lake.objects import Listed
from pipelines.lake.partitions import HOUR, Partition, partition_of
from sources.cloudflare_audit_logs.schema import EVENTS_TABLE
from sources.cloudflare_audit_logs.streams import Window
from sources.cloudflare_audit_logs.times import EARLIEST

from .bundles import first_of, taken
from .hour_objects import ABSENT, hour_object
from .pure.chain_checks import ChainFinding, check_chain
from .pure.entries import Amendment, Hour, HourHistory, add_to, slice_of
from .pure.notes import VerifierKey
from .pure.seal_format import FOLDER, Seal, as_text, leaves_path, number_of
from .pure.verdicts import ALARMS, Comparison, Held, Verdict, compare

AT_ONCE = 32
"""Objects of a bucket that are read at once."""
FILES_AT_ONCE = min(4, os.cpu_count() or 1)
"""Files that are: while one is decoded, another one is hashed."""

W = TypeVar("W")
D = TypeVar("D")


class Problem(NamedTuple):
    """An hour or a day copy that is not simply intact."""

    path: str
    verdict: str
    text: str
    missing: int = 0
    foreign: int = 0
    is_alarm: bool = True


@dataclass
class Verified:
    """The result."""

    chain: list[ChainFinding]
    since: datetime
    """A restore before it is no alarm."""
    seals: int = 0
    newest: datetime | None = None
    """When the newest seal was made."""
    hours: Counter[str] = field(default_factory=Counter)
    """By verdict."""
    copies: Counter[str] = field(default_factory=Counter)
    events: int = 0
    """Sealed events of the hours that were verified."""
    problems: list[Problem] = field(default_factory=list)
    amendments: list[tuple[int, Amendment]] = field(default_factory=list)
    """Amendments: the seals permit events to be gone or to come back, with its reason, and the number of the seal."""

    @property
    def is_alarm(self) -> bool:
        """True if something is not as it was sealed."""
        return any(found.is_alarm(self.since) for found in self.chain) or any(found.is_alarm for found in self.problems)

    def as_json(self) -> dict[str, Any]:
        """Returns it for machines."""
        return {
            "ok": not self.is_alarm,
            "seals": self.seals,
            "newest": self.newest and as_text(self.newest),
            "events": self.events,
            "hours": {str(verdict): count for verdict, count in sorted(self.hours.items())},
            "day_copies": dict(sorted(self.copies.items())),
            "chain": [
                {"kind": one.kind, "number": one.number, "text": one.text, "is_alarm": one.is_alarm(self.since)}
                for one in self.chain
            ],
            "problems": [problem._asdict() for problem in self.problems],
            "amendments": [{"number": number, **amendment.as_entry()} for number, amendment in self.amendments],
        }


@dataclass(frozen=True)
class Scope:
    """The window, and how closely it is verified."""

    window: Window
    is_quick: bool = False
    unsealed_after: timedelta = timedelta(hours=2)
    """An hour that has no seal so long after its end is an alarm."""

    def has(self, hour: datetime) -> bool:
        """True if the hour is asked for."""
        return self.window.since < hour + HOUR and hour < self.window.before


class Verification:
    """Verifies a lake. Used by one thread."""

    def __init__(self, place: Place, keys: Sequence[VerifierKey], scope: Scope, now: datetime) -> None:
        self.place, self.scope, self._keys, self._now = place, scope, keys, now
        self.histories: dict[Hour, HourHistory] = {}
        self._seals: dict[int, tuple[str, Seal]] = {}

    def run(self, checkpoints: Iterable[str] = ()) -> Verified:
        """Verifies all that is asked for. Raises AuditLogsError if the lake cannot be read."""
        with self.place.translated_errors():
            result = self._check_chain(checkpoints)
            objects = self._objects(result)
            hours = {hour for hour in [*self.histories, *objects] if self.scope.has(hour[1])}
            wanted = [hour for hour in sorted(hours) if not self._is_as_listed(hour, objects, result)]
            there = [hour for hour in wanted if hour in objects]
            for hour in wanted:
                if hour not in objects:
                    self._check_hour(hour, ABSENT.held, result)
            looked_at = self._side_by_side(partial(self._held, objects), there)
            for hour, held in zip(there, looked_at, strict=True):
                self._check_hour(hour, held, result)
            self._add_unread(result)
            if not self.scope.is_quick:
                from .verified_copies import check_copies  # noqa: PLC0415  # it knows this module

                check_copies(self, objects, result)
            return result

    def prefixes(self, history: HourHistory) -> list[bytes] | None:
        """The first bytes of the leaves of an hour's newest seal; None if they are lost."""
        base = history.base
        if not base.said.carries_leaves:
            return history.prefixes([])
        path, seal = self._seals[base.number]
        try:
            body = self.place.read(leaves_path(path, seal.header.leaves)).body
        except FileNotFoundError:
            return None
        is_it = sha256(body).hexdigest() == seal.header.leaves
        return history.prefixes(slice_of(body, base)) if is_it else None

    def read_all(self, paths: Sequence[str]) -> Iterator[Part | None]:
        """Reads objects in their order, of a bucket several at once; None for one that is gone."""
        return map(self._read, paths) if self.place.is_local else self._side_by_side(self._read, paths)

    def _side_by_side(self, work: Callable[[W], D], on: Sequence[W]) -> Iterator[D]:
        """Does work on each of these, some at once, and yields the results in order."""
        at_once = FILES_AT_ONCE if self.place.is_local else AT_ONCE
        with ThreadPoolExecutor(at_once) as pool:
            left = iter(on)
            running = deque(pool.submit(work, one) for one in islice(left, 2 * at_once))
            while running:
                done = running.popleft().result()
                running.extend(pool.submit(work, one) for one in islice(left, 1))
                yield done

    def _read(self, path: str) -> Part | None:
        try:
            return self.place.read(path)
        except FileNotFoundError:
            return None

    def _check_chain(self, checkpoints: Iterable[str]) -> Verified:
        listed = self.place.walk(FOLDER)
        paths = [path for path in listed if number_of(path) is not None]
        notes, bundled = list(checkpoints), self._bundled(listed, paths)
        files = bundled | self._bodies([path for path in paths if path not in bundled])
        chain = check_chain(files, self._keys, notes)
        if bundled and any(found.is_alarm(EARLIEST) for found in chain.findings):
            files |= self._bodies(bundled)  # it may be a bundle that is not as it should be
            chain = check_chain(files, self._keys, notes)
        by_digest = {sha256(raw).hexdigest(): path for path, raw in files.items()}
        for seal in chain.seals:
            path = by_digest[seal.digest]
            self._seals[seal.number] = path, seal
            add_to(self.histories, seal)
            if seal.header.leaves and leaves_path(path, seal.header.leaves) not in listed:
                chain.add("missing", seal.number, f"the leaves of seal {seal.number} are missing")
        newest = chain.seals[-1].header.sealed_at if chain.seals else None
        if not chain.seals and not chain.findings:
            chain.add("missing", 0, "there are no seals")
        amended = [
            one for history in self.histories.values() for one in history.amendments if self.scope.has(one[1].hour)
        ]
        amendments = sorted(amended, key=itemgetter(0))
        return Verified(chain.findings, self.scope.window.since, len(chain.seals), newest, amendments=amendments)

    def _bodies(self, paths: Iterable[str]) -> dict[str, bytes]:
        wanted = list(paths)
        return {path: part.body for path, part in zip(wanted, self.read_all(wanted), strict=True) if part}

    def _bundled(self, listed: Mapping[str, Listed], paths: Sequence[str]) -> dict[str, bytes]:
        """The seals that bundles have, where the listing shows the same; of a folder, in a quick look alone."""
        if self.place.is_local and not self.scope.is_quick:
            return {}
        numbers = Counter(map(number_of, paths))
        alone = {n: (path, listed[path]) for path in paths if (n := number_of(path)) is not None and numbers[n] == 1}
        bundles = [path for path in listed if first_of(path) is not None]
        return taken(self._bodies(bundles), alone, by_size=self.place.is_local)

    def _objects(self, result: Verified) -> dict[Hour, Found]:
        """The hours' objects; other files below the events are read by engines as well, and so are foreign."""
        found: dict[Hour, Found] = {}
        for path, listed in self.place.walk(EVENTS_TABLE).items():
            partition = partition_of(path)
            if partition is None:
                text = "a file that is no hour's object"
                result.problems.append(Problem(path, Verdict.FOREIGN, text, foreign=1))
            elif self.scope.has(partition.hour):
                account_id, hour = partition.account_id, partition.hour
                found[account_id, hour] = Found(account_id, f"{hour:%Y-%m-%d}", f"{hour:%H}", path, listed)
        return found

    def _is_as_listed(self, hour: Hour, objects: Mapping[Hour, Found], result: Verified) -> bool:
        """True if a listing is enough: of an hour without events, and in a quick look where nothing has changed."""
        history, found = self.histories.get(hour), objects.get(hour)
        last = history.last if history else None
        if history is None or last is None or not history.is_in_order:
            return False
        is_same = found is None and last.said.object is None
        if self.scope.is_quick and found is not None and (seen := last.said.object) is not None:
            is_same = (found.listed.size, found.listed.version.strip('"')) == (seen.bytes, seen.version)
        if is_same:
            result.hours[Verdict.INTACT] += 1
            result.events += last.said.events
        return is_same

    def _check_hour(self, hour: Hour, held: Held | None, result: Verified) -> None:
        """Takes what an hour holds; None if its object has the very bytes that were sealed, and was not looked into."""
        history = self.histories.get(hour, HourHistory())
        last = history.last
        if held is None:
            comparison = Comparison(Verdict.INTACT)
        elif last is None:
            comparison = Comparison(Verdict.UNSEALED)
        else:
            comparison = self._compared(history, held)
        result.events += last.said.events if last else 0
        result.hours[comparison.verdict] += 1
        if comparison.verdict not in {Verdict.INTACT, Verdict.REWRITTEN}:
            result.problems.append(self._problem(hour, comparison))

    def _compared(self, history: HourHistory, held: Held) -> Comparison:
        try:
            return self.compare(history, held)
        except (ArithmeticError, ValueError) as error:  # values that no writer of ours can have written
            return Comparison(Verdict.ALTERED, text=repr(error))

    def compare(self, history: HourHistory, held: Held) -> Comparison:
        """Compares an hour; the leaves beside the seals are read only if it has changed."""
        first = compare(history, None, held)
        is_same = first.verdict in {Verdict.INTACT, Verdict.REWRITTEN, Verdict.BROKEN}
        return first if is_same or held.broken or held.stray else compare(history, self.prefixes(history), held)

    def _held(self, objects: Mapping[Hour, Found], hour: Hour) -> Held | None:
        part, history = self._read(objects[hour].path), self.histories.get(hour)
        if part is None:
            return ABSENT.held
        seen = history.last.said.object if history and history.last and history.is_in_order else None
        if self.scope.is_quick and seen is not None and sha256(part.body).hexdigest() == seen.sha256:
            return None
        try:
            return hour_object(Partition(*hour), part.body, part.version).held
        except Exception as error:  # noqa: BLE001  # whatever anybody's bytes make a reader raise
            return Held(sha256=sha256(part.body).hexdigest(), broken=str(error) or repr(error))

    def _problem(self, hour: Hour, found: Comparison) -> Problem:
        is_old = hour[1] + HOUR + self.scope.unsealed_after < self._now
        is_alarm = found.verdict in ALARMS or (found.verdict is Verdict.UNSEALED and is_old)
        counts = {"events later than its seal": len(found.added), "taken out, as a seal says": len(found.removed)}
        counts |= {"sealed events missing": found.missing, "events that no seal knows": found.foreign}
        text = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
        text = f"{text}; {found.text}".strip("; ") or "no seal says anything of it"
        return Problem(Partition(*hour).path, found.verdict, text, found.missing, found.foreign, is_alarm)

    def _add_unread(self, result: Verified) -> None:
        """Reports the hours between an account's first and newest sealed hour of which no seal says anything."""
        by_account: dict[str, set[datetime]] = {}
        for (account_id, hour), history in self.histories.items():
            if history.last and history.seals[0].said.why == "closed":
                by_account.setdefault(account_id, set()).add(hour)
        for account_id, sealed in sorted(by_account.items()):
            first, count = min(sealed), (max(sealed) - min(sealed)) // HOUR
            said = {hour for its_id, hour in self.histories if its_id == account_id}
            for hour in {first + HOUR * n for n in range(count)} - said:
                path = Partition(account_id, hour).path
                if self.scope.has(hour) and path not in {problem.path for problem in result.problems}:
                    result.hours[Verdict.UNSEALED] += 1
                    result.problems.append(self._problem((account_id, hour), Comparison(Verdict.UNSEALED)))
