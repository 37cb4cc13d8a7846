"""Input from outside stays data, in the stores and in the logs."""

from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.servers.commands import Finished
from pipelines.host.logs import log
from pipelines.loop.report import Report
from simulator.api import Api, Fault
from tests.factory import ACCOUNT, ago, encoded, event_at, ids, raw_event, v1_tree
from tests.stores import Stores

pytestmark = pytest.mark.integration

Poll = Callable[..., Report]
Command = Callable[..., Finished]
ONCE = ("pipelines/run.py", "--once", "--json")

HOSTILE = [
    "'); DROP TABLE audit_logs; --",
    '"; DELETE FROM audit_logs; --',
    "\x1b[2J\x1b[31mred\x07",
    "two\nlines\r\nand ERROR a forged log line",
    "../../../etc/passwd",
    "{schema} %s $1 :name \\copy \\.",
    "=cmd|' /C calc'!A0",
    "\u202egnp.exe",
    "a" * 5000,
]


def test_events_with_hostile_text_are_kept_as_they_are(api: Api, poll: Poll, stores: Stores) -> None:
    """In every field that has a column."""
    events = {}
    for number, text in enumerate(HOSTILE):
        fields: dict[str, Any] = {
            "id": f"{number} {text[:1000]}",
            "action": {"result": True, "type": text},
            "actor": {"email": text, "id": text, "ip": text, "type": text},
            "resource": {"id": text, "type": text},
            "metadata": {text: text},
        }
        events[fields["id"]] = text, event_at(ago(minutes=1), **fields)
    api.world.add(ACCOUNT, "v1", [event for _, event in events.values()])

    poll()

    for rows in (stores.warehouse(), stores.lake_events()):
        assert {row["event_id"] for row in rows} == events.keys()
        for row in rows:
            text = events[row["event_id"]][0]
            columns = ("action_type", "actor_email", "actor_id", "ip_address", "actor_type", "resource_id")
            assert [row[name] for name in columns] == [text] * len(columns)
    for row in stores.lake_events():
        assert row["raw_event"] == events[row["event_id"]][1].raw.decode()


@pytest.mark.parametrize("text", HOSTILE[2:4], ids=range(2))
def test_hostile_text_forges_no_log_line(api: Api, command: Command, stores: Stores, text: str) -> None:
    """In an answer's error, in an event that is quarantined."""
    api.world.add(ACCOUNT, "v1", [raw_event(encoded({"when": text, "id": text}), time=ago(minutes=1))])
    quarantined = command(*ONCE)
    api.faults.append(Fault(times=None, status=400, body=text))
    refused = command(*ONCE)

    assert (quarantined.code, refused.code) == (0, 1)
    for line in (quarantined.err + refused.err).splitlines():
        assert line[:4].isdigit(), line
        assert line.isprintable(), line
    assert len(stores.query("SELECT 1 AS n FROM {schema}.audit_logs_quarantine")) == 1


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_a_log_line_is_one_line_whatever_is_in_it(text: str, caplog: pytest.LogCaptureFixture) -> None:
    """Every field is printable, and its spaces and quotes cannot be mistaken for the line's own."""
    log.error("event.name", field=text, other=1)

    (message,) = caplog.messages
    assert message.isprintable()
    assert message.startswith("event.name field=")
    assert message.endswith(" other=1")


@pytest.mark.parametrize("account", ["../up", "a*b"])
def test_an_account_that_is_no_id_is_refused_at_the_edge(command: Command, account: str) -> None:
    """Before a path or a query is made of it."""
    done = command(*ONCE, CLOUDFLARE_ACCOUNT_ID=account)

    assert done.code == 2
    assert "CLOUDFLARE_ACCOUNT_ID" in done.err


def test_the_account_that_an_event_names_makes_no_path(api: Api, poll: Poll, stores: Stores) -> None:
    """Events lie under the account that was asked, whatever they say of themselves."""
    api.world.add(ACCOUNT, "v1", [raw_event(encoded(v1_tree(owner={"id": "../../up"})), time=ago(days=1))])
    events = [event_at(ago(minutes=2), owner={"id": "../../up"})]
    api.world.add(ACCOUNT, "v1", events)

    poll()

    assert {path.parts[-4] for path in stores.lake.rglob("events.parquet")} == {f"account={ACCOUNT}"}
    assert ids(events) <= set(stores.lake_ids())
