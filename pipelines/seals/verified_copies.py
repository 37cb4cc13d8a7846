"""Day copies, proved equal to what was sealed: their rows of an hour are those of its seal, or of its object."""

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from io import BytesIO

import pyarrow.compute as pc

from pipelines.lake.ask.places import Days, Found
from pipelines.lake.day_copies import read_footer
from pipelines.lake.partitions import DAYS_TABLE, HOUR, Partition
from sources.cloudflare_audit_logs.errors import AuditLogsError

from .hour_objects import hour_object, leaf_rows
from .pure.entries import Hour
from .pure.event_set import leaves_of, set_root
from .verification import Problem, Verification, Verified

_HOURS = 24


def check_copies(verification: Verification, objects: Mapping[Hour, Found], result: Verified) -> None:
    """Verifies the copies of the days of the window."""
    window = verification.scope.window
    days = Days("*", f"{window.since:%Y-%m-%d}", f"{window.before:%Y-%m-%d}")
    copies = [found for found in verification.place.find(DAYS_TABLE, days) if not found.hour]
    for found, part in zip(copies, verification.read_all([found.path for found in copies]), strict=True):
        if part is None:
            continue
        text = _difference(verification, found, part.body, objects)
        is_used = bool(text) and _is_used(found, part.body, objects)
        verdict = ("altered" if is_used else "stale") if text else "intact"
        result.copies[verdict] += 1
        if text:
            result.problems.append(Problem(found.path, verdict, text, is_alarm=is_used))


def _difference(verification: Verification, found: Found, body: bytes, objects: Mapping[Hour, Found]) -> str:
    """Says where a copy has other events than were sealed; nothing if nowhere."""
    try:
        rows = leaf_rows(body)
    except (AuditLogsError, OSError, ValueError, LookupError, TypeError) as error:
        return f"it cannot be read: {error}"
    leaves = leaves_of(rows)
    day = datetime.combine(date.fromisoformat(found.date), datetime.min.time(), UTC)
    of_hours: dict[datetime, list[bytes]] = {day + HOUR * number: [] for number in range(_HOURS)}
    hours = pc.floor_temporal(rows["timestamp"], unit="hour").to_pylist()
    accounts = rows["account_id"].to_pylist()
    for leaf, hour, account_id in zip(leaves, hours, accounts, strict=True):
        if account_id != found.account_id or hour not in of_hours:
            return "it has events of another day or account"
        of_hours[hour].append(leaf)
    for hour, its_leaves in of_hours.items():
        history = verification.histories.get((found.account_id, hour))
        sealed = history.last.said.root if history and history.last else None
        if set_root(its_leaves) != sealed and not _is_as_object(
            verification, objects, (found.account_id, hour), its_leaves
        ):
            return f"its events of {hour:%H}h are not those that were sealed"
    return ""


def _is_as_object(verification: Verification, objects: Mapping[Hour, Found], hour: Hour, leaves: list[bytes]) -> bool:
    """True if the hour's object, which has a verdict of its own, has the same events."""
    if hour not in objects:
        return not leaves
    (part,) = verification.read_all([objects[hour].path])
    held = hour_object(Partition(*hour), part.body, part.version).held if part else None
    return held is not None and sorted(held.leaves) == sorted(leaves)


def _is_used(found: Found, body: bytes, objects: Mapping[Hour, Found]) -> bool:
    """True if readers may take the copy for whole: it names the objects of its hours as they are, or none of them."""
    copy = read_footer(BytesIO(body))
    day = datetime.combine(date.fromisoformat(found.date), datetime.min.time(), UTC)
    hours = [day + timedelta(hours=number) for number in range(_HOURS)]
    there = {f"{hour:%H}": one.listed for hour in hours if (one := objects.get((found.account_id, hour)))}
    return copy is not None and {hour: listed.size for hour, listed in copy.hours.items()} == {
        hour: listed.size for hour, listed in there.items()
    }
