"""The search: text to terms, and terms to text. Pure; knows no SQL.

All terms of a search must hold. `-` before a term turns it round; quotes keep spaces, colons and stars as they are.
"""

import dataclasses
import re
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

FIELDS = {
    "actor": "e-mail, else id, else type of who did it",
    "actor_id": "the id of who did it",
    "context": "v1's interface, v2's actor context: dash, api_token …",
    "token": "id of the API token that was used (v2)",
    "action": "what was done",
    "description": "the API's operation (v2), LOGIN for sign-ins",
    "result": "success or failure",
    "address": "an address, or a network such as 203.0.113.0/24",
    "type": "kind of the resource",
    "resource": "id of the resource",
    "product": "product of the resource (v2)",
    "zone": "name of the zone, else its id",
    "account": "account id",
    "version": "v1 or v2",
    "event": "event id",
}
"""The fields whose value is compared as a whole; `*` stands for any text."""
TEXTS = {
    "old": "a part of the old values (v1)",
    "new": "a part of the new values (v1), request and response (v2)",
    "text": "a part of the whole event: columns, old and new values, metadata",
}
"""The fields of which a part is looked for."""
_ALIASES = {"ip": "address", "id": "event", "api": "version", "user": "actor", "what": "action", "who": "actor"}
_LONGEST, _MOST_TERMS, _SHOWN = 2_000, 40, 60
_TERM = re.compile(
    r"""(?P<dash>-?)(?:(?P<field>[A-Za-z_]+):)?(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<bare>[^\s"]*))(?=\s|$)""", re.DOTALL
)
_PLAIN = re.compile(r"[^\s\"*:\\-][^\s\"*:\\]*")
_ADDRESS = re.compile(r"[0-9A-Fa-f.:]+(?:/[0-9]+)?")
_LIKE_ONE = re.compile(r"[0-9]+(?:\.[0-9]+){3}(?:/[0-9]*)?|[0-9A-Fa-f:]*:[0-9A-Fa-f:]*:[0-9A-Fa-f.:]*/[0-9]*")
_MAPPED = 96
"""Bits of `::ffff:0:0/96`, in which IPv4 addresses are written as IPv6."""
Network = IPv4Network | IPv6Network


class SearchError(ValueError):
    """The search cannot be read: one sentence that says why, and what to write."""


@dataclass(frozen=True)
class Term:
    """One condition; without a field, the value is a part of any column."""

    value: str
    field: str = ""
    is_not: bool = False
    is_pattern: bool = False
    """True if a star in the value stands for any text."""
    matching: tuple[str, ...] | None = dataclasses.field(default=None, compare=False)
    """Of a network: the addresses of the store that are in it."""

    @property
    def network(self) -> Network | None:
        """The addresses that are meant, of a field that has such."""
        return None if self.field != "address" or self.is_pattern else network_of(self.value)

    def __str__(self) -> str:
        # What would be read as an address or a network, or as one that is wrong.
        is_other = self.field == "address" or (not self.field and (network_of(self.value) or _is_like_one(self.value)))
        plain = self.is_pattern or self.network or (_PLAIN.fullmatch(self.value) and not is_other)
        text = self.value if plain else '"' + re.sub(r'(["\\])', r"\\\1", self.value) + '"'
        return f"{'-' * self.is_not}{self.field and self.field + ':'}{text}"


def parse(text: str) -> tuple[Term, ...]:
    """The terms of a search.

    Raises:
        SearchError: it is no search.
    """
    if len(text) > _LONGEST:
        raise SearchError(f"the search has {len(text):,} characters: {_LONGEST:,} are the most")
    terms, rest = list[Term](), text.lstrip()
    while rest:
        found = _TERM.match(rest)
        if found is None:
            raise SearchError(f"a quote is not closed, or stands within a word: {_shortened(rest)}")
        terms.append(_term(found))
        rest = rest[found.end() :].lstrip()
    if len(terms) > _MOST_TERMS:
        raise SearchError(f"the search has {len(terms)} terms: {_MOST_TERMS} are the most")
    return tuple(terms)


def _term(found: re.Match[str]) -> Term:
    dash, name, quoted, bare = found.group("dash", "field", "quoted", "bare")
    whole = found[0].removeprefix("-")
    if bare is not None and (
        network_of(whole) or (not name and _is_like_one(bare))
    ):  # an IPv6 address looks like a field's
        name, bare = "address", whole
    name = (name or "").lower()
    name = _ALIASES.get(name, name)
    value = bare if quoted is None else re.sub(r"\\(.)", r"\1", quoted, flags=re.DOTALL)
    if name and name not in FIELDS and name not in TEXTS:
        names = ", ".join([*FIELDS, *TEXTS])
        raise SearchError(f'there is no field {name}; fields are {names}. To look for the text, quote it: "{whole}"')
    if not value and not (name in FIELDS and quoted is not None):
        hint = f'; {name}:"" finds events without one' if name in FIELDS else ""
        raise SearchError(f"there is nothing behind {_shortened(found[0] or quoted or '')}{hint}")
    is_pattern = name in FIELDS and quoted is None and "*" in value
    if name == "address" and quoted is None and not is_pattern and not network_of(value):
        hint = "write it as 203.0.113.7 or 203.0.113.0/24, a part of it as address:203.0.*, a text in quotes"
        raise SearchError(f"{_shortened(value)} is no address and no network: {hint}")
    return Term(value, name, bool(dash), is_pattern=is_pattern)


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} …"


def network_of(text: str) -> Network | None:
    """The network that a text names, or that of one address; None if it names none. `::ffff:a.b.c.d` is a.b.c.d."""
    try:
        found = ip_network(text, strict=False) if _ADDRESS.fullmatch(text) else None
    except ValueError:
        return None
    if isinstance(found, IPv6Network) and found.prefixlen >= _MAPPED and (mapped := found[0].ipv4_mapped):
        return ip_network((mapped, found.prefixlen - _MAPPED))
    return found


def _is_like_one(text: str) -> bool:
    """True if the text is meant as a network or an IPv4 address, be it one or not."""
    return _LIKE_ONE.fullmatch(text) is not None


def has(network: Network, address: str) -> bool:
    """True if the address, in whatever way it is written, is in the network; `::ffff:a.b.c.d` is a.b.c.d."""
    try:
        found = ip_address(address)
    except ValueError:
        return False
    if isinstance(found, IPv6Address) and found.ipv4_mapped and isinstance(network, IPv4Network):
        return found.ipv4_mapped in network
    return found in network
