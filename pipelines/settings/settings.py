"""The settings: read once from the environment and `.env`, checked all at once, frozen. Touches nothing else.

The names, defaults and meanings are the contract; `.env.example` and `config.example.env` carry each with a comment.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

from dotenv import dotenv_values
from dotenv.parser import parse_stream

from pipelines.host.masking import learn_environment, learn_files, learn_shown
from sources.cloudflare_audit_logs.streams import Stream

from . import values
from .accounts import Account, read_accounts, read_defaults, token_files
from .reader import SettingReader
from .secret_files import read_secrets, readable_by_others

PROJECT_ROOT = Path(__file__).resolve().parents[2]
DEFAULT_HISTORY = timedelta(days=30)


class SettingsError(Exception):
    """Everything that is wrong with the settings, one line each (exit 2)."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class UsageError(Exception):
    """What a command was asked for makes no sense here (exit 2). Nothing was touched."""


@dataclass(frozen=True)
class PostgresSettings:
    """How to reach the warehouse's PostgreSQL."""

    host: str
    """As libpq takes it: a name, an address, a socket (`/folder`, `@name`), or several, comma separated."""
    port: int
    database: str
    user: str
    password: str = field(repr=False)
    sslmode: str = "prefer"
    ports: str = ""
    """One for each of several hosts, comma separated, where there are several."""


@dataclass(frozen=True)
class OwnerSettings:
    """The role that makes the tables, where the one that loads does not own them."""

    user: str
    password: str = field(repr=False)


@dataclass(frozen=True)
class TimescaleSettings:
    """What TimescaleDB makes of the warehouse's table, where it is there."""

    chunk_days: int = 7
    """Zero: the table stays a plain one."""
    compress_after_days: int = 30
    """Zero: never."""
    retention_days: int = 0
    """Zero: nothing is deleted. Also how old an event may be to be loaded into the warehouse, TimescaleDB or not."""


@dataclass(frozen=True)
class S3Settings:
    """How to reach the lake's bucket. Without keys, the usual AWS chain is asked."""

    bucket: str
    endpoint: str | None
    access_key: str | None
    secret_key: str | None = field(repr=False)
    region: str | None = None


@dataclass(frozen=True)
class StoreSettings:
    """Where the events go."""

    postgres: PostgresSettings | None
    """None: the embedded PostgreSQL."""
    postgres_owner: OwnerSettings | None
    postgres_schema: str
    timescale: TimescaleSettings
    s3: S3Settings | None
    """None: the folder `data/lake`."""
    lake_prefix: str
    data_dir: Path

    @property
    def postgres_dir(self) -> Path:
        """The cluster of the embedded PostgreSQL."""
        return self.data_dir / "postgres"

    @property
    def lake_url(self) -> str:
        """The lake's root as dlt takes it, prefix included."""
        root = f"s3://{self.s3.bucket}" if self.s3 else (self.data_dir / "lake").as_uri()
        return f"{root}/{self.lake_prefix}" if self.lake_prefix else root


@dataclass(frozen=True)
class Settings:
    """All that a run needs to know. Secrets do not show in its `repr`."""

    accounts: Mapping[str, Account]
    """By id."""
    defaults: Account
    """What an account has that says nothing else."""
    api_url: str
    poll_interval_seconds: float
    request_timeout_seconds: float
    max_retries: int
    backoff_seconds: float
    backoff_max_seconds: float
    sweep_interval_seconds: float
    sweep_window_hours: float
    reconcile_after_hours: tuple[float, ...]
    metrics_port: int | None
    """None: metrics and health are not served. Zero: at a free port."""
    metrics_host: str
    stores: StoreSettings
    warnings: tuple[str, ...] = ()
    """Of what does no harm at once: names that are no settings, files that others may read."""

    @property
    def account_ids(self) -> tuple[str, ...]:
        """The accounts that are read."""
        return tuple(self.accounts)

    @property
    def streams(self) -> list[Stream]:
        """Every account in every version that is read."""
        return self.streams_of(self.account_ids)

    def streams_of(self, account_ids: Sequence[str]) -> list[Stream]:
        """Some accounts in every version that is read."""
        return [stream for account_id in account_ids for stream in self.account(account_id).streams]

    def account(self, account_id: str) -> Account:
        """How an account is read; one that is not in the settings, as the simple variables say."""
        return self.accounts.get(account_id) or replace(self.defaults, id=account_id)

    def is_read(self, stream: Stream) -> bool:
        """True if the account is read in this version."""
        return stream in self.account(stream.account_id).streams

    def is_all_asked_for(self, stream: Stream) -> bool:
        """True if nothing is hidden from us that the API has of the stream: only v1 hides."""
        return stream.api_version != "v1" or not self.account(stream.account_id).hide_user_logs

    def safety_lag(self, stream: Stream) -> timedelta:
        """How far before its cursor a poll of the stream begins."""
        return self.account(stream.account_id).safety_lag

    @property
    def poll_interval(self) -> timedelta:
        """The time between two polls."""
        return timedelta(seconds=self.poll_interval_seconds)

    @property
    def sweep_interval(self) -> timedelta:
        """The time between two sweeps; zero: none."""
        return timedelta(seconds=self.sweep_interval_seconds)

    @property
    def sweep_window(self) -> timedelta:
        """How late an event may become visible and still be found."""
        return timedelta(hours=self.sweep_window_hours)

    @property
    def sweeps_dir(self) -> Path:
        """Where the times of the last sweeps are."""
        return self.stores.data_dir / "sweeps"

    def first_begin(self, stream: Stream, now: datetime) -> datetime:
        """Where a stream begins that neither store has seen: `INITIAL_CHECKPOINT`, or 30 days ago."""
        return self.account(stream.account_id).initial_checkpoint or now - DEFAULT_HISTORY


