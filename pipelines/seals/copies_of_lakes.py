"""Where a lake is that is to be verified: the one of the settings, or a copy that is named, without any settings."""

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from pipelines.lake.ask.places import FolderPlace, Place
from pipelines.lake.objects import DATASET
from pipelines.settings.settings import UsageError

_AWS_REGION = "us-east-1"


def named_lake(where: str, environment: Mapping[str, str] = os.environ) -> Place:
    """The lake of a folder or of `s3://bucket/prefix`, with the keys of S3_… or AWS_… of the environment.

    It may be the lake's root, or the folder `cloudflare` in it. Raises UsageError if there is none.
    """
    if where.startswith("s3://"):
        return _bucket(where, environment)
    root = Path(where).expanduser()
    found = [one for one in (root, root / DATASET) if (one / "_seals").is_dir() or (one / "audit_logs").is_dir()]
    if len(found) > 1:  # readers of the one would not see what the other proves
        raise UsageError(f"there is a lake in {where} and another one in {found[1]}: name a folder that has one")
    if found:
        return FolderPlace(found[0])
    raise UsageError(f"there is no lake in {where}: it has neither _seals nor audit_logs")


def _bucket(where: str, environment: Mapping[str, str]) -> Place:
    from pipelines.lake.ask.bucket_place import BucketPlace  # noqa: PLC0415  # a folder does without

    parts = urlsplit(where)

    def said(*names: str) -> str | None:
        return next((environment[name] for name in names if environment.get(name)), None)

    region = said("S3_REGION", "AWS_REGION", "AWS_DEFAULT_REGION") or _AWS_REGION
    endpoint = said("S3_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL") or f"https://s3.{region}.amazonaws.com"
    access_key, secret_key = said("S3_ACCESS_KEY", "AWS_ACCESS_KEY_ID"), said("S3_SECRET_KEY", "AWS_SECRET_ACCESS_KEY")
    keys = access_key, secret_key, said("AWS_SESSION_TOKEN")
    prefix = parts.path.strip("/")
    root = prefix if prefix.rpartition("/")[2] == DATASET else f"{prefix}/{DATASET}".lstrip("/")
    where_it_is = {"endpoint": endpoint, "region": region}
    return BucketPlace(parts.netloc, root, where_it_is, (lambda: keys) if access_key else None)
