"""Settings are checked all at once, each problem with a hint, before anything is touched."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from dlt.common.normalizers.naming.snake_case import NamingConvention as SnakeCase
from hypothesis import given
from hypothesis import strategies as st

from pipelines.settings.settings import Settings, SettingsError, read_environment, read_settings
from pipelines.settings.values import identifier

NOW = datetime(2026, 11, 24, tzinfo=UTC)
REQUIRED = {"CLOUDFLARE_API_TOKEN": "canary-token", "CLOUDFLARE_ACCOUNT_ID": "a1"}


def read(**values: str) -> Settings:
    """Settings of a valid environment and these values."""
    return read_settings({**REQUIRED, **values}, now=NOW)


def problems(**values: str) -> list[str]:
    """Returns the problems of a valid environment with these values."""
    with pytest.raises(SettingsError) as caught:
        read(**values)
    return caught.value.problems


def test_a_token_and_an_account_are_enough() -> None:
    """The defaults are the contract's."""
    settings = read()

    account = settings.account("a1")
    assert (account.api_versions, settings.poll_interval_seconds, account.per_page) == (("v1", "v2"), 30, 1000)
    assert (account.direction, account.hide_user_logs, account.safety_lag_seconds) == ("asc", False, 900)
    assert (settings.request_timeout_seconds, settings.max_retries) == (30, 3)
    assert (settings.backoff_seconds, settings.backoff_max_seconds) == (1, 300)
    assert (settings.stores.postgres, settings.stores.s3, settings.stores.postgres_schema) == (None, None, "public")
    assert settings.api_url == "https://api.cloudflare.com/client/v4"
    assert settings.first_begin(settings.streams[0], NOW) == datetime(2026, 10, 25, tzinfo=UTC)


def test_all_problems_are_told_at_once() -> None:
    """Nobody wants to start a program five times."""
    with pytest.raises(SettingsError) as caught:
        read_settings({"CLOUDFLARE_PER_PAGE": "0", "S3_BUCKET": "No!", "PG_PORT": "99"}, now=NOW)

    names = ("CLOUDFLARE_API_TOKEN", "CLOUDFLARE_ACCOUNT_ID", "CLOUDFLARE_PER_PAGE", "S3_BUCKET", "PG_PORT")
    assert all(any(name in problem for problem in caught.value.problems) for name in names)


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        ("CLOUDFLARE_PER_PAGE", "1001", "1 to 1000"),
        ("CLOUDFLARE_PER_PAGE", "ten", "whole number"),
        ("CLOUDFLARE_DIRECTION", "up", "asc, desc"),
        ("CLOUDFLARE_API_VERSION", "v1,v3", "v1,v2"),
        ("CLOUDFLARE_HIDE_USER_LOGS", "perhaps", "true nor false"),
        ("CLOUDFLARE_API_URL", "api.cloudflare.com", "https://"),
        ("CLOUDFLARE_API_URL", "https://user:pw@host/", "password"),
        ("CLOUDFLARE_BACKOFF_SECONDS", "301", "CLOUDFLARE_BACKOFF_MAX_SECONDS"),
        ("POLL_INTERVAL_SECONDS", "0", "seconds"),
        ("METRICS_PORT", "65536", "0 to 65535"),
        ("METRICS_HOST", "http://localhost", "name or address alone"),
        ("PG_SCHEMA", "audit__logs", "single _"),
        ("PG_SCHEMA", "audit_", "single _"),
        ("PG_SCHEMA", "pg_audit", "schema name"),
        ("DATA_DIR", "50%", "folder"),
        ("INITIAL_CHECKPOINT", "0001-01-01", "1900"),
        ("POLL_INTERVAL_SECONDS", "nan", "seconds"),
        ("INITIAL_CHECKPOINT", "last week", "2026-01-31T00:00:00Z"),
        ("INITIAL_CHECKPOINT", "2027-01-01", "future"),
        ("PG_HOST", "postgres://h/db", "name or address alone"),
        ("PG_PORT", "5432", "without PG_HOST"),
        ("PG_SCHEMA", "Robert'); DROP", "small letters"),
        ("S3_ENDPOINT", "http://localhost:9000", "without S3_BUCKET"),
        ("S3_BUCKET", "lake/prefix", "S3_PREFIX"),
        *(("S3_PREFIX", value, "path") for value in ("../up", "a//b", "a b", "a'b", "a\nb", "*", "%2e%2e", "a/./b")),
        *(
            ("CLOUDFLARE_ACCOUNT_ID", value, "account ids")
            for value in ("../a", "a/b", "a'b", "a\x00b", "a\nb", "*", "%2e", "", "ü")
            if value
        ),
    ],
)
def test_a_wrong_value_is_told_with_what_to_write(name: str, value: str, hint: str) -> None:
    """One line, with the name, and the value where it is no secret."""
    told = [problem for problem in problems(**{name: value}) if name in problem]

    assert len(told) == 1
    assert hint in told[0]


