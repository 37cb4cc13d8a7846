"""Hides secrets in text that leaves the process. The one place that knows them; it never decides where text goes.

A secret of 8 characters and more is hidden wherever it stands, in every form that it takes on its way (URL, JSON,
Base64, SQL, HTML); of a longer one, so are 12 characters, for errors quote texts that they have cut; of a URL, 12 of
what stands before or behind its host, which others have as well. A shorter one
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
"""The most characters that one becomes in any encoding."""

SECRET_NAME = re.compile(
    r"(TOKEN|PASSWORD|PASSWD|PASSPHRASE|SECRET|(ACCESS|API|ACCOUNT|PRIVATE|SECRET)_KEY(_ID)?|(WEBHOOK|HEARTBEAT)_URL)$",
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
"""A password that equals one of their values is hidden from nobody."""
_BEFORE = r"""(?i:(?:passw\w*|pwd|secret\w*|token\w*|key)["']?\s*[=:]\s*["']?|://[^\s/:@]*:|bearer\s+)"""
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://(?:(?P<user>[^/?#\s]*)@)?[^/?#@\s]*")
"""The part of a URL that says where its server is."""


Span = tuple[int, int, str]
"""Where a secret begins and ends in a text, and what is shown in its place."""
_Find = Callable[[str], Iterator[Span]]

_finders: tuple[_Find, ...] = ()
_known: dict[str, str] = {}
"""The name of each secret, by itself."""
_shown: frozenset[str] = frozenset()
"""The values of other settings."""


def masked(text: str) -> str:
    """The text with the name of each secret in place of the secret.

    What is put in is not looked at again: a name may have a part of another secret in it.
    """
    shown, done = list[str](), 0
    for begin, end, name in sorted((span for find in _finders for span in find(text)), key=lambda s: (s[0], -s[1])):
        if begin >= done:
            shown += text[done:begin], name
        done = max(done, end)
    return "".join([*shown, text[done:]])


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


def learn_shown(*values: str) -> None:
    """Learns values of other settings: a part of a secret that stands in one of these is shown."""
    global _shown  # noqa: PLW0603  # there is one process, and one place that knows its secrets
    if not _shown.issuperset(values):
        _shown |= frozenset(values)
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
    global _finders  # noqa: PLW0603  # as above
    _finders = tuple(find for secret, name in _known.items() for find in _finders_of(secret, f"[{name}]", _shown))


def _finders_of(secret: str, shown: str, others: frozenset[str]) -> list[_Find]:
    """The patterns that find a secret, whole and in parts, by its strength."""
    units = _units_of(secret)
    pattern, literal = "".join(units), _literal_of(units)
    if secret in others or secret.lower() in OWN_WORDS or secret.isdecimal() or len(secret) < AS_WORD:
        return [_pattern_finder(rf"(?P<before>{_BEFORE}){pattern}(?!\w)", literal, shown)]
    if len(secret) < ANYWHERE:
        return [_pattern_finder(rf"(?P<before>)(?<!\w){pattern}(?!\w)", literal, shown)]
    texts = [*_base64_of(secret), secret.encode().decode("latin-1")]
    whole = [_pattern_finder(f"(?P<before>){pattern}", literal, shown), *(_text_finder(text, shown) for text in texts)]
    for part in _parts_of(secret):
        units = _units_of(part)
        if len(part) >= 2 * _BLOCK:
            whole.append(_parts_finder(units, shown, others))
        elif LEAST_PART <= len(part) < len(secret):
            whole.append(_pattern_finder(f"(?P<before>){''.join(units)}", _literal_of(units), shown))
    return whole


def _parts_of(secret: str) -> list[str]:
    """The parts that give a secret away: of a URL, the user and what follows the host; of any other, the whole."""
    address = _ADDRESS.match(secret)
    return [address["user"] or "", secret[address.end() :]] if address else [secret]


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
    """The part of it that Base64 shows, whatever stands before and behind it (`user:password`)."""
    for shift in range(3):
        encoded = b64encode(bytes(shift) + secret.encode()).decode().rstrip("=")
        core = encoded[4 * shift // 3 + (shift > 0) : len(encoded) - 1]
        yield from (core, core.replace("+", "-").replace("/", "_"))


def _literal_of(units: Sequence[str]) -> str:
    """The longest run of characters that stand for themselves: without it in a text, no pattern need be tried."""
    runs = "".join(unit if len(unit) == 1 else " " for unit in units).split()
    return max(runs, key=len, default="")


def _text_finder(secret: str, shown: str) -> _Find:
    def find(text: str) -> Iterator[Span]:
        begin = text.find(secret)
        while begin >= 0:
            yield begin, begin + len(secret), shown
            begin = text.find(secret, begin + len(secret))

    return find


def _pattern_finder(pattern: str, literal: str, shown: str) -> _Find:
    compiled = re.compile(pattern)

    def find(text: str) -> Iterator[Span]:
        for found in compiled.finditer(text) if literal in text else ():
            yield found.end("before"), found.end(), shown

    return find


def _parts_finder(units: list[str], shown: str, others: frozenset[str]) -> _Find:
    """Finds any part that has a whole block of the secret in it, is long enough, and is not what other settings say."""
    begins = range(0, len(units) - _BLOCK + 1, _BLOCK)
    its = [(at, units[at : at + _BLOCK]) for at in begins]
    its = [(at, block) for at, block in its if not any("".join(block) in other for other in others)]
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

    def find(text: str) -> Iterator[Span]:
        for at, literal, block in blocks:
            done = 0
            while literal in text and (found := block.search(text, done)):
                begin, done, length = grown(text, found.start(), found.end(), at)
                if length >= LEAST_PART and not any(text[begin:done] in other for other in others):
                    yield begin, done, shown

    return find
