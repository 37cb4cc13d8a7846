"""`make demo`: the main job on a simulated Cloudflare, half a minute long, and what landed where.

Everything is real but the API: the loop is `run.py` in a process of its own, with the embedded PostgreSQL and a
folder lake under `data/demo`, which is emptied first. Your `.env` and your data are not touched.
"""

from pipelines.cli.entry import end  # first: from here on, a signal ends it quietly, and no secret leaves it

# isort: split
from pipelines.cli.command import run_lake_command
from pipelines.cli.demo_tour import run_demo


def main() -> int:
    """Runs the demo, and returns the loop's exit code."""
    return run_lake_command(run_demo)


if __name__ == "__main__":
    end(main())
