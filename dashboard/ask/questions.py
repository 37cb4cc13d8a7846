"""The dashboard's questions about the events: SQL that PostgreSQL and DuckDB both understand, and its parameters. Pure.

Names in braces are the store's: `{events}`, the parts of JSON, the collation. Whatever a user typed is a parameter,
never a part of the SQL. Every question aggregates, or names how many rows it wants.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sources.cloudflare_audit_logs.schema import EVENT_SCHEMA
from sources.cloudflare_audit_logs.times import EARLIEST, LATEST

from .conditions import ACTOR, EXPRESSIONS, FAILED, Filters, narrower_of, where_of

LOOK_BACK = timedelta(days=30)
"""A value that was absent for so long before the window counts as first seen: earlier history is never read."""
LONGEST_RANKING = 8
LONGEST_LIST = 200
MOST_ADDRESSES = 100_000
"""Addresses among which those of a network are looked for, and those of countries are counted."""

SUBJECTS = ("actor", "action", "address", "type", "zone", "product")
"""The fields that the overview counts events by."""
_SIGN_IN = "coalesce(lower(action_type) = 'login' OR api_version = 'v2' AND lower({description}) = 'login', false)"
_OF_TOKENS = """(lower(concat_ws(' ', action_type, resource_type, resource_product)) LIKE '%token%'
    OR lower(action_type) LIKE '%api_key%' OR lower({uri}) LIKE '%/tokens%')"""
_LISTED = f"""SELECT "timestamp", {ACTOR} AS actor, action_type AS action, {{description}} AS description,
    action_result AS result, resource_type AS type, resource_id AS resource, {EXPRESSIONS["zone"]} AS zone, ip_address
    AS address, {{token}} AS token, {{token_name}} AS token_name, account_id AS account, api_version AS version,
    event_id AS event"""
_ORDER = "event_id, account_id, api_version"
"""The order of the events of one microsecond."""
_BUCKETS = (60, 300, 900, 3_600, 21_600, 86_400, 604_800)
_MOST_BUCKETS = 170
ORDERS = {
    "most": "events DESC, value",
    "rarest": "events, value",
    "newest": "first_seen DESC, value",
    "name": "value",
}
"""The orders of the values of a field."""


@dataclass(frozen=True)
class Question:
    """SQL with its parameters, and the part of the events that it reads: the lake's objects are found by that."""

    sql: str
    parameters: tuple[Any, ...]
    since: datetime
    before: datetime
    accounts: tuple[str, ...] = ()


def overview(filters: Filters) -> Question:
    """The events by time, by version and by SUBJECTS in one pass: `subject`, `begins` or `value`, `events`, `failures`.

    Of a subject there are the LONGEST_RANKING values with the most events, each with `distinct_values`, how many there
    are. The subject of the rows by time is `time`; times without events are left out.
    """
    where, parameters = where_of(filters)
    names = (*SUBJECTS, "version")
    values = ", ".join(f"{EXPRESSIONS[name]} AS {name}" for name in names)
    subject = " ".join(f"WHEN grouping({name}) = 0 THEN '{name}'" for name in names)
    sql = f"""
        SELECT subject, begins, value, events, failures, distinct_values FROM (
            SELECT *, count(value) OVER (PARTITION BY subject) AS distinct_values,
                row_number() OVER (PARTITION BY subject ORDER BY events DESC, value) AS place
            FROM (
                SELECT CASE WHEN grouping(begins) = 0 THEN 'time' {subject} END AS subject, begins,
                    coalesce({", ".join(names)}) AS value, count(*) AS events,
                    count(*) FILTER (WHERE has_failed) AS failures
                FROM (SELECT {_begin(parameters)} AS begins, {values}, {FAILED} AS has_failed
                    FROM {{events}} WHERE {where}) AS event
                GROUP BY GROUPING SETS ((begins), {", ".join(f"({name})" for name in names)})
            ) AS counted
        ) AS placed
        WHERE subject = 'time' OR place <= {LONGEST_RANKING} ORDER BY subject, begins, place"""
    return _question(sql, filters, (*parameters, float(bucket_seconds(filters))))


