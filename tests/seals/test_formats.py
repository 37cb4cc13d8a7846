"""The formats are those of others: RFC 6962's trees, C2SP's notes, OpenSSL's signatures; and of leaves by hand."""

import base64
import subprocess
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from shutil import which
from struct import pack

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.seals.pure.entries import HourSeal, ObjectSeen
from pipelines.seals.pure.event_set import LEAF_SCHEMA, leaves_of, set_root
from pipelines.seals.pure.merkle import EMPTY_ROOT, Tree, leaf_hash, root_of
from pipelines.seals.pure.notes import Checkpoint, NoteError, SignerKey, VerifierKey
from pipelines.seals.pure.seal_format import Header, Incarnation, Seal, path_of, sealed

GO_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
GO_SIGNATURE = "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="
"""The example in the documentation of Go's package `golang.org/x/mod/sumdb/note`."""
CT_LEAVES = ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
CT_ROOTS = {1: "6e340b9cffb37a98", 8: "5dc9da79a70659a9"}
"""The beginnings of the roots in the tests of Certificate Transparency."""
KEY = SignerKey.generate("audit.example.com/lake")
NOW = datetime(2026, 11, 27, 10, tzinfo=UTC)


def a_seal(*, number: int = 0, tree: Tree | None = None, events: int = 2) -> Seal:
    """A seal of an hour."""
    header = Header(
        KEY.name, number, NOW, "", (Incarnation("one", 0),), (tree or Tree()).frontier, "1.0", "ab" if events else ""
    )
    said = HourSeal("a", NOW, 1, events, b"\1" * 32, ObjectSeen(9, "cd", "1"), "closed", {"v1": "now"})
    return sealed(header, [said.as_entry()], KEY)


def test_roots_are_those_of_certificate_transparency() -> None:
    """Of the first leaf, and of all eight."""
    leaves = [leaf_hash(bytes.fromhex(text)) for text in CT_LEAVES]

    assert {count: root_of(leaves[:count]).hex()[:16] for count in CT_ROOTS} == CT_ROOTS
    assert root_of([]) == EMPTY_ROOT == sha256(b"").digest()


@given(st.lists(st.binary(max_size=4), max_size=40))
def test_a_tree_that_grows_has_the_root_of_its_leaves(data: list[bytes]) -> None:
    """With no more than a hash for each bit of its size; the root is that of RFC 6962's own definition."""

    def by_definition(hashes: list[bytes]) -> bytes:
        if len(hashes) < 2:
            return hashes[0] if hashes else sha256(b"").digest()
        half = 1
        while half * 2 < len(hashes):
            half *= 2
        return sha256(b"\1" + by_definition(hashes[:half]) + by_definition(hashes[half:])).digest()

    leaves = [leaf_hash(one) for one in data]
    tree = Tree.of(leaves)

    assert tree.root == root_of(leaves) == by_definition(leaves)
    assert len(tree.frontier) == len(leaves).bit_count()


TEXT = st.text(max_size=20)


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TIMES = st.integers(-2 * 10**15, 7 * 10**15).map(lambda us: EPOCH + timedelta(microseconds=us))


@given(st.lists(st.tuples(TEXT, TEXT, TEXT, TIMES, TEXT), max_size=8))
def test_a_leaf_is_what_the_design_says(events: list[tuple[str, str, str, datetime, str]]) -> None:
    """Whatever texts and times, and however the rows are cut into chunks; the set's root has no order."""
    columns = ["account_id", "api_version", "event_id", "timestamp", "raw_event"]
    fields = [{**dict(zip(columns, event, strict=True)), "ingestion_time": NOW} for event in events]
    rows = pa.Table.from_pylist(fields, schema=LEAF_SCHEMA)

    def by_hand(one: dict[str, object]) -> bytes:
        time = one["timestamp"]
        assert isinstance(time, datetime)
        written = f"{time.year:04}-{time:%m-%dT%H:%M:%S.%f}Z"
        values = [str({**one, "timestamp": written}[name]).encode() for name in columns]
        return sha256(b"\0" + b"".join(pack(">I", len(value)) + value for value in values)).digest()

    leaves = leaves_of(pa.concat_tables([rows.slice(0, 2), rows.slice(2)]))

    assert leaves == [by_hand(one) for one in fields]
    assert set_root(leaves) == set_root(reversed(leaves))