def read_environment(root: Path = PROJECT_ROOT) -> dict[str, str]:
    """The environment over the project's `.env`, and secrets from files; what is set to nothing counts as not set.

    Raises:
        SettingsError: `.env` is not text or has a line that sets nothing, or a secret's file gives none.
    """
    try:
        if problems := _lines_without_value(root / ".env"):
            raise SettingsError(problems)
        # Without interpolation: a password may have `${` in it.
        merged = {**dotenv_values(root / ".env", interpolate=False), **os.environ}
    except UnicodeDecodeError as error:
        raise SettingsError([f"{root / '.env'} is not UTF-8 text: {error}; save it as that"]) from error
    except OSError as error:
        raise SettingsError(
            [f"{root / '.env'} cannot be read: {error.strerror}; see what it is, and its rights"]
        ) from error
    environment = {name: value for name, value in merged.items() if value}
    secrets, problems = read_secrets(environment, root)
    if problems:
        raise SettingsError(problems)
    environment |= secrets
    learn_environment(environment)
    learn_files(Path(environment.get("DLT_PROJECT_DIR", root), ".dlt"), Path.home() / ".dlt")
    return environment


def _lines_without_value(file: Path) -> list[str]:
    """What `dotenv` would leave out; not shown, because there may be a secret in it."""
    if not file.exists():
        return []
    with file.open(encoding="utf-8") as text:
        wrong = [line for line in parse_stream(text) if line.error or (line.key is not None and line.value is None)]
    how = "write it as NAME=value, a quote that is opened closed again, a comment after #"
    return [f"{file}, line {line.original.line}: {how}" for line in wrong]


def read_settings(
    environment: Mapping[str, str], *, now: datetime, asks_api: bool = True, root: Path = PROJECT_ROOT
) -> Settings:
    """The checked settings; token and accounts may be missing where the API is not asked.

    Raises:
        SettingsError: with every problem at once, each with what to write instead.
    """
    read = SettingReader(environment)
    defaults = read_defaults(read, now)
    settings = Settings(
        accounts=read_accounts(read, environment, root, defaults, now=now, asks_api=asks_api),
        defaults=defaults,
        api_url=read.optional("CLOUDFLARE_API_URL", values.url, "https://api.cloudflare.com/client/v4"),
        poll_interval_seconds=read.optional("POLL_INTERVAL_SECONDS", values.seconds(0.1, 86_400), 30.0),
        request_timeout_seconds=read.optional("CLOUDFLARE_REQUEST_TIMEOUT_SECONDS", values.seconds(0.1, 3600), 30.0),
        sweep_interval_seconds=read.optional("SWEEP_INTERVAL_SECONDS", values.seconds(0, 30 * 86_400), 3600.0),
        sweep_window_hours=read.optional(
            "SWEEP_WINDOW_HOURS", values.number(float, 0, 24 * 548, "a number of hours"), 24.0
        ),
        reconcile_after_hours=read.optional("RECONCILE_AFTER_HOURS", values.ages, (24.0, 168.0, 720.0)),
        max_retries=read.optional("CLOUDFLARE_MAX_RETRIES", values.whole(0, 100), 3),
        backoff_seconds=read.optional("CLOUDFLARE_BACKOFF_SECONDS", values.seconds(0, 3600), 1.0),
        backoff_max_seconds=read.optional("CLOUDFLARE_BACKOFF_MAX_SECONDS", values.seconds(0, 3600), 300.0),
        metrics_port=read.optional("METRICS_PORT", values.whole(0, 65_535), None),
        metrics_host=read.optional("METRICS_HOST", values.hostname, "127.0.0.1"),
        stores=_read_stores(read),
        # Last: by now every name that is a setting has been asked for.
        warnings=(
            *read.unknown_names(),
            *readable_by_others(environment, root, token_files(environment, root)),
        ),
    )
    if settings.backoff_seconds > settings.backoff_max_seconds:
        read.problem("CLOUDFLARE_BACKOFF_SECONDS is larger than CLOUDFLARE_BACKOFF_MAX_SECONDS: swap or lower it")
    if read.problems:
        raise SettingsError(read.problems)
    learn_shown(*settings.accounts)
    return settings


