"""`python -m tests.faults.dying POINT NTH SIGNAL COMMAND [its arguments]`: run.py or another, ended at a named point.

The process sends the signal to itself when it passes the point for the NTH time: KILL ends it there, STOP lets it
sleep there until someone sends CONT. FAIL is no signal: the call fails there, once. Nothing else of it is different.
"""

import errno
import functools
import importlib
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple


class Point(NamedTuple):
    """Before or after a call of a function, or only of those with this among its arguments."""

    when: str
    function: str
    argument: str | None = None


_CLIENT = "sources.cloudflare_audit_logs.client:AuditLogsClient"
_DLT = "dlt.pipeline.pipeline:Pipeline"
_SQL = "adbc_driver_manager.dbapi:Cursor.execute"
_WAREHOUSE = "pipelines.warehouse.destination"
_CLIENT_OF_DLT = "pipelines.warehouse.dlt_client:WarehouseClient"
_LAKE = "dlt.destinations.impl.filesystem.filesystem:FilesystemClient"

POINTS = {
    "after a request": Point("after", f"{_CLIENT}._fetch"),
    "with a page in hand": Point("before", "pipelines.fetch.api:decode_page"),
    "with the lock and no state": Point("before", f"{_DLT}.sync_destination"),
    "before extract": Point("before", f"{_DLT}.extract"),
    "after extract": Point("after", f"{_DLT}.extract"),
    "after normalize": Point("after", f"{_DLT}.normalize"),
    "in the warehouse's load": Point("after", "pipelines.warehouse.write:_insert_batch"),
    "before the warehouse's commit": Point("before", _SQL, "COMMIT"),
    "after the warehouse's commit": Point("after", _SQL, "COMMIT"),
    "before the warehouse's state counts": Point("before", f"{_CLIENT_OF_DLT}.complete_load"),
    "after the warehouse's state counts": Point("after", f"{_CLIENT_OF_DLT}.complete_load"),
    "before an object": Point("before", "pipelines.lake.object_rows:update"),
    "after an object": Point("after", "pipelines.lake.object_rows:update"),
    "before the lake's state": Point("before", f"{_LAKE}._store_current_state"),
    "before the lake's state counts": Point("before", f"{_LAKE}._store_load"),
    "after the lake's state counts": Point("after", f"{_LAKE}._store_load"),
    "between the two destinations": Point("after", "pipelines.load.loader:Loader.load"),
    "with a part in the spool": Point("after", "pipelines.load.spool:SpooledReading.read"),
    "after one of a load's jobs in the warehouse": Point("after", f"{_WAREHOUSE}:Warehouse.load_events"),
    "after one of a load's jobs in the lake": Point("after", "pipelines.lake.dlt_client:LakeLoadJob.run"),
    "before a sweep's load": Point("before", "pipelines.load.loader:Sidecar.load"),
    "after a sweep's load": Point("after", "pipelines.load.loader:Sidecar.load"),
}
FOLDER_POINTS = {"with a file half in place": Point("before", "pathlib:Path.replace")}
BUCKET_POINTS = {
    "before a PUT": Point("before", "pipelines.lake.bucket:Bucket.write"),
    "after a PUT": Point("after", "pipelines.lake.bucket:Bucket.write"),
}
_REPAIR = "pipelines.proof.repair:Repair"
COMMAND_POINTS = {
    "after a check is kept": Point("after", "pipelines.warehouse.reads:WarehouseReader.record"),
    "with an object set aside": Point("after", f"{_REPAIR}._set_aside"),
    "after a store is filled": Point("after", f"{_REPAIR}._add"),
    "before events are replaced": Point("before", f"{_REPAIR}._replace"),
    "between lake and warehouse": Point("before", "pipelines.proof.repair:update_events"),
    "with a copy half written": Point("after", "pipelines.lake.day_copies:_written"),
    "before a copy is in place": Point("after", "pipelines.lake.day_copies:_fill"),
    "after a copy": Point("after", "pipelines.proof.compaction:write_copy"),
}
"""The points of backfill, rehydrate, reconcile and compact, in addition to those above."""
SEAL_POINTS = {
    "before a seal's file": Point("before", "pipelines.lake.objects:Folder.create"),
    "with a seal half in place": Point("before", "pathlib:Path.hardlink_to"),
    "after a seal's file": Point("after", "pipelines.lake.objects:Folder.create"),
    "before a seal's PUT": Point("before", "pipelines.lake.bucket:Bucket.create"),
    "after a seal's PUT": Point("after", "pipelines.lake.bucket:Bucket.create"),
    "before the copies of a seal": Point("before", "pipelines.warehouse.seals:SealRows.add"),
    "after the copies of a seal": Point("after", "pipelines.warehouse.seals:SealRows.add"),
    "with a new key beside the old one": Point("after", "pipelines.seals.keeping:write_new"),
    "before the new key is in place": Point("before", "pipelines.seals.keeping:put_into_place"),
    "after a repair's seal": Point("after", "pipelines.seals.chain:Chain.append"),
}
"""The points of seals: of the loop, of the key's commands, of a repair."""


def main() -> int:
    """Runs the command with the point armed."""
    name, nth, signal_name, command, *arguments = sys.argv[1:]
    points = {**POINTS, **FOLDER_POINTS, **BUCKET_POINTS, **COMMAND_POINTS, **SEAL_POINTS}
    run = importlib.import_module(f"pipelines.{command}").main
    _arm(points[name], int(nth), None if signal_name == "FAIL" else signal.Signals[f"SIG{signal_name}"])
    return int(run(arguments))


def _arm(point: Point, nth: int, signal_number: signal.Signals | None) -> None:
    passed = [0]

    def pass_point(when: str, arguments: tuple[Any, ...]) -> None:
        is_it = when == point.when and (point.argument is None or point.argument in arguments)
        passed[0] += is_it
        if is_it and passed[0] == nth:
            if signal_number is None:
                raise OSError(errno.EIO, "failed at a named point")
            os.kill(os.getpid(), signal_number)
            time.sleep(1)  # the signal may take a moment to reach this thread, which must not go on meanwhile

    replace(point.function, lambda original: _watched(original, pass_point))


def replace(function: str, by: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Puts another function in the place of one that is named as above."""
    module_name, _, path = function.partition(":")
    *owner_path, name = path.split(".")
    owner = functools.reduce(getattr, owner_path, importlib.import_module(module_name))
    setattr(owner, name, by(getattr(owner, name)))


def _watched(original: Callable[..., Any], pass_point: Callable[[str, tuple[Any, ...]], None]) -> Callable[..., Any]:
    @functools.wraps(original)
    def watched(*arguments: Any, **named: Any) -> Any:
        pass_point("before", arguments)
        result = original(*arguments, **named)
        pass_point("after", arguments)
        return result

    return watched


if __name__ == "__main__":
    sys.exit(main())
