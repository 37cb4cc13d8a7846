"""The incident of the story: one night and the morning after it, step by step. A table.

Somebody guesses dana's password from an address that nobody has ever used, makes a token, invites an owner of their
own, points the check-out to themselves, and blinds what would show it. olivia finds it at breakfast.
"""

from dataclasses import dataclass

from .cast import DANA, OLIVIA, ON_MAC, Actor, Tool

_INVITED = "helpdesk@example.org"
STRANGER = Actor("helpdesk", (), (), domain="example.org")
"""The one who was invited, from outside the company."""
_LINUX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
_BROWSER, _SCRIPT = Tool("dash", _LINUX), Tool("api_token", "curl/8.14.1", "backup-sync")
_ADDRESS, _SECOND_ADDRESS = "203.0.113.66", "2001:db8:bad::5"


@dataclass(frozen=True)
class Step:
    """One deed of the incident's day."""

    at: str
    """UTC."""
    deed: str
    who: Actor
    tool: Tool
    address: str
    name: str = ""
    """Of what it is done to; the same name is the same resource in every step."""
    old: str = ""
    new: str = ""
    times: int = 1
    every_seconds: int = 0
    has_failed: bool = False


def _night(at: str, deed: str, name: str = "", old: str = "", new: str = "") -> Step:
    return Step(at, deed, DANA, _BROWSER, _ADDRESS, name, old, new)


def _by_token(at: str, deed: str, name: str = "", old: str = "", new: str = "") -> Step:
    return Step(at, deed, DANA, _SCRIPT, _SECOND_ADDRESS, name, old, new)


def _morning(at: str, deed: str, name: str = "", old: str = "", new: str = "") -> Step:
    return Step(at, deed, OLIVIA, ON_MAC, OLIVIA.address, name, old, new)


_ALL_RIGHTS, _OWNER = "DNS Write, Zone WAF Write, Logs Write", "Super Administrator - All Privileges"
_OURS, _THEIRS, _THEIR_NET = "192.0.2.10", "203.0.113.200", "203.0.113.0/24"

INCIDENT = (
    Step("01:47:12", "sign in", DANA, _BROWSER, _ADDRESS, times=7, every_seconds=41, has_failed=True),
    _night("01:58:40", "sign in"),
    _night("02:01:05", "key view"),
    _night("02:03:31", "token make", "backup-sync", new=_ALL_RIGHTS),
    _night("02:06:18", "member add", _INVITED, new=_OWNER),
    _by_token("02:14:02", "dns set", "pay", _OURS, _THEIRS),
    _by_token("02:14:09", "dns add", "login", new=_THEIRS),
    _by_token("02:15:27", "waf off", "protect payments"),
    _by_token("02:15:44", "setting", "ssl", "strict", "flexible"),
    _by_token("02:16:10", "allow address", "office backup", new=_THEIR_NET),
    _by_token("02:18:33", "log job delete", "to-siem"),
    Step("03:02:51", "sign in", STRANGER, _BROWSER, _ADDRESS),
    _morning("07:12:20", "sign in"),
    _morning("07:31:09", "token revoke", "backup-sync"),
    _morning("07:32:46", "member remove", _INVITED, _OWNER),
    _morning("07:36:15", "dns set", "pay", _THEIRS, _OURS),
    _morning("07:36:58", "dns del", "login", _THEIRS),
    _morning("07:39:30", "waf on", "protect payments"),
    _morning("07:40:11", "setting", "ssl", "flexible", "strict"),
    _morning("07:41:02", "disallow address", "office backup", _THEIR_NET),
    _morning("07:48:27", "log job make", "to-siem"),
    Step("08:05:40", "key rotate", DANA, ON_MAC, DANA.address),
)
