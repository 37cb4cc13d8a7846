"""The accounts that are read: those of `CLOUDFLARE_ACCOUNT_ID`, and those of `accounts.toml`.

A table of that file says what differs: where the token is, and settings under their own names.
"""

# ruff: noqa: RUF009  # setting() is dataclasses.field()

import re
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pipelines.host.masking import learn
from sources.cloudflare_audit_logs.streams import API_VERSIONS, Stream

from . import values
from .reader import SettingReader, names_of, setting
from .secret_files import credential_file, read_secret

TOKEN = "CLOUDFLARE_API_TOKEN"  # noqa: S105  # the name of the setting
ACCOUNTS_FILE = "ACCOUNTS_FILE"
DEFAULT_FILE = "accounts.toml"
REFERENCES = ("token_env", "token_file", "token_credential")
"""The ways to say where an account's token is."""

SHORTEST_TOKEN = 30
"""Characters; Cloudflare's have 40. A name as long as that is not shown: it may be a token in the wrong place."""

LEAST_OVERLAP = timedelta(seconds=1)
"""The overlap of two windows, whatever the safety lag: nothing is assumed of `since` and `before` being inclusive,
and an event may become visible that has the time of the cursor itself."""


@dataclass(frozen=True)
class Account:
    """The settings of one account."""

    id: str = ""
    name: str = ""
    """The operator's name for the account, which the dashboard shows; nothing else uses it."""
    token: str = setting(TOKEN, values.token, "")
    token_name: str = TOKEN
    """The operator's name for the token. Accounts with the same token share the name, and so the token's budget."""
    api_versions: tuple[str, ...] = setting("CLOUDFLARE_API_VERSION", values.api_versions, API_VERSIONS)
    """Sign-ins are in v2 alone, old and new values and script deployments in v1 alone."""
    per_page: int = setting("CLOUDFLARE_PER_PAGE", values.whole(1, 1000), 1000)
    direction: str = setting("CLOUDFLARE_DIRECTION", values.choice("asc", "desc"), "asc")
    hide_user_logs: bool = setting("CLOUDFLARE_HIDE_USER_LOGS", values.boolean, default=False)
    safety_lag_seconds: float = setting("CLOUDFLARE_SINCE_SAFETY_LAG_SECONDS", values.seconds(0, 30 * 86_400), 900.0)
    initial_checkpoint: datetime | None = setting("INITIAL_CHECKPOINT", values.time, None)

    @property
    def streams(self) -> list[Stream]:
        """The account in every version that is read."""
        return [Stream(self.id, version) for version in self.api_versions]

    @property
    def safety_lag(self) -> timedelta:
        """The time before its cursor at which a poll begins."""
        return max(timedelta(seconds=self.safety_lag_seconds), LEAST_OVERLAP)


OWN_SETTINGS = tuple(name for name in names_of(Account) if name != TOKEN)
"""The settings that an account may have of its own."""


def read_accounts(
    read: SettingReader, environment: Mapping[str, str], root: Path, defaults: Account, *, asks_api: bool
) -> dict[str, Account]:
    """All accounts by id; an account of both places is as its table says. Tokens may be missing if nobody asks the API.

    Notes every problem with the reader.
    """
    ids = read.optional("CLOUDFLARE_ACCOUNT_ID", values.account_ids, tuple[str, ...]())
    accounts = {account_id: replace(defaults, id=account_id) for account_id in ids}
    read.names.add(ACCOUNTS_FILE)
    try:
        tables = _tables(environment, root)
    except ValueError as error:
        read.problem(str(error))
        return accounts
    names = {defaults.token: TOKEN}
    listed = set[str]()
    for number, table in enumerate(tables, 1):
        own, account = _read_table(table, number, defaults, read.now)
        if account.id and account.id in listed:
            own.problem(f"{account.id!r:.80} is there twice: keep one table for each account")
        listed.add(account.id)
        token, name = _read_token(own, table, environment, root, asks_api=asks_api) or (account.token, TOKEN)
        accounts[account.id] = replace(account, token=token, token_name=names.setdefault(token, name))
        read.names.add(str(table.get("token_env")))
        read.problems += own.problems
    if asks_api:
        _note_missing(read, environment, accounts)
    return accounts


