"""The kinds of values that settings have: each takes the text, and returns the value or raises ValueError.

The error's text goes on from the setting's name: "PG_PORT ('x') is not a whole number from 1 to 65535".
"""

import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from sources.cloudflare_audit_logs.streams import API_VERSIONS
from sources.cloudflare_audit_logs.times import EARLIEST, parse_time

N = TypeVar("N", int, float)

_ACCOUNT_ID = r"[A-Za-z0-9_-]{1,39}"
"""Cloudflare's have 32 characters, its tokens 40 and more: one in the wrong place would be logged as an account."""
_BOOLEANS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


def matching(pattern: str, otherwise: str) -> Callable[[str], str]:
    """A text that the pattern matches whole; `otherwise` is said of any other."""

    def parse(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(otherwise)
        return text

    return parse


def choice(*choices: str) -> Callable[[str], str]:
    """One of the words, in small or capital letters."""

    def parse(text: str) -> str:
        if text.lower() not in choices:
            raise ValueError(f"is not one of {', '.join(choices)}")
        return text.lower()

    return parse


def number(kind: Callable[[str], N], low: float, high: float, what: str) -> Callable[[str], N]:
    """A number from `low` to `high`; `what` names it in the error."""

    def parse(text: str) -> N:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            msg = f"is not {what} from {low} to {high}"
            raise ValueError(msg)
        return value

    return parse


def seconds(low: float, high: float) -> Callable[[str], float]:
    """A number of seconds from `low` to `high`."""
    return number(float, low, high, "a number of seconds")


def whole(low: int, high: int) -> Callable[[str], int]:
    """A whole number from `low` to `high`."""
    return number(int, low, high, "a whole number")


token = matching(r"[!-~]+", "has spaces or characters that no token has: copy it again")
"""A string that can be an HTTP bearer token."""
account_id = matching(_ACCOUNT_ID, "is not an account id: 32 letters and digits")
"""Nothing in it that a path or a query could read as more."""
origin = matching(r"[^\s+]{1,200}", "is not the name of a log: no spaces and no +, audit.example.com/lake say")
"""A key's name as C2SP has it."""
identifier = matching(
    r"(?!pg_)(?=.{1,63}$)[a-z][a-z0-9]*(_[a-z0-9]+)*",
    "is not a schema name: small letters and digits, words joined by single _, a letter first",
)
"""A schema that needs no quotes and that dlt does not rename: it folds `__`, and an `_` at the end."""
bucket = matching(
    r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]",
    "is not a bucket name: 3 to 63 small letters, digits, dots and hyphens; the path goes to S3_PREFIX",
)
sslmode = choice("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
"""The degrees of checking PostgreSQL's certificate, least first."""
postgres_text = matching(r"[^\0]*", "has a NUL in it, which PostgreSQL cannot be given: write it again")
"""A text that libpq can be given: it would end at a NUL."""
header_name = matching(r"[A-Za-z0-9-]+", "is not the name of a header, such as X-Forwarded-User")
port = whole(1, 65_535)
hours = number(float, 0, 24 * 548, "a number of hours")


def account_ids(text: str) -> tuple[str, ...]:
    """Several account ids, comma separated, each once."""
    ids = [part.strip() for part in text.split(",") if part.strip()]
    if not ids or not all(re.fullmatch(_ACCOUNT_ID, part) for part in ids):
        raise ValueError("is not a list of account ids: 32 letters and digits each, comma separated")
    return tuple(dict.fromkeys(ids))


def api_versions(text: str) -> tuple[str, ...]:
    """`v1`, `v2` or both, comma separated."""
    versions = [part.strip().lower() for part in text.split(",")]
    if not set(versions) <= set(API_VERSIONS):
        raise ValueError("is not v1, v2 or v1,v2")
    return tuple(dict.fromkeys(versions))


def url(text: str) -> str:
    """An http or https URL without password, query, or slash at its end."""
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("is not a URL: write it as https://host/path")
    if parts.username or parts.password:
        raise ValueError("has a password in it: use the settings meant for secrets")
    return text.rstrip("/")


def heartbeat(text: str) -> str:
    """An http or https URL, whatever its path and query."""
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("is not a URL: write it as https://host/path")
    return text


def textfile(text: str) -> Path:
    """A file that node_exporter reads."""
    if not text.endswith(".prom"):
        raise ValueError("is not the name of a file that node_exporter reads: let it end in .prom")
    return Path(text)


def plain_name(text: str) -> str:
    """The name of a database or a user, and not the URL that such names are taken from."""
    if "://" in text:
        raise ValueError("is a URL: write the name alone; host, user and password are settings of their own")
    return postgres_text(text)


def hostname(text: str) -> str:
    """A host name or address alone."""
    if "://" in text or "@" in text or any(char.isspace() for char in text):
        raise ValueError("is not a host name: write the name or address alone; the port is a setting of its own")
    return text


def hostnames(text: str) -> tuple[str, ...]:
    """Host names or addresses, comma separated, each once, in small letters."""
    names = [hostname(part.strip()).lower() for part in text.split(",") if part.strip()]
    if not all(re.fullmatch(r"[a-z0-9.-]+|\[?[0-9a-f:.]+\]?", name) for name in names):
        raise ValueError("is not a list of host names: write audit.example.com, comma separated, without ports")
    return tuple(dict.fromkeys(name.strip("[]") for name in names))


def base_path(text: str) -> str:
    """A path that begins with a slash and has none at its end; `/` is none at all."""
    return f"/{prefix(text)}" if text.strip("/") else ""


def postgres_hosts(text: str) -> str:
    """The value of psql's `PGHOST`: a host, the folder of a socket, an abstract socket (`@name`), or several."""
    for host in text.split(","):
        if not host.startswith(("/", "@")):
            hostname(host)
    return postgres_text(text)


def postgres_ports(text: str) -> tuple[int, ...]:
    """A port, or one for each of several hosts, comma separated."""
    return tuple(port(part.strip()) for part in text.split(","))


def ages(text: str) -> tuple[float, ...]:
    """Numbers of hours, comma separated, each once, least first; 0 is none."""
    one = number(float, 0, 24 * 548, "a number of hours, or several, comma separated,")
    return tuple(sorted({one(part.strip()) for part in text.split(",")} - {0.0}))


def boolean(text: str) -> bool:
    """true, yes, on, 1, or their opposites."""
    if text.lower() not in _BOOLEANS:
        raise ValueError("is neither true nor false")
    return _BOOLEANS[text.lower()]


def time(text: str) -> datetime:
    """A time (RFC 3339), or a day for its beginning in UTC."""
    is_day = re.fullmatch(r"\d{4}-\d\d-\d\d", text)
    found = parse_time(f"{text}T00:00:00Z" if is_day else text)
    if found is None:
        raise ValueError("is not a time: write it as 2026-01-31T00:00:00Z")
    if found < EARLIEST:
        raise ValueError("is before 1900: no event is as old")
    return found


def folder(text: str) -> Path:
    """A folder, without the characters that dlt or the shell would read as something else."""
    if re.search(r"[%$\x00-\x1f]", text):
        raise ValueError("is not a folder to use: % and $ in its name mean something else to dlt and to PostgreSQL")
    return Path(text)


def prefix(text: str) -> str:
    """A relative path without `..`, and without what a glob or a URL would read as more."""
    parts = text.strip("/").split("/")
    if not all(re.fullmatch(r"(?!\.\.?$)[A-Za-z0-9._=-]+", part) for part in parts):
        raise ValueError("is not a path: letters, digits and . _ = - between single slashes, no ..")
    return "/".join(parts)