def deeds(filters: Filters) -> Question:
    """The deeds, at least: of an actor at an address, in one minute, as many as the version has that has more of them.

    Sign-ins, which v2 alone has, are no records of another deed. As `overview`: by time, and the
    LONGEST_RANKING actors and addresses.
    """
    where, parameters = where_of(filters)
    sql = f"""
        SELECT subject, begins, value, events, failures FROM (
            SELECT CASE WHEN grouping(begins) = 0 THEN 'time' WHEN grouping(actor) = 0 THEN 'actor' ELSE 'address' END
                    AS subject, begins, coalesce(actor, address) AS value, sum(deeds)::bigint AS events,
                sum(failed)::bigint AS failures, row_number() OVER (PARTITION BY grouping(begins), grouping(actor)
                    ORDER BY sum(deeds) DESC, coalesce(actor, address)) AS place
            FROM (
                SELECT {_begin(parameters, "minute")} AS begins, actor, address,
                    greatest(sum(in_v1), sum(in_v2)) AS deeds, greatest(sum(failed_v1), sum(failed_v2)) AS failed
                FROM (
                    SELECT date_trunc('minute', "timestamp") AS minute, account_id, {ACTOR} AS actor,
                        replace({EXPRESSIONS["address"]}, '::ffff:', '') AS address, {_SIGN_IN} AS is_sign_in,
                        (api_version = 'v1')::int AS in_v1, (api_version <> 'v1')::int AS in_v2,
                        (api_version = 'v1' AND {FAILED})::int AS failed_v1,
                        (api_version <> 'v1' AND {FAILED})::int AS failed_v2
                    FROM {{events}} WHERE {where}
                ) AS event
                GROUP BY minute, account_id, actor, address, is_sign_in
            ) AS cell
            GROUP BY GROUPING SETS ((begins), (actor), (address))
        ) AS placed
        WHERE subject = 'time' OR place <= {LONGEST_RANKING} ORDER BY subject, begins, place"""
    return _question(sql, filters, (*parameters, float(bucket_seconds(filters))))


def _begin(parameters: tuple[Any, ...], of: str = '"timestamp"') -> str:
    size = f"${len(parameters) + 1}::float8"
    return f"to_timestamp(floor(extract(epoch FROM {of}) / {size}) * {size})"


def bucket_seconds(filters: Filters) -> int:
    """The time of a bar of `overview`: so much that there are few enough of them."""
    window = (filters.before - filters.since).total_seconds()
    return next((size for size in _BUCKETS if window / size <= _MOST_BUCKETS), _BUCKETS[-1])


def values(filters: Filters, field: str, order: str = "most", page: int = 0) -> Question:
    """A page of all the values of a field, with events, failures, and when they were first and last seen."""
    where, parameters = where_of(filters)
    sql = f"""
        SELECT *, count(*) OVER () AS distinct_values FROM (
            SELECT {EXPRESSIONS[field]} AS value, count(*) AS events, count(*) FILTER (WHERE {FAILED}) AS failures,
                count(DISTINCT {ACTOR}) AS actors, min("timestamp") AS first_seen, max("timestamp") AS last_seen
            FROM {{events}} WHERE {where} GROUP BY 1
        ) AS found ORDER BY {ORDERS[order]} LIMIT {LONGEST_LIST} OFFSET {int(page) * LONGEST_LIST}"""
    return _question(sql, filters, parameters)


def addresses(filters: Filters) -> Question:
    """Each address with events, failures and actors: for networks, and for countries."""
    where, parameters = where_of(filters)
    sql = f"""
        SELECT ip_address AS address, count(*) AS events, count(*) FILTER (WHERE {FAILED}) AS failures,
            count(DISTINCT {ACTOR}) AS actors, max("timestamp") AS last_seen
        FROM {{events}} WHERE {where} AND ip_address <> '' GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT {MOST_ADDRESSES}"""
    return _question(sql, filters, parameters)


def failures(filters: Filters) -> Question:
    """Failures, for whom and from where, most often first."""
    where, parameters = where_of(replace(filters, only_failures=True))
    sql = f"""
        SELECT {ACTOR} AS actor, ip_address AS address, action_type AS action, resource_type AS type,
            {EXPRESSIONS["zone"]} AS zone, {{description}} AS description, count(*) AS failures,
            max("timestamp") AS last_seen FROM {{events}} WHERE {where} GROUP BY 1, 2, 3, 4, 5, 6
        ORDER BY 7 DESC, 8 DESC, 1, 2, 3, 4, 5, 6 LIMIT {LONGEST_LIST}"""
    return _question(sql, filters, parameters)


