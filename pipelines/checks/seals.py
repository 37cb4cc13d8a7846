"""The doctor's check of seals: they are made, the key is for its owner alone, and what was sealed cannot be deleted."""

import stat
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

from pipelines.lake.bucket import Bucket
from pipelines.lake.dialects import STORE_ERRORS, status_of
from pipelines.lake.objects import Objects
from pipelines.seals.key_file import read_key
from pipelines.seals.pure.seal_format import FOLDER
from pipelines.settings.settings import Settings
from sources.cloudflare_audit_logs.errors import AuditLogsError

from .finding import Finding, failed


def check_seals(settings: Settings, objects: Objects) -> Iterator[Finding]:
    """Off, or the key and the rights below `_seals/`; nothing is written."""
    file = settings.seals.key_file
    if file is None:
        off = "off: nothing will prove that the lake was not changed"
        yield Finding("ok", "seals", off, "pipelines/seal.py --init, with SEAL_KEY_FILE set, turns them on")
        return
    try:
        key = read_key(file)
    except AuditLogsError as error:
        yield failed("seals", error)
        return
    yield _finding(file, objects, f"signed by {key.signer.verifier}")


def _finding(file: Path, objects: Objects, found: str) -> Finding:
    mode = stat.S_IMODE(file.stat().st_mode)
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        return Finding("warn", "seals", f"others may read the key {file} (mode {mode:o})", f"chmod 600 {file}")
    if not isinstance(objects, Bucket):
        if Path(objects.url("")) in file.parents:
            hint = "move it away: whoever can write into the lake must not be able to sign"
            return Finding("fail", "seals", f"the key {file} is in the lake", hint)
        return Finding("ok", "seals", f"{found}; a folder's owner can delete them: keep checkpoints elsewhere")
    if _may_delete(objects):
        hint = (
            "take the right away below _seals/ (pipelines/s3_policy.py), and lock them: docs/evidence/seals.md, Anchors"
        )
        return Finding("warn", "seals", f"these keys may delete what is below {FOLDER}/", hint)
    return Finding("ok", "seals", f"{found}; these keys may not delete them")


def _may_delete(objects: Bucket) -> bool:
    """Asks to delete what is not there: whoever may not is refused all the same."""
    try:
        objects.delete(f"{FOLDER}/doctor-{uuid4().hex}")
    except STORE_ERRORS as error:
        if status_of(error) is None:
            raise
        return False
    return True
