"""After SIGTERM or SIGINT, the running load finishes in bounded time; a second signal ends at once. Nothing is lost.

A loop that does not hear a signal ends after a minute all the same, and then not with 0.
"""

import random
import secrets
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from benchmarks.servers.commands import Finished, process_of, wait_until
from simulator.api import Api, Fault
from tests.factory import ACCOUNT, ago, event_at, ids, spread
from tests.faults.proxy import Proxy
from tests.stores import Stores

pytestmark = pytest.mark.integration

Command = Callable[..., Finished]
ONCE = ("pipelines/run.py", "--once", "--json")


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_idle_ends_well_at_once(
    environment: Mapping[str, str], tmp_path: Path, signal_number: signal.Signals
) -> None:
    """Exit 0, whatever the interval."""
    own = {**environment, "POLL_INTERVAL_SECONDS": "600"}
    with (tmp_path / "log").open("wb") as log, process_of(own, "pipelines/run.py", output=log) as loop:
        wait_until(lambda: "load.finished destination=lake" in (tmp_path / "log").read_text())
        loop.send_signal(signal_number)

        assert loop.wait(120) == 0


def test_a_signal_in_the_middle_of_a_load_lets_it_finish(
    api: Api, environment: dict[str, str], stores: Stores, warehouse_proxy: Proxy, tmp_path: Path
) -> None:
    """A load that takes some seconds is in the warehouse after it, cursor and all."""
    events = spread(400, ago(hours=3), ago(minutes=1), newValue="x" * 1000)
    api.world.add(ACCOUNT, "v1", events)
    warehouse_proxy.bytes_per_second = 200_000
    with (tmp_path / "log").open("wb") as log, process_of(environment, "pipelines/run.py", output=log) as loop:
        wait_until(lambda: len(stores.lake_ids()) == len(events))
        loop.terminate()

        assert loop.wait(120) == 0
    assert stores.ids() == (sorted(ids(events)),) * 2
    assert "load.finished destination=warehouse new=400" in (tmp_path / "log").read_text()


def test_a_signal_while_the_api_makes_us_wait_ends_well_at_once(api: Api, environment: Mapping[str, str]) -> None:
    """A signal interrupts the wait for a retry."""
    api.faults.append(Fault(times=None, status=503))
    waiting = {"CLOUDFLARE_BACKOFF_SECONDS": "300"}
    with process_of(environment, "pipelines/run.py", **waiting) as loop:
        wait_until(lambda: bool(api.requests))
        loop.terminate()

        assert loop.wait(120) == 0


def test_a_signal_in_the_middle_of_a_long_window_ends_well_at_once(api: Api, environment: Mapping[str, str]) -> None:
    """Pages that were read but not loaded are discarded: the next run reads them again."""
    api.world.add(ACCOUNT, "v1", spread(5000, ago(days=1), ago(minutes=1)))
    api.behaviour.requests_per_window = 1_000_000
    with process_of(environment, "pipelines/run.py", CLOUDFLARE_PER_PAGE="1") as loop:
        wait_until(lambda: len(api.requests) > 20)
        loop.terminate()

        assert loop.wait(120) == 0
    assert len(api.requests) < 5000


def test_a_second_signal_ends_at_once_and_loses_nothing(
    api: Api, environment: dict[str, str], command: Command, stores: Stores, warehouse_proxy: Proxy
) -> None:
    """Even if the warehouse hangs."""
    events = spread(20, ago(hours=3), ago(minutes=1))
    api.world.add(ACCOUNT, "v1", events)
    with process_of(environment, "pipelines/run.py", POLL_INTERVAL_SECONDS="0.2") as loop:
        wait_until(lambda: len(stores.warehouse_ids()) == len(events))
        warehouse_proxy.hang()
        more = [event_at(ago(seconds=1))]
        api.world.add(ACCOUNT, "v1", more)
        wait_until(lambda: len(stores.lake_ids()) == len(events + more))
        loop.terminate()
        time.sleep(1)
        assert loop.poll() is None
        loop.terminate()
        assert loop.wait(120) == -signal.SIGTERM
    warehouse_proxy.go_on()

    assert command(*ONCE).code == 0
    assert stores.ids() == (sorted(ids(events + more)),) * 2