def read_store_settings(environment: Mapping[str, str]) -> StoreSettings:
    """The part of the settings that says where the events are; all that commands need which never ask the API.

    Raises:
        SettingsError: as `read_settings`.
    """
    read = SettingReader(environment)
    stores = _read_stores(read)
    if read.problems:
        raise SettingsError(read.problems)
    return stores


def _read_stores(read: SettingReader) -> StoreSettings:
    return StoreSettings(
        postgres=_read_postgres(read),
        postgres_owner=_read_owner(read),
        postgres_schema=read.optional("PG_SCHEMA", values.identifier, "public"),
        timescale=_read_timescale(read),
        s3=_read_s3(read),
        lake_prefix=read.optional("S3_PREFIX", values.prefix, ""),
        data_dir=PROJECT_ROOT / read.optional("DATA_DIR", values.folder, Path("data")),
    )


def _read_postgres(read: SettingReader) -> PostgresSettings | None:
    host = read.optional("PG_HOST", values.postgres_hosts, None)
    details = ("PG_PORT", "PG_DATABASE", "PG_USER", "PG_PASSWORD", "PG_SSLMODE", "PG_OWNER_USER", "PG_OWNER_PASSWORD")
    if host is None:
        why = "has no effect without PG_HOST: set PG_HOST, or remove it to use the embedded PostgreSQL"
        read.refuse_without("PG_HOST", details, why)
        return None
    ports = read.optional("PG_PORT", values.postgres_ports, None) or (5432,)
    return PostgresSettings(
        host=host,
        port=ports[0],
        ports=",".join(map(str, ports)) if len(ports) > 1 else "",
        database=read.optional("PG_DATABASE", values.plain_name, "postgres"),
        user=read.optional("PG_USER", values.plain_name, "postgres"),
        password=read.optional("PG_PASSWORD", values.postgres_text, ""),
        sslmode=read.optional("PG_SSLMODE", values.choice(*values.SSLMODES), "prefer"),
    )


def _read_owner(read: SettingReader) -> OwnerSettings | None:
    user = read.optional("PG_OWNER_USER", values.plain_name, None)
    if user is None:
        why = "has no effect without PG_OWNER_USER: set that as well, or remove it"
        read.refuse_without("PG_OWNER_USER", ("PG_OWNER_PASSWORD",), why)
        return None
    return OwnerSettings(user, read.optional("PG_OWNER_PASSWORD", values.postgres_text, ""))


def _read_timescale(read: SettingReader) -> TimescaleSettings:
    days = values.whole(0, 36_500)
    return TimescaleSettings(
        chunk_days=read.optional("TIMESCALE_CHUNK_DAYS", days, TimescaleSettings.chunk_days),
        compress_after_days=read.optional("TIMESCALE_COMPRESS_AFTER_DAYS", days, TimescaleSettings.compress_after_days),
        retention_days=read.optional("TIMESCALE_RETENTION_DAYS", days, TimescaleSettings.retention_days),
    )


def _read_s3(read: SettingReader) -> S3Settings | None:
    bucket = read.optional("S3_BUCKET", values.bucket, None)
    if bucket is None:
        details = ("S3_ENDPOINT", "S3_ACCESS_KEY", "S3_SECRET_KEY", "S3_REGION")
        why = "has no effect without S3_BUCKET: set S3_BUCKET, or remove it to use the folder data/lake"
        read.refuse_without("S3_BUCKET", details, why)
        return None
    settings = S3Settings(
        bucket=bucket,
        endpoint=read.optional("S3_ENDPOINT", values.url, None),
        access_key=read.optional("S3_ACCESS_KEY", str, None),
        secret_key=read.optional("S3_SECRET_KEY", str, None),
        region=read.optional("S3_REGION", str, None),
    )
    if (settings.access_key is None) != (settings.secret_key is None):
        read.problem("S3_ACCESS_KEY and S3_SECRET_KEY belong together: set both, or neither")
    return settings