def token_files(environment: Mapping[str, str], root: Path) -> list[Path]:
    """The files that accounts say their tokens are in; none where the accounts' file is not right."""
    with suppress(ValueError):
        named = [table.get("token_file") for table in _tables(environment, root)]
        return [root / name for name in named if isinstance(name, str)]
    return []


def _note_missing(read: SettingReader, environment: Mapping[str, str], accounts: Mapping[str, Account]) -> None:
    where = "in .env or the environment"
    if not accounts and not environment.get("CLOUDFLARE_ACCOUNT_ID"):
        what = f"one or several account ids, comma separated, {where}, or list them in {DEFAULT_FILE}"
        read.problem(f"CLOUDFLARE_ACCOUNT_ID is missing: set it to {what}")
    without = [account_id for account_id, account in accounts.items() if account.token_name == TOKEN]
    if not environment.get(TOKEN) and (without or not accounts):
        whose = f" for {', '.join(without):.200}" if len(without) < len(accounts) else ""
        read.problem(f"{TOKEN} is missing{whose}: set it to a Cloudflare API token, {where}")


def _tables(environment: Mapping[str, str], root: Path) -> list[dict[str, Any]]:
    """The tables of the accounts' file, if there is one; ValueError if it holds something else."""
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
        raise ValueError(f"{ACCOUNTS_FILE} ({file}) must hold tables [[accounts]] with an id each, and nothing else")
    return tables


def _read_table(
    table: Mapping[str, Any], number: int, defaults: Account, now: datetime | None
) -> tuple[SettingReader, Account]:
    """One account but for its token, and the reader that names it in its problems."""
    name = f"{ACCOUNTS_FILE}, account {number}"
    texts = {key: _text(table[key]) for key in ("id", *OWN_SETTINGS) if key in table}
    own = SettingReader(texts, where=f"{name}: ", now=now)
    account_id = own.optional("id", values.account_id, "")
    if not table.get("id"):
        own.problem("id is missing: set it to the account's id")
    elif account_id:
        own.where = f"{name} ({account_id}): "
    for key in table.keys() - {"id", "name", *REFERENCES, *OWN_SETTINGS}:
        own.problem(_why_not(key))
    return own, own.filled(replace(defaults, id=account_id, name=str(table.get("name", ""))))


def _read_token(
    own: SettingReader, table: Mapping[str, Any], environment: Mapping[str, str], root: Path, *, asks_api: bool
) -> tuple[str, str] | None:
    """The account's own token and what it is called, if the table names one."""
    named = [reference for reference in REFERENCES if reference in table]
    if len(named) > 1:
        own.problem(f"{' and '.join(named)} both say where the token is: keep one of them")
    if len(named) != 1 or not asks_api:
        return None
    (reference,) = named
    name = str(table[reference])
    try:
        if reference == "token_env":
            if not environment.get(name):
                raise ValueError("is not set: set it to the account's token, in .env or the environment")
            learn(name, environment[name])
            return values.token(environment[name]), name
        file = root / name if reference == "token_file" else credential_file(environment, name)
        return values.token(read_secret(file)), name
    except ValueError as error:
        place = Path(name).name if reference == "token_file" else name
        may_be_token = any(len(word) >= SHORTEST_TOKEN for word in re.split(r"[^A-Za-z0-9_-]", place))
        like_one = "must say where the token is, but holds what looks like a token"
        own.problem(f"{reference} {like_one if may_be_token else f'{name!r} {error}'}")
        return None


def _text(value: object) -> str:
    """A value of TOML as it would stand in `.env`."""
    if isinstance(value, list):
        return ",".join(map(_text, value))
    return value.isoformat() if isinstance(value, date) else str(value)


def _why_not(key: str) -> str:
    if len(key) >= SHORTEST_TOKEN and key not in OWN_SETTINGS:
        return f"a key of {len(key)} characters is no setting of an account; a token has no place here"
    if key == TOKEN or key.lower() == "token":
        return f"{key} has no place here: say where the token is, by {', '.join(REFERENCES)}"
    known = ["id", "name", *REFERENCES, *OWN_SETTINGS]
    close = get_close_matches(key, known, n=1)
    meant = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
    return f"{key!r:.80} is not a setting of an account: {meant}"
