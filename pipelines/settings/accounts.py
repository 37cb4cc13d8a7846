"""The accounts that are read: those of `CLOUDFLARE_ACCOUNT_ID`, and those of `accounts.toml`.

A table of that file says what differs: the token, by where it is, and settings under their own names.
"""

import re
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pipelines.host.masking import learn
from sources.cloudflare_audit_logs.streams import API_VERSIONS, Stream

from . import values
from .reader import SettingReader
from .secret_files import credential_file, read_secret

TOKEN = "CLOUDFLARE_API_TOKEN"  # noqa: S105  # the name of the setting
ACCOUNTS_FILE = "ACCOUNTS_FILE"
DEFAULT_FILE = "accounts.toml"

REFERENCES = ("token_env", "token_file", "token_credential")
"""The ways to say where an account's token is."""
OWN_SETTINGS = (
    "CLOUDFLARE_API_VERSION",
    "CLOUDFLARE_PER_PAGE",
    "CLOUDFLARE_DIRECTION",
    "CLOUDFLARE_HIDE_USER_LOGS",
    "CLOUDFLARE_SINCE_SAFETY_LAG_SECONDS",
    "INITIAL_CHECKPOINT",
)
"""The settings that an account may have of its own."""


SHORTEST_TOKEN = 30
"""Characters; Cloudflare's have 40. A name as long as that is not shown: it may be a token in the wrong place."""
_LOOKS_LIKE_A_TOKEN = "is to say where the token is; what is there looks like a token itself, and is nothing else"  # noqa: S105  # no token


LEAST_OVERLAP = timedelta(seconds=1)
"""Of a window with the one before it, whatever the safety lag: nothing is assumed of `since` and `before` being
inclusive, and an event may become visible that has the time of the cursor itself."""


@dataclass(frozen=True)
class Account:
    """How one account is read."""

    id: str = ""
    token: str = field(default="", repr=False)
    token_name: str = TOKEN
    """What the operator calls the token. Accounts with the same token share the name, and so the token's budget."""
    api_versions: tuple[str, ...] = API_VERSIONS
    """Sign-ins are in v2 alone, old and new values and script deployments in v1 alone."""
    per_page: int = 1000
    direction: str = "asc"
    hide_user_logs: bool = False
    safety_lag_seconds: float = 900.0
    initial_checkpoint: datetime | None = None

    @property
    def streams(self) -> list[Stream]:
        """The account in every version that is read."""
        return [Stream(self.id, version) for version in self.api_versions]

    @property
    def safety_lag(self) -> timedelta:
        """How far before its cursor a poll begins."""
        return max(timedelta(seconds=self.safety_lag_seconds), LEAST_OVERLAP)


def read_defaults(read: SettingReader, now: datetime) -> Account:
    """What an account has that says nothing else: the simple variables."""
    return _with_own(Account(token=read.optional(TOKEN, values.token, "")), read, now)


def read_accounts(
    read: SettingReader, environment: Mapping[str, str], root: Path, defaults: Account, *, now: datetime, asks_api: bool
) -> dict[str, Account]:
    """All accounts by id; an account of both places is as its table says. Tokens may be missing if nobody asks the API.

    Notes every problem with the reader.
    """
    ids = read.optional("CLOUDFLARE_ACCOUNT_ID", values.account_ids, tuple[str, ...]())
    accounts = {account_id: replace(defaults, id=account_id) for account_id in ids}
    try:
        tables = _tables(read, environment, root)
    except ValueError as error:
        read.problem(str(error))
        return accounts
    names = {defaults.token: TOKEN}
    for number, table in enumerate(tables, 1):
        of_table = _Table(table, f"account {number}", environment, root)
        account = of_table.account(defaults, now, asks_api=asks_api)
        if account.id in {other.get("id") for other in tables[: number - 1]}:
            of_table.problem(f"{account.id!r:.80} was there before: one table for each account")
        accounts[account.id] = replace(account, token_name=names.setdefault(account.token, account.token_name))
        read.names.add(str(table.get("token_env")))
        read.problems += of_table.problems
    if asks_api:
        _tell_missing(read, environment, accounts)
    return accounts


def token_files(environment: Mapping[str, str], root: Path) -> list[Path]:
    """The files that accounts say their tokens are in; none where the accounts' file is not right."""
    with suppress(ValueError):
        tables = _tables(SettingReader(environment), environment, root)
        return [root / table["token_file"] for table in tables if isinstance(table.get("token_file"), str)]
    return []


def _tell_missing(read: SettingReader, environment: Mapping[str, str], accounts: Mapping[str, Account]) -> None:
    where = "in .env or the environment"
    if not accounts and not environment.get("CLOUDFLARE_ACCOUNT_ID"):
        what = f"one or several account ids, comma separated, {where}, or list them in {DEFAULT_FILE}"
        read.problem(f"CLOUDFLARE_ACCOUNT_ID is missing: set it to {what}")
    without = [account_id for account_id, account in accounts.items() if account.token_name == TOKEN]
    if not environment.get(TOKEN) and (without or not accounts):
        whose = f" for {', '.join(without):.200}" if len(without) < len(accounts) else ""
        read.problem(f"{TOKEN} is missing{whose}: set it to a Cloudflare API token, {where}")


