"""The dashboard's questions about the events: SQL that PostgreSQL and DuckDB both understand, and its parameters. Pure.

`{events}` stands for the store's events. Whatever a user typed is a parameter, never a part of the SQL. Every question
aggregates, or names how many rows it wants.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

LOOK_BACK = timedelta(days=30)
"""A value that was absent for so long before the window counts as first seen: earlier history is never read."""
LONGEST_RANKING = 8
LONGEST_LIST = 200

_ACTOR = "coalesce(nullif(actor_email, ''), nullif(actor_id, ''), nullif(actor_type, ''))"
_FAILED = "coalesce(action_result = 'failure', false)"
_SEARCHED = "actor_email, actor_id, actor_type, action_type, ip_address, resource_type, resource_id, zone_name"
SUBJECTS = {
    "who": _ACTOR,
    "what": "action_type",
    "on what": "resource_type",
    "from where": "nullif(ip_address, '')",
    "version": "api_version",
}
"""The expressions that events are counted by: the only expressions that go into the SQL."""
_ORDER = "event_id, account_id, api_version"
"""The order of the events of one microsecond."""
_BUCKETS = (60, 300, 900, 3_600, 21_600, 86_400, 604_800)
_MOST_BUCKETS = 170


@dataclass(frozen=True)
class Filters:
    """The events that are looked at: `[since, before)` in UTC, and what else they must be."""

    since: datetime
    before: datetime
    account_id: str = ""
    api_version: str = ""
    search: str = ""
    only_failures: bool = False


@dataclass(frozen=True)
class Question:
    """SQL with its parameters, and the part of the events that it reads: the lake's objects are found by that."""

    sql: str
    parameters: tuple[Any, ...]
    since: datetime
    before: datetime
    account_id: str = ""


def overview(filters: Filters) -> Question:
    """The events by time and by each of SUBJECTS in one pass: `subject`, `begins` or `value`, `events`, `failures`.

    Of a subject there are the LONGEST_RANKING values with the most events, each with `distinct_values`, how many there
    are. The subject of the rows by time is `time`; times without events are left out.
    """
    where, parameters = _where(filters)
    size = f"${len(parameters) + 1}::float8"
    at = f'to_timestamp(floor(extract(epoch FROM "timestamp") / {size}) * {size})'
    names = [name.replace(" ", "_") for name in SUBJECTS]
    values = ", ".join(f"{sql} AS {name}" for name, sql in zip(names, SUBJECTS.values(), strict=True))
    subject = f"""CASE WHEN grouping(begins) = 0 THEN 'time' {
        " ".join(f"WHEN grouping({name}) = 0 THEN '{subject}'" for name, subject in zip(names, SUBJECTS, strict=True))
    } END"""
    sql = f"""
        SELECT subject, begins, value, events, failures, distinct_values FROM (
            SELECT *, count(value) OVER (PARTITION BY subject) AS distinct_values,
                row_number() OVER (PARTITION BY subject ORDER BY events DESC, value) AS place
            FROM (
                SELECT {subject} AS subject, begins, coalesce({", ".join(names)}) AS value, count(*) AS events,
                    count(*) FILTER (WHERE has_failed) AS failures
                FROM (SELECT {at} AS begins, {values}, {_FAILED} AS has_failed FROM {{events}} WHERE {where}) AS event
                GROUP BY GROUPING SETS ((begins), {", ".join(f"({name})" for name in names)})
            ) AS counted
        ) AS placed
        WHERE subject = 'time' OR place <= {LONGEST_RANKING} ORDER BY subject, begins, place"""
    return _question(sql, filters, (*parameters, float(bucket_seconds(filters))))


def bucket_seconds(filters: Filters) -> int:
    """The time of a bar of `overview`: so much that there are few enough of them."""
    window = (filters.before - filters.since).total_seconds()
    return next((size for size in _BUCKETS if window / size <= _MOST_BUCKETS), _BUCKETS[-1])


def failures(filters: Filters) -> Question:
    """Failures, for whom and from where, most often first."""
    where, parameters = _where(replace(filters, only_failures=True))
    sql = f"""
        SELECT {_ACTOR} AS actor, ip_address, action_type, resource_type, count(*) AS failures,
            max("timestamp") AS latest
        FROM {{events}} WHERE {where} GROUP BY 1, 2, 3, 4 ORDER BY 5 DESC, 6 DESC LIMIT {LONGEST_LIST}"""
    return _question(sql, filters, parameters)


