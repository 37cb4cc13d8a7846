"""Asks the lake, a folder or a bucket, in SQL: DuckDB, as the settings say.

The views and macros are those of `pipelines/lake/lake.sql` (docs/lake.md). Without a question, it is read from stdin.

Examples:
  cloudflare-audit ask "SELECT account, date, count(*) FROM audit_logs() GROUP BY ALL"
  cloudflare-audit ask --json "FROM audit_logs(day := '2026-11-*') WHERE ip_address = '203.0.113.7'" > found.ndjson

Exit codes: 0 done, 1 the question could not be answered, 2 wrong usage, 75 the lake is not available.
"""

from pipelines.cli.entry import end  # first: from here on, a signal ends it quietly, and no secret leaves it

# isort: split
import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from functools import partial
from shutil import copyfileobj
from tempfile import TemporaryFile
from typing import IO, Any

import duckdb

from pipelines.cli.arguments import add_json_option, command_parser
from pipelines.cli.command import run_lake_command
from pipelines.lake.ask.database import ask_lake
from pipelines.lake.ask.files import LakeFiles
from pipelines.lake.ask.places import open_place
from sources.cloudflare_audit_logs.errors import AuditLogsError

LONGEST_TABLE = 1_000  # rows that are shown to people; `--json` gives all


def parser() -> argparse.ArgumentParser:
    """Returns the command's options."""
    options = command_parser("ask", __doc__)
    options.add_argument("question", nargs="?", help="SQL; without it, stdin")
    add_json_option(options, "one JSON object a row, a line each")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Answers the question, and returns the exit code."""
    options = parser().parse_args(arguments)
    return run_lake_command(partial(ask, options.question or sys.stdin.read(), as_json=options.json))


def ask(question: str, *, as_json: bool) -> int:
    """The command itself. Nothing is printed before the answer is whole."""
    place = open_place()
    with TemporaryFile("w+", encoding="utf-8") as answer:
        try:
            ask_lake(place, partial(_write_answer, answer, question, as_json=as_json))
        except duckdb.Error as error:
            raise AuditLogsError("the question could not be answered", detail=str(error)) from error
        answer.seek(0)
        copyfileobj(answer, sys.stdout)
    return 0


def _write_answer(
    file: IO[str], question: str, database: duckdb.DuckDBPyConnection, _: LakeFiles, *, as_json: bool
) -> None:
    file.seek(0)
    file.truncate()
    answer: Any = database.sql(question)
    if answer is not None and as_json:
        for batch in answer.to_arrow_reader():
            for row in batch.to_pylist():
                print(json.dumps(row, default=str), file=file)
    elif answer is not None:
        with redirect_stdout(file):
            answer.show(max_rows=LONGEST_TABLE)


if __name__ == "__main__":
    end(main())
