"""The parameters of a request as the API reads them: bounds, times, page cursors. Pure."""

import base64
import binascii
import math
from collections.abc import Mapping
from datetime import UTC, datetime

LARGEST_PAGE = 1000
_DEFAULT_PAGE = 100


class BadRequestError(Exception):
    """A parameter that the API refuses."""

    status = 400


def bounded(params: Mapping[str, str], name: str) -> int:
    """The events of a page, within what is documented."""
    return whole(params.get(name, str(_DEFAULT_PAGE)), name, low=1, high=LARGEST_PAGE)


def size_of(params: Mapping[str, str]) -> int:
    """The events of a page that were asked for."""
    text = params.get("per_page") or params.get("limit") or ""
    return int(text) if text.isdecimal() else _DEFAULT_PAGE


def whole(text: str, name: str, low: int, high: float = math.inf) -> int:
    """A whole number within bounds."""
    if not text.isdecimal() or not low <= int(text) <= high:
        raise BadRequestError(f"Invalid format for parameter {name}")
    return int(text)


def time_of(params: Mapping[str, str], name: str, default: datetime | None) -> datetime:
    """A time or a day."""
    text = params.get(name, "")
    if not text and default is not None:
        return default
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC) if len(text) == len("2026-01-31") else _parse(text)
    except ValueError as error:
        raise BadRequestError(f"Invalid format for parameter {name}") from error


def _parse(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(text)
    return time


def encode_cursor(position: int) -> str:
    """The page cursor of a position."""
    return base64.urlsafe_b64encode(f"position {position}".encode()).decode()


def decode_cursor(text: str) -> int:
    """The position of a page cursor."""
    try:
        return int(base64.urlsafe_b64decode(text).decode().removeprefix("position "))
    except (ValueError, binascii.Error) as error:
        raise BadRequestError("Invalid format for parameter cursor") from error