def sign_ins(filters: Filters) -> Question:
    """Sign-ins by actor and address, the newest first, with those that failed."""
    where, parameters = where_of(filters)
    sql = f"""
        SELECT {ACTOR} AS actor, ip_address AS address, count(*) AS events,
            count(*) FILTER (WHERE {FAILED}) AS failures, min("timestamp") AS first_seen, max("timestamp") AS last_seen
        FROM {{events}} WHERE {where} AND {_SIGN_IN} GROUP BY 1, 2 ORDER BY 6 DESC, 1, 2 LIMIT {LONGEST_LIST}"""
    return _question(sql, filters, parameters)


def tokens_used(filters: Filters) -> Question:
    """The API tokens that v2 names, with who used them, from how many addresses, and when."""
    where, parameters = where_of(filters)
    sql = f"""
        SELECT {EXPRESSIONS["token"]} AS token, max({{token_name}}) AS name, {ACTOR} AS actor, count(*) AS events,
            count(*) FILTER (WHERE {FAILED}) AS failures, count(DISTINCT nullif(ip_address, '')) AS addresses,
            min("timestamp") AS first_seen, max("timestamp") AS last_seen
        FROM {{events}} WHERE {where} AND {EXPRESSIONS["token"]} IS NOT NULL GROUP BY 1, 3
        ORDER BY 8 DESC, 1, 3 LIMIT {LONGEST_LIST}"""
    return _question(sql, filters, parameters)


def token_changes(filters: Filters) -> Question:
    """The newest events that made, rolled, changed or deleted API tokens and keys."""
    where, parameters = where_of(filters)
    listed = _listed(f"{where} AND coalesce({_OF_TOKENS}, false)")
    return _question(f"{listed} LIMIT {LONGEST_LIST}", filters, parameters)


def first_seen(filters: Filters, *, is_counted: bool = False) -> Question:
    """The actors and addresses of the window that the LOOK_BACK before it does not have, newest first.

    `subject` says which of the two `value` is; `address` and `actor` are those of its first event. A value is
    listed if search and failures leave one of its events; the others count as seen all the same. One row more,
    'all', has the time of the first event of all. One pass over the window and the LOOK_BACK; if PostgreSQL has counted
    by hour who was seen (`is_counted`), that is read in place of the LOOK_BACK's whole hours.
    """
    hour = filters.since.replace(minute=0, second=0, microsecond=0)
    longer = replace(filters, since=hour if is_counted else filters.since - LOOK_BACK, terms=(), only_failures=False)
    where, parameters = where_of(longer)
    narrower, parameters = narrower_of(filters, parameters)
    since = f"${len(parameters) + 1}"
    parameters += (filters.since,)
    address, counted = EXPRESSIONS["address"], ""
    if is_counted:
        before, parameters = where_of(replace(longer, since=filters.since - LOOK_BACK, before=hour), parameters, "hour")
        counted = f"""UNION ALL SELECT hour, false, '', actor, ip_address, actor, ip_address
            FROM {{schema}}.audit_seen_hourly WHERE {before}"""
    sql = f"""
        SELECT * FROM (
            SELECT CASE WHEN grouping(who) = 0 THEN 'actor' WHEN grouping(from_where) = 0 THEN 'address'
                ELSE 'all' END AS subject, coalesce(who, from_where) AS value, min(seen) AS first_seen,
                count(*) FILTER (WHERE is_asked) AS events,
                (array_agg(its_address ORDER BY seen, event_id))[1] AS address,
                (array_agg(its_actor ORDER BY seen, event_id))[1] AS actor,
                row_number() OVER (PARTITION BY grouping(who), grouping(from_where)
                    ORDER BY min(seen) DESC, coalesce(who, from_where)) AS place
            FROM (
                SELECT "timestamp" AS seen, {narrower} AS is_asked, event_id, {ACTOR} AS who, {address} AS from_where,
                    {ACTOR} AS its_actor, {address} AS its_address
                FROM {{events}} WHERE {where} {counted}
            ) AS event
            GROUP BY GROUPING SETS ((who), (from_where), ())
            HAVING min(seen) >= {since} AND bool_or(is_asked) OR grouping(who) + grouping(from_where) = 2
        ) AS found
        WHERE (value IS NOT NULL OR subject = 'all') AND first_seen IS NOT NULL
            AND place <= {LONGEST_LIST} ORDER BY subject, place"""
    return Question(sql, parameters, longer.since, longer.before, longer.accounts)


