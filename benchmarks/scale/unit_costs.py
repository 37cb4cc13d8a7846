"""Measures unit costs on a small scale, with the real loop, a PostgreSQL, an S3 server and a prepared API.

The loop's own metrics say what its process took. A gate before the S3 server notes the requests to S3.
"""

import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchmarks.ingest import Bench, prepared_api
from benchmarks.lake import ACCOUNTS, SINCE, Texts
from benchmarks.servers.s3_gate import Gate, gate_before
from benchmarks.servers.seaweed import seaweed
from benchmarks.servers.watched_loop import Reading, Watched, give_up_after, looping
from pipelines.lake.object_format import encode
from pipelines.lake.partitions import add_events
from pipelines.load.held_keys import HeldKeys
from pipelines.warehouse.embedded import embedded_postgres

from .model import UnitCosts

EVENTS = 40_000
MANY = 200
FEW = 40
ROUNDS = 4
QUIET = {"SWEEP_INTERVAL_SECONDS": "0", "RECONCILE_AFTER_HOURS": "0"}


def measure() -> UnitCosts:
    """Measures all unit costs, in about a minute and a half."""
    accounts = [f"{number:032x}" for number in range(1, MANY + 1)]
    with tempfile.TemporaryDirectory(prefix="audit-benchmark-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with (
            embedded_postgres(folder / "postgres") as server,
            seaweed(folder) as bucket,
            gate_before(bucket.endpoint) as gate,
            prepared_api(EVENTS, ["a" * 32, *accounts]) as (url, pid),
        ):
            postmaster = int((folder / "postgres" / "postmaster.pid").read_text().split()[0])
            bench = Bench(server, postmaster, url, pid, folder)
            idle = _idle(bench, accounts, bucket.settings("idle"))
            many = _many(bench, accounts, bucket.settings("many"))
            request = many.cpu / many.requests
            busy = _busy(bench, bucket.settings("busy"), request)
            loads = _loads(bench, gate, accounts[:FEW], {**bucket.settings("loads"), "S3_ENDPOINT": gate.url})
            few_memory = loads.pop("memory")
    known = _known_event_memory()
    # A loop that has held a large step keeps the memory for it.
    base = max(idle["memory"], busy.pop("memory") - EVENTS * known)
    return UnitCosts(
        request=request,
        comparison=idle["comparison"],
        memory=base,
        account_memory=max(0.0, (many.memory - few_memory) / (MANY - FEW)),
        known_event_memory=known,
        **busy,
        **loads,
        **_objects(),
    )


def _idle(bench: Bench, accounts: list[str], lake: Mapping[str, str]) -> dict[str, float]:
    """Measures one account without events: its hours are compared, six at a time, then nothing is left to do."""
    with _loop(bench, lake, accounts[:1], RECONCILE_AFTER_HOURS="1", POLL_INTERVAL_SECONDS="1") as loop:
        first = _compared(bench, loop, 6)
        last = _compared(bench, loop, 18)
        quiet = loop.watch(4)
    polls = last.requests - first.requests - 2  # less the two stretches' own requests
    return {"memory": quiet.memory, "comparison": (last.cpu - first.cpu - polls * quiet.cpu / quiet.requests) / 2}


def _compared(bench: Bench, loop: Watched, hours: int) -> Reading:
    """Waits until so many hours have been compared; returns the metrics then."""
    deadline = time.monotonic() + 60
    while True:
        is_there = bench.query("SELECT to_regclass('audit_completeness') IS NOT NULL")
        if is_there and bench.query("SELECT count(*) FROM audit_completeness") >= hours:
            return loop.read()
        give_up_after(deadline, f"{hours} hours compared")
        time.sleep(0.05)


def _many(bench: Bench, accounts: list[str], lake: Mapping[str, str]) -> Reading:
    """Measures accounts without events, one poll after the other."""
    with _loop(bench, lake, accounts, POLL_INTERVAL_SECONDS="0.1", **QUIET) as loop:
        loop.settle(requests=3 * len(accounts))
        return loop.watch()


