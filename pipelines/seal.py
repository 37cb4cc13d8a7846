"""Makes, shows and changes the key with which the loop signs what the lake held: docs/evidence/seals.md.

`--init` makes the key of SEAL_KEY_FILE and the first seal; from then on the loop seals by itself. `--public-key` prints
what an auditor needs to verify: give it away by another way than the lake. `--rotate` signs a new key with the old one.
`--lost-key` begins anew with another key, and says so in the seal. `--amend` permits, with a reason, that an hour is
sealed anew as it is, although events are gone.

Examples:
  cloudflare-audit seal --init
  cloudflare-audit seal --public-key > audit.key
  cloudflare-audit seal --amend 023e105f4ecef8ad9ca31a8372d0c353 2026-11-01T09:00Z --why "a tenant's data, ticket 4711"

Exit codes: 0 done, 1 failed, 2 wrong usage or settings, 75 try again later.
"""

from pipelines.cli.entry import end  # first: from here on, a signal ends it quietly, and no secret leaves it

# isort: split
import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pipelines.cli.arguments import command_parser
from pipelines.cli.command import run_lake_command
from pipelines.cli.windows import parse_hour
from pipelines.fetch.api import utc_now
from pipelines.host.output import say
from pipelines.lake.reads import read_lake
from pipelines.seals.chain import Chain, Memory
from pipelines.seals.keeping import amend, initialise, replace_lost, rotate
from pipelines.seals.key_file import read_key
from pipelines.settings.settings import UsageError, read_environment, read_seal_settings, read_store_settings


def parser() -> argparse.ArgumentParser:
    """Returns the command's options."""
    options = command_parser("seal", __doc__)
    what = options.add_mutually_exclusive_group(required=True)
    what.add_argument("--init", action="store_true", help="make the key and the first seal")
    what.add_argument("--public-key", action="store_true", help="print the public keys, the oldest first")
    what.add_argument("--rotate", action="store_true", help="go on with a new key, which the old one signs")
    what.add_argument("--lost-key", action="store_true", help="go on with a new key, because the old one is lost")
    what.add_argument("--amend", nargs=2, metavar=("ACCOUNT", "HOUR"), help="permit what is missing in an hour")
    options.add_argument("--pem", action="store_true", help="with --public-key: as openssl takes it")
    options.add_argument("--why", default="", help="with --amend: the reason, which is sealed")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Does what was asked for, and returns the exit code."""
    options = parser().parse_args(arguments)
    if bool(options.amend) != bool(options.why) or (options.pem and not options.public_key):
        parser().error("--why goes with --amend, --pem with --public-key")
    return run_lake_command(partial(_do, options))


def _do(options: argparse.Namespace) -> int:
    settings, stores = read_seal_settings(environment := read_environment()), read_store_settings(environment)
    if settings.key_file is None:
        raise UsageError("SEAL_KEY_FILE is not set: name the file of the key, outside the lake")
    if options.public_key:
        for key in read_key(settings.key_file).trusted:
            say(key.pem if options.pem else str(key))
        return 0
    with read_lake(must_exist=False) as lake, lake.translated_errors():
        chain = Chain(lake.objects, settings.key_file, utc_now, Memory(stores.data_dir / "seals" / "newest"))
        say(_change(options, chain, settings.key_file, settings.origin))
    return 0


def _change(options: argparse.Namespace, chain: Chain, file: Path, origin: str) -> str:
    if options.init:
        return f"{initialise(chain, file, origin)}"
    if options.rotate:
        return f"{rotate(chain, file)}"
    if options.lost_key:
        return f"{replace_lost(chain, file, origin)}"
    number = amend(chain, options.amend[0], parse_hour(options.amend[1]), options.why)
    return f"seal {number} permits it: the hour is sealed anew by the loop, within a day"


if __name__ == "__main__":
    end(main())
