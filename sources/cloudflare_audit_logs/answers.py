"""Reads one answer of the API: the events as slices of the body, or the error that it is. Pure.

No answer is not an empty answer: whatever is not a list of events with `success` is an error.
"""

import re
from http import HTTPStatus
from typing import Any, NamedTuple

import msgspec

from .errors import BadAnswerError, RefusedError, RefusedRequestError, TooMuch, UnavailableError, UnknownPathError

_WINDOW_STATUSES = {400, 408, 413, 414, 422, 500, 504, 524}
"""Answers to a window that may be too long, too full, too deep or too slow: a smaller one may be answered."""

_MALFORMED_TOKEN = b"Invalid format for Authorization header"
"""Part of an HTTP 400: the text is no token at all, but a global API key, say."""

_NO_ACCESS = {HTTPStatus.PAYMENT_REQUIRED, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.GONE}
"""Gone is a version that has ended."""

_OF_ACCESS = re.compile(
    rb"not (yet )?(available|enabled|entitled|supported|authori[sz]ed|allowed|permitted)|entitlement|permission"
    rb"|no access|have access|unauthori[sz]ed|forbidden|upgrade|your plan|no route|could not route"
    rb"|authenticat|deprecated|discontinued",
    re.IGNORECASE,
)
_OF_PARAMETERS = re.compile(
    rb"parameter|\b(since|before|limit|per_page|page|cursor|direction|range|window|interval|format|value)\b",
    re.IGNORECASE,
)
_UNREADABLE = (msgspec.MsgspecError, RecursionError, UnicodeError)


class Answer(NamedTuple):
    """The events as sent, byte for byte, and `result_info` (empty if the API sends none)."""

    slices: list[bytes]
    info: dict[str, Any]


def parse_answer(body: bytes) -> Answer:
    """The answer in a body with HTTP status 200.

    Raises:
        BadAnswerError: not JSON, cut off, `success` other than true, or no list of events in it.
    """
    try:
        envelope = _decode(body)
        slices = [bytes(raw) for raw in envelope.result] if isinstance(envelope.result, list) else None
    except _UNREADABLE:
        # One event with a lone surrogate or 1,000 levels of nesting must not block the others of its page.
        envelope, slices = _parse_leniently(body)
    if envelope.success is not True:
        raise BadAnswerError("the API answered 200 without success", detail=excerpt(body))
    if slices is None:
        # Some lists of Cloudflare's answer null where they have nothing.
        if envelope.result is not None or envelope.errors:
            raise BadAnswerError("the API answered without a list of events", detail=excerpt(body))
        slices = []
    return Answer(slices, envelope.result_info if isinstance(envelope.result_info, dict) else {})


def check_status(status: int, body: bytes, token_name: str) -> None:
    """Raises the error that a status other than 200 and 429 is."""
    if status == HTTPStatus.OK:
        return
    said = f"HTTP {status}: {excerpt(body)}"
    too_much: TooMuch = "window" if status in _WINDOW_STATUSES else ""
    is_of_token = status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
    if (is_of_token or status == HTTPStatus.NOT_FOUND) and body.strip() and not _is_object(body):
        hint = "a proxy, a firewall or a challenge page is in the way, or CLOUDFLARE_API_URL is wrong"
        raise UnavailableError("what answered is not the API", detail=said, hint=hint)
    if is_of_token or _MALFORMED_TOKEN in body:
        hint = (
            f'check {token_name}: it needs the permission "Account Settings: Read" on this account; '
            '"Access: Audit Logs Read" is another product\'s and does not work'
        )
        raise RefusedError("the API refuses the token for this account", detail=said, hint=hint)
    if status == HTTPStatus.NOT_FOUND:
        hint = "check CLOUDFLARE_ACCOUNT_ID and CLOUDFLARE_API_URL"
        raise UnknownPathError("the API does not know this account", detail=said, hint=hint)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status == HTTPStatus.REQUEST_TIMEOUT:
        raise UnavailableError("the API is not available", detail=said, too_much=too_much)
    if status < HTTPStatus.BAD_REQUEST:
        raise BadAnswerError("the API answered without events", detail=said, hint="check CLOUDFLARE_API_URL")
    if is_about_access(status, body):
        hint = "check CLOUDFLARE_API_VERSION, and what this account and its token may do"
        raise RefusedError("the API refuses the account", detail=said, hint=hint)
    raise RefusedRequestError("the API refuses the request", detail=said, too_much=too_much)


def is_about_access(status: int, body: bytes) -> bool:
    """True if a 4xx says that this account may not be read this way, by its status or its words.

    Words on parameters count for more: a request of ours that is wrong must not pass for a version that is refused.
    """
    return status in _NO_ACCESS or bool(_OF_ACCESS.search(body) and not _OF_PARAMETERS.search(body))


def excerpt(body: bytes, length: int = 200) -> str:
    """The beginning of a body, printable and on one line, for an error message."""
    text = body[:length].decode(errors="replace")
    return "".join(char if char.isprintable() else " " for char in text) or "an empty body"


class _Envelope(msgspec.Struct):
    success: Any = None
    errors: Any = None
    result: list[msgspec.Raw] | msgspec.UnsetType | None = msgspec.UNSET
    result_info: Any = None


_decode = msgspec.json.Decoder(_Envelope).decode
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{},]', re.DOTALL)
_RESULT = re.compile(rb"\s*:\s*\[")


def _is_object(body: bytes) -> bool:
    """True if a body is a JSON object, as the API's are: what a challenge page says is not the API's word."""
    try:
        return isinstance(msgspec.json.decode(body), dict)
    except _UNREADABLE:
        return False


def _parse_leniently(body: bytes) -> tuple[_Envelope, list[bytes]]:
    """Slices the result by its brackets and strings alone, without reading the events."""
    array = _find_result(body)
    if array is None:
        raise BadAnswerError("the API's answer is not JSON of the documented form", detail=excerpt(body))
    slices, end = _slice_array(body, array)
    try:
        return _decode(body[: array + 1] + body[end:]), slices
    except _UNREADABLE as error:
        raise BadAnswerError("the API's answer is not JSON", detail=excerpt(body)) from error


def _find_result(body: bytes) -> int | None:
    """The offset of the `[` that opens `result`, at the top level of the body."""
    depth = 0
    for token in _TOKEN.finditer(body):
        if depth == 1 and token[0] == b'"result"' and (value := _RESULT.match(body, token.end())):
            return value.end() - 1
        depth += (token[0] in b"[{") - (token[0] in b"]}")
    return None


def _slice_array(body: bytes, array: int) -> tuple[list[bytes], int]:
    """The elements of the array that opens at `array`, and the offset of its closing bracket."""
    slices, depth, start = [], 0, array + 1
    for token in _TOKEN.finditer(body, array):
        depth += (token[0] in b"[{") - (token[0] in b"]}")
        if depth == 0 or (depth == 1 and token[0] == b","):
            element = body[start : token.start()].strip()
            if element or token[0] == b",":
                slices.append(element)
            start = token.end()
        if depth == 0:
            return slices, token.start()
    raise BadAnswerError("the API's answer is cut off", detail=f"{len(body)} bytes")
