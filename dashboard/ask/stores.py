"""The stores that the dashboard asks: the warehouse by sessions that cannot write, the lake by DuckDB.

Each answers questions with rows, or raises an AuditLogsError that says in one sentence what is wrong and what to do.
Both may be asked from several threads at once.
"""

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import duckdb
import pyarrow as pa

from pipelines.lake.ask.database import ask_lake
from pipelines.lake.ask.files import LakeFiles
from pipelines.lake.ask.places import Days, open_place
from sources.cloudflare_audit_logs.errors import AuditLogsError, TemporaryError
from sources.cloudflare_audit_logs.schema import EVENTS_TABLE

from . import questions
from .conditions import Filters
from .deadline import Deadline
from .questions import Question
from .search import has
from .sessions import START, Sessions, read_settings_anew, told

Row = dict[str, Any]
T = TypeVar("T")
_LAKE_QUESTIONS_AT_ONCE = 3
"""Each has a DuckDB of its own, which takes what memory it needs."""
_lake_slots = threading.BoundedSemaphore(_LAKE_QUESTIONS_AT_ONCE)

_ACCOUNTS = """
    WITH RECURSIVE found AS (
        (SELECT account_id FROM {schema}.audit_logs ORDER BY account_id LIMIT 1)
        UNION ALL
        SELECT (SELECT a.account_id FROM {schema}.audit_logs AS a WHERE a.account_id > found.account_id
                ORDER BY a.account_id LIMIT 1)
        FROM found WHERE found.account_id IS NOT NULL
    ) SELECT account_id FROM found WHERE account_id IS NOT NULL"""
"""One look into the key's index for each account, not one for each event."""
_OLD = (("oldValue",), ("oldValueJson",))
_NEW = (("newValue",), ("newValueJson",), ("resource", "request"), ("resource", "response"))


def _in_postgres(*paths: tuple[str, ...]) -> str:
    parts = ", ".join(f"raw_event #>> '{{{','.join(path)}}}'" for path in paths)
    return f"concat_ws(chr(31), {parts})"


def _in_duckdb(*paths: tuple[str, ...]) -> str:
    """Each payload is parsed once, for all of its parts."""
    parts = ", ".join(f"'$.{'.'.join(path)}'" for path in paths)
    return f"array_to_string(TRY(json_extract_string(raw_event, [{parts}])), chr(31))"


_POSTGRES = {
    "{description}": "metadata ->> 'description'",
    "{uri}": "metadata #>> '{raw,uri}'",
    "{token}": "metadata ->> 'token_id'",
    "{token_name}": "metadata ->> 'token_name'",
    "{old}": _in_postgres(*_OLD),
    "{new}": _in_postgres(*_NEW),
    "{values}": _in_postgres(*_OLD, *_NEW),
    "{metadata}": "metadata::text",
}
_DUCKDB = {
    "{description}": "TRY(metadata ->> '$.description')",
    "{uri}": "TRY(metadata ->> '$.raw.uri')",
    "{token}": "TRY(metadata ->> '$.token_id')",
    "{token_name}": "TRY(metadata ->> '$.token_name')",
    "{old}": _in_duckdb(*_OLD),
    "{new}": _in_duckdb(*_NEW),
    "{values}": _in_duckdb(*_OLD, *_NEW),
    "{metadata}": "coalesce(TRY(json(metadata))::text, metadata)",
    "{collate}": "",
}
"""The parts of a question, in DuckDB's words; a text that it cannot read as JSON has none of them."""


class EventStore(Protocol):
    """A store, as the page needs it."""

    name: str

    def accounts(self, deadline: Deadline | None = None) -> list[str]:
        """The accounts that it has events of."""

    def tables(self, *asked: Question, deadline: Deadline | None = None) -> list[pa.Table]:
        """The answers, in order."""

    def first_seen(self, filters: Filters, deadline: Deadline | None = None) -> list[Row]:
        """The answer to that question, in the way that costs this store least."""


def ask(store: EventStore, *asked: Question, deadline: Deadline | None = None) -> list[list[Row]]:
    """The answers as rows."""
    return [table.to_pylist() for table in store.tables(*asked, deadline=deadline)]


def resolved(store: EventStore, filters: Filters, deadline: Deadline | None = None) -> Filters:
    """The filters with the addresses that their networks have in this store: SQL alone would not know all spellings."""
    if not any(term.network for term in filters.terms):
        return filters
    ((*found,),) = ask(store, questions.addresses(replace(filters, terms=(), only_failures=False)), deadline=deadline)
    there = [row["address"] for row in found if " " not in row["address"]]
    terms = (
        replace(term, matching=tuple(address for address in there if has(network, address)))
        if (network := term.network)
        else term
        for term in filters.terms
    )
    return replace(filters, terms=tuple(terms))


