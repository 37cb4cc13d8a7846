"""Secrets can come from files, by Docker's convention or as systemd's credentials; each mistake is one line."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from benchmarks.servers.commands import Finished
from pipelines.cli.dlt_context import _destinations
from pipelines.host import masking
from pipelines.settings import secret_files
from pipelines.settings.secret_files import SECRETS, readable_by_others
from pipelines.settings.settings import SettingsError, read_environment
from simulator.api import Api
from tests.factory import ACCOUNT, ago, ids, spread
from tests.stores import Stores

Command = Callable[..., Finished]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's root without `.env`, and a host without secrets."""
    for name in SECRETS:
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def problems(folder: Path) -> list[str]:
    """Returns the problems of the environment."""
    with pytest.raises(SettingsError) as caught:
        read_environment(folder)
    return caught.value.problems


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("text", ["canary $x #y", "canary $x #y\n", "canary $x #y\r\n"])
def test_a_file_gives_a_secret_without_the_newline_at_its_end(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    """Byte for byte but for that: nothing in it is expanded. A relative path begins at the project."""
    (folder / "secret").write_bytes(text.encode())
    monkeypatch.setenv(f"{name}_FILE", "secret")

    assert read_environment(folder)[name] == "canary $x #y"


def test_every_setting_that_is_declared_secret_is_masked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A declared secret is masked whatever its name is, also where the environment gives it."""
    monkeypatch.setattr(masking, "_known", {})
    monkeypatch.setattr(secret_files, "SECRETS", ("ALERT_PLACE",))
    monkeypatch.setitem(secret_files.FILE_NAMES, "ALERT_PLACE", "ALERT_PLACE_FILE")
    monkeypatch.setenv("ALERT_PLACE", "canary-of-a-place")

    read_environment(folder)

    assert masking.masked("sent to canary-of-a-place") == "sent to [ALERT_PLACE]"


@pytest.mark.parametrize("name", SECRETS)
def test_a_credential_of_systemd_gives_a_secret(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The others need not be there."""
    (folder / name).write_text("canary")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))

    found = read_environment(folder)

    assert {secret: found.get(secret) for secret in SECRETS} == {**dict.fromkeys(SECRETS), name: "canary"}


def test_the_file_may_be_named_in_the_env_file(folder: Path) -> None:
    """Where the other settings are."""
    (folder / "token").write_text("canary")
    (folder / ".env").write_text("CLOUDFLARE_API_TOKEN_FILE=token\n")

    assert read_environment(folder)["CLOUDFLARE_API_TOKEN"] == "canary"


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "cannot be read: No such file"), (b"", "is empty"), (b"\n", "is empty"), (b"canary\xff", "not UTF-8 text")],
)
def test_a_file_that_gives_no_secret_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, said: str
) -> None:
    """One line, with the setting and the file, and nothing of what is in it."""
    if content is not None:
        (folder / "secret").write_bytes(content)
    monkeypatch.setenv("PG_PASSWORD_FILE", "secret")

    told = problems(folder)

    assert len(told) == 1
    assert told[0].startswith(f"PG_PASSWORD_FILE ({folder / 'secret'}) ")
    assert said in told[0]
    assert "canary" not in told[0]


def test_a_secret_that_is_given_twice_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody knows which one is meant; all of them at once, and no value is shown."""
    (folder / "S3_SECRET_KEY").write_text("canary")
    (folder / "PG_PASSWORD").write_text("canary")
    (folder / ".env").write_text("PG_PASSWORD=canary\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    monkeypatch.setenv("S3_SECRET_KEY_FILE", "S3_SECRET_KEY")

    assert problems(folder) == [
        f"{name} is given 2 times, by {way} and systemd's credential {name}: keep one of them"
        for name, way in (("PG_PASSWORD", "PG_PASSWORD"), ("S3_SECRET_KEY", "S3_SECRET_KEY_FILE"))
    ]


def test_a_variable_set_to_nothing_makes_room_for_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So a container takes back what its `.env` gives."""
    (folder / "secret").write_text("canary")
    (folder / ".env").write_text("PG_PASSWORD=other\n")
    monkeypatch.setenv("PG_PASSWORD", "")
    monkeypatch.setenv("PG_PASSWORD_FILE", "secret")

    assert read_environment(folder)["PG_PASSWORD"] == "canary"


