"""The dialects of S3: which conditions of a write a store enforces, and how it wants an ETag to be written.

`Probe` does the loop's writes, with an object that other processes may probe at the same time. It never raises because
of a dialect: a store that knows no conditions is served too, by one writer.
"""

import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from http import HTTPStatus
from typing import Any, Literal, NamedTuple
from uuid import uuid4

from botocore.exceptions import BotoCoreError, ClientError

from sources.cloudflare_audit_logs.errors import TemporaryError

from .objects import Version

Condition = Mapping[str, str]
"""The condition of a PUT, by boto's names."""
Verdict = Literal["enforced", "ignored", "refused"]
Answer = Literal["done", "conflict", "refused"]
"""To a PUT with a condition; `refused` is the condition, not the object."""

STORE_ERRORS = (OSError, ClientError, BotoCoreError)
"""Raised by a folder or a bucket that is not there, is full, or refuses us."""
ABSENT: Condition = {"IfNoneMatch": "*"}
ONE_WRITER = "run one writer, and no backfill or repair on another host beside it; or use a store that enforces them"
_CONFLICTS = {"PreconditionFailed", "ConditionalRequestConflict", "NotModified"}
_REFUSALS = {"NotImplemented", "InvalidArgument", "InvalidRequest", "UnsupportedHeader"}
_PASSING = {"RequestTimeout", "IncompleteBody", "BadDigest", "ExpiredToken", "InvalidToken", "RequestTimeTooSkewed"}
"""400 to others, and of no condition."""
_ROUNDS = 20
_CODINGS = re.compile(r"[-;](gzip|br|zstd|deflate)\"?$")
"""Added by web servers to the ETag of an answer that they compress."""


def opaque(etag: Version) -> str:
    """The ETag without its wrapping: the mark of a weak one, quotes, a proxy's coding."""
    return _CODINGS.sub("", etag.removeprefix("W/")).strip('"')


FORMS: dict[str, Callable[[Version], str]] = {
    "in quotes": lambda etag: f'"{opaque(etag)}"',
    "as read": lambda etag: etag,
    "without quotes": opaque,
}
"""The ways in which stores want an ETag in `If-Match`, the standard's first: it never matches a weak one."""


class Dialect(NamedTuple):
    """The conditions that a store enforces."""

    creates: Verdict
    """`If-None-Match: *`."""
    replaces: Verdict
    """`If-Match`."""
    form: str = "in quotes"

    @property
    def is_safe(self) -> bool:
        """True if several writers lose nothing of each other's."""
        return self.creates == self.replaces == "enforced"

    def condition(self, version: Version | None) -> Condition | None:
        """The condition of replacing that version, None being no object; None if the store would not enforce it."""
        if version is None:
            return ABSENT if self.creates == "enforced" else None
        return {"IfMatch": FORMS[self.form](version)} if self.replaces == "enforced" else None

    def __str__(self) -> str:
        if self.is_safe:
            return "conditional writes are enforced" + ("" if self.form == "in quotes" else f", with ETags {self.form}")
        verdicts = {"If-None-Match": self.creates, "If-Match": self.replaces}
        poor = {verb: [name for name in verdicts if verdicts[name] == f"{verb}d"] for verb in ("ignore", "refuse")}
        return "the store " + " and ".join(f"{verb}s {' and '.join(names)}" for verb, names in poor.items() if names)


