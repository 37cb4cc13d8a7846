"""`python verify_seals.py LAKE KEY… [CHECKPOINT…]`: verifies a lake's folder by its seals. For auditors.

Needs Python 3.11, `cryptography` and `pyarrow`; no settings, no network, no code of the pipeline. LAKE is the folder
`cloudflare` of a lake or of a copy; KEY is a public key that came by another way than the lake. Says of each hour what
`pipelines/verify.py` says, of day copies nothing. Exit: 0 as it was sealed, 3 not. The format: docs/evidence/seals.md.
"""

import base64
import json
import re
import sys
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import reduce
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

Json = dict[str, Any]
LEAF_COLUMNS = ["account_id", "api_version", "event_id", "timestamp", "raw_event"]
PATH = "audit_logs/account={}/{:date=%Y-%m-%d/hour=%H}/events.parquet"
ALARMS, HOUR = {"altered", "missing", "deleted", "foreign", "broken"}, timedelta(hours=1)


def root_of(hashes: list[bytes]) -> bytes:
    """RFC 6962's root over the hashes of leaves."""
    if len(hashes) <= 1:
        return hashes[0] if hashes else sha256(b"").digest()
    half = 1 << (len(hashes) - 1).bit_length() - 1
    return sha256(b"\1" + root_of(hashes[:half]) + root_of(hashes[half:])).digest()


def signer_of(note: str, keys: list[str]) -> str | None:
    """The key, of some in C2SP's form, that has signed a note with one signature."""
    text, _, line = note.partition("\n\n")
    found = re.fullmatch("— (\\S+) (\\S+)\n", line) or ("", "", "")
    for key in keys:
        name, typed, signature = key.split("+")[0], base64.b64decode(key.split("+", 2)[2]), base64.b64decode(found[2])
        key_id = sha256(name.encode() + b"\n" + typed).digest()[:4]
        if signature[:4] == key_id and found[1] == name == text.split("\n")[0]:
            with suppress(InvalidSignature):
                Ed25519PublicKey.from_public_bytes(typed[1:]).verify(signature[4:], f"{text}\n".encode())
                return key
    return None


class Chain:
    """All seals that can be believed, and what is wrong with the others."""

    def __init__(self, lake: Path, given: list[str]) -> None:
        self.lake, self.known, self.key, self.retired = lake, [*given], "", set[str]()
        self.findings, self.seals, files = list[tuple[str, int]](), list[Json](), dict[int, list[Path]]()
        for path in filter(Path.is_file, sorted((lake / "_seals").rglob(f"{'[0-9]' * 10}.seal"))):
            files.setdefault(int(path.stem), []).append(path)
        self.size, previous = max(files, default=-1) + 1, None
        for number in sorted({0, *files}.union(*(range(max(0, n - 10_000), n) for n in files if n - 1 not in files))):
            found = [seal for path in files.get(number, []) if (seal := self.parse(path, number))]
            self.findings += [("missing", number)] * (number not in files) + [("fork", number)] * (len(found) > 1)
            following = [seal for seal in found if not previous or seal["previous"] == previous["digest"]]
            if seal := next(iter(following or found), None):
                self.take(seal, previous)
            previous = seal

    def parse(self, path: Path, number: int) -> Json | None:
        """A seal whose header, body and checkpoint belong together."""
        raw = path.read_bytes()
        try:
            body, _, note = raw.decode().partition("\n\n")
            header, *entries = map(json.loads, body.split("\n"))
            nodes = [*map(bytes.fromhex, header["frontier"]), sha256(b"\0" + body.encode() + b"\n").digest()]
            for _ in range((number ^ (number + 1)).bit_length() - 1):  # complete subtrees of one size become one
                nodes[-2:] = [sha256(b"\1" + nodes[-2] + nodes[-1]).digest()]
            root = reduce(lambda right, left: sha256(b"\1" + left + right).digest(), reversed(nodes))
            said = f"{header['origin']}\n{number + 1}\n{base64.b64encode(root).decode()}\n\n— "
            is_whole = note.startswith(said) and note.endswith("\n") and note.count("\n") == said.count("\n") + 1
            if (header["format"], header["seq"], is_whole) != ("cloudflare-audit-seal/1", number, True):
                raise ValueError
        except Exception:  # noqa: BLE001
            self.findings.append(("broken chain", number))
            return None
        own = {"path": path, "digest": sha256(raw).hexdigest(), "entries": entries, "note": note, "root": root}
        return {**header, **own, "nodes": [node.hex() for node in nodes]}

    def take(self, seal: Json, previous: Json | None) -> None:
        """Checks that a seal follows on the one before it, and that a trusted key has signed it."""
        number = seal["seq"]
        if previous:
            begun, day = previous["incarnations"], previous["sealed_at"][:10].replace("-", "/")
            is_next = seal["previous"] == previous["digest"] and seal["frontier"] == previous["nodes"]
            is_next &= seal["path"].parent == self.lake / "_seals" / day and seal["incarnations"][: len(begun)] == begun
            self.findings += [("broken chain", number)] * (not is_next)
            self.findings += [("restored", number)] * len(seal["incarnations"][len(begun) :])
        is_new = not self.key or any(first == number for _, first, _ in seal["incarnations"])
        keys = [key for key in self.known if key == self.key or (is_new and key not in self.retired)]
        if (signer := signer_of(seal["note"], keys)) is None:
            is_known = base64.b64decode(seal["note"].split(" ")[-1])[:4].hex() in {k.split("+")[1] for k in self.known}
            self.findings.append(("bad signature" if is_known else "unknown key", number))
            return
        self.seals.append(seal)
        self.key = signer
        for self.key in (entry["rotate_to"] for entry in seal["entries"] if "rotate_to" in entry):
            self.known.append(self.key)
            self.retired.add(signer)
            self.findings.append(("rotated", number))
        if seal["leaves"] and not seal["path"].with_name(f"{seal['leaves']}.leaves").exists():
            self.findings.append(("missing", number))

    def check(self, note: str) -> None:
        """Checks that the log still is what a checkpoint says that was kept elsewhere."""
        size, roots = int(note.split("\n")[1]), {seal["seq"]: seal["root"] for seal in self.seals}
        is_same = roots.get(size - 1) == base64.b64decode(note.split("\n")[2])
        kind = "cut off" if size > self.size else "" if is_same else "fork" if size - 1 in roots else "missing"
        kind = kind if signer_of(note, self.known) else "bad signature"
        self.findings += [(kind, size - 1)] * bool(kind)

    def hours(self) -> dict[tuple[str, datetime], list[Json]]:
        """The lines of the seals by hour, in order: lines of the hour, and amendments."""
        found: dict[tuple[str, datetime], list[Json]] = {}
        for seal in self.seals:
            at = 0  # its first leaf in the object beside the seal
            for entry in (entry for entry in seal["entries"] if "seal" in entry or "amends" in entry):
                hour = datetime.fromisoformat(entry["hour"])
                found.setdefault((entry["account"], hour), []).append({**seal, **entry, "at": at})
                at += entry["events"] if "seal" in entry and "added" not in entry else 0
        return found


