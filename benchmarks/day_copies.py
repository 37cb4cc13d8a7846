"""`python -m benchmarks.day_copies [--events N] [--repeats 3] [--write]`: the cost of day copies, against the load.

Loads events by the main job, in a process of its own, and makes the copies of their days in this process, as the
loop's background does. CPU seconds; --write puts the table into docs/lake.md.
"""

import argparse
import os
import resource
import statistics
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from tqdm import tqdm

from pipelines.lake.day_copies import by_day, write_copy
from pipelines.lake.objects import Folder
from pipelines.lake.partitions import account_folder
from pipelines.settings.settings import PROJECT_ROOT

from .documents import as_markdown, put_into
from .ingest import ACCOUNT, Bench, open_bench

DOCUMENT = PROJECT_ROOT / "docs" / "lake.md"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.day_copies", description=__doc__)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="put the table into docs/lake.md")
    options = parser.parse_args(arguments)
    with open_bench(options.events) as bench:
        runs = [_measure(bench, options.events) for _ in tqdm(range(options.repeats), leave=False)]
    loads, copies = (statistics.median(run[number] for run in runs) for number in (0, 1))
    row = {
        "events": f"{options.events:,}",
        "load (CPU s)": f"{loads:.1f}",
        "day copies (CPU s)": f"{copies:.2f}",
        "ratio": f"{copies / loads:.2f}",
        "peak memory of copying (MB)": f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f}",
    }
    where = f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end"
    text = as_markdown([row])
    print(text)
    if options.write:
        put_into(DOCUMENT, "day copies", f"{text}\nMeasured {where}.\n")


def _measure(bench: Bench, events: int) -> tuple[float, float]:
    """Returns the CPU seconds of a load, and of the copies of its days."""
    folder = bench.fresh()
    loaded = bench.run("pipelines/run.py", "--once", environment=bench.environment(folder))
    objects = Folder(Path(folder, "lake"), Path(folder, "lake", "cloudflare"))
    begun, copied = time.process_time(), 0
    for account_id, day in by_day(objects.listing(account_folder(ACCOUNT))):
        copy = write_copy(objects, account_id, day)
        copied += copy.tally.events if copy else 0
    spent = time.process_time() - begun
    if copied != events:
        msg = f"{copied:,} of {events:,} events were copied"
        raise RuntimeError(msg)
    return loaded.client, spent


if __name__ == "__main__":
    main()
