"""Reads settings from names and texts, and collects what is wrong with them. Knows no setting by name.

A frozen object says at each of its fields which setting it is and what values that has: `setting`, then `filled`.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field, fields, replace
from datetime import datetime
from difflib import get_close_matches
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from dotenv.parser import parse_stream

from .secret_files import FILE_NAMES, SECRETS

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

OWN_PREFIXES = (
    "ACCOUNTS_",
    "CLOUDFLARE_",
    "DASHBOARD_",
    "HEARTBEAT_",
    "METRICS_",
    "PG_",
    "RECONCILE_",
    "S3_",
    "SEAL_",
    "SWEEP_",
    "TIMESCALE_",
)

_OTHERS_PREFIXES = ("AWS_", "COMPOSE_", "DESTINATION__", "POSTGRES_", "RUNTIME__")
"""Prefixes of names that may stand in `.env` for others: Compose, dlt, the clients of AWS."""

_NOT_SHOWN = {*SECRETS, "HEARTBEAT_URL"}

MAY_BE_SECRET = re.compile(r"[@?]|passw|token|secret|[A-Za-z0-9_-]{40}", re.IGNORECASE)
"""A value that is not shown: a URL with a password, a token in the wrong place."""

T = TypeVar("T")
D = TypeVar("D", bound="DataclassInstance")


def setting(name: str, parse: Callable[[str], T], default: T) -> T:
    """A field that holds the value of a setting. A secret does not show in the object's `repr`."""
    return field(default=default, repr=name not in _NOT_SHOWN, metadata={"name": name, "parse": parse})


def names_of(kind: "type[DataclassInstance]") -> tuple[str, ...]:
    """The settings that an object's fields are read from."""
    return tuple(one.metadata["name"] for one in fields(kind) if one.metadata)


class SettingReader:
    """Reads settings and collects what is wrong with them; `where` begins each problem, no time may be after `now`."""

    def __init__(self, environment: Mapping[str, str], *, where: str = "", now: datetime | None = None) -> None:
        self._environment, self.where, self.now = environment, where, now
        self.names: set[str] = set(FILE_NAMES.values())
        """Names of settings, and others that mean something here."""
        self.problems: list[str] = []

    def problem(self, text: str) -> None:
        """Notes what is wrong."""
        self.problems.append(self.where + text)

    def optional(self, name: str, parse: Callable[[str], T], default: T) -> T:
        """The value of a setting, or the default if it is not set or wrong; a wrong value is a problem."""
        self.names.add(name)
        text = self._environment.get(name)
        if not text:
            return default
        try:
            value = parse(text)
            if self.now and isinstance(value, datetime) and value > self.now:
                raise ValueError("is in the future: the events before it would never be read")
        except ValueError as error:
            shown = "" if name in _NOT_SHOWN or MAY_BE_SECRET.search(text) else f" ({text!r:.80})"
            self.problem(f"{name}{shown} {error}")
            return default
        return value

    def filled(self, found: D) -> D:
        """The object with the values of the settings that are set; its own stay where none is."""
        read = {
            one.name: self.optional(one.metadata["name"], one.metadata["parse"], getattr(found, one.name))
            for one in fields(found)
            if one.metadata
        }
        return replace(found, **read)

    def filled_if(self, key: str, found: D, why: str, *more: str) -> D | None:
        """As `filled` where the setting `key` is set. Else None; the object's settings and `more` may not be set."""
        if self._environment.get(key):
            return self.filled(found)
        for name in (*names_of(type(found)), *more):
            self.names.add(name)
            if self._environment.get(name):
                self.problem(f"{name} has no effect without {key}: {why}")
        return None

    def unknown_names(self, in_file: Iterable[str] = ()) -> list[str]:
        """Warnings of names that look like settings and are none; those `in_file` stand in `.env`, which is ours."""
        unknown = {name for name in self._environment if name.startswith(OWN_PREFIXES) and name not in self.names}
        others = {name for name in in_file if name not in self.names and not name.startswith(_OTHERS_PREFIXES)}
        meant = {name: self._meant(name) for name in sorted(unknown | others)}
        said = {name: f": did you mean {near}?" if near else "" for name, near in meant.items()}
        return [
            f"{name} is not a setting and is ignored{said[name]}" for name in meant if name in unknown or said[name]
        ]

    def _meant(self, name: str) -> str | None:
        """The setting that is near to a name, or that a name begins; any near one for a name with a prefix of ours."""
        begun = sorted(known for known in self.names if known.startswith(f"{name.upper()}_"))
        cutoff = 0.6 if name.startswith(OWN_PREFIXES) else 0.85
        return next(iter(get_close_matches(name.upper(), self.names, n=1, cutoff=cutoff) or begun), None)


def read_env_file(file: Path) -> tuple[dict[str, str | None], list[str]]:
    """The variables of a `.env`, if it is there, and what is wrong with it.

    No variable is put into another one's value: a password may have `${` in it. A wrong line is not shown: there may be
    a secret in it.
    """
    try:
        lines = list(parse_stream(StringIO(file.read_text(encoding="utf-8")))) if file.exists() else []
    except UnicodeDecodeError as error:
        return {}, [f"{file} is not UTF-8 text: {error}; save it as that"]
    except OSError as error:
        return {}, [f"{file} cannot be read: {error.strerror}; see what it is, and its rights"]
    wrong = [line for line in lines if line.error or (line.key is not None and line.value is None)]
    how = "write it as NAME=value, a quote that is opened closed again, a comment after #"
    problems = [f"{file}, line {line.original.line}: {how}" for line in wrong]
    return {line.key: line.value for line in lines if line.key is not None}, problems
