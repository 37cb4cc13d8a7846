"""Dialects of S3, as stores and what stands before them are reported to speak. `s3_server` speaks them."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Literal

Refusal = tuple[int, str]
"""An HTTP status and an S3 error code."""
Rule = Literal["enforced", "ignored"] | Refusal

_numbers = count(1)


def md5_etag(body: bytes) -> str:
    """As most stores make it, without its quotes."""
    return hashlib.md5(body, usedforsecurity=False).hexdigest()


def numbered_etag(_: bytes) -> str:
    """An ETag that says nothing of the object, with the dash of one that was written in parts."""
    return f"{next(_numbers):032x}-2"


@dataclass(frozen=True)
class Dialect:
    """The answers of a store."""

    name: str
    creates: Rule = "enforced"
    """`If-None-Match: *` of a PUT."""
    replaces: Rule = "enforced"
    """`If-Match` of a PUT."""
    conflict: Refusal = (412, "PreconditionFailed")
    absent: Refusal = (412, "PreconditionFailed")
    """To `If-Match` where there is no object."""
    body: Literal["xml", "html", "none"] = "xml"
    """The form of an error."""
    etag: Callable[[bytes], str] = md5_etag
    shown: str = '"{}"'
    """An ETag in an answer; empty for none."""
    wanted: str = '"{}"'
    """An ETag in `If-Match`, which has to be written so."""
    get_condition: Literal["enforced", "strict"] = "enforced"
    """`strict`: a GET wants it as a PUT does."""
    page: int = 1000
    """Keys of a listing."""


PLAIN = Dialect("plain")
ODD = Dialect("plain, ETags that are no MD5, pages of 3", etag=numbered_etag, page=3)
CURT = Dialect("plain, 409 and 404 without bodies", conflict=(409, ""), absent=(404, ""), body="none")
UNMODIFIED = Dialect("plain, 304", conflict=(304, ""), absent=(404, "NoSuchKey"))
PAGES = Dialect("plain, errors as HTML", body="html", absent=(404, ""))
BARE = Dialect("ETags without quotes", wanted="{}", get_condition="strict")
WEAK = Dialect("a proxy weakens ETags", shown='W/"{}"')
ECHOED = Dialect("a proxy weakens ETags both ways", shown='W/"{}"', wanted='W/"{}"')
CODED = Dialect("a proxy compresses", shown='"{}-gzip"')
UNQUOTED = Dialect("a proxy takes the quotes off", shown="{}")
CREATES_ALONE = Dialect("If-Match ignored", replaces="ignored")
REPLACES_ALONE = Dialect("If-None-Match ignored", creates="ignored")
IGNORANT = Dialect("both ignored", creates="ignored", replaces="ignored")
UNKNOWN = Dialect("both 501", creates=(501, "NotImplemented"), replaces=(501, "NotImplemented"))
INVALID = Dialect("both 400, as HTML", creates=(400, "InvalidArgument"), replaces=(400, "InvalidRequest"), body="html")
NEVER_CREATES = Dialect("If-None-Match 412, always", creates=(412, "PreconditionFailed"))
NEVER_REPLACES = Dialect("If-Match 412, always", replaces=(412, "PreconditionFailed"))
CREATES_OR_501 = Dialect("If-Match 501, no body", replaces=(501, "NotImplemented"), body="none")
REPLACES_OR_400 = Dialect("If-None-Match 400", creates=(400, "InvalidArgument"))
REDRAWN = Dialect("a proxy makes ETags of its own", shown='"proxy-{}"')
NAMELESS = Dialect("no ETags", shown="")
CONSTANT = Dialect("one ETag for all", etag=lambda _: "same")

SAFE = (PLAIN, ODD, CURT, UNMODIFIED, PAGES, BARE, WEAK, ECHOED, CODED, UNQUOTED)
"""Several writers lose nothing."""
POOR = (
    CREATES_ALONE,
    REPLACES_ALONE,
    IGNORANT,
    UNKNOWN,
    INVALID,
    CREATES_OR_501,
    REPLACES_OR_400,
    NEVER_CREATES,
    NEVER_REPLACES,
    REDRAWN,
    NAMELESS,
    CONSTANT,
)
"""One writer."""
