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
import shlex
import tomllib
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, quote_plus, unquote, urlsplit

ANYWHERE, AS_WORD = 8, 4
"""Characters from which on a secret is hidden wherever it stands, or where it stands as a word."""
LEAST_PART = 12
"""Characters of a longer secret that are hidden, too."""
_BLOCK = 8
"""Every part of 2 * 8 - 1 characters has a whole block in it, and every beginning has the first."""

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


class _Secret(NamedTuple):
    """What hides it."""

    form: str
    hide: Callable[[str], str]


_hidden: tuple[_Secret, ...] = ()
_known: dict[str, str] = {}
"""The name of each secret, by itself."""
_shown: frozenset[str] = frozenset()
"""What other settings say."""


def masked(text: str) -> str:
    """The text with the name of each secret in place of the secret."""
    for secret in _hidden:
        text = secret.hide(text)
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
    weak = _shown | OWN_WORDS
    found = [hiding for secret, name in _known.items() for hiding in _hidings(secret, f"[{name}]", weak)]
    whole = sorted(found, key=lambda one: len(one.form), reverse=True)
    parts = [
        _Secret(form, _parts_hider(form, f"[{name}]"))
        for secret, name in _known.items()
        if secret not in weak
        for form in forms_of(secret)
        if len(form) >= 2 * _BLOCK
    ]
    _hidden = (*whole, *parts)


def _hidings(secret: str, shown: str, weak: frozenset[str]) -> Iterator[_Secret]:
    """How a secret is hidden, by its strength."""
    is_weak = secret in weak or secret.lower() in OWN_WORDS or secret.isdecimal() or len(secret) < AS_WORD
    for form in forms_of(secret):
        if is_weak:
            yield _Secret(form, _pattern_hider(rf"(?P<before>{_BEFORE}){re.escape(form)}(?!\w)", shown))
        elif len(secret) < ANYWHERE:
            yield _Secret(form, _pattern_hider(rf"(?P<before>)(?<!\w){re.escape(form)}(?!\w)", shown))
        else:
            yield _Secret(form, _whole_hider(form, shown))


def forms_of(secret: str) -> set[str]:
    """The texts that a secret becomes on its way."""
    url = {quote(secret, safe=""), quote(secret), quote_plus(secret)}
    texts = {
        secret,
        *url,
        *(re.sub(r"%..", lambda code: code[0].lower(), form) for form in url),
        *(json.dumps(secret, ensure_ascii=is_ascii)[1:-1] for is_ascii in (True, False)),
        repr(secret)[1:-1],
        repr(secret.encode())[2:-1],
        html.escape(secret),
        html.escape(secret, quote=False),
        secret.replace("\\", "\\\\").replace("'", "\\'"),
        secret.replace("'", "''"),
        shlex.quote(secret),
        secret.encode().decode("latin-1"),
    }
    # Errors are told in one line.
    return {*texts, *(" ".join(text.split()) for text in texts), *_base64_of(secret)} - {""}


def _base64_of(secret: str) -> Iterator[str]:
    """What Base64 has of it, whatever stands before and behind it (`user:password`)."""
    if len(secret) < ANYWHERE:
        return
    for shift in range(3):
        encoded = b64encode(bytes(shift) + secret.encode()).decode().rstrip("=")
        whole = 4 * shift // 3 + (shift > 0)
        core = encoded[whole : len(encoded) - 1]
        yield from (core, core.replace("+", "-").replace("/", "_"))


def _whole_hider(form: str, shown: str) -> Callable[[str], str]:
    return lambda text: text.replace(form, shown)


def _pattern_hider(pattern: str, shown: str) -> Callable[[str], str]:
    compiled = re.compile(pattern)
    return lambda text: compiled.sub(lambda found: found["before"] + shown, text)


def _parts_hider(form: str, shown: str) -> Callable[[str], str]:
    blocks = [(at, form[at : at + _BLOCK]) for at in range(0, len(form) - _BLOCK + 1, _BLOCK)]

    def hide(text: str) -> str:
        for at, block in blocks:
            if block in text:
                text = _without_parts(text, form, at, shown)
        return text

    return hide


def _without_parts(text: str, form: str, at: int, shown: str) -> str:
    """The text without any part of the form that has this block in it and is long enough to give something away."""
    kept, done = list[str](), 0
    while (found := text.find(form[at : at + _BLOCK], done)) >= 0:
        begin, end = found, found + _BLOCK
        first, last = at, at + _BLOCK
        while begin > done and first > 0 and text[begin - 1] == form[first - 1]:
            begin, first = begin - 1, first - 1
        while end < len(text) and last < len(form) and text[end] == form[last]:
            end, last = end + 1, last + 1
        kept += [text[done:begin], shown if end - begin >= LEAST_PART else text[begin:end]]
        done = end
    return "".join([*kept, text[done:]])
