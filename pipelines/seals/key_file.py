"""The key's file, for its owner alone: the signer's key in its first line, then the public keys before it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.host.masking import learn
from pipelines.lake.objects import sync_folder
from sources.cloudflare_audit_logs.errors import AuditLogsError

from .pure.notes import NoteError, SignerKey, VerifierKey

_MODE = 0o600


@dataclass(frozen=True)
class SealKey:
    """The key that signs, and the public keys that did before it."""

    signer: SignerKey
    past: tuple[VerifierKey, ...] = ()

    @property
    def trusted(self) -> list[VerifierKey]:
        """All public keys, the oldest first."""
        return [*self.past, self.signer.verifier]

    @property
    def as_text(self) -> str:
        """The file: its first line is a secret."""
        return self.signer.as_text + "".join(f"{key}\n" for key in self.past)


def read_key(file: Path) -> SealKey:
    """Reads a key's file.

    Raises:
        AuditLogsError: it is not there, or no key.
    """
    try:
        first, *others = file.read_text(encoding="utf-8").splitlines() or [""]
        learn(file.name, first.split("+", 4)[-1])  # the rest is its name, which every seal shows
        return SealKey(SignerKey.parse(first), tuple(map(VerifierKey.parse, filter(None, others))))
    except UnicodeDecodeError:
        raise AuditLogsError(f"{file} (SEAL_KEY_FILE) is no key") from None
    except OSError as error:
        is_gone = isinstance(error, FileNotFoundError)
        hint = (
            "seal --init makes it; if there are seals and it is lost: seal --lost-key" if is_gone else "see its rights"
        )
        raise AuditLogsError(f"{file} (SEAL_KEY_FILE) cannot be read", detail=str(error.strerror), hint=hint) from error
    except NoteError as error:
        raise AuditLogsError(f"{file} (SEAL_KEY_FILE) is no key", detail=error.message, hint=error.hint) from error


def keys_in(text: str) -> list[VerifierKey]:
    """The public keys of a text: one key, or the name of a file with a key a line.

    Raises:
        NoteError: it is neither.
    """
    file = Path(text)
    is_file = "+" not in text or file.is_file()
    try:
        lines = file.read_text(encoding="utf-8").split() if is_file else [text]
    except (OSError, UnicodeDecodeError) as error:
        raise NoteError(f"{text!r:.100} is neither a public key nor a file with one", detail=str(error)) from error
    return [VerifierKey.parse(line) for line in lines]


def write_new(file: Path, key: SealKey) -> None:
    """Writes a key's file that is not there yet, whole or not at all.

    Raises:
        FileExistsError: it is there.
        OSError: it cannot be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _MODE), "w") as opened:
        opened.write(key.as_text)
        opened.flush()
        os.fsync(opened.fileno())
    try:
        os.link(temporary, file)
    finally:
        temporary.unlink()
    sync_folder(file.parent)


def next_file(file: Path) -> Path:
    """Where the next key lies while the keys are being changed."""
    return file.with_name(f"{file.name}.next")


def put_into_place(file: Path) -> None:
    """Makes the next key the key."""
    next_file(file).replace(file)
    sync_folder(file.parent)


def settled_key(file: Path, expected: Sequence[VerifierKey]) -> SealKey:
    """Reads the key that the chain goes on with; ends a rotation that was begun and broke off.

    `expected` has the key that the newest seal names or was signed by; nothing if there is no seal.

    Raises:
        AuditLogsError: the chain goes on with another key.
    """
    key = read_key(file)
    if not expected or key.signer.verifier in expected:
        return key
    if next_file(file).exists() and read_key(next_file(file)).signer.verifier in expected:
        put_into_place(file)
        return read_key(file)
    hint = "put the key there that the seals go on with; if it is lost: seal.py --lost-key"
    raise AuditLogsError(f"{file} is not the key that the next seal must have", detail=f"{expected[0]}", hint=hint)
