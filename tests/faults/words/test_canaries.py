"""No command shows a secret, whatever the API, PostgreSQL or the store say: with and without `--json`.

Each command that there is: a new one is tried by itself, and needs its arguments here if it cannot do without.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks.servers.commands import Finished, process_of, wait_until
from pipelines.settings.settings import PROJECT_ROOT
from tests.cli.test_entry import commands
from tests.factory import ago
from tests.faults.echoes import PLACES, account_ids, echoing_api, echoing_postgres, echoing_s3
from tests.watching import watched_loop

pytestmark = pytest.mark.integration

Command = Callable[..., Finished]

WINDOW = ("--since", ago(days=2).isoformat(), "--before", ago(days=1).isoformat())
ARGUMENTS: dict[str, tuple[str, ...]] = {
    "ask": ("SELECT count(*) FROM audit_logs()",),
    "backfill": WINDOW,
    "psql": ("-c", "SELECT 1"),
    "reconcile": WINDOW,
    "rehydrate": WINDOW,
    "retention": ("--dry-run",),
    "run": ("--once",),
}
ALL_COMMANDS = [name for name in commands() if name != "pipelines/demo.py"]
"""The demo has settings of its own, and none of the user's."""
CANARIES = {
    "CLOUDFLARE_API_TOKEN": "canary-token-0123456789-abcdefghijklmnop",
    "PG_PASSWORD": "canary pass/word+1f3a 'ü%",
    "S3_ACCESS_KEY": "CANARYACCESSKEY",
    "S3_SECRET_KEY": "canary/secret+key/9b2d0123456789",
    "AWS_SESSION_TOKEN": "canary-session-77777777",
}
PARTS: tuple[str, ...] = (
    "canary-token",
    "0123456789",
    "abcdefghij",
    "canary pass",
    "word+1f3a",
    "canary/secret",
    "9b2d",
)
PARTS += ("canary-session", "77777777", "CANARYACCESS")


def _variants() -> Iterator[tuple[str, ...]]:
    for name in ALL_COMMANDS:
        own = (name, *ARGUMENTS.get(Path(name).stem, ()))
        yield own
        if '"--json"' in (PROJECT_ROOT / name).read_text():
            yield (*own, "--json")


@pytest.fixture
def echoes(environment: dict[str, str]) -> Iterator[dict[str, str]]:
    """Settings of canaries, and servers that show them."""
    with ExitStack() as stack:
        environment.update(CANARIES)
        environment["CLOUDFLARE_API_URL"] = stack.enter_context(echoing_api())
        environment["CLOUDFLARE_ACCOUNT_ID"] = ",".join(account_ids())
        environment["CLOUDFLARE_MAX_RETRIES"] = "0"
        environment["PG_PORT"] = str(stack.enter_context(echoing_postgres()))
        environment["S3_ENDPOINT"] = stack.enter_context(echoing_s3(*CANARIES.values()))
        environment |= {"S3_BUCKET": "lake", "S3_REGION": "us-east-1", "TIMESCALE_RETENTION_DAYS": "30"}
        yield environment


def _assert_clean(text: str) -> None:
    for name, secret in CANARIES.items():
        assert secret not in text, f"{name} is in what was printed"
    for part in PARTS:
        assert part not in text, f"{part!r} is in what was printed: {text}"


@pytest.mark.wide
@pytest.mark.parametrize(
    "arguments", list(_variants()), ids=lambda own: " ".join(word for word in own if ":" not in word)
)
def test_no_command_shows_what_the_servers_say_of_its_secrets(
    command: Command, echoes: Mapping[str, str], arguments: tuple[str, ...]
) -> None:
    """It says why it failed, and with what."""
    done = command(*arguments)

    assert done.out + done.err
    assert "usage:" not in done.err, "give it arguments in ARGUMENTS"
    assert echoes
    _assert_clean(done.out + done.err)


@pytest.mark.parametrize("name", ["pipelines/doctor.py", "pipelines/run.py"])
def test_every_place_of_an_answer_was_tried(command: Command, environment: Mapping[str, str], name: str) -> None:
    """Each account fails by another one; those that quote the answer quote it without the token."""
    assert command("pipelines/run.py", "--once").code == 0, environment
    own = {"CLOUDFLARE_API_TOKEN": CANARIES["CLOUDFLARE_API_TOKEN"], "CLOUDFLARE_MAX_RETRIES": "0"}
    with echoing_api() as url:
        own |= {"CLOUDFLARE_API_URL": url, "CLOUDFLARE_ACCOUNT_ID": ",".join(account_ids())}
        done = command(name, *ARGUMENTS.get(Path(name).stem, ()), "--json", **own)

    failed = [account_id for account_id in account_ids() if account_id in done.out]
    assert len(failed) == len(PLACES), done.out + done.err
    assert "[CLOUDFLARE_API_TOKEN]" in done.out
    _assert_clean(done.out + done.err)


def test_a_wrong_option_does_not_show_a_secret(command: Command, echoes: Mapping[str, str]) -> None:
    """Somebody has pasted it into the wrong place."""
    found = [
        command(name, f"--bogus={CANARIES['CLOUDFLARE_API_TOKEN']}") for name in ALL_COMMANDS if "psql" not in name
    ]

    assert echoes
    assert {done.code for done in found} == {2}
    for done in found:
        _assert_clean(done.out + done.err)


def test_a_loop_shows_no_secret_to_those_who_watch_it(echoes: Mapping[str, str], tmp_path: Path) -> None:
    """/readyz and /metrics; its log."""
    with watched_loop(echoes, tmp_path) as loop:
        wait_until(lambda: "destination.failed destination=warehouse" in (tmp_path / "loop.log").read_text())
        wait_until(lambda: "destination.failed destination=lake" in (tmp_path / "loop.log").read_text())
        told = loop.get("/readyz").text + loop.get("/metrics").text

    assert "cloudflare_audit_account_up" in told
    _assert_clean(told + (tmp_path / "loop.log").read_text())


@pytest.mark.wide
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DESTINATION__POSTGRES__CREDENTIALS", "postgresql://someone:canary pass%zzword+1f3a@127.0.0.1:{port}/db"),
        ("DESTINATION__POSTGRES__CREDENTIALS__PASSWORD", "canary pass/word+1f3a"),
        ("DESTINATION__FILESYSTEM__CREDENTIALS__AWS_SECRET_ACCESS_KEY", "canary/secret+key/9b2d"),
    ],
)
@pytest.mark.parametrize("command_name", ["pipelines/status.py", "pipelines/doctor.py"])
def test_secrets_under_dlts_own_names_are_hidden_as_well(
    command: Command, echoes: Mapping[str, str], command_name: str, name: str, value: str
) -> None:
    """They win over ours; a URL that libpq cannot read is one that it quotes."""
    done = command(command_name, **{name: value.format(port=echoes["PG_PORT"])})

    assert done.code in {1, 75}
    _assert_clean(done.out + done.err)


def test_systemd_is_told_no_secret(echoes: Mapping[str, str], tmp_path: Path) -> None:
    """STATUS= is a text as others are; what the process list shows is none."""
    log = tmp_path / "log"
    own_interpreter = {"PYTHONHASHSEED": "0"}  # or the list would show the line of the one that forks
    with log.open("w") as output, process_of(echoes, "pipelines/run.py", output=output, **own_interpreter) as process:
        wait_until(lambda: "run.started" in log.read_text())
        line = Path(f"/proc/{process.pid}/cmdline").read_text()

    _assert_clean(log.read_text() + line)
