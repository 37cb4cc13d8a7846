"""The settings: read once from the environment and `.env`, checked all at once, frozen. Touches nothing else."""

# ruff: noqa: RUF009  # setting() is dataclasses.field()

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from socket import gethostname

from pipelines.host.logs import configure_logs
from pipelines.host.masking import learn_environment, learn_files, learn_shown
from pipelines.host.transient import WrongUsageError
from sources.cloudflare_audit_logs.streams import Stream

from . import values
from .accounts import Account, read_accounts, token_files
from .dashboard import DashboardSettings
from .reader import SettingReader, names_of, read_env_file, setting
from .secret_files import read_secrets, readable_by_others

CODE_ROOT = Path(__file__).resolve().parents[2]
PROJECT_ROOT = Path.cwd() if (CODE_ROOT.parent / "dlt_plugin.py").exists() else CODE_ROOT
"""Where `.env`, `accounts.toml`, `.dlt` and `data` lie: the checkout; of a wheel, the current directory."""
DEFAULT_HISTORY = timedelta(days=30)


class SettingsError(WrongUsageError):
    """Everything that is wrong with the settings, one line each (exit 2)."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class UsageError(WrongUsageError):
    """The options of a command make no sense here (exit 2). Nothing was touched."""


@dataclass(frozen=True)
class PostgresSettings:
    """The way to the warehouse's PostgreSQL."""

    host: str = setting("PG_HOST", values.postgres_hosts, "")
    """As libpq takes it: a name, an address, a socket (`/folder`, `@name`), or several, comma separated."""
    port: int = 5432
    database: str = setting("PG_DATABASE", values.plain_name, "postgres")
    user: str = setting("PG_USER", values.plain_name, "postgres")
    password: str = setting("PG_PASSWORD", values.postgres_text, "")
    sslmode: str = setting("PG_SSLMODE", values.sslmode, "prefer")
    ports: str = ""
    """One for each of several hosts, comma separated, where there are several."""


@dataclass(frozen=True)
class OwnerSettings:
    """The role that makes the tables, where the one that loads does not own them."""

    user: str = setting("PG_OWNER_USER", values.plain_name, "")
    password: str = setting("PG_OWNER_PASSWORD", values.postgres_text, "")


@dataclass(frozen=True)
class TimescaleSettings:
    """The wishes for the warehouse's table where the server has TimescaleDB."""

    chunk_days: int = setting("TIMESCALE_CHUNK_DAYS", values.whole(0, 36_500), 7)
    """Zero: the table stays a plain one."""
    compress_after_days: int = setting("TIMESCALE_COMPRESS_AFTER_DAYS", values.whole(0, 36_500), 30)
    """Zero: never."""
    retention_days: int = setting("TIMESCALE_RETENTION_DAYS", values.whole(0, 36_500), 0)
    """Zero: nothing is deleted. Also how old an event may be to be loaded into the warehouse, TimescaleDB or not."""


@dataclass(frozen=True)
class S3Settings:
    """The way to the lake's bucket. Without keys, the usual AWS chain is asked."""

    bucket: str = setting("S3_BUCKET", values.bucket, "")
    endpoint: str | None = setting("S3_ENDPOINT", values.url, None)
    access_key: str | None = setting("S3_ACCESS_KEY", str, None)
    secret_key: str | None = setting("S3_SECRET_KEY", str, None)
    region: str | None = setting("S3_REGION", str, None)


@dataclass(frozen=True)
class StoreSettings:
    """Where the events go."""

    postgres: PostgresSettings | None
    """None: the embedded PostgreSQL."""
    postgres_owner: OwnerSettings | None
    timescale: TimescaleSettings
    s3: S3Settings | None
    """None: the folder `data/lake`."""
    postgres_schema: str = setting("PG_SCHEMA", values.identifier, "public")
    lake_prefix: str = setting("S3_PREFIX", values.prefix, "")
    data_dir: Path = setting("DATA_DIR", lambda text: PROJECT_ROOT / values.folder(text), PROJECT_ROOT / "data")

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
class LogSettings:
    """How the log is written."""

    level: str = setting("LOG_LEVEL", values.choice("info", "warning", "error"), "info")
    format: str = setting("LOG_FORMAT", values.choice("text", "json"), "text")