def test_dlt_gets_the_secrets_of_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Secret files are dlt's last provider: its own names win, as `test_main_job` shows."""
    values = {"PG_HOST": "h", "S3_BUCKET": "lake", "CREDENTIALS_DIRECTORY": str(folder)}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    for name in ("PG_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY"):
        (folder / name).write_text(f"canary of {name}\n")

    destinations = _destinations()["destination"]

    assert destinations["postgres"]["credentials"]["password"] == "canary of PG_PASSWORD"
    assert destinations["filesystem"]["credentials"]["aws_access_key_id"] == "canary of S3_ACCESS_KEY"
    assert destinations["filesystem"]["credentials"]["aws_secret_access_key"] == "canary of S3_SECRET_KEY"


@pytest.mark.integration
def test_a_run_with_secrets_from_files_loads_and_shows_none(
    api: Api, command: Command, environment: Mapping[str, str], stores: Stores, tmp_path: Path
) -> None:
    """Both ways at once, each for another secret; no warning, exit 0."""
    events = spread(5, ago(hours=1), ago(minutes=1))
    api.world.add(ACCOUNT, "v1", events)
    (tmp_path / "CLOUDFLARE_API_TOKEN").write_text(f"{environment['CLOUDFLARE_API_TOKEN']}\n")
    (tmp_path / "password").write_text(f"{environment['PG_PASSWORD']}\n")

    done = command(
        *("pipelines/run.py", "--once"),
        CLOUDFLARE_API_TOKEN=None,
        PG_PASSWORD=None,
        PG_PASSWORD_FILE=str(tmp_path / "password"),
        CREDENTIALS_DIRECTORY=str(tmp_path),
    )

    assert done.code == 0, done.err
    assert stores.ids() == (sorted(ids(events)),) * 2
    assert "settings.warning" not in done.err
    assert environment["CLOUDFLARE_API_TOKEN"] not in done.out + done.err
    assert environment["PG_PASSWORD"] not in done.out + done.err


@pytest.mark.integration
def test_commands_say_in_one_line_which_file_is_wrong(command: Command) -> None:
    """Exit 2, as for all settings."""
    for arguments in (["pipelines/run.py", "--once"], ["pipelines/psql.py"], ["pipelines/retention.py"]):
        done = command(*arguments, PG_PASSWORD=None, PG_PASSWORD_FILE="/nowhere")

        assert (done.code, "Traceback" in done.err) == (2, False), done.err
        assert "PG_PASSWORD_FILE (/nowhere) cannot be read: No such file" in done.err


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
@pytest.mark.parametrize("name", [".env", ".dlt/secrets.toml", "password", "token", "seal.key"])
def test_a_file_with_secrets_that_others_may_read_is_warned_of(tmp_path: Path, name: str, mode: int) -> None:
    """With the command that mends it; nothing is said of one that is its owner's alone."""
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("secret")
    named = {"PG_PASSWORD_FILE": "password", "CLOUDFLARE_API_TOKEN_FILE": "token", "SEAL_KEY_FILE": "seal.key"}

    file.chmod(mode)
    (warning,) = readable_by_others(named, tmp_path)
    file.chmod(0o600)

    assert warning.endswith(f"(mode {mode:o}): chmod 600 {file}")
    assert list(readable_by_others(named, tmp_path)) == []


def test_what_systemd_hands_over_is_not_warned_of(tmp_path: Path) -> None:
    """It guards the folder."""
    (tmp_path / "password").write_text("secret")
    (tmp_path / "password").chmod(0o644)
    environment = {"PG_PASSWORD_FILE": str(tmp_path / "password"), "CREDENTIALS_DIRECTORY": str(tmp_path)}

    assert list(readable_by_others(environment, tmp_path)) == []


@pytest.mark.integration
def test_job_and_doctor_warn_of_it(command: Command, environment: Mapping[str, str], tmp_path: Path) -> None:
    """A token's file of an account, too."""
    (tmp_path / "token").write_text(environment["CLOUDFLARE_API_TOKEN"])
    (tmp_path / "token").chmod(0o644)
    accounts = f'[[accounts]]\nid = "{environment["CLOUDFLARE_ACCOUNT_ID"]}"\ntoken_file = "{tmp_path / "token"}"\n'
    (tmp_path / "accounts.toml").write_text(accounts)
    changes = {"ACCOUNTS_FILE": str(tmp_path / "accounts.toml"), "CLOUDFLARE_ACCOUNT_ID": None}

    job, doctor = command("pipelines/run.py", "--once", **changes), command("pipelines/doctor.py", **changes)

    assert re.search(rf"WARNING settings\.warning .*chmod 600 {tmp_path / 'token'}", job.err), job.err
    assert re.search(rf"^warn  settings .*chmod 600 {tmp_path / 'token'}", doctor.out), doctor.out
