"""The cast of the story: accounts, and the people and tokens that work in them, with their habits. A table.

Every name and address is of those reserved for documentation. 203.0.113.0/24 and 2001:db8:bad::/48 are the intruder's.
"""

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Tool:
    """The way in: v2's `actor.context`, the program, and the token if there is one."""

    context: Literal["dash", "api_token", "oauth", ""]
    user_agent: str = ""
    token: str = ""


@dataclass(frozen=True)
class Actor:
    """A person or a token, with the habits of an ordinary day."""

    name: str
    deeds: tuple[str, ...]
    """Keys of `DEEDS`; one that is named twice is done twice as often."""
    tools: tuple[Tool, ...]
    address: str = ""
    hours: tuple[int, int] = (0, 24)
    """Of work, UTC."""
    a_day: int = 0
    """Deeds on a working day, for people."""
    every_minutes: int = 0
    """From one burst of deeds to the next, for tokens."""
    burst: int = 1
    rests_at_weekends: bool = False
    kind: Literal["user", "account", "system"] = "user"
    owner: str = ""
    """The person whose token it is: the API shows that person."""
    moves: tuple[int, str] | None = None
    """So many days ago they began to work from another address."""
    began_days_ago: int = 10_000
    domain: str = "example.com"

    @property
    def email(self) -> str:
        """Empty for tokens of an account, and for Cloudflare's own systems."""
        return f"{self.owner or self.name}@{self.domain}" if self.kind == "user" else ""


@dataclass(frozen=True)
class Account:
    """An account of the company."""

    name: str
    zones: tuple[str, ...]
    actors: tuple[Actor, ...]


_MAC = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 Version/26.1 Safari/605.1.15"
_WINDOWS = "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:145.0) Gecko/20100101 Firefox/145.0"
ON_MAC, ON_WINDOWS = Tool("dash", _MAC), Tool("dash", _WINDOWS)
WRANGLER = Tool("oauth", "wrangler/4.50.0")
_TERRAFORM = "Terraform/1.13.4 terraform-provider-cloudflare/5.12.0"
_EXTERNAL_DNS = "cloudflare-go/0.116.0 external-dns/v0.19.0"

OLIVIA = Actor("olivia", ("member set", "access", "token roll"), (ON_MAC,), "198.51.100.10", (7, 16), 5)
DANA = Actor(
    "dana",
    (*("dns set",) * 5, *("setting",) * 2, "cache level", "purge", "pool", "token roll", "log job make"),
    (ON_MAC,),
    "198.51.100.23",
    (8, 17),
    26,
)
CAROL = Actor(
    "carol",
    (*("dns set",) * 4, *("pool",) * 3, *("tunnel",) * 2, "dns add", "dns del"),
    (ON_WINDOWS,),
    "192.0.2.99",
    (13, 22),
    30,
    moves=(3, "198.51.100.180"),
)
BOB = Actor(
    "bob",
    (*("script",) * 6, *("kv put",) * 5, *("pages",) * 3, *("purge",) * 2, "secret", "bucket", "database"),
    (WRANGLER, WRANGLER, ON_MAC),
    "2001:db8:12::1a",
    (9, 18),
    38,
)
ERIN = Actor(
    "erin",
    (*("waf set",) * 5, *("access",) * 2, "setting", "allow address"),
    (ON_WINDOWS,),
    "198.51.100.31",
    (6, 15),
    14,
)
FRANK = Actor("frank", ("pages", "purge", "kv put"), (ON_MAC,), "2001:db8:77::5", (8, 16), 12, began_days_ago=4)


def _token(name: str, user_agent: str) -> tuple[Tool]:
    return (Tool("api_token", user_agent, name),)


TERRAFORM = Actor(
    "terraform-ci",
    (*("dns set",) * 3, "waf set", "setting", "pool", "access"),
    _token("terraform-ci", _TERRAFORM),
    "192.0.2.40",
    every_minutes=240,
    burst=8,
    rests_at_weekends=True,
    owner="dana",
)
EXTERNAL_DNS = Actor(
    "external-dns",
    ("dns add", "dns del"),
    _token("external-dns", _EXTERNAL_DNS),
    "192.0.2.41",
    (6, 22),
    every_minutes=30,
    burst=3,
    kind="account",
)
DEPLOY_BOT = Actor(
    "deploy-bot",
    ("purge", "purge", "pages"),
    _token("deploy-bot", "deploy-bot/2.3"),
    "192.0.2.42",
    (6, 20),
    every_minutes=60,
    burst=2,
    rests_at_weekends=True,
    owner="bob",
)
SYSTEM = Actor("system", ("certificate",), (Tool(""),), every_minutes=360, kind="system")

ACCOUNTS = (
    Account(
        "Example Shop",
        ("example.com", "shop.example", "example.net"),
        (OLIVIA, DANA, CAROL, BOB, ERIN, FRANK, TERRAFORM, EXTERNAL_DNS, DEPLOY_BOT, SYSTEM),
    ),
    Account(
        "Example Labs",
        ("labs.example", "example.org"),
        (
            replace(BOB, a_day=10),
            replace(ERIN, a_day=6),
            replace(
                TERRAFORM, name="terraform-labs", tools=_token("terraform-labs", _TERRAFORM), hours=(9, 18), burst=4
            ),
            replace(EXTERNAL_DNS, hours=(0, 24), every_minutes=720, burst=1),
        ),
    ),
)
"""Of several simulated accounts, the first is the first of these, and so on, again and again."""
