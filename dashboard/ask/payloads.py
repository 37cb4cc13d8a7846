"""The payloads of events that a list shows: the list itself reads none. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from .conditions import Filters, where_of
from .questions import Question


def payloads(filters: Filters, listed: Sequence[Mapping[str, Any]]) -> Question:
    """Their payloads, with what their keys are made of; only their time is read."""
    times = [event["timestamp"] for event in listed]
    since, before = min(times), max(times) + timedelta(microseconds=1)
    where, parameters = where_of(replace(filters, since=since, before=before, terms=(), only_failures=False))
    ids = f"string_to_array(${len(parameters) + 1}::text, chr(31))"
    sql = f"""SELECT account_id AS account, api_version AS version, "timestamp", event_id AS event,
        raw_event::text AS raw_event FROM {{events}} WHERE {where} AND event_id = ANY({ids})"""  # noqa: S608  # made of constants; what a user typed is a parameter
    parameters = (*parameters, chr(31).join(event["event"] for event in listed))
    return Question(sql, parameters, since, before, filters.accounts)
