"""The doctor's checks of the lake: an object is written, and removed where that is allowed. Nothing else is touched."""

import os
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import chain
from pathlib import Path

from pipelines.fetch.api import utc_now
from pipelines.lake.bucket import Bucket
from pipelines.lake.destination import Lake
from pipelines.lake.dialects import ONE_WRITER
from pipelines.lake.dlt_client import LakeClient
from pipelines.lake.partitions import Partition
from pipelines.lake.reads import LakeReader
from pipelines.lake.s3_files import hasten
from pipelines.load.store import client_of
from pipelines.settings.settings import Settings
from sources.cloudflare_audit_logs.errors import AuditLogsError
from sources.cloudflare_audit_logs.streams import Window

from .finding import Finding, failed
from .host import nearest, try_out_folder
from .seals import check_seals

PROBE = "_dlt_doctor_probe"
"""Under a name that the policy lets us delete (`cloudflare-audit s3_policy`); where it does not, this one stays."""

_LOOKED_AT = timedelta(days=2)
"""The age of the quarantine objects that are looked at: polls and sweeps look at no older objects."""


def check_lake(settings: Settings) -> Iterator[Finding]:
    """A folder or a bucket, as the settings say; and what is new in each account's quarantine, if it cannot be read."""
    lake = Lake()
    try:
        with lake.translated_errors():
            client: LakeClient = client_of(lake)
            hasten(client)
            objects = client.objects
            if isinstance(objects, Bucket):
                yield from _bucket(objects, client.config.bucket_url)
            else:
                yield _folder(Path(client.bucket_path), Path(client.dataset_path), settings.account_ids, utc_now())
        window = Window(utc_now() - _LOOKED_AT, utc_now())
        broken = LakeReader(lake, client).broken_quarantines(settings.account_ids, window)
        for error in chain.from_iterable(errors.values() for errors in broken.values()):
            yield failed("quarantine", error)
        with lake.translated_errors():
            yield from check_seals(settings, objects)
    except (AuditLogsError, OSError) as error:
        yield failed("lake", error)


def _bucket(objects: Bucket, url: str) -> Iterator[Finding]:
    """An object is written there, in each of the loop's ways."""
    dialect = objects.try_out(PROBE)
    yield Finding("ok", "lake", f"{url} can be written")
    is_safe = dialect.is_safe
    yield Finding("ok" if is_safe else "warn", "conditions", str(dialect), "" if is_safe else ONE_WRITER)


def _folder(root: Path, dataset: Path, account_ids: tuple[str, ...], now: datetime) -> Finding:
    """Files can be written there, and in the folders that the next events go to."""
    try_out_folder(dataset)
    next_ones = [(dataset / Partition(account_id, now).path).parent for account_id in account_ids]
    for folder in (root / ".partial", *next_ones):
        there = nearest(folder)
        if not there.is_dir():
            hint = "something else writes into the lake: move it away"
            raise AuditLogsError(f"{there} cannot be used: it is there, and is no folder", hint=hint)
        if not os.access(there, os.R_OK | os.W_OK | os.X_OK):
            hint = "give it to the user of the loop: was it made by another one, as root say?"
            raise AuditLogsError(f"{there} may not be written", hint=hint)
    return Finding("ok", "lake", f"{root} can be written; conditions are a lock on this host")
