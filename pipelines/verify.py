"""Verifies with a public key that the lake, or a copy of it, holds each event as it was sealed.

All seals, naming each missing one; then each hour and each day copy. With `--lake` and `--key`, no settings are read,
and a folder needs no network. `--quick` reads only what a listing shows to be another object. `--checkpoint` takes
notes kept elsewhere.

Examples:
  cloudflare-audit verify --since 30d
  cloudflare-audit verify --lake /mnt/copy --key audit.key --checkpoint mail.txt
  cloudflare-audit verify --quick --json

Exit codes: 0 all is as it was sealed, 1 the lake could not be read, 2 wrong usage, 3 something is altered, missing or
unsealed, 75 try again later.
"""

from pipelines.cli.entry import end  # first: from here on, a signal ends it quietly, and no secret leaves it

# isort: split
import argparse
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from pipelines.cli.arguments import add_json_option, command_parser
from pipelines.cli.command import run_lake_command
from pipelines.cli.verify_text import as_text
from pipelines.cli.windows import add_time_options, window_of
from pipelines.host.output import say
from pipelines.lake.ask.places import open_place
from pipelines.seals.copies_of_lakes import named_lake
from pipelines.seals.key_file import keys_in, read_key
from pipelines.seals.pure.notes import VerifierKey
from pipelines.seals.verification import Scope, Verification
from pipelines.settings.settings import UsageError, read_environment, read_seal_settings
from sources.cloudflare_audit_logs.streams import Window
from sources.cloudflare_audit_logs.times import EARLIEST


def parser() -> argparse.ArgumentParser:
    """Returns the command's options."""
    options = command_parser("verify", __doc__)
    add_time_options(options, since=EARLIEST)
    options.add_argument("--lake", metavar="PATH_OR_URL", help="a folder or s3://bucket/prefix; default: the settings'")
    options.add_argument("--key", action="append", default=[], help="a public key, or a file with some")
    options.add_argument("--checkpoint", action="append", default=[], type=Path, metavar="FILE", help="kept elsewhere")
    options.add_argument("--quick", action="store_true", help="read only what a listing shows to be another object")
    add_json_option(options)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Verifies, and returns the exit code."""
    options = parser().parse_args(arguments)
    return run_lake_command(partial(_verify, window_of(parser(), options), options))


def _verify(window: Window, options: argparse.Namespace) -> int:
    after = 60
    if not (options.lake and options.key):
        after = read_seal_settings(read_environment()).after_minutes
    place = named_lake(options.lake) if options.lake else open_place()
    scope = Scope(window, options.quick, timedelta(minutes=2 * after))
    notes = [file.read_text(encoding="utf-8") for file in options.checkpoint]
    found = Verification(place, _keys(options.key), scope, datetime.now(UTC)).run(notes)
    say(json.dumps(found.as_json()) if options.json else as_text(found))
    return 3 if found.is_alarm else 0


def _keys(given: Sequence[str]) -> list[VerifierKey]:
    if given:
        return [key for text in given for key in keys_in(text)]
    file = read_seal_settings(read_environment()).key_file
    if file is None:
        raise UsageError("there is no key: name a public one with --key, or set SEAL_KEY_FILE")
    return read_key(file).trusted


if __name__ == "__main__":
    end(main())