def test_a_key_pair_belongs_together() -> None:
    """Half of one would ask the wrong chain for the other half."""
    told = problems(S3_BUCKET="lake", S3_ACCESS_KEY="id")

    assert "belong together" in told[0]


def test_secrets_show_neither_in_problems_nor_in_the_settings() -> None:
    """Whatever is logged of them."""
    secrets = {"CLOUDFLARE_API_TOKEN": "canary token", "PG_PASSWORD": "canary-pw", "S3_SECRET_KEY": "canary-s3"}
    told = problems(**secrets)
    stores = {"PG_HOST": "h", "PG_PASSWORD": "canary-pw", "S3_BUCKET": "lake", "S3_ACCESS_KEY": "id"}

    shown = repr(read(**stores, S3_SECRET_KEY="canary-s3"))

    assert "canary" not in shown + "".join(told)


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("2026-01-31", "2026-01-31T00:00:00+00:00"),
        ("2026-01-31T12:00:00", "2026-01-31T12:00:00+00:00"),
        ("2026-01-31T12:00:00+02:00", "2026-01-31T10:00:00+00:00"),
    ],
)
def test_the_initial_checkpoint_is_a_day_or_a_time_in_utc(text: str, meaning: str) -> None:
    """Without a zone it is UTC."""
    settings = read(INITIAL_CHECKPOINT=text)
    assert settings.first_begin(settings.streams[0], NOW) == datetime.fromisoformat(meaning)


def test_several_accounts_are_read_once_each() -> None:
    """Spaces and doubles do no harm; each account in each version is a stream."""
    settings = read(CLOUDFLARE_ACCOUNT_ID=" a1, b2 ,a1,", CLOUDFLARE_API_VERSION="v2,v1")

    assert [stream.name for stream in settings.streams] == [
        "audit_logs_v2_a1",
        "audit_logs_v1_a1",
        "audit_logs_v2_b2",
        "audit_logs_v1_b2",
    ]


def test_a_name_that_is_no_setting_is_warned_of() -> None:
    """With the one that was probably meant."""
    warnings = read(CLOUDFLARE_POLL="1", PG_PASWORD="x", S3_BUCKETS="y", HOME="/").warnings

    assert len(warnings) == 3
    assert "did you mean PG_PASSWORD?" in "".join(warnings)


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("POLL_INTERVAL_SECOND", "POLL_INTERVAL_SECONDS"),
        ("INITIAL_CHECKPIONT", "INITIAL_CHECKPOINT"),
        ("LOGLEVEL", "LOG_LEVEL"),
        ("log_format", "LOG_FORMAT"),
        ("DATADIR", "DATA_DIR"),
        ("HEARTBEAT", "HEARTBEAT_URL"),
    ],
)
def test_a_misspelt_name_in_the_file_is_warned_of(tmp_path: Path, wrong: str, meant: str) -> None:
    """Also one without a prefix of ours; of the environment, which is everybody's, no such name is."""
    others = ("TZ=UTC", "AWS_REGION=x", "POSTGRES_USER=x", "READER_PASSWORD=x", "LANG=C")
    (tmp_path / ".env").write_text("\n".join((f"{wrong}=1", *others)))

    found = read_settings(REQUIRED, now=NOW, root=tmp_path).warnings
    of_environment = read(**{wrong: "1"}).warnings

    of_file = [warning for warning in found if "others may read it" not in warning]
    assert of_file == [f"{wrong} is not a setting and is ignored: did you mean {meant}?"]
    assert of_environment == ()


