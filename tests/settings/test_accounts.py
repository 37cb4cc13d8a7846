"""Accounts with tokens and settings of their own: read from accounts.toml, refused with a line for each problem."""

import tomllib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from benchmarks.servers.commands import Finished
from pipelines.settings.settings import PROJECT_ROOT, Settings, SettingsError, read_settings

NOW = datetime(2026, 11, 24, tzinfo=UTC)
TOKENS = {"CLOUDFLARE_API_TOKEN": "shared-token", "TOKEN_ACME": "acme-token"}
PASTED = "Xk3_9fJq2LmZ8vTn4RbW7cYd1HgS6pQa0EuK5iOo"
"""As long as a real token, and a valid name of a variable."""

Read = Callable[..., Settings]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Settings with this text as accounts.toml."""

    def read(text: str, **values: str) -> Settings:
        (tmp_path / "accounts.toml").write_text(text)
        return read_settings({**TOKENS, **values}, now=NOW, root=tmp_path)

    return read


@pytest.fixture
def problems(read: Read) -> Callable[..., list[str]]:
    """Returns a function that gives the problems of a text as accounts.toml."""

    def problems(text: str, **values: str) -> list[str]:
        with pytest.raises(SettingsError) as caught:
            read(text, **values)
        return caught.value.problems

    return problems


def test_a_table_says_what_differs_and_the_variables_the_rest(read: Read, tmp_path: Path) -> None:
    """Each kind of value as TOML has it; accounts of both places are read, one of both as its table says."""
    (tmp_path / "globex").write_text("globex-token\n")
    (tmp_path / "initech").write_text("initech-token")
    settings = read(
        """
        [[accounts]]
        id = "acme"
        token_env = "TOKEN_ACME"
        CLOUDFLARE_API_VERSION = ["v2", "v1"]
        CLOUDFLARE_PER_PAGE = 500
        [[accounts]]
        id = "globex"
        token_file = "globex"
        CLOUDFLARE_HIDE_USER_LOGS = true
        INITIAL_CHECKPOINT = 2026-01-01
        [[accounts]]
        id = "initech"
        token_credential = "initech"
        CLOUDFLARE_SINCE_SAFETY_LAG_SECONDS = 60.5
        INITIAL_CHECKPOINT = 2026-01-01T12:00:00+01:00
        """,
        CLOUDFLARE_ACCOUNT_ID="acme,simple",
        CLOUDFLARE_DIRECTION="desc",
        CREDENTIALS_DIRECTORY=str(tmp_path),
    )
    acme, globex, initech, simple = (settings.account(name) for name in ("acme", "globex", "initech", "simple"))

    assert settings.account_ids == ("acme", "simple", "globex", "initech")
    assert [account.token for account in (acme, globex, initech, simple)] == [
        "acme-token",
        "globex-token",
        "initech-token",
        "shared-token",
    ]
    assert (acme.api_versions, acme.per_page, acme.direction) == (("v2", "v1"), 500, "desc")
    assert (globex.hide_user_logs, globex.initial_checkpoint) == (True, datetime(2026, 1, 1, tzinfo=UTC))
    assert (initech.safety_lag_seconds, initech.initial_checkpoint) == (60.5, datetime(2026, 1, 1, 11, tzinfo=UTC))
    assert (simple.safety_lag_seconds, simple.api_versions, simple.initial_checkpoint) == (900, ("v1", "v2"), None)
    assert [stream.name for stream in settings.streams][:3] == [
        "audit_logs_v2_acme",
        "audit_logs_v1_acme",
        "audit_logs_v1_simple",
    ]
    assert not [account.token for account in settings.accounts.values() if account.token in repr(settings)]
    assert not settings.warnings


def test_accounts_with_the_same_token_share_its_name_and_so_its_budget(read: Read) -> None:
    """However each refers to it."""
    tables = '[[accounts]]\nid = "a"\ntoken_env = "ONE"\n[[accounts]]\nid = "b"\ntoken_env = "TWO"\n'
    settings = read(
        f'{tables}[[accounts]]\nid = "c"\ntoken_env = "THREE"', ONE="same", TWO="same", THREE="shared-token"
    )

    assert [settings.account(name).token_name for name in "abc"] == ["ONE", "ONE", "CLOUDFLARE_API_TOKEN"]


def test_without_a_shared_token_each_account_needs_its_own(problems: Callable[..., list[str]]) -> None:
    """The ones that lack it are named."""
    tables = '[[accounts]]\nid = "a"\ntoken_env = "TOKEN_ACME"\n[[accounts]]\nid = "b"\n'

    assert problems(tables, CLOUDFLARE_API_TOKEN="") == [
        "CLOUDFLARE_API_TOKEN is missing for b: set it to a Cloudflare API token, in .env or the environment"
    ]


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ('id = "a"\ntoken = "s3cret-t0ken"', "token has no place here: say where the token is, by token_env"),
        ('id = "a"\nCLOUDFLARE_API_TOKEN = "s3cret-t0ken"', "CLOUDFLARE_API_TOKEN has no place here"),
        (
            f'id = "a"\ntoken_env = "{PASTED}"',
            "token_env must say where the token is, but holds what looks like a token",
        ),
        (f'id = "a"\ntoken_file = "{PASTED}"', "token_file must say where the token is, but holds what looks like"),
        (f'id = "a"\n{PASTED} = "x"', "a key of 40 characters is no setting of an account; a token has no place here"),
        (f'id = "a"\ntoken_env = "Authorization: Bearer {PASTED}."', "token_env must say where the token is"),
        (f'id = "a"\ntoken_file = "./{PASTED}"', "token_file must say where the token is"),
        (f'id = "a"\ntoken_env = "/run/secrets/{PASTED}"', "token_env must say where the token is"),
        ('id = "a"\ntoken_env = "NOT_THERE"', "(a): token_env 'NOT_THERE' is not set: set it to the account's token"),
        ('id = "a"\ntoken_file = "./none"', "token_file './none' ("),
        ('id = "a"\ntoken_credential = "none"', "token_credential 'none' ("),
        ('id = "a"\ntoken_env = "TOKEN_ACME"\ntoken_file = "./x"', "token_env and token_file both say where"),
        ('id = "a"\ntoken_env = "SPACED"', "token_env 'SPACED' has spaces or characters that no token has"),
        ('token_env = "TOKEN_ACME"', "account 1: id is missing"),
        ('id = "a/b"', "account 1: id ('a/b') is not an account id"),
        ('id = ""', "account 1: id is missing"),
        (
            'id = "a"\nCLOUDFLARE_PERPAGE = 5',
            "'CLOUDFLARE_PERPAGE' is not a setting of an account: did you mean CLOUDFL",
        ),
        ('id = "a"\nPG_HOST = "x"', "'PG_HOST' is not a setting of an account: "),
        (
            'id = "a"\nCLOUDFLARE_PER_PAGE = 5000',
            "(a): CLOUDFLARE_PER_PAGE ('5000') is not a whole number from 1 to 1000",
        ),
        ('id = "a"\nCLOUDFLARE_DIRECTION = {}', "(a): CLOUDFLARE_DIRECTION ('{}') is not one of asc, desc"),
        ('id = "a"\n[[accounts]]\nid = "a"', "account 2 (a): 'a' is there twice: keep one table for each account"),
        ('id = "a"\nINITIAL_CHECKPOINT = 2027-01-01', "INITIAL_CHECKPOINT ('2027-01-01') is in the future"),
    ],
)
def test_what_is_wrong_is_told_in_a_line_with_the_account_and_without_a_secret(
    problems: Callable[..., list[str]], table: str, told: str
) -> None:
    """Nothing was touched."""
    (line,) = problems(f"[[accounts]]\n{table}", SPACED="two words")

    assert told in line
    assert line.startswith("ACCOUNTS_FILE, account ")
    assert not [secret for secret in ("s3cret", PASTED, "acme-token", "two words") if secret in line]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[[accounts]\n", "cannot be read as TOML"),
        ('[[account]]\nid = "a"', "must hold tables [[accounts]] with an id each, and nothing else"),
        ('accounts = ["a", "b"]', "must hold tables [[accounts]]"),
        ("", "CLOUDFLARE_ACCOUNT_ID is missing: set it to one or several account ids"),
    ],
)
def test_a_file_of_another_form_is_told(problems: Callable[..., list[str]], text: str, told: str) -> None:
    """In one line."""
    (line,) = problems(text)

    assert told in line


def test_a_file_that_is_named_has_to_be_there(problems: Callable[..., list[str]]) -> None:
    """Without the name, it may be missing."""
    (line,) = problems("", ACCOUNTS_FILE="elsewhere.toml", CLOUDFLARE_ACCOUNT_ID="a")

    assert "elsewhere.toml) cannot be read as TOML: " in line


def test_commands_that_ask_no_api_need_no_tokens(tmp_path: Path) -> None:
    """A host that only rehydrates has none."""
    (tmp_path / "accounts.toml").write_text('[[accounts]]\nid = "a"\ntoken_env = "NOT_THERE"')

    settings = read_settings({}, now=NOW, asks_api=False, root=tmp_path)

    assert settings.account_ids == ("a",)


def test_the_example_is_right(read: Read, tmp_path: Path) -> None:
    """The example is valid as it stands, once its tokens are there."""
    text = (PROJECT_ROOT / "accounts.example.toml").read_text()
    for name in ("globex", "initech"):
        (tmp_path / name).write_text(f"{name}-token")
    text = text.replace("/run/secrets/globex", str(tmp_path / "globex"))

    settings = read(text, CREDENTIALS_DIRECTORY=str(tmp_path))

    assert len(settings.account_ids) == len(tomllib.loads(text)["accounts"]) == 4
    assert len({account.token_name for account in settings.accounts.values()}) == 4


@pytest.mark.integration
def test_every_command_says_what_is_wrong_with_the_file(command: Callable[..., Finished], tmp_path: Path) -> None:
    """Exit 2, from the loop and from the doctor."""
    (tmp_path / "accounts.toml").write_text('[[accounts]]\nid = "a"\ntoken = "s3cret-t0ken"')
    for arguments in (("pipelines/run.py", "--once"), ("pipelines/doctor.py",)):
        done = command(*arguments, ACCOUNTS_FILE=str(tmp_path / "accounts.toml"))

        assert done.code == 2, done.err
        assert "token has no place here" in done.err
        assert "s3cret" not in done.err + done.out
