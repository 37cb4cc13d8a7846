"""Prints the smallest S3 policy under which the lake of these settings works, as JSON.

Events are never deleted by us, so nothing here allows it: only dlt's own old states and load markers are, and day
copies. So nobody who has these keys alone can delete a seal.

Examples:
  cloudflare-audit s3_policy > policy.json

Exit codes: 0 done, 2 wrong usage or settings: no bucket is set.
"""

from pipelines.cli.entry import end  # first: from here on, a signal ends it quietly, and no secret leaves it

# isort: split
import argparse
import json
import sys
from typing import Any

from pipelines.cli.arguments import command_parser
from pipelines.cli.command import run_lake_command
from pipelines.host.output import say
from pipelines.lake.objects import DATASET
from pipelines.lake.partitions import DAYS_TABLE
from pipelines.settings.settings import read_environment, read_store_settings


def parser() -> argparse.ArgumentParser:
    """Returns the command's options: none."""
    return command_parser("s3_policy", __doc__)


def main() -> int:
    """Prints the policy, and returns the exit code."""
    parser().parse_args()
    return run_lake_command(_show)


def _show() -> int:
    stores = read_store_settings(read_environment())
    if stores.s3 is None:
        print("S3_BUCKET is not set: a folder lake needs no policy", file=sys.stderr)
        return 2
    say(json.dumps(policy(stores.s3.bucket, stores.lake_prefix), indent=2))
    return 0


def policy(bucket: str, prefix: str) -> dict[str, Any]:
    """The policy document for a bucket and `S3_PREFIX`."""
    root = f"{prefix}/{DATASET}" if prefix else DATASET
    of_bucket, of_lake = f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/{root}"
    is_below = {"StringLike": {"s3:prefix": [root, f"{root}/*"]}}
    statements: list[dict[str, Any]] = [
        {"Action": ["s3:GetObject", "s3:PutObject"], "Resource": [f"{of_lake}/*"]},
        {"Action": ["s3:DeleteObject"], "Resource": [f"{of_lake}/_dlt_*", f"{of_lake}/{DAYS_TABLE}/*"]},
        {"Action": ["s3:ListBucket"], "Resource": [of_bucket], "Condition": is_below},
    ]
    return {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", **statement} for statement in statements]}


if __name__ == "__main__":
    end(main())
