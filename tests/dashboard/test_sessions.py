"""Questions end, hold up nobody, and cannot write."""

import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest

from dashboard.ask import questions
from dashboard.ask.conditions import Filters
from dashboard.ask.deadline import Deadline
from dashboard.ask.questions import Question
from dashboard.ask.stores import LakeStore, WarehouseStore, ask
from pipelines.loop.report import Report
from simulator.api import Api
from sources.cloudflare_audit_logs.errors import AuditLogsError
from tests.factory import ACCOUNT, ago, spread
from tests.stores import Stores

pytestmark = pytest.mark.integration

ALL = Filters(datetime.now(UTC) - timedelta(days=3), datetime.now(UTC))


@pytest.fixture
def filled(api: Api, poll: Callable[..., Report]) -> None:
    """Six events in both stores."""
    api.world.add(ACCOUNT, "v1", spread(6, ago(days=2), ago(hours=1)))
    poll()


@pytest.mark.usefixtures("filled")
def test_a_question_has_an_end() -> None:
    """In both stores: after its time, and when nobody waits for it; the next one is answered."""
    series = {"warehouse": "generate_series(1, 10000000)", "lake": "range(10000000)"}
    for store in (WarehouseStore(), LakeStore()):
        (numbers,) = [series[store.name]]
        endless = f"SELECT count(*) AS n FROM {numbers} AS a, {numbers} AS b, {{events}} WHERE a <> b"
        question = Question(endless, (), ALL.since, ALL.before)
        given_up = Deadline()
        threading.Timer(0.5, given_up.give_up).start()

        for deadline in (Deadline(0), Deadline(0.5), given_up):
            with pytest.raises(AuditLogsError, match="took too long"):
                store.tables(question, deadline=deadline)
        assert ask(store, questions.days(ALL))[0]


@pytest.mark.usefixtures("filled")
def test_the_dashboards_session_cannot_write(stores: Stores) -> None:
    """Whatever the rights of PG_USER are."""
    sessions = WarehouseStore().sessions
    for statement in ("DELETE FROM {schema}.audit_logs", "CREATE TABLE {schema}.mine (a int)"):
        with pytest.raises(AuditLogsError, match="read-only transaction"), sessions.session() as session:
            session.table(statement)
    assert len(stores.warehouse_ids()) == 6


@pytest.mark.usefixtures("filled")
def test_a_slow_question_holds_up_no_other() -> None:
    """Each has a session of its own; a session that failed is not used again."""
    store = WarehouseStore()
    slow, is_asked = Deadline(), threading.Event()

    def ask_slowly() -> None:
        with suppress(AuditLogsError), store.sessions.session(slow) as session:
            is_asked.set()
            session.table("SELECT pg_sleep(60)::text AS nothing", deadline=slow)

    thread = threading.Thread(target=ask_slowly)
    thread.start()
    assert is_asked.wait(60)
    assert ask(store, questions.days(ALL))[0]
    assert thread.is_alive()
    slow.give_up()
    thread.join(60)
    assert not thread.is_alive()
    assert ask(store, questions.days(ALL))[0]