def contradicts(said: list[Json], leaves: list[bytes]) -> bool:
    """True if the seals of an hour do not follow on each other, from the leaves of the newest down to the first."""
    seals, held = [one for one in said if "seal" in one], Counter(leaf.hex() for leaf in leaves)
    if any(one["seal"] != seals[0]["seal"] + n for n, one in enumerate(seals)):
        return True
    for older, newer in zip(seals[-2::-1], seals[:0:-1], strict=True):
        amends = [one["amends"] for one in said if "amends" in one and older["seq"] <= one["seq"] <= newer["seq"]]
        (permitted, is_any), gone = leaves_in(amends, "removes"), newer.get("removed", [])
        if "added" not in newer:
            return bool(older["events"]) and not is_any
        held.subtract(newer["added"])
        held.update(gone)
        is_older = root_of(sorted(map(bytes.fromhex, held.elements()))).hex() == older["root"]
        is_named = is_any or set(map(bytes.fromhex, gone)) <= permitted
        if not is_named or not is_older or min(held.values(), default=0) < 0:
            return True
    return False


def leaves_in(amends: list[Json], what: str) -> tuple[set[bytes], bool]:
    """The leaves that amendments name, and if one of them permits any."""
    lists = [one[what] for one in amends]
    return {bytes.fromhex(leaf) for one in lists if one != "any" for leaf in one}, "any" in lists


def prefixes_of(seals: list[Json]) -> Counter[bytes] | None:
    """The first eight bytes of the leaves of an hour's newest seal; None if they are lost."""
    begin = max(n for n, one in enumerate(seals) if "added" not in one or one["seal"] == 1)
    base, path = seals[begin], seals[begin]["path"].with_name(f"{seals[begin]['leaves']}.leaves")
    body = path.read_bytes() if base["events"] and path.exists() else b""
    if base["events"] and sha256(body).hexdigest() != base["leaves"]:
        return None
    found = Counter(body[8 * n : 8 * n + 8] for n in range(base["at"], base["at"] + base["events"]))
    for one in seals[begin + 1 :]:
        found.update(bytes.fromhex(leaf)[:8] for leaf in one["added"])
        found.subtract(bytes.fromhex(leaf)[:8] for leaf in one.get("removed", []))
    return found


