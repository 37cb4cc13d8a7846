"""No answer is not an empty answer: whatever the API does, nothing counts as read that was not, and it mends itself."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from benchmarks.servers.commands import Finished
from pipelines.loop.report import Report
from simulator.api import Api, Fault
from tests.factory import ACCOUNT, OTHER_ACCOUNT, ago, ids, spread
from tests.rows import rows
from tests.stores import Stores

pytestmark = pytest.mark.integration

Poll = Callable[..., Report]
Command = Callable[..., Finished]
ONCE = ("pipelines/run.py", "--once", "--json")
PAGES = {"CLOUDFLARE_PER_PAGE": "20", "CLOUDFLARE_MAX_RETRIES": "0"}

EVENT = '{"id":"x","when":"2026-11-20T10:00:00Z"}'
FAULTS = {
    "429 without a time": Fault(status=429),
    "429 for seconds": Fault(status=429, headers={"Retry-After": "7"}),
    "429 until a date": Fault(status=429, headers={"Retry-After": "Fri, 31 Dec 2100 23:59:59 GMT"}),
    "429 for an absurd time": Fault(status=429, headers={"Retry-After": "99999999999"}),
    "429 for nonsense": Fault(status=429, headers={"Retry-After": "soon"}),
    **{f"{status}": Fault(status=status, body="error") for status in (502, 503, 520, 521, 522, 523)},
    **{f"{status}": Fault(status=status, body="error") for status in (401, 403, 404, 418)},
    "HTML": Fault(body="<html><body>A gateway</body></html>"),
    "nothing": Fault(body=""),
    "no success": Fault(body='{"success":false,"errors":[{"code":1}],"messages":[],"result":[]}'),
    "no list": Fault(body='{"success":true,"errors":[{"code":1}],"result":null}'),
    "cut": Fault(cut=60),
    "cut in a gzip": Fault(cut=300),
    "cut within an event": Fault(body=f'{{"success":true,"result":[{EVENT},{{"id":"y'),
    "a redirect elsewhere": Fault(status=302, headers={"Location": "http://127.0.0.1:9/elsewhere"}),
}


FAST = {"429 for seconds", "503", "HTML", "no success", "cut in a gzip"}


@pytest.mark.wide
@pytest.mark.parametrize("version", ["v1", pytest.param("v2", marks=pytest.mark.long)])
@pytest.mark.parametrize(
    "fault",
    [pytest.param(fault, marks=[] if name in FAST else pytest.mark.long, id=name) for name, fault in FAULTS.items()],
)
def test_a_page_that_goes_wrong_loses_nothing(api: Api, poll: Poll, stores: Stores, fault: Fault, version: str) -> None:
    """The second of five: what was read before does not count, and the next poll brings it all."""
    settings = {"CLOUDFLARE_API_VERSION": version, **PAGES}
    events = spread(90, ago(hours=5), ago(minutes=1), version=version)
    api.world.add(ACCOUNT, version, events)
    api.faults.append(
        Fault(page=2, times=None, status=fault.status, body=fault.body, headers=fault.headers, cut=fault.cut)
    )

    broken = poll(**settings)
    api.faults.clear()
    mended = poll(**settings)

    assert list(broken.failures.accounts.failed) != []
    assert broken.new == {}
    assert mended.failures.accounts.failed == {}
    assert stores.ids() == (sorted(ids(events)),) * 2


def test_a_page_cursor_that_expires_in_the_middle_loses_nothing(api: Api, poll: Poll, stores: Stores) -> None:
    """v2 refuses it with 400, and is asked anew from the newest time reached."""
    settings = {"CLOUDFLARE_API_VERSION": "v2", **PAGES}
    events = spread(90, ago(hours=5), ago(minutes=1), version="v2")
    api.world.add(ACCOUNT, "v2", events)
    expired = '{"success":false,"errors":[{"message":"Invalid format for parameter cursor"}],"result":null}'
    api.faults.append(Fault(page=3, times=1, status=400, body=expired))

    first, second = poll(**settings), poll(**settings)

    assert (first.failures.accounts.failed, first.new["lake"], second.new["lake"]) == ({}, 90, 0)
    assert stores.ids() == (sorted(ids(events)),) * 2


@pytest.mark.parametrize("version", ["v1", pytest.param("v2", marks=pytest.mark.long)])
@pytest.mark.parametrize(
    "status", [400, *(pytest.param(code, marks=pytest.mark.long) for code in (422, 500, 504, 524))]
)
def test_second_pages_that_are_refused_are_no_obstacle(
    api: Api, poll: Poll, stores: Stores, status: int, version: str
) -> None:
    """They may be too deep in the window: each page is then the first of a window of its own."""
    events = spread(90, ago(hours=5), ago(minutes=1), version=version)
    api.world.add(ACCOUNT, version, events)
    api.faults.append(Fault(page=2, times=None, status=status, body="error"))

    report = poll(CLOUDFLARE_API_VERSION=version, **PAGES)

    assert report.failures.accounts.failed == {}
    assert stores.ids() == (sorted(ids(events)),) * 2


@pytest.mark.parametrize("status", [400, 500])
def test_a_window_that_is_hopeless_costs_one_request_more(api: Api, poll: Poll, status: int) -> None:
    """If not even a second of it is answered, smaller windows are not tried one after the other."""
    api.faults.append(Fault(times=None, status=status, body="error"))

    report = poll(CLOUDFLARE_MAX_RETRIES="2")

    assert len(report.failures.accounts.failed) == 1
    assert len(api.requests) == (2 if status == 400 else 4)


@pytest.mark.wide
@pytest.mark.parametrize(
    "odd",
    [
        b'{"id":"odd","when":"2026-11-20T10:00:00Z","newValue":NaN}',
        b'{"id":"odd","id":"odd","when":"2026-11-20T10:00:00Z","when":"2026-11-20T10:00:00Z"}',
        b'{"id":"odd","when":"2026-11-20T10:00:00Z","metadata":' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"id":"odd","when":"2026-11-20T10:00:00Z","newValue":"\xff\xfe"}',
    ],
    ids=["NaN", "duplicate keys", "deep nesting", "invalid UTF-8"],
)
def test_an_odd_event_is_kept_and_its_page_is_loaded(api: Api, poll: Poll, stores: Stores, odd: bytes) -> None:
    """In the table or in the quarantine of each store, once; its neighbours in both."""
    events = spread(5, ago(days=5), ago(days=4))
    api.world.add(ACCOUNT, "v1", events)
    body = b'{"success":true,"errors":[],"result":[' + b",".join([*[e.raw for e in events], odd]) + b"]}"
    api.faults.append(Fault(times=None, body=body.decode("utf-8", "surrogateescape")))

    poll()
    poll()

    kept = [
        *stores.warehouse_ids(),
        *["odd" for _ in stores.query("SELECT 1 AS n FROM {schema}.audit_logs_quarantine")],
    ]
    assert sorted(kept) == sorted([*ids(events), "odd"])
    in_quarantine = stores.lake_table("audit_logs_quarantine").num_rows
    assert sorted([*stores.lake_ids(), *["odd"] * in_quarantine]) == sorted([*ids(events), "odd"])


def test_an_answer_that_trickles_is_given_up(command: Command) -> None:
    """A byte now and then keeps every timeout of a packet from coming."""
    with _trickling_api() as url:
        done = command(
            *ONCE, CLOUDFLARE_API_URL=url, CLOUDFLARE_REQUEST_TIMEOUT_SECONDS="0.3", CLOUDFLARE_MAX_RETRIES="0"
        )

    assert done.code == 75
    assert "takes too long" in done.err


def test_a_wrong_token_names_the_permission_that_is_needed(command: Command) -> None:
    """Exit 1, one message, no trace, and the token is not in it."""
    done = command(*ONCE, CLOUDFLARE_API_TOKEN="wrong-token")

    assert done.code == 1
    assert "Account Settings: Read" in done.err
    assert "Traceback" not in done.err
    assert "wrong-token" not in done.err + done.out


@pytest.mark.parametrize("status", [429, *(pytest.param(code, marks=pytest.mark.long) for code in (403, 404, 500))])
def test_a_broken_account_does_not_hold_up_the_others(api: Api, command: Command, stores: Stores, status: int) -> None:
    """The others load, and the exit code says that one did not."""
    events = spread(10, ago(days=1), ago(minutes=1))
    api.world.add(OTHER_ACCOUNT, "v1", events)
    api.faults.append(Fault(account_id=ACCOUNT, times=None, status=status, headers={"Retry-After": "120"}))

    done = command(*ONCE, CLOUDFLARE_ACCOUNT_ID=f"{ACCOUNT},{OTHER_ACCOUNT}")

    assert done.code == 1
    assert stores.ids() == (sorted(ids(events)),) * 2
    assert list(done.report["failed_accounts"]) == [f"audit_logs_v1_{ACCOUNT}"]


@pytest.mark.parametrize(
    ("fault", "code"),
    rows(
        (Fault(times=None, status=429, headers={"Retry-After": "60"}), 75),
        (Fault(times=None, body="<html>"), 1),
        long=[
            (Fault(times=None, status=503), 75),
            (Fault(times=None, body='{"success":false,"errors":[],"result":null}'), 1),
        ],
    ),
)
def test_an_api_that_fails_as_a_whole_is_told_by_the_exit_code(
    api: Api, command: Command, fault: Fault, code: int
) -> None:
    """75: try again later; 1: someone has to look."""
    api.faults.append(fault)

    done = command(*ONCE, CLOUDFLARE_MAX_RETRIES="0")

    assert done.code == code
    assert "Traceback" not in done.err


@contextmanager
def _trickling_api() -> Iterator[str]:
    """Sends headers at once, and then a byte every 0.1 seconds."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_trickle, args=[server], daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/client/v4"


def _trickle(server: Any) -> None:
    try:
        connection, _ = server.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
            while True:
                connection.sendall(b" ")
                time.sleep(0.1)
    except OSError:
        return