def _tables(read: SettingReader, environment: Mapping[str, str], root: Path) -> list[dict[str, Any]]:
    """The tables of the accounts' file, if there is one.

    Raises:
        ValueError: it holds something else.
    """
    read.names.add(ACCOUNTS_FILE)
    named = environment.get(ACCOUNTS_FILE)
    file = root / (named or DEFAULT_FILE)
    if named is None and not file.exists():
        return []
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{ACCOUNTS_FILE} ({file}) cannot be read as TOML: {error}") from error
    tables = content.pop("accounts", [])
    if content or not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ValueError(f"{ACCOUNTS_FILE} ({file}) is to hold tables [[accounts]] with an id each, and nothing else")
    return tables


class _Table(SettingReader):
    """Reads one account, and names it in its problems."""

    def __init__(self, table: Mapping[str, Any], name: str, environment: Mapping[str, str], root: Path) -> None:
        super().__init__({key: _text(value) for key, value in table.items()})
        self._table, self._variables, self._root = table, environment, root
        self._name = f"{ACCOUNTS_FILE}, {name}"

    def problem(self, text: str) -> None:
        self.problems.append(f"{self._name}: {text}")

    def account(self, defaults: Account, now: datetime, *, asks_api: bool) -> Account:
        account_id = self.optional("id", values.account_id, "")
        if not self._table.get("id"):
            self.problem("id is missing: set it to the account's id")
        elif account_id:
            self._name += f" ({account_id})"
        for key in self._table.keys() - {"id", *REFERENCES, *OWN_SETTINGS}:
            self.problem(_why_not(key))
        account = replace(_with_own(defaults, self, now), id=account_id)
        return self._with_token(account, asks_api=asks_api)

    def _with_token(self, account: Account, *, asks_api: bool) -> Account:
        named = [reference for reference in REFERENCES if reference in self._table]
        if len(named) > 1:
            self.problem(f"{' and '.join(named)} both say where the token is: keep one of them")
        if len(named) != 1 or not asks_api:
            return account
        (reference,) = named
        name = str(self._table[reference])
        try:
            return replace(account, token=values.token(self._token(reference, name)), token_name=name)
        except ValueError as error:
            says = _LOOKS_LIKE_A_TOKEN if _may_be_token(reference, name) else f"{name!r} {error}"
            self.problem(f"{reference} {says}")
            return replace(account, token_name=reference)

    def _token(self, reference: str, name: str) -> str:
        if reference == "token_file":
            return read_secret(self._root / name)
        if reference == "token_credential":
            return read_secret(credential_file(self._variables, name))
        if not self._variables.get(name):
            raise ValueError("is not set: set it to the account's token, in .env or the environment")
        learn(name, self._variables[name])
        return self._variables[name]


def _with_own(account: Account, read: SettingReader, now: datetime) -> Account:
    """The account with the settings that the reader has, checked."""
    lag = values.seconds(0, 30 * 86_400)
    return replace(
        account,
        api_versions=read.optional("CLOUDFLARE_API_VERSION", values.api_versions, account.api_versions),
        per_page=read.optional("CLOUDFLARE_PER_PAGE", values.whole(1, 1000), account.per_page),
        direction=read.optional("CLOUDFLARE_DIRECTION", values.choice("asc", "desc"), account.direction),
        hide_user_logs=read.optional("CLOUDFLARE_HIDE_USER_LOGS", values.boolean, account.hide_user_logs),
        safety_lag_seconds=read.optional("CLOUDFLARE_SINCE_SAFETY_LAG_SECONDS", lag, account.safety_lag_seconds),
        initial_checkpoint=read.optional("INITIAL_CHECKPOINT", values.past(now), account.initial_checkpoint),
    )


def _text(value: object) -> str:
    """A value of TOML as it would stand in `.env`."""
    if isinstance(value, list):
        return ",".join(map(_text, value))
    return value.isoformat() if isinstance(value, date) else str(value)


def _may_be_token(reference: str, name: str) -> bool:
    """True if a part of what stands there is as long as a token."""
    last = Path(name).name if reference == "token_file" else name
    return any(len(word) >= SHORTEST_TOKEN for word in re.split(r"[^A-Za-z0-9_-]", last))


def _why_not(key: str) -> str:
    if len(key) >= SHORTEST_TOKEN and key not in OWN_SETTINGS:
        return f"a key of {len(key)} characters is no setting of an account; a token has no place here"
    if key == TOKEN or key.lower() == "token":
        return f"{key} has no place here: say where the token is, by {', '.join(REFERENCES)}"
    close = get_close_matches(key, ["id", *REFERENCES, *OWN_SETTINGS], n=1)
    meant = f"did you mean {close[0]}?" if close else f"there are id, {', '.join([*REFERENCES, *OWN_SETTINGS])}"
    return f"{key!r:.80} is not a setting of an account: {meant}"