@dataclass(frozen=True)
class SealSettings:
    """The signed statements of what the lake held: docs/evidence/seals.md."""

    key_file: Path | None = setting("SEAL_KEY_FILE", lambda text: PROJECT_ROOT / text, None)
    """None: nothing is sealed."""
    origin: str = setting("SEAL_ORIGIN", values.origin, gethostname())
    """The log's name in a key that is made; of a key that there is, its own counts."""
    after_minutes: int = setting("SEAL_AFTER_MINUTES", values.whole(0, 1440), 60)


@dataclass(frozen=True)
class Settings:
    """All that a run needs to know. Secrets do not show in its `repr`."""

    accounts: Mapping[str, Account]
    """By id."""
    defaults: Account
    """The settings of an account whose table says nothing else."""
    stores: StoreSettings
    seals: SealSettings = SealSettings()
    api_url: str = setting("CLOUDFLARE_API_URL", values.url, "https://api.cloudflare.com/client/v4")
    poll_interval_seconds: float = setting("POLL_INTERVAL_SECONDS", values.seconds(0.1, 86_400), 30.0)
    request_timeout_seconds: float = setting("CLOUDFLARE_REQUEST_TIMEOUT_SECONDS", values.seconds(0.1, 3600), 30.0)
    max_retries: int = setting("CLOUDFLARE_MAX_RETRIES", values.whole(0, 100), 3)
    backoff_seconds: float = setting("CLOUDFLARE_BACKOFF_SECONDS", values.seconds(0, 3600), 1.0)
    backoff_max_seconds: float = setting("CLOUDFLARE_BACKOFF_MAX_SECONDS", values.seconds(0, 3600), 300.0)
    sweep_interval_seconds: float = setting("SWEEP_INTERVAL_SECONDS", values.seconds(0, 30 * 86_400), 3600.0)
    sweep_window_hours: float = setting("SWEEP_WINDOW_HOURS", values.hours, 24.0)
    reconcile_after_hours: tuple[float, ...] = setting("RECONCILE_AFTER_HOURS", values.ages, (24.0, 168.0, 720.0))
    metrics_port: int | None = setting("METRICS_PORT", values.whole(0, 65_535), None)
    """None: metrics and health are not served. Zero: at a free port."""
    metrics_host: str = setting("METRICS_HOST", values.hostname, "127.0.0.1")
    metrics_textfile: Path | None = setting("METRICS_TEXTFILE", lambda text: PROJECT_ROOT / values.textfile(text), None)
    """None: no file with metrics is written."""
    heartbeat_url: str | None = setting("HEARTBEAT_URL", values.heartbeat, None)
    """None: nobody expects a heartbeat."""
    logs: LogSettings = LogSettings()
    warnings: tuple[str, ...] = ()
    """Warnings of what does no harm at once: names that are no settings, files that others may read."""

    @property
    def account_ids(self) -> tuple[str, ...]:
        """The accounts that are read."""
        return tuple(self.accounts)

    @property
    def streams(self) -> list[Stream]:
        """Every account in every version that is read."""
        return self.streams_of(self.account_ids)

    def streams_of(self, account_ids: Sequence[str]) -> list[Stream]:
        """The same of some accounts."""
        return [stream for account_id in account_ids for stream in self.account(account_id).streams]

    def account(self, account_id: str) -> Account:
        """The settings of an account; one that is not in the settings, as the simple variables say."""
        return self.accounts.get(account_id) or replace(self.defaults, id=account_id)

    def is_read(self, stream: Stream) -> bool:
        """True if the account is read in this version."""
        return stream in self.account(stream.account_id).streams

    def is_all_asked_for(self, stream: Stream) -> bool:
        """True if nothing is hidden from us that the API has of the stream: only v1 hides."""
        return stream.api_version != "v1" or not self.account(stream.account_id).hide_user_logs

    def safety_lag(self, stream: Stream) -> timedelta:
        """The time before its cursor at which a poll of the stream begins."""
        return self.account(stream.account_id).safety_lag

    @property
    def sweep_window(self) -> timedelta:
        """The longest delay with which an event is still found."""
        return timedelta(hours=self.sweep_window_hours)

    def first_begin(self, stream: Stream, now: datetime) -> datetime:
        """Where a stream begins that neither store has seen: `INITIAL_CHECKPOINT`, or 30 days ago."""
        return self.account(stream.account_id).initial_checkpoint or now - DEFAULT_HISTORY


