"""Signed notes as C2SP has them (signed-note, tlog-checkpoint): Ed25519 keys, and checkpoints of a tree. Pure.

A verifier's key is `name+id+base64(type, public key)`, a signer's `PRIVATE+KEY+name+id+base64(type, seed)`.
"""

import base64
import binascii
import re
from dataclasses import dataclass, field
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sources.cloudflare_audit_logs.errors import AuditLogsError

from .merkle import Tree

_ED25519 = b"\1"
_ID_BYTES = 4
_KEY_BYTES = 32
_PRIVATE = "PRIVATE+KEY+"
_KEY = re.compile(r"([^\s+]+)\+([0-9a-f]{8})\+(\S+)")
_SIGNATURE = re.compile(r"— (\S+) (\S+)")


class NoteError(AuditLogsError):
    """A text that is no key, no note or no checkpoint of ours, or that the key did not sign."""


@dataclass(frozen=True)
class VerifierKey:
    """A public key with its name."""

    name: str
    public: bytes

    @classmethod
    def parse(cls, text: str) -> "VerifierKey":
        """Reads a key as `str` writes it."""
        name, key_id, public = _parse_key(text)
        key = cls(name, public)
        if key.id.hex() != key_id:
            raise NoteError(f"{text!r:.100} is not a public key: its id is not that of name and key")
        return key

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{base64.b64encode(_ED25519 + self.public).decode()}"

    @property
    def id(self) -> bytes:
        """The four bytes that a signature begins with: a hint which key has signed."""
        return sha256(self.name.encode() + b"\n" + _ED25519 + self.public).digest()[:_ID_BYTES]

    @property
    def pem(self) -> str:
        """The key as openssl takes it."""
        key = Ed25519PublicKey.from_public_bytes(self.public)
        return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    def has_signed(self, text: str, signature: bytes) -> bool:
        """True if the key has signed the text."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, text.encode())
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True)
class SignerKey:
    """A private key with its name."""

    name: str
    seed: bytes = field(repr=False)

    @classmethod
    def generate(cls, name: str) -> "SignerKey":
        """Makes a new key."""
        if not re.fullmatch(r"[^\s+]+", name):
            raise NoteError(f"{name!r:.80} is not an origin: no spaces, no +", hint="set SEAL_ORIGIN")
        return cls(name, Ed25519PrivateKey.generate().private_bytes_raw())

    @classmethod
    def parse(cls, text: str) -> "SignerKey":
        """Reads a key as `as_text` writes it. No error shows any of it."""
        if not text.startswith(_PRIVATE):
            raise NoteError("it is not a signer's key", hint="pipelines/seal.py --init makes one")
        try:
            name, key_id, seed = _parse_key(text.removeprefix(_PRIVATE).strip())
            key = cls(name, seed)
        except NoteError:
            raise NoteError("it is not a signer's key", hint="pipelines/seal.py --init makes one") from None
        if key.verifier.id.hex() != key_id:
            raise NoteError("it is not a signer's key: its id is not that of name and key")
        return key

    @property
    def as_text(self) -> str:
        """The key as its file has it: a secret."""
        return f"{_PRIVATE}{self.name}+{self.verifier.id.hex()}+{base64.b64encode(_ED25519 + self.seed).decode()}\n"

    @property
    def verifier(self) -> VerifierKey:
        """Its public key."""
        return VerifierKey(self.name, Ed25519PrivateKey.from_private_bytes(self.seed).public_key().public_bytes_raw())

    def sign(self, text: str) -> str:
        """Returns the note: the text, which ends with a newline, an empty line, and the signature."""
        signature = Ed25519PrivateKey.from_private_bytes(self.seed).sign(text.encode())
        signed = base64.b64encode(self.verifier.id + signature).decode()
        return f"{text}\n— {self.name} {signed}\n"


@dataclass(frozen=True)
class Checkpoint:
    """A signed note that says how large a log is, and its root."""

    origin: str
    size: int
    root: bytes
    signature: bytes
    key_id: bytes

    @classmethod
    def of(cls, tree: Tree, key: SignerKey) -> str:
        """Returns the checkpoint of a tree, signed."""
        return key.sign(f"{key.name}\n{tree.size}\n{base64.b64encode(tree.root).decode()}\n")

    @classmethod
    def parse(cls, note: str) -> "Checkpoint":
        """Reads a checkpoint with one signature and nothing after it; does not verify it."""
        text, separator, signed = note.partition("\n\n")
        lines, signature = text.split("\n"), _SIGNATURE.fullmatch(signed.removesuffix("\n"))
        try:
            origin, size, root = lines
            if not separator or signature is None or not signed.endswith("\n") or signature[1] != origin:
                raise ValueError
            made = base64.b64decode(signature[2], validate=True)
            found = cls(origin, int(size), base64.b64decode(root, validate=True), made[_ID_BYTES:], made[:_ID_BYTES])
            if found.text != f"{text}\n" or base64.b64encode(made).decode() != signature[2]:
                raise ValueError
        except (ValueError, binascii.Error):
            raise NoteError("it is not a checkpoint with one signature") from None
        return found

    @property
    def text(self) -> str:
        """The text that is signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    def is_signed_by(self, key: VerifierKey) -> bool:
        """True if the key has signed it."""
        is_it = key.name == self.origin and key.id == self.key_id
        return is_it and key.has_signed(self.text, self.signature)


def _parse_key(text: str) -> tuple[str, str, bytes]:
    """Returns name, id and bytes."""
    found = _KEY.fullmatch(text)
    try:
        typed = base64.b64decode(found[3], validate=True) if found else b""
    except binascii.Error:
        typed = b""
    if found is None or typed[:1] != _ED25519 or len(typed) != 1 + _KEY_BYTES:
        raise NoteError(f"{text!r:.100} is not an Ed25519 key as C2SP has it", hint="name+id+base64")
    return found[1], found[2], typed[1:]
