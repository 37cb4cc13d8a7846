"""Hides secrets in text that leaves the process. The one place that knows them; it never decides where text goes.

A secret of 8 characters and more is hidden wherever it stands, in every form that it takes on its way (URL, JSON,
Base64, SQL, HTML); of a longer one, so are 12 characters, for errors quote texts that they have cut. A shorter one
would hide half of all words: from 4 characters on it is hidden where it stands as a word, else only where a password
stands (`password=abc`, `//user:abc@`). The same goes for what is no secret by itself: a number, a word of this
program, or what another setting says (the user `postgres` with the password `postgres`).
"""

import html
import json
import re
import tomllib
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

ANYWHERE, AS_WORD = 8, 4
"""Characters from which on a secret is hidden wherever it stands, or where it stands as a word."""
LEAST_PART = 12
"""Characters of a longer secret that are hidden, too."""
_BLOCK = 8
"""Every part of 2 * 8 - 1 characters has a whole block in it, and every beginning has the first."""
_LONGEST_UNIT = 40
"""Of what a character becomes."""

SECRET_NAME = re.compile(
    r"(TOKEN|PASSWORD|PASSWD|PASSPHRASE|SECRET|(ACCESS|API|ACCOUNT|PRIVATE|SECRET)_KEY(_ID)?|WEBHOOK_URL)$",
    re.IGNORECASE,
)
"""A variable, or a key of dlt's files, whose value is a secret."""

OWN_WORDS = frozenset(
    {
        *("account", "accounts", "api", "audit", "audit_logs", "cloudflare", "complete", "error", "events", "failed"),
        *("false", "lake", "none", "null", "ok", "password", "postgres", "postgresql", "public", "retry", "secret"),
        *("status", "token", "true", "user", "warehouse"),
    }
)
_SHOWN_SETTINGS = ("PG_USER", "PG_OWNER_USER", "PG_DATABASE", "PG_SCHEMA", "PG_HOST", "S3_BUCKET", "S3_PREFIX")
"""Who has one of their values for a password hides it from nobody."""
_BEFORE = r"""(?i:(?:passw\w*|pwd|secret\w*|token\w*|key)["']?\s*[=:]\s*["']?|://[^\s/:@]*:|bearer\s+)"""


_Hide = Callable[[str], str]

_hidden: tuple[_Hide, ...] = ()
_known: dict[str, str] = {}
"""The name of each secret, by itself."""
_shown: frozenset[str] = frozenset()
"""What other settings say."""


def masked(text: str) -> str:
    """The text with the name of each secret in place of the secret."""
    for hide in _hidden:
        text = hide(text)
    return text


def mask_error(error: BaseException) -> None:
    """The same for an error that leaves the process as an object, and for what caused it."""
    error.args = tuple(masked(part) if isinstance(part, str) else part for part in error.args)
    for name, value in vars(error).items():
        if isinstance(value, str):
            setattr(error, name, masked(value))
    for cause in (error.__cause__, error.__context__):
        if cause is not None:
            mask_error(cause)


def learn(name: str, secret: str) -> None:
    """From now on, the secret is hidden."""
    if secret and secret not in _known:
        _known[secret] = name
        _compile()


def learn_environment(environment: Mapping[str, str]) -> None:
    """Learns the secrets among variables: those whose name says so, and passwords in URLs."""
    global _shown  # noqa: PLW0603  # there is one process, and one place that knows its secrets
    found = {secret: name for key, value in environment.items() for name, secret in _secrets_in(key, value)}
    shown = {environment[name] for name in _SHOWN_SETTINGS if name in environment}
    if not found.keys() <= _known.keys() or not shown <= _shown:
        _known.update({secret: name for secret, name in found.items() if secret not in _known})
        _shown |= shown
        _compile()


def learn_files(*folders: Path) -> None:
    """Learns the secrets in dlt's own files, which win over the settings."""
    for file in (folder / name for folder in folders for name in ("secrets.toml", "config.toml")):
        with suppress(OSError, ValueError):  # dlt itself says what is wrong with it
            for name, secret in _secrets_under(file.name, tomllib.loads(file.read_text(encoding="utf-8"))):
                learn(name, secret)


def _secrets_in(name: str, value: str) -> Iterator[tuple[str, str]]:
    """By the name, or by being a URL or a JSON object with secrets in it."""
    if SECRET_NAME.search(name):
        yield name, value
    if value.startswith("{"):
        with suppress(ValueError):
            yield from _secrets_under(name, json.loads(value))
    elif "://" in value and "@" in value:
        with suppress(ValueError):
            if password := urlsplit(value).password:
                yield from ((name, password), (name, unquote(password)))