@pytest.mark.long
def test_a_load_that_hangs_ends_the_process_after_a_while(
    api: Api, environment: dict[str, str], command: Command, stores: Stores, warehouse_proxy: Proxy
) -> None:
    """With a deadline of 2 seconds instead of a minute for the stop: it says so, and ends as if killed."""
    api.world.add(ACCOUNT, "v1", [event_at(ago(minutes=1))])
    code = "import sys; from pipelines import run; run.LONGEST_STOP_SECONDS = 2; sys.exit(run.main([]))"
    with process_of(environment, "-c", code, POLL_INTERVAL_SECONDS="0.2") as loop:
        wait_until(lambda: len(stores.warehouse_ids()) == 1)
        warehouse_proxy.hang()
        api.world.add(ACCOUNT, "v1", [event_at(ago(seconds=1))])
        wait_until(lambda: len(stores.lake_ids()) == 2)
        loop.terminate()

        assert loop.wait(120) == 75
    warehouse_proxy.go_on()
    assert command(*ONCE).code == 0
    assert len(stores.warehouse_ids()) == 2


def test_a_signal_while_an_account_does_not_answer_ends_well_at_once(api: Api, environment: Mapping[str, str]) -> None:
    """The stopping process does not wait for an answer that it no longer needs."""
    api.faults.append(Fault(latency_seconds=300, times=None))
    with process_of(environment, "pipelines/run.py") as process:
        wait_until(lambda: bool(api.requests))
        process.send_signal(signal.SIGTERM)

        assert process.wait(120) == 0


HELD = """
import os, signal, threading
from pipelines import run
from pipelines.cli import main_job

def hold(self):
    lock, is_held = __import__("logging").getLogger().handlers[0].lock, threading.Event()
    threading.Thread(target=lambda: (lock.acquire(), is_held.set(), threading.Event().wait()), daemon=True).start()
    is_held.wait()
    os.kill(os.getpid(), signal.SIGTERM)
    os.write(1, b"went on")
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(60)

main_job.Loop.run = hold
run.main([])
"""


def test_a_signals_handler_waits_for_no_lock(environment: Mapping[str, str], tmp_path: Path) -> None:
    """Somebody is in the middle of a line of the log, and stays there: the second signal ends us all the same."""
    out = tmp_path / "out"
    with out.open("wb") as output, process_of(environment, "-c", HELD, output=output) as loop:
        assert loop.wait(120) == -signal.SIGTERM

    assert b"went on" in out.read_bytes()


def test_a_loop_that_is_told_while_it_talks_without_end_stops_well(
    api: Api, environment: Mapping[str, str], tmp_path: Path
) -> None:
    """At any moment of it."""
    seed = secrets.randbits(32)
    dice = random.Random(seed)
    print(f"seed {seed}")
    api.faults.append(Fault(status=500, times=None, body="{}"))
    noisy = {"POLL_INTERVAL_SECONDS": "0.1", "CLOUDFLARE_MAX_RETRIES": "0", "CLOUDFLARE_BACKOFF_MAX_SECONDS": "0.01"}
    log = tmp_path / "log"
    for _ in range(3):
        with log.open("wb") as output, process_of(environment, "pipelines/run.py", output=output, **noisy) as loop:
            wait_until(lambda: "account.failed" in log.read_text())
            time.sleep(dice.random())
            loop.terminate()

            assert loop.wait(120) == 0, log.read_text()
        assert log.read_text().count("run.stopping signal=SIGTERM") == 1
        assert "Traceback" not in log.read_text()
