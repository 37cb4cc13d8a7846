"""The operator's steps: make a key, change it, replace a lost one; amend an hour."""

from contextlib import suppress
from datetime import datetime
from pathlib import Path

from sources.cloudflare_audit_logs.errors import AuditLogsError

from .chain import Chain
from .key_file import SealKey, next_file, put_into_place, read_key, write_new
from .pure.entries import Amendment
from .pure.notes import SignerKey, VerifierKey

BY = "seal.py --amend"


def initialise(chain: Chain, file: Path, origin: str) -> VerifierKey:
    """Makes the key, if there is none, and the first seal; returns the public key. Safe to repeat.

    Raises:
        AuditLogsError: there are seals of another key, or the file cannot be written.
    """
    if not file.exists():
        if chain.head() is not None:
            hint = "put the key there; if it is lost: seal.py --lost-key"
            raise AuditLogsError(f"there are seals, and {file} is not there", hint=hint)
        write_new(file, SealKey(SignerKey.generate(origin)))
    key = read_key(file)
    if chain.head() is None:
        chain.append(lambda head: ([] if head else [{"started": str(key.signer.verifier)}], b""))
    return chain.key(chain.head()).signer.verifier


def rotate(chain: Chain, file: Path) -> VerifierKey:
    """Lets the old key sign a new one, which signs from then on; returns the new public key.

    After a kill, the next seal or the next call ends what was begun: the new key lies beside the old one until the seal
    that names it is there.
    """
    old = chain.key(chain.head())
    with suppress(FileExistsError):
        new = SealKey(SignerKey.generate(old.signer.name), (*old.past, old.signer.verifier))
        write_new(next_file(file), new)
    new = read_key(next_file(file))
    if old.signer.verifier not in new.past:  # left behind by an older rotation
        raise AuditLogsError(f"{next_file(file)} does not follow on {file}", hint="remove it, and rotate again")
    chain.append(lambda _: ([{"rotate_to": str(new.signer.verifier)}], b""))
    put_into_place(file)
    return new.signer.verifier


def replace_lost(chain: Chain, file: Path, origin: str) -> VerifierKey:
    """Begins another incarnation with a new key; returns its public key. The file must not be there."""
    head = chain.head()
    if head is None:
        raise AuditLogsError("there are no seals yet", hint="seal.py --init")
    if file.exists():
        raise AuditLogsError(f"{file} is there", hint="move it away, if it is not the key of the seals")
    key = SealKey(SignerKey.generate(head.header.origin or origin))
    write_new(file, key)
    started = [{"started": str(key.signer.verifier)}]
    chain.append(lambda _: (started, b""), with_key=key, why="the key was lost")
    return key.signer.verifier


def amend(chain: Chain, account_id: str, hour: datetime, why: str) -> int:
    """Permits whatever is missing in an hour, with a reason; returns the seal's number."""
    amendment = Amendment(account_id, hour, None, (), why, BY)
    seal = chain.append(lambda _: ([amendment.as_entry()], b""))
    assert seal is not None, "it has an entry"  # noqa: S101
    return seal.number