def _secrets_under(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _secrets_under(str(key), part)
    elif isinstance(value, str) and value:
        yield from _secrets_in(name, value)


def _compile() -> None:
    global _hidden  # noqa: PLW0603  # as above
    longest_first = sorted(_known.items(), key=lambda known: len(known[0]), reverse=True)
    found = [_hiding(secret, f"[{name}]", _shown | OWN_WORDS) for secret, name in longest_first]
    _hidden = (*(hide for whole, _ in found for hide in whole), *(hide for _, parts in found for hide in parts))


def _hiding(secret: str, shown: str, weak: frozenset[str]) -> tuple[list[_Hide], list[_Hide]]:
    """How a secret is hidden whole and in parts, by its strength."""
    units = _units_of(secret)
    pattern, literal = "".join(units), _literal_of(units)
    if secret in weak or secret.lower() in OWN_WORDS or secret.isdecimal() or len(secret) < AS_WORD:
        return [_pattern_hider(rf"(?P<before>{_BEFORE}){pattern}(?!\w)", literal, shown)], []
    if len(secret) < ANYWHERE:
        return [_pattern_hider(rf"(?P<before>)(?<!\w){pattern}(?!\w)", literal, shown)], []
    others = [*_base64_of(secret), secret.encode().decode("latin-1")]
    whole = [_pattern_hider(f"(?P<before>){pattern}", literal, shown), *(_text_hider(text, shown) for text in others)]
    return whole, [_parts_hider(units, shown)] if len(secret) >= 2 * _BLOCK else []


def _units_of(secret: str) -> list[str]:
    """A pattern for each character of a secret: itself, and all that URLs, JSON, SQL, HTML and shells make of it."""
    parts = re.findall(r"\s+|\S", secret)
    return [r"(?:\s|%(?:20|0[9adAD])|\+|\\+[nrt])+" if part.isspace() else _unit_of(part) for part in parts]


def _unit_of(character: str) -> str:
    if character.isascii() and (character.isalnum() or character in "-_"):
        return character
    octets = character.encode()
    escaped = {json.dumps(character)[1:-1], "".join(f"\\x{octet:02x}" for octet in octets), repr(character)[1:-1]}
    texts = {character, *escaped, html.escape(character), f"&#{ord(character)};", *("'" if character == '"' else "")}
    forms = "|".join(re.escape(text) for text in sorted(texts, key=len, reverse=True))
    url = "".join(f"%{octet:02x}" for octet in octets)
    # A quote is doubled, or closed and opened again (`'"'"'`); a backslash may be doubled several times.
    return (
        rf"(?:\\*(?:(?i:{url})|{forms})[{re.escape(character)}'\"]{{0,4}})"
        if character in "'\"\\"
        else (rf"(?:\\*(?:(?i:{url})|{forms}))")
    )


def _base64_of(secret: str) -> Iterator[str]:
    """What Base64 has of it, whatever stands before and behind it (`user:password`)."""
    for shift in range(3):
        encoded = b64encode(bytes(shift) + secret.encode()).decode().rstrip("=")
        core = encoded[4 * shift // 3 + (shift > 0) : len(encoded) - 1]
        yield from (core, core.replace("+", "-").replace("/", "_"))


def _literal_of(units: Sequence[str]) -> str:
    """The longest run of characters that stand for themselves: without it in a text, no pattern need be tried."""
    runs = "".join(unit if len(unit) == 1 else " " for unit in units).split()
    return max(runs, key=len, default="")


def _text_hider(hidden: str, shown: str) -> _Hide:
    return lambda text: text.replace(hidden, shown)


def _pattern_hider(pattern: str, literal: str, shown: str) -> _Hide:
    compiled = re.compile(pattern)
    return lambda text: compiled.sub(lambda found: found["before"] + shown, text) if literal in text else text


def _parts_hider(units: list[str], shown: str) -> _Hide:
    """Hides any part that has a whole block of the secret in it and is long enough to give something away."""
    begins = range(0, len(units) - _BLOCK + 1, _BLOCK)
    its = [(at, units[at : at + _BLOCK]) for at in begins]
    blocks = [(at, _literal_of(block), re.compile("".join(block))) for at, block in its]
    after = [re.compile(unit) for unit in units]
    before = [re.compile(f"(?:{unit})\\Z") for unit in units]

    def grown(text: str, begin: int, end: int, at: int) -> tuple[int, int, int]:
        """Where the part begins and ends, and how much of the secret it is."""
        first, last = at, at + _BLOCK
        while first > 0 and (found := before[first - 1].search(text, max(0, begin - _LONGEST_UNIT), begin)):
            begin, first = found.start(), first - 1
        while last < len(units) and (found := after[last].match(text, end)):
            end, last = found.end(), last + 1
        return begin, end, last - first

    def hide(text: str) -> str:
        for at, literal, block in blocks:
            done = 0
            while literal in text and (found := block.search(text, done)):
                begin, end, length = grown(text, found.start(), found.end(), at)
                if length >= LEAST_PART:
                    text = text[:begin] + shown + text[end:]
                    end = begin + len(shown)
                done = end
        return text

    return hide
