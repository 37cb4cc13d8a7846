"""Reads single settings from names and texts, and collects what is wrong with them. Knows no setting by name."""

import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import TypeVar

from .secret_files import FILE_NAMES

OWN_PREFIXES = ("ACCOUNTS_", "CLOUDFLARE_", "METRICS_", "PG_", "RECONCILE_", "S3_", "SWEEP_", "TIMESCALE_")

_SECRET = re.compile("TOKEN|PASSWORD|SECRET")
MAY_BE_SECRET = re.compile(r"[@?]|passw|token|secret|[A-Za-z0-9_-]{40}", re.IGNORECASE)
"""A value that is not shown: a URL with a password, a token in the wrong place."""

T = TypeVar("T")


class SettingReader:
    """Reads single settings and collects what is wrong with them."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self.names: set[str] = set(FILE_NAMES.values())
        """Of settings, and others that mean something here."""
        self.problems: list[str] = []

    def problem(self, text: str) -> None:
        """Notes what is wrong."""
        self.problems.append(text)

    def optional(self, name: str, parse: Callable[[str], T], default: T | None) -> T:
        """The value of a setting, or the default if it is not set or wrong, which is a problem then."""
        self.names.add(name)
        text = self._environment.get(name)
        if text:
            try:
                return parse(text)
            except ValueError as error:
                shown = "" if _SECRET.search(name) or MAY_BE_SECRET.search(text) else f" ({text!r:.80})"
                self.problem(f"{name}{shown} {error}")
        return default  # type: ignore[return-value]  # as above, or the default is of type T

    def refuse_without(self, other: str, names: tuple[str, ...], why: str) -> None:
        """Settings that mean nothing without another one: a problem for each that is set if that is not."""
        self.names.update(names)
        for name in names:
            if self._environment.get(name) and not self._environment.get(other):
                self.problem(f"{name} {why}")

    def unknown_names(self) -> list[str]:
        """Warnings of names that look like settings and are none."""
        unknown = [name for name in self._environment if name.startswith(OWN_PREFIXES) and name not in self.names]
        return [f"{name} is not a setting and is ignored{self._suggestion(name)}" for name in sorted(unknown)]

    def _suggestion(self, name: str) -> str:
        close = get_close_matches(name, self.names, n=1)
        return f": did you mean {close[0]}?" if close else ""