def days(filters: Filters) -> Question:
    """The days that have events, newest first, and how many each has."""
    where, parameters = where_of(filters)
    sql = f"""SELECT date_trunc('day', "timestamp") AS day, count(*) AS events FROM {{events}} WHERE {where}
        GROUP BY 1 ORDER BY 1 DESC"""
    return _question(sql, filters, parameters)


def events(filters: Filters, last_key: str = "", *, is_oldest_first: bool = False) -> Question:
    """The newest or the oldest events, or those that come after a key, with the columns that a list shows."""
    if (last := _parsed_key(last_key)) and is_oldest_first:
        filters = replace(filters, since=max(filters.since, last[2]))
    elif last:
        filters = replace(filters, before=min(filters.before, last[2] + timedelta(microseconds=1)))
    where, parameters = where_of(filters)
    if last:
        account_id, api_version, at, event_id = last
        first = len(parameters) + 1
        after = f"({_ORDER}) > (${first + 1}, ${first + 2}, ${first + 3})"
        where += f' AND ("timestamp" {"><"[not is_oldest_first]} ${first} OR {after})'
        parameters += (at, event_id, account_id, api_version)
    return _question(f"{_listed(where, is_oldest_first=is_oldest_first)} LIMIT {LONGEST_LIST}", filters, parameters)


def all_columns(filters: Filters, most: int, *, is_oldest_first: bool = False) -> Question:
    """The newest or the oldest events with all their columns."""
    where, parameters = where_of(filters)
    texts = {"metadata": "metadata::text AS metadata", "raw_event": "raw_event::text AS raw_event"}
    columns = ", ".join(texts.get(name, f'"{name}"') for name in EVENT_SCHEMA.names)
    sql = f"SELECT {columns} FROM {{events}} WHERE {where} {_ordered(is_oldest_first)} LIMIT {int(most)}"
    return _question(sql, filters, parameters)


def _listed(where: str, *, is_oldest_first: bool = False) -> str:
    return f"{_LISTED} FROM {{events}} WHERE {where} {_ordered(is_oldest_first)}"


def _ordered(is_oldest_first: bool) -> str:  # noqa: FBT001  # of two orders
    return f'ORDER BY "timestamp" {"" if is_oldest_first else "DESC"}, {_ORDER}'


def key_of(event: Mapping[str, Any]) -> str:
    """An event's key as text, for an address."""
    return f"{event['account']} {event['version']} {event['timestamp'].isoformat()} {event['event']}"


def one_event(key: str) -> Question | None:
    """One event whole, by its key; None if that is none."""
    parts = _parsed_key(key)
    if parts is None:
        return None
    account_id, api_version, timestamp, event_id = parts
    sql = f"""
        {_LISTED}, actor_id, actor_type, actor_context AS context, resource_product AS product, zone_id, ingestion_time,
            raw_event::text AS raw_event
        FROM {{events}} WHERE account_id = $1 AND "timestamp" = $2 AND event_id = $3 AND api_version = $4 LIMIT 1"""
    parameters = (account_id, timestamp, event_id, api_version)
    return Question(sql, parameters, timestamp, timestamp + timedelta(microseconds=1), (account_id,))


def _parsed_key(key: str) -> tuple[str, str, datetime, str] | None:
    try:
        account_id, api_version, at, event_id = key.split(" ", 3)
        timestamp = datetime.fromisoformat(at).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return (account_id, api_version, timestamp, event_id) if EARLIEST <= timestamp < LATEST else None


def _question(sql: str, filters: Filters, parameters: tuple[Any, ...]) -> Question:
    return Question(sql, parameters, filters.since, filters.before, filters.accounts)
