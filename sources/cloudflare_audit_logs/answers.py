"""Reads one answer of the API: the events as slices of the body, and what the envelope says. Pure.

No answer is not an empty answer: whatever is not a list of events with `success` raises.
"""

import re
from typing import Any, NamedTuple

import msgspec

from .errors import BadAnswerError


class Answer(NamedTuple):
    """The events as sent, byte for byte, and `result_info` (empty if the API sends none)."""

    slices: list[bytes]
    info: dict[str, Any]


class _Envelope(msgspec.Struct):
    success: Any = None
    errors: Any = None
    result: list[msgspec.Raw] | msgspec.UnsetType | None = msgspec.UNSET
    result_info: Any = None


_decode = msgspec.json.Decoder(_Envelope).decode


def parse_answer(body: bytes) -> Answer:
    """The answer in a body with HTTP status 200.

    Raises:
        BadAnswerError: not JSON, cut off, `success` other than true, or no list of events in it.
    """
    try:
        envelope = _decode(body)
        slices = [bytes(raw) for raw in envelope.result] if isinstance(envelope.result, list) else None
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
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


def is_envelope(body: bytes) -> bool:
    """True if a body is a JSON object, as the API's are: what a challenge page says is not the API's word."""
    try:
        tree = msgspec.json.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        return False
    return isinstance(tree, dict)


def excerpt(body: bytes, length: int = 200) -> str:
    """The beginning of a body, printable and on one line, for an error message."""
    text = body[:length].decode(errors="replace")
    return "".join(char if char.isprintable() else " " for char in text) or "an empty body"


_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{},]', re.DOTALL)
_RESULT = re.compile(rb"\s*:\s*\[")


def _parse_leniently(body: bytes) -> tuple[_Envelope, list[bytes]]:
    """Slices the result by its brackets and strings alone, without reading the events."""
    array = _find_result(body)
    if array is None:
        raise BadAnswerError("the API's answer is not JSON of the documented form", detail=excerpt(body))
    slices, end = _slice_array(body, array)
    try:
        return _decode(body[: array + 1] + body[end:]), slices
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
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