class WarehouseStore:
    """The warehouse."""

    name = "warehouse"

    def __init__(self) -> None:
        self.sessions = Sessions()

    def accounts(self, deadline: Deadline | None = None) -> list[str]:
        """See EventStore."""
        with self.sessions.session(deadline) as session:
            return [row["account_id"] for row in session.rows(_ACCOUNTS, deadline=deadline)]

    def tables(self, *asked: Question, deadline: Deadline | None = None) -> list[pa.Table]:
        """See EventStore; what was rehydrated counts, too."""
        with self.sessions.session(deadline) as session:
            words = {**_POSTGRES, "{collate}": session.collate, "{events}": f"{{schema}}.{session.events}"}
            return [session.table(_in_words(q.sql, words), *q.parameters, deadline=deadline) for q in asked]

    def first_seen(self, filters: Filters, deadline: Deadline | None = None) -> list[Row]:
        """See EventStore: the time before the window was counted when it was loaded."""
        with self.sessions.session(deadline) as session:
            is_counted = session.is_counted
        return ask(self, questions.first_seen(filters, is_counted=is_counted), deadline=deadline)[0]


class LakeStore:
    """The lake. Only the days and accounts that are asked about are read."""

    name = "lake"

    def accounts(self, deadline: Deadline | None = None) -> list[str]:  # noqa: ARG002  # a listing is short
        """See EventStore."""
        read_settings_anew()
        with told():
            place = open_place()
        with place.translated_errors():
            accounts = place.accounts(EVENTS_TABLE)
        if not accounts:
            where = f"nothing lies at {place.url(EVENTS_TABLE)}"
            raise AuditLogsError("the lake has no events yet", detail=where, hint=START)
        return accounts

    def tables(self, *asked: Question, deadline: Deadline | None = None) -> list[pa.Table]:
        """See EventStore."""
        until = deadline or Deadline()

        def answers(database: duckdb.DuckDBPyConnection, files: LakeFiles) -> list[pa.Table]:
            with until.interrupting(database.interrupt):
                # Every question orders by itself.
                database.execute("SET preserve_insertion_order = false")
                return [_lake_table(database, files, question, until) for question in asked]

        return answer_of_lake(answers, until)

    def first_seen(self, filters: Filters, deadline: Deadline | None = None) -> list[Row]:
        """See EventStore: one pass over the window and the time before."""
        return ask(self, questions.first_seen(filters), deadline=deadline)[0]


def answer_of_lake(
    question: Callable[[duckdb.DuckDBPyConnection, LakeFiles], T], deadline: Deadline | None = None
) -> T:
    """Asks the lake of the settings, and returns what the question returns.

    Raises:
        AuditLogsError: the lake cannot be read, or not in time.
    """
    until = deadline or Deadline()
    with told():
        place = open_place()
    if not _lake_slots.acquire(timeout=until.seconds_left):
        raise TemporaryError("too many questions are asked at once", hint="try again in a moment")
    try:
        return ask_lake(place, question)
    except duckdb.InterruptException as error:
        raise until.error() from error
    except duckdb.Error as error:
        detail = str(error).splitlines()[0]
        hint = "refresh; if it stays, see pipelines/reconcile.py --repair"
        raise AuditLogsError("the lake could not be read", detail=detail, hint=hint) from error
    finally:
        _lake_slots.release()


def _lake_table(
    database: duckdb.DuckDBPyConnection, files: LakeFiles, question: Question, deadline: Deadline
) -> pa.Table:
    """DuckDB's answer."""
    pattern = question.accounts[0] if len(question.accounts) == 1 else "*"
    plan = files.plan(Days(pattern, question.since.date().isoformat(), question.before.date().isoformat()))
    deadline.check()
    if not plan.hours and not plan.copies:
        return pa.table({})
    number = len(question.parameters)
    sql = _in_words(question.sql, {**_DUCKDB, "{events}": f"events_in(${number + 1}, ${number + 2})"})
    parameters = [*question.parameters, list(plan.hours), list(plan.copies)]
    return database.sql(sql, params=parameters).to_arrow_table()


def _in_words(sql: str, words: dict[str, str]) -> str:
    for name, word in words.items():
        sql = sql.replace(name, word)
    return sql