def _busy(bench: Bench, lake: Mapping[str, str], request: float) -> dict[str, float]:
    """Measures one account with all the events: loaded, then read again by each poll, then by each sweep."""
    environment = bench.environment(bench.fresh(), **QUIET, **lake)
    loaded = bench.run("pipelines/run.py", "--once", environment=environment)
    nothing = bench.run("pipelines/run.py", "--once", environment=environment)
    size = bench.query("SELECT pg_total_relation_size('audit_logs')")
    day = {**QUIET, "CLOUDFLARE_SINCE_SAFETY_LAG_SECONDS": "86000"}
    with looping(environment, POLL_INTERVAL_SECONDS="0.5", **day) as loop:
        loop.settle(requests=3 * EVENTS / 1_000)
        polled = loop.watch()
    sweeping = {"SWEEP_INTERVAL_SECONDS": "0.001", "RECONCILE_AFTER_HOURS": "0"}
    with looping(environment, POLL_INTERVAL_SECONDS="0.5", **sweeping) as loop:
        loop.settle(requests=2 * EVENTS / 1_000)
        swept = loop.watch()
    return {
        "new_event": (loaded.client - nothing.client) / EVENTS,
        "new_event_postgres": (loaded.server - nothing.server) / EVENTS,
        "reread_event": (polled.cpu - polled.requests * request) / polled.events,
        "swept_event": (swept.cpu - swept.requests * request) / swept.events,
        "warehouse_event": size / EVENTS,
        "memory": polled.memory,
    }


def _loads(bench: Bench, gate: Gate, accounts: list[str], lake: Mapping[str, str]) -> dict[str, float]:
    """Measures polls that bring an event of one account, and of each: the cost of a load, and of each object."""
    costs: dict[int, list[tuple[float, float]]] = {1: [], len(accounts): []}
    own: list[dict[str, int]] = []
    with _loop(bench, lake, accounts, POLL_INTERVAL_SECONDS="1", **QUIET) as loop:
        loop.settle(requests=3 * len(accounts))
        quiet = loop.watch(4)
        _load(bench, gate, accounts)  # the first load of an hour finds no objects
        for touched in list(costs) * ROUNDS:
            begun, before, server = time.monotonic(), loop.read(), bench.server_cpu()
            _load(bench, gate, accounts[:touched])
            spent = loop.read().cpu - before.cpu - quiet.cpu / 4 * (time.monotonic() - begun)
            costs[touched].append((spent, bench.server_cpu() - server))
            own.append(_own_requests(gate))
    one, all_ = ([statistics.median(column) for column in zip(*costs[n], strict=True)] for n in costs)
    rewrite = (all_[0] - one[0]) / (len(accounts) - 1)
    return {
        "rewrite": rewrite,
        "load": one[0] - rewrite,
        "load_postgres": one[1],
        "memory": quiet.memory,
        **{f"load_{kind}": statistics.median(counts[kind] for counts in own) for kind in ("puts", "gets", "lists")},
    }


def _load(bench: Bench, gate: Gate, accounts: list[str]) -> None:
    """Adds an event to each account, waits until its object is written, and a second more for everything else."""
    gate.requests.clear()
    bench.happen(",".join(accounts), 1)
    deadline = time.monotonic() + 30
    while sum(r.action == "s3:PutObject" and "/audit_logs/" in r.key for r in gate.requests) < len(accounts):
        give_up_after(deadline, "the objects")
        time.sleep(0.05)
    time.sleep(1)


def _own_requests(gate: Gate) -> dict[str, int]:
    """Counts dlt's own requests to S3, without those for events' objects."""
    own = [request for request in gate.requests if "/audit_logs/" not in request.key]
    actions = {"puts": "s3:PutObject", "gets": "s3:GetObject", "lists": "s3:ListBucket"}
    return {kind: sum(request.action == action for request in own) for kind, action in actions.items()}


def _objects() -> dict[str, float]:
    """Measures the size of objects, and the CPU of adding an event to a full one."""
    texts = Texts.make(10_000)
    events = texts.of_hour(ACCOUNTS[0], SINCE)
    body = encode(events.slice(0, 9_999))
    one, full = len(encode(events.slice(0, 1))), len(body)
    begun = time.process_time()
    for _ in range(3):
        add_events(body, events.slice(9_999))
    held = (time.process_time() - begun) / 3 / 9_999
    an_event = (full - one) / 9_998
    return {"held_event": held, "lake_event": an_event, "object_bytes": max(0.0, one - an_event)}


def _known_event_memory() -> float:
    """Measures the bytes per event for both destinations, each of which remembers the keys."""
    events = Texts.make(10_000).events
    tracemalloc.start()
    known = HeldKeys()
    for _ in range(2):  # the second time looks at each key
        known.lacking(events, lambda *_: set())
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return 2.0 * size / len(events)


@contextmanager
def _loop(bench: Bench, lake: Mapping[str, str], accounts: list[str], **changes: str) -> Iterator[Watched]:
    settings = {"CLOUDFLARE_ACCOUNT_ID": ",".join(accounts), **lake, **changes}
    with looping(bench.environment(bench.fresh(), **settings)) as loop:
        yield loop