def read_leaves(path: Path, account: str, hour: datetime) -> tuple[list[tuple[datetime, bytes]], bool]:
    """When each event was first seen, and its leaf, in this order; and if all belong into the object."""
    found, belong, file = [], True, pq.ParquetFile(path)
    if max(Counter(name.casefold() for name in file.schema_arrow.names).values()) > 1:
        raise ValueError("two columns of one name")
    for row in file.read([*LEAF_COLUMNS, "ingestion_time"]).to_pylist():
        belong &= row["account_id"] == account and hour <= row["timestamp"] < hour + HOUR
        texts = {**row, "timestamp": f"{row['timestamp'].astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"}
        values = [texts[name].encode() for name in LEAF_COLUMNS]
        leaf = sha256(b"\0" + b"".join(len(value).to_bytes(4, "big") + value for value in values)).digest()
        found.append((row["ingestion_time"], leaf))
    return sorted(found, key=lambda row: row[0]), belong


def verdict_of(said: list[Json], path: Path, account: str, hour: datetime) -> str:
    """The verdict on an hour, by what its seals say and what its object holds."""
    if not (seals := [one for one in said if "seal" in one]):
        return "unsealed"
    last, is_there = seals[-1], path.is_file()
    amends = [one["amends"] for one in said if "amends" in one and one["seq"] > last["seq"]]
    try:
        rows, belong = read_leaves(path, account, hour) if is_there else ([], True)
    except Exception:  # noqa: BLE001  # whatever the bytes make a reader raise
        return "altered"
    if not belong:
        return "foreign"
    if root_of(sorted(leaves := [leaf for _, leaf in rows])).hex() == last["root"]:
        is_same = not is_there or sha256(path.read_bytes()).hexdigest() == (last["object"] or {}).get("sha256")
        return "broken" if contradicts(said, leaves) else "intact" if is_same else "rewritten"
    wanted = prefixes_of(seals)
    if wanted is None:  # the sealed ones are those that were seen first, if the root says so
        wanted = Counter([leaf[:8] for _, leaf in rows[: last["events"]]] + [b""] * (last["events"] - len(rows)))
    proved, extra = list[bytes](), list[tuple[datetime, bytes]]()
    for seen, leaf in rows:
        (extra.append((seen, leaf)) if wanted[leaf[:8]] <= 0 else proved.append(leaf))
        wanted[leaf[:8]] -= 1
    gone, is_any = {leaf[:8]: leaf for leaf in leaves_in(amends, "removes")[0]}, leaves_in(amends, "removes")[1]
    removed = [gone[prefix] for prefix in (+wanted).elements() if prefix in gone]
    missing = (+wanted).total() - len(removed)
    if missing and not is_any:
        return "deleted" if not is_there else "altered" if extra else "missing"
    is_other = root_of(sorted([*proved, *removed])).hex() != last["root"]
    if not missing and (is_other or contradicts(said, proved + removed)):
        return "altered" if is_other else "broken"
    young, adds = datetime.fromisoformat(last["sealed_at"]) - HOUR, leaves_in(amends, "adds")[0]
    if not missing and any(seen < young and leaf not in adds for seen, leaf in extra):
        return "foreign"
    return "amended" if removed or missing or adds & {leaf for _, leaf in extra} else "extended"


def verify(lake: Path, keys: list[str], notes: list[str], now: datetime) -> Json:
    """The findings of the chain, and the verdict on each hour by the path of its object."""
    any(map((chain := Chain(lake, keys)).check, notes))
    said, verdicts, ok = chain.hours(), dict[str, str](), all(kind == "rotated" for kind, _ in chain.findings)
    for account in {account for account, _ in said}:  # between its first and its last hour, each has a seal
        its = sorted(key[1] for key, one in said.items() if key[0] == account and one[0].get("why") == "closed")
        for n in range((its[-1] - its[0]) // HOUR if its else 0):
            said.setdefault((account, its[0] + n * HOUR), [])
    for path in filter(Path.is_file, (lake / "audit_logs").rglob("*")):
        account, _, rest = (name := path.relative_to(lake).as_posix())[len("audit_logs/account=") :].partition("/")
        with suppress(ValueError, OverflowError):
            hour = datetime.strptime(f"{rest}+0000", "date=%Y-%m-%d/hour=%H/events.parquet%z")
            if hour + HOUR and name == PATH.format(account, hour):
                said.setdefault((account, hour), [])
                continue
        verdicts[name], ok = "foreign", False
    for (account, hour), lines in sorted(said.items()):
        verdicts[name] = verdict_of(lines, lake / (name := PATH.format(account, hour)), account, hour)
        ok &= verdicts[name] not in ALARMS and (verdicts[name] != "unsealed" or hour >= now - 3 * HOUR)
    return {"ok": ok, "chain": sorted(chain.findings), "hours": verdicts}


if __name__ == "__main__":
    lake_folder, *others = sys.argv[1:] or sys.exit(__doc__)
    given_keys = [text for text in others if not Path(text).is_file()]
    kept_notes = [Path(text).read_text(encoding="utf-8") for text in others if Path(text).is_file()]
    print(json.dumps(result := verify(Path(lake_folder), given_keys, kept_notes, datetime.now(UTC)), indent=1))
    sys.exit(0 if result["ok"] else 3)