def test_a_note_of_gos_package_verifies() -> None:
    """With its key, and with no other text."""
    key = VerifierKey.parse(GO_KEY)
    signature = base64.b64decode(GO_SIGNATURE)

    assert str(key) == GO_KEY
    assert signature[:4] == key.id
    assert key.has_signed(GO_TEXT, signature[4:])
    assert not key.has_signed(GO_TEXT.upper(), signature[4:])


def test_openssl_verifies_a_seal(tmp_path: Path) -> None:
    """By the key as `seal.py --public-key --pem` prints it."""
    openssl = which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    checkpoint = a_seal().checkpoint
    (tmp_path / "key.pem").write_text(KEY.verifier.pem)
    (tmp_path / "note").write_text(checkpoint.text)
    for name, signature in {"good": checkpoint.signature, "bad": bytes(64)}.items():
        (tmp_path / name).write_bytes(signature)

    codes = [
        subprocess.run(
            [openssl, "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", "key.pem", "-in", "note", "-sigfile", name],
            cwd=tmp_path,
            capture_output=True,
            check=False,
        ).returncode
        for name in ("good", "bad")
    ]

    assert codes == [0, 1]


def test_another_implementation_verifies_a_chain() -> None:
    """`aics-tlog`: the note, its signature, and the root over the bodies of all seals."""
    tlog = pytest.importorskip("aics_tlog")
    first = a_seal()
    second = a_seal(number=1, tree=first.tree, events=3)
    note = second.raw.decode().partition("\n\n")[2]

    found = tlog.parse_note(note)
    verified = tlog.verify_checkpoint(found, tlog.parse_vkey(str(KEY.verifier)), expected_origin=KEY.name)
    other = tlog.verify_checkpoint(found, tlog.parse_vkey(str(SignerKey.generate(KEY.name).verifier)))

    assert (verified.log_ok, other.log_ok) == (True, False)
    checkpoint = tlog.parse_checkpoint(found.text)
    tree = tlog.MerkleTree([first.body, second.body])
    assert (checkpoint.origin, checkpoint.size, checkpoint.root) == (KEY.name, 2, tree.root())


def test_a_seal_is_read_as_it_was_written() -> None:
    """Its entries, its number, its place; each cut, each added byte and each changed byte is refused."""
    seal = a_seal()

    assert Seal.parse(seal.raw) == seal
    assert HourSeal.of_entry(seal.entries[0]).as_entry() == seal.entries[0]
    assert path_of(7, NOW) == "_seals/2026/11/27/0000000007.seal"
    assert seal.is_signed_by(KEY.verifier)
    assert not seal.is_signed_by(SignerKey.generate(KEY.name).verifier)
    for changed in (seal.raw[:-1], seal.raw + b"\n", seal.raw + b"x", seal.raw.replace(b'"events":2', b'"events":3')):
        with pytest.raises(NoteError):
            Seal.parse(changed)


@pytest.mark.parametrize("text", ["", "a+b", "a+00000000+AAAA", f"{GO_KEY}x", GO_KEY.replace("c74f20a3", "c74f20a4")])
def test_what_is_no_key_is_refused(text: str) -> None:
    """And a private key's text is in no error."""
    with pytest.raises(NoteError):
        VerifierKey.parse(text)
    with pytest.raises(NoteError) as caught:
        SignerKey.parse(KEY.as_text[:-6])
    assert KEY.as_text.split("+", 4)[-1][:12] not in str(caught.value)


def test_a_key_is_read_as_it_was_written() -> None:
    """Both halves; and a name with spaces is none."""
    assert SignerKey.parse(KEY.as_text) == KEY
    assert VerifierKey.parse(str(KEY.verifier)) == KEY.verifier
    assert KEY.as_text.strip().split("+", 4)[-1] not in repr(KEY)
    with pytest.raises(NoteError):
        SignerKey.generate("two words")


def test_a_checkpoint_says_what_it_signs() -> None:
    """Origin, size and root, three lines."""
    tree = Tree.of([leaf_hash(b"one")])

    found = Checkpoint.parse(Checkpoint.of(tree, KEY))

    assert (found.origin, found.size, found.root) == (KEY.name, 1, tree.root)
    assert found.is_signed_by(KEY.verifier)