def test_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable of the environment replaces the file's value, also if it is set to nothing."""
    (tmp_path / ".env").write_text("PG_HOST=file\nPG_USER=file\nS3_BUCKET='file'\n")
    monkeypatch.setenv("PG_HOST", "environment")
    monkeypatch.setenv("PG_USER", "")
    monkeypatch.delenv("S3_BUCKET", raising=False)

    values = read_environment(tmp_path)

    assert (values["PG_HOST"], values.get("PG_USER"), values["S3_BUCKET"]) == ("environment", None, "file")


@given(st.from_regex(r"[a-z0-9_]{1,63}", fullmatch=True))
def test_dlt_gives_the_schema_no_other_name(name: str) -> None:
    """It would load into one schema, and we would look into the other."""
    try:
        accepted = identifier(name)
    except ValueError:
        return

    assert SnakeCase(max_length=63).normalize_table_identifier(accepted) == name


def test_a_file_that_is_not_text_is_told(tmp_path: Path) -> None:
    """With its name."""
    (tmp_path / ".env").write_bytes(b"S3_PREFIX=caf\xe9\n")

    with pytest.raises(SettingsError, match=r"\.env is not UTF-8 text"):
        read_environment(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PG_HOST", "postgres://audit:canary-pw@db/audit"),
        ("CLOUDFLARE_API_URL", "https://u:canary-pw@host/x"),
        ("CLOUDFLARE_API_URL", "https://host/x?token=canary-pw"),
        ("METRICS_HOST", "https://u:canary-pw@host"),
        ("S3_BUCKET", "s3://key:canary-pw@bucket"),
        ("CLOUDFLARE_ACCOUNT_ID", "canary-pwXk3fJq2LmZ8vTn4RbW7cYd1HgS6pQa0"),
        ("PG_HOST", "host=db password=canary-pw"),
    ],
)
def test_a_secret_in_the_wrong_place_is_refused_and_not_shown(name: str, value: str) -> None:
    """The paste of a database's URL, or of the token."""
    told = problems(**{name: value})

    assert [line.split(" ")[0] for line in told] == [name]
    assert "canary" not in "".join(told)


@pytest.mark.parametrize("name", ["PG_DATABASE", "PG_USER", "PG_OWNER_USER"])
def test_a_name_is_no_url(name: str) -> None:
    """PostgreSQL would repeat it in its errors."""
    (told,) = problems(PG_HOST="h", **{name: "postgres://audit:canary-pw@db/audit"})

    assert told == f"{name} is a URL: write the name alone; host, user and password are settings of their own"


def test_a_wrong_value_is_told_alone() -> None:
    """Not that what goes with it has no effect."""
    details = {"S3_ENDPOINT": "http://s3", "S3_ACCESS_KEY": "a", "S3_SECRET_KEY": "b", "PG_PORT": "1", "PG_USER": "u"}

    assert [line.split(" ")[0] for line in problems(S3_BUCKET="b", PG_HOST="a b", **details)] == [
        "PG_HOST",
        "S3_BUCKET",
    ]


def test_an_env_file_that_is_a_folder_is_told(tmp_path: Path) -> None:
    """A container's mount makes one where no file is."""
    (tmp_path / ".env").mkdir()

    with pytest.raises(SettingsError, match=r"\.env cannot be read: Is a directory; see what it is, and its rights"):
        read_environment(tmp_path)