def first_seen(filters: Filters) -> Question:
    """The actors and addresses of the window that the LOOK_BACK before it does not have, newest first.

    `subject` says which of the two `value` is; `address` and `actor` are those of its first event. A value is
    listed if search and failures leave one of its events; the others count as seen all the same. One row more,
    'all', has the time of the first event of all. One pass over the window and the LOOK_BACK.
    """
    longer = replace(filters, since=filters.since - LOOK_BACK)
    where, parameters = _where(replace(longer, search="", only_failures=False))
    narrower, parameters = _narrower(filters, parameters)
    since = f"${len(parameters) + 1}"
    sql = f"""
        SELECT * FROM (
            SELECT CASE WHEN grouping(who) = 0 THEN 'who' WHEN grouping(from_where) = 0 THEN 'from where'
                ELSE 'all' END AS subject, coalesce(who, from_where) AS value, min(seen) AS first_seen,
                count(*) FILTER (WHERE is_asked) AS events,
                (array_agg(its_address ORDER BY seen, event_id))[1] AS address,
                (array_agg(its_actor ORDER BY seen, event_id))[1] AS actor,
                row_number() OVER (PARTITION BY grouping(who), grouping(from_where)
                    ORDER BY min(seen) DESC, coalesce(who, from_where)) AS place
            FROM (
                SELECT "timestamp" AS seen, {narrower} AS is_asked, event_id,
                    {SUBJECTS["who"]} AS who, {SUBJECTS["from where"]} AS from_where,
                    {SUBJECTS["who"]} AS its_actor, {SUBJECTS["from where"]} AS its_address
                FROM {{events}} WHERE {where}
            ) AS event
            GROUP BY GROUPING SETS ((who), (from_where), ())
            HAVING min(seen) >= {since} AND bool_or(is_asked) OR grouping(who) + grouping(from_where) = 2
        ) AS found
        WHERE (value IS NOT NULL OR subject = 'all') AND first_seen IS NOT NULL
            AND place <= {LONGEST_LIST} ORDER BY subject, place"""
    return _question(sql, longer, (*parameters, filters.since))


def events(filters: Filters, older_than: str = "") -> Question:
    """The newest events, or those that come after a key, with the columns that a list shows and those of the key."""
    last = _parsed_key(older_than)
    if last:
        filters = replace(filters, before=min(filters.before, last[2] + timedelta(microseconds=1)))
    where, parameters = _where(filters)
    if last:
        account_id, api_version, at, event_id = last
        first = len(parameters) + 1
        after = f"({_ORDER}) > (${first + 1}, ${first + 2}, ${first + 3})"
        where += f' AND ("timestamp" < ${first} OR {after})'
        parameters += (at, event_id, account_id, api_version)
    sql = f"""
        SELECT "timestamp", {_ACTOR} AS actor, action_type, action_result, resource_type, resource_id, zone_name,
            ip_address, account_id, api_version, event_id
        FROM {{events}} WHERE {where} ORDER BY "timestamp" DESC, {_ORDER} LIMIT {LONGEST_LIST}"""
    return _question(sql, filters, parameters)


def key_of(event: Mapping[str, Any]) -> str:
    """An event's key as text, for an address."""
    return f"{event['account_id']} {event['api_version']} {event['timestamp'].isoformat()} {event['event_id']}"


def one_event(key: str) -> Question | None:
    """One event whole, by its key; None if that is none."""
    parts = _parsed_key(key)
    if parts is None:
        return None
    account_id, api_version, timestamp, event_id = parts
    sql = """
        SELECT "timestamp", event_id, account_id, api_version, action_type, action_result, actor_email, actor_id,
            actor_type, actor_context, ip_address, resource_type, resource_id, resource_product, zone_name,
            ingestion_time, raw_event
        FROM {events} WHERE account_id = $1 AND "timestamp" = $2 AND event_id = $3 AND api_version = $4 LIMIT 1"""
    parameters = (account_id, timestamp, event_id, api_version)
    return Question(sql, parameters, timestamp, timestamp + timedelta(microseconds=1), account_id)


def _parsed_key(key: str) -> tuple[str, str, datetime, str] | None:
    try:
        account_id, api_version, at, event_id = key.split(" ", 3)
        timestamp = datetime.fromisoformat(at).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return account_id, api_version, timestamp, event_id


def _question(sql: str, filters: Filters, parameters: tuple[Any, ...]) -> Question:
    return Question(sql, parameters, filters.since, filters.before, filters.account_id)


def _where(filters: Filters) -> tuple[str, tuple[Any, ...]]:
    conditions, parameters = ['"timestamp" >= $1', '"timestamp" < $2'], [filters.since, filters.before]

    def add(condition: str, value: Any) -> None:
        parameters.append(value)
        conditions.append(condition.format(f"${len(parameters)}"))

    if filters.account_id:
        add("account_id = {}", filters.account_id)
    if filters.api_version:
        add("api_version = {}", filters.api_version)
    narrower, all_parameters = _narrower(filters, tuple(parameters))
    return " AND ".join([*conditions, narrower]), all_parameters


def _narrower(filters: Filters, parameters: tuple[Any, ...]) -> tuple[str, tuple[Any, ...]]:
    """The conditions of search and failures, and the parameters with those of it; each word has to be there."""
    words = filters.search.split()
    conditions = [
        f"strpos(lower(concat_ws(' ', {_SEARCHED})), lower(${len(parameters) + place})) > 0"
        for place in range(1, len(words) + 1)
    ]
    conditions += [_FAILED] if filters.only_failures else []
    return " AND ".join(conditions) or "true", (*parameters, *words)