def read_environment(root: Path = PROJECT_ROOT) -> dict[str, str]:
    """The environment over the project's `.env`, and secrets from files; what is set to nothing counts as not set.

    Raises:
        SettingsError: `.env` is not text or has a line that sets nothing, or a secret's file gives none.
    """
    given, problems = read_env_file(root / ".env")
    environment = {name: value for name, value in {**given, **os.environ}.items() if value}
    secrets, more_problems = read_secrets(environment, root)
    if problems or more_problems:
        raise SettingsError(problems + more_problems)
    environment |= secrets
    learn_environment(environment)
    learn_files(Path(environment.get("DLT_PROJECT_DIR", root), ".dlt"), Path.home() / ".dlt")
    return environment


def read_settings(
    environment: Mapping[str, str], *, now: datetime, asks_api: bool = True, root: Path = PROJECT_ROOT
) -> Settings:
    """The checked settings; token and accounts may be missing where the API is not asked.

    Raises:
        SettingsError: with every problem at once, each with what to write instead.
    """
    read = SettingReader(environment, now=now)
    defaults = read.filled(Account())
    accounts = read_accounts(read, environment, root, defaults, asks_api=asks_api)
    settings = Settings(
        accounts, defaults, _read_stores(read), read.filled(SealSettings()), logs=read.filled(LogSettings())
    )
    settings = read.filled(settings)
    if settings.backoff_seconds > settings.backoff_max_seconds:
        read.problem("CLOUDFLARE_BACKOFF_SECONDS is larger than CLOUDFLARE_BACKOFF_MAX_SECONDS: swap or lower it")
    if read.problems:
        raise SettingsError(read.problems)
    learn_shown(*settings.accounts)
    read.names.update(names_of(DashboardSettings))
    # By now every name that is a setting has been asked for.
    files = readable_by_others(environment, root, token_files(environment, root))
    return replace(settings, warnings=(*read.unknown_names(read_env_file(root / ".env")[0]), *files))


def begin_logs() -> None:
    """Writes the log as the settings say; if they are wrong, as ever: they are reported when they are read."""
    try:
        logs = SettingReader(read_environment()).filled(LogSettings())
    except SettingsError:
        logs = LogSettings()
    configure_logs(logs.level.upper(), as_json=logs.format == "json")


def read_store_settings(environment: Mapping[str, str]) -> StoreSettings:
    """The part of the settings that says where the events are; all that commands need which never ask the API."""
    read = SettingReader(environment)
    stores = _read_stores(read)
    read.filled(LogSettings())
    if read.problems:
        raise SettingsError(read.problems)
    return stores


def read_seal_settings(environment: Mapping[str, str]) -> SealSettings:
    """The part of the settings that says how is sealed."""
    read = SettingReader(environment)
    seals = read.filled(SealSettings())
    if read.problems:
        raise SettingsError(read.problems)
    return seals


def read_dashboard_settings(environment: Mapping[str, str], root: Path = PROJECT_ROOT) -> DashboardSettings:
    """The part that the dashboard needs besides the stores; a relative path begins at the project's folder."""
    read = SettingReader(environment)
    found = read.filled(DashboardSettings())
    geoip = found.geoip and root / found.geoip
    if geoip and not geoip.is_file():
        read.problem(f"DASHBOARD_GEOIP ({str(geoip)!r:.80}) is no file: name a database such as country.mmdb")
    if read.problems:
        raise SettingsError(read.problems)
    return replace(found, geoip=geoip)


def _read_stores(read: SettingReader) -> StoreSettings:
    why = "set PG_HOST, or remove it to use the embedded PostgreSQL"
    postgres = read.filled_if("PG_HOST", PostgresSettings(), why, "PG_PORT", *names_of(OwnerSettings))
    if postgres:
        ports = read.optional("PG_PORT", values.postgres_ports, None) or (postgres.port,)
        postgres = replace(postgres, port=ports[0], ports=",".join(map(str, ports)) if len(ports) > 1 else "")
    owner = read.filled_if("PG_OWNER_USER", OwnerSettings(), "set that as well, or remove it")
    s3 = read.filled_if("S3_BUCKET", S3Settings(), "set S3_BUCKET, or remove it to use the folder data/lake")
    if s3 and (s3.access_key is None) != (s3.secret_key is None):
        read.problem("S3_ACCESS_KEY and S3_SECRET_KEY belong together: set both, or neither")
    return read.filled(StoreSettings(postgres, owner, read.filled(TimescaleSettings()), s3))
