"""Bundles: many seals again in one object, so that a verification reads few. They prove nothing: seals do.

A seal is taken from a bundle only if a listing shows that its own object has these bytes.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from hashlib import md5
from itertools import accumulate, pairwise

from pipelines.host.logs import log
from pipelines.lake.objects import ConflictError, Listed, Objects

from .chain import Chain
from .index import SealIndex
from .pure.seal_format import FOLDER, Seal

SEALS = 256
"""In a bundle. Of 18 months of an hourly seal, 51 bundles and at most 255 seals are read."""
_BUNDLES = f"{FOLDER}/bundles"
_SUFFIX = ".bundle"
_MOST_BYTES = 8_000_000
"""Of larger seals no bundle is made: in a lake of so many accounts, seals are the least of its objects."""


def add_bundle(objects: Objects, chain: Chain, index: SealIndex, head: Seal) -> None:
    """Adds the first bundle that is not there; each time one, by one listing of them."""
    if head.number + 1 < SEALS or len(head.raw) * SEALS > _MOST_BYTES:
        return
    there = {first for path in objects.listing(_BUNDLES) if (first := first_of(path)) is not None}
    first = next((n for n in range(0, head.number + 2 - SEALS, SEALS) if n not in there), None)
    if first is None:
        return
    bodies = []
    for number in range(first, first + SEALS):
        known = index.seal(number)
        seal = chain.read_good(known.path) if known else None
        if known is None or seal is None or seal.digest != known.digest:
            log.warning("seal.not_bundled", first=first, number=number, hint="see pipelines/verify.py")
            return
        bodies.append(seal.raw)
    with suppress(ConflictError):  # another sealer's is the same
        objects.create(f"{_BUNDLES}/{first:010}{_SUFFIX}", packed(bodies))


def first_of(path: str) -> int | None:
    """The number of the first seal of a bundle's path; None: it is the path of none."""
    name = path.removeprefix(f"{_BUNDLES}/").removesuffix(_SUFFIX)
    return int(name) if name.isdigit() and path == f"{_BUNDLES}/{name}{_SUFFIX}" else None


def packed(bodies: Sequence[bytes]) -> bytes:
    """Returns a bundle: a line with the seals' lengths, then the seals."""
    return f"{json.dumps([len(body) for body in bodies])}\n".encode() + b"".join(bodies)


def unpacked(bundle: bytes) -> list[bytes]:
    """Returns the seals of a bundle; none of what is no bundle."""
    line, _, rest = bundle.partition(b"\n")
    with suppress(ValueError, TypeError):
        ends = accumulate(map(int, json.loads(line)), initial=0)
        return [rest[begin:end] for begin, end in pairwise(ends)]
    return []


def taken(bundles: Mapping[str, bytes], seals: Mapping[int, tuple[str, Listed]], *, by_size: bool) -> dict[str, bytes]:
    """Returns seals out of bundles, by their own paths: those whose objects are listed with just these bytes.

    An ETag that is the MD5 says so. With `by_size`, their number is enough.
    """
    found: dict[str, bytes] = {}
    for bundle, body in bundles.items():
        for number, raw in enumerate(unpacked(body), first_of(bundle) or 0):
            path, listed = seals.get(number, ("", None))
            if listed and listed.size == len(raw) and (by_size or listed.version.strip('"') == _md5(raw)):
                found[path] = raw
    return found


def _md5(body: bytes) -> str:
    return md5(body, usedforsecurity=False).hexdigest()
