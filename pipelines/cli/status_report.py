"""The status of both stores: cursors, delays, gaps, quarantine and sizes, as JSON has them. Changes nothing."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any, TypeVar

from pipelines.host.side_by_side import answers_of, silence
from pipelines.host.transient import HINT_OF_SYSTEM, can_pass, words_of_system
from pipelines.lake.reads import LakeHealth, lake_health
from pipelines.proof.gaps import repairs_of, summary_of
from pipelines.settings.settings import PostgresSettings, Settings
from pipelines.warehouse.embedded import server_if_there
from pipelines.warehouse.measured_lag import recommended_seconds
from pipelines.warehouse.status import OpenGap, StreamHealth, warehouse_health
from sources.cloudflare_audit_logs import Position
from sources.cloudflare_audit_logs.errors import AuditLogsError, TemporaryError
from sources.cloudflare_audit_logs.streams import Stream

T = TypeVar("T")


def status_of(settings: Settings, now: datetime) -> tuple[dict[str, Any], list[AuditLogsError]]:
    """The status, and the errors of the stores that could not be read: each has its error's text in the status."""
    with ExitStack() as stack:
        # Before both: dlt reads its configuration once, with the port of an embedded server in it.
        server = _or_error(lambda: stack.enter_context(server_if_there(settings.stores)))
        stores: dict[str, Callable[[], dict[str, Any]]] = {
            "warehouse": lambda: _warehouse(settings, now, server),
            "lake": lambda: _lake(lake_health(settings.account_ids, now), now),
        }
        answers = answers_of(lambda name: _or_error(stores[name]), stores, lambda _: silence())
    status: dict[str, Any] = {"at": now.isoformat(), "safety_lag_seconds": settings.defaults.safety_lag_seconds}
    for name, answer in answers.items():
        status[name] = {"error": str(answer)} if isinstance(answer, AuditLogsError) else answer
    return status, [answer for answer in answers.values() if isinstance(answer, AuditLogsError)]


def _or_error(read: Callable[[], T]) -> T | AuditLogsError:
    """The answer, or the error in its place."""
    try:
        return read()
    except AuditLogsError as error:
        return error
    except OSError as error:
        kind = TemporaryError if can_pass(error) else AuditLogsError
        return kind(words_of_system(error), hint=HINT_OF_SYSTEM)


def _warehouse(settings: Settings, now: datetime, server: PostgresSettings | AuditLogsError | None) -> dict[str, Any]:
    stores = settings.stores
    if isinstance(server, AuditLogsError):
        raise server
    if server is None:
        raise AuditLogsError(f"nothing is in {stores.postgres_dir} yet", hint="cloudflare-audit run makes it")
    with warehouse_health(stores) as health:
        positions = health.positions()
        streams = sorted({*settings.streams, *positions})
        found = {stream: health.stream(stream, settings.safety_lag(stream).total_seconds()) for stream in streams}
        gaps = health.open_gaps()
        return {
            "last_load": _time(health.last_load()),
            "recommended_lag_seconds": recommended_seconds(one.lag for one in found.values()),
            **health.size(),
            "streams": [
                _stream(stream, positions.get(stream), now) | _health(found[stream], stream, gaps) for stream in streams
            ],
            "gaps": summary_of(gaps) if gaps else None,
            "repairs": [
                repair._asdict() | {"since": _time(repair.since), "before": _time(repair.before)}
                for repair in repairs_of(gaps, settings.accounts.__contains__)
            ],
        }


def _lake(health: LakeHealth, now: datetime) -> dict[str, Any]:
    return {
        "last_load": _time(health.last_load),
        "objects_of_last_days": health.objects,
        "bytes_of_last_days": health.bytes,
        "streams": [_stream(stream, position, now) for stream, position in health.positions.items()],
    }


def _stream(stream: Stream, position: Position | None, now: datetime) -> dict[str, Any]:
    return {
        "account_id": stream.account_id,
        "api_version": stream.api_version,
        "cursor": _time(position.cursor if position else None),
        "age_seconds": round((now - position.cursor).total_seconds()) if position else None,
    }


def _health(health: StreamHealth, stream: Stream, gaps: Sequence[OpenGap]) -> dict[str, Any]:
    return {
        "events_today": health.today,
        "events_measured": health.lag.events,
        "delay_seconds": {"median": round(health.lag.median, 1), "nearly_all": round(health.lag.nearly_all, 1)},
        "late": health.lag.late,
        "hours_compared": health.hours,
        "hours_with_gaps": sum(gap.stream == stream for gap in gaps),
        "quarantined": health.quarantined,
    }


def _time(time: datetime | None) -> str | None:
    return time.astimezone(UTC).isoformat() if time else None