class Probe:
    """Asks a store for its dialect, with one object.

    Each write has a content of its own, so that it differs from another process's probe of the same object.
    """

    def __init__(
        self, put: Callable[[bytes, Condition], Answer], read: Callable[[], tuple[bytes, Version] | None]
    ) -> None:
        self._put, self._read = put, read

    def dialect(self) -> Dialect:
        """Finds out the dialect; leaves the object there.

        Raises:
            OSError, ClientError: the object cannot be written, whatever the condition.
            TemporaryError: others wrote the object whenever we did.
        """
        creates = self._settled(self._create)
        for form in self._forms():
            replaces = self._settled(partial(self._replace, FORMS[form]))
            if replaces == "enforced":
                return Dialect(creates, replaces, form)
            if replaces == "ignored":
                break
        return Dialect(creates, replaces)

    def _forms(self) -> Iterable[str]:
        """The forms that differ for an ETag of this store."""
        held, forms = self._read(), dict[str, str]()
        for name, form in FORMS.items():
            forms.setdefault(form(held[1] if held else ""), name)
        return forms.values()

    def _create(self) -> Verdict | None:
        """Creates the object, which must work if it is not there, and again, which must be refused."""
        was_there = self._read() is not None
        answer = self._put(_content(), ABSENT)
        if answer == "conflict" and not was_there:
            return None if self._read() is not None else "refused"  # another process was faster, or it never works
        answer = self._put(_content(), ABSENT) if answer == "done" else answer
        if answer == "conflict" and self._read() is not None:
            return "enforced"
        return self._poor(answer)

    def _replace(self, form: Callable[[Version], str]) -> Verdict | None:
        """Replaces the object with the ETag that was read, and with the old one, which must be refused."""
        held, ours = self._read(), _content()
        if held is None:
            self._put(ours, {})  # another process removed it
            return None
        condition = {"IfMatch": form(held[1])}
        answer, now = self._put(ours, condition), self._read()
        if answer == "conflict" and now is not None and now[0] == ours:
            answer = "done"  # the client repeated what had been done
        if answer == "conflict" and now != held:
            return None  # another process was faster
        if answer == "done" and now is not None and now[1] == held[1] and now[0] == ours:
            return "ignored"  # the ETag says nothing of the content
        if answer == "done" and self._put(_content(), condition) == "conflict":
            return "enforced"
        return self._poor(answer)

    def _settled(self, ask: Callable[[], Verdict | None]) -> Verdict:
        """The verdict. `enforced` counts at once, for no other store answers so; the others when they came twice."""
        heard = Counter[Verdict]()
        for number in range(_ROUNDS):
            verdict = ask()
            if verdict is None:
                time.sleep(random.uniform(0, 0.01 * 2 ** min(number, 6)))  # noqa: S311  # not for secrets
                continue
            heard[verdict] += 1
            if verdict == "enforced" or heard[verdict] > 1:
                return verdict
        raise TemporaryError("the store's conditions could not be found out", detail="others write the probe's object")

    def _poor(self, answer: Answer) -> Verdict:
        if answer == "done":
            return "ignored"
        self._put(_content(), {})  # raises if it is not the condition that is refused
        return "refused"


def _content() -> bytes:
    return f"Shows which conditions of a write this store enforces. {uuid4()}\n".encode()


def status_of(error: BaseException) -> int:
    """The HTTP status of the store's answer; 0 if there was none."""
    return int(_answered(error, "ResponseMetadata").get("HTTPStatusCode", 0))


def answer_in(error: BaseException, condition: Condition) -> Answer | None:
    """The answer to the condition of a PUT, by code or by status: bodies may be HTML, or empty; None if it is another.

    An absent object does not match: some stores say 404.
    """
    code, status = str(_answered(error, "Error").get("Code", "")), status_of(error)
    if not condition or code in _PASSING:
        return None
    is_absent = "IfMatch" in condition and status == HTTPStatus.NOT_FOUND and code != "NoSuchBucket"
    if code in _CONFLICTS or status in {304, 409, 412} or is_absent:
        return "conflict"
    return "refused" if code in _REFUSALS or status in {400, 405, 415, 417, 422, 428, 501} else None


def _answered(error: BaseException, part: str) -> Mapping[str, Any]:
    """A part of the answer that an error came with; s3fs translates botocore's errors and keeps them as the cause."""
    cause = error if isinstance(error, ClientError) else error.__cause__
    return cause.response.get(part, {}) if isinstance(cause, ClientError) else {}
