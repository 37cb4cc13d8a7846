"""The units are right and hardened as systemd itself judges them. It is not PID 1 here: nothing is started by it."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pipelines.run import LONGEST_STOP_SECONDS, parser
from pipelines.settings.secret_files import SECRETS
from pipelines.settings.settings import PROJECT_ROOT
from pipelines.settings.shards import Shard

UNITS = PROJECT_ROOT / "deploy" / "systemd"
LOOP, ONCE, TIMER = "cloudflare-audit.service", "cloudflare-audit-once.service", "cloudflare-audit-once.timer"
DASHBOARD = "cloudflare-audit-dashboard.service"
SHARD, DROP_IN = "cloudflare-audit@.service", "shard.conf"
HOME = Path("/opt/cloudflare-audit")
HIGHEST_EXPOSURE = 2.0

ANALYZE = shutil.which("systemd-analyze")
needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")


def lines(unit: str, section: str) -> list[str]:
    """A section's settings, in order."""
    _, _, rest = (UNITS / unit).read_text().partition(f"[{section}]\n")
    return [line for line in rest.partition("\n[")[0].splitlines() if line and not line.startswith("#")]


def setting(unit: str, section: str, name: str) -> str:
    """The last value of a setting."""
    return dict(line.split("=", 1) for line in lines(unit, section))[name]


def analyze(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """What systemd says."""
    return subprocess.run([ANALYZE or "", *arguments], capture_output=True, text=True, check=False)


@needs_systemd
def test_systemd_verifies_the_units_without_a_warning(tmp_path: Path) -> None:
    """As installed by the docs; the folder that they name is this checkout here."""
    python = tmp_path / "python"
    python.touch(mode=0o755)
    for unit in (LOOP, ONCE, TIMER, DASHBOARD):
        text = (UNITS / unit).read_text().replace(f"{HOME}/.venv/bin/python", str(python))
        (tmp_path / unit).write_text(text.replace(str(HOME), str(PROJECT_ROOT)))

    done = analyze("verify", "--man=no", *(tmp_path / unit for unit in (LOOP, ONCE, TIMER, DASHBOARD)))

    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs_systemd
@pytest.mark.parametrize("mistake", ["", "Xec"])
def test_systemd_verifies_a_shard_with_its_drop_in(tmp_path: Path, mistake: str) -> None:
    """As installed by docs/scale/shards.md; a mistake in the drop-in would be found."""
    python = tmp_path / "python"
    python.touch(mode=0o755)
    (tmp_path / f"{SHARD}.d").mkdir()
    for unit, place in ((SHARD, tmp_path / SHARD), (DROP_IN, tmp_path / f"{SHARD}.d" / DROP_IN)):
        text = (UNITS / unit).read_text().replace(f"{HOME}/.venv/bin/python", str(python))
        place.write_text(text.replace(str(HOME), str(PROJECT_ROOT)))
    if mistake:
        drop_in = tmp_path / f"{SHARD}.d" / DROP_IN
        drop_in.write_text(drop_in.read_text().replace("ExecStart=", f"{mistake}Start="))

    done = analyze("verify", "--man=no", tmp_path / SHARD)

    if mistake:
        assert "XecStart" in done.stderr
    else:
        assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_a_shard_is_the_loop_but_for_its_drop_in() -> None:
    """Hardened as that, and told which one it is."""
    python, script, *options = setting(DROP_IN, "Service", "ExecStart").split()

    assert (UNITS / SHARD).read_text() == (UNITS / LOOP).read_text()
    assert [python, script] == setting(LOOP, "Service", "ExecStart").split()
    assert options == ["--shard", "%i/${SHARDS}"]
    assert parser().parse_args(
        [option.replace("%i", "2").replace("${SHARDS}", "3") for option in options]
    ).shard == Shard(2, 3)


@needs_systemd
def test_a_unit_with_a_wrong_line_is_found(tmp_path: Path) -> None:
    """The check above would say so."""
    (tmp_path / TIMER).write_text((UNITS / TIMER).read_text().replace("OnBootSec=", "OnBotSec="))

    assert "OnBotSec" in analyze("verify", "--man=no", tmp_path / TIMER).stderr


@needs_systemd
@pytest.mark.parametrize("unit", [LOOP, ONCE, DASHBOARD])
def test_the_services_expose_little(unit: str) -> None:
    """Of 10; what is left is the network, which is their work."""
    done = analyze("security", "--offline=true", "--no-pager", "--threshold=100", UNITS / unit)

    found = re.search(r"Overall exposure level for .*: ([\d.]+)", done.stdout)

    assert found, done.stdout + done.stderr
    assert float(found[1]) < HIGHEST_EXPOSURE


def test_both_services_are_confined_alike() -> None:
    """From the user on, they differ in nothing."""
    parts = [lines(unit, "Service") for unit in (LOOP, ONCE)]

    shared = [part[part.index("User=cloudflare-audit") :] for part in parts]

    assert shared[0] == shared[1]
    assert len(shared[0]) > 30


def test_the_dashboard_is_confined_like_the_loop_and_reads_as_the_reader() -> None:
    """It gets neither the password of the loop's role nor the owner's."""
    parts = [lines(unit, "Service") for unit in (LOOP, DASHBOARD)]

    loop, dashboard = (set(part[part.index("User=cloudflare-audit") :]) for part in parts)

    assert loop - dashboard == {
        f"LoadCredential={name}:cloudflare-audit.{name}" for name in ("PG_PASSWORD", "PG_OWNER_PASSWORD")
    }
    assert dashboard - loop == {
        "LoadCredential=PG_PASSWORD:cloudflare-audit.READER_PASSWORD",
        "EnvironmentFile=-/etc/cloudflare-audit/dashboard.env",
    }
    assert setting(DASHBOARD, "Service", "ExecStart") == f"{HOME}/.venv/bin/python -m dashboard"
    assert setting(DASHBOARD, "Service", "RestartPreventExitStatus") == "2"


@pytest.mark.parametrize("unit", [LOOP, ONCE])
def test_every_secret_can_be_a_credential(unit: str) -> None:
    """By the name of its setting."""
    loaded = [line.removeprefix("LoadCredential=") for line in lines(unit, "Service") if "LoadCredential" in line]

    assert loaded == [f"{name}:cloudflare-audit.{name}" for name in SECRETS]


@pytest.mark.parametrize(("unit", "options"), [(LOOP, []), (ONCE, ["--once"])])
def test_the_services_run_the_main_job(unit: str, options: list[str]) -> None:
    """From the project's folder, with the environment that `make setup` makes."""
    python, script, *rest = setting(unit, "Service", "ExecStart").split()

    assert Path(python) == HOME / ".venv/bin/python"
    assert Path(setting(unit, "Service", "WorkingDirectory")) == HOME
    assert (PROJECT_ROOT / script).is_file()
    assert rest == options


def test_exit_codes_mean_what_the_readme_says() -> None:
    """The loop does not try wrong settings again; the timer tries all, and it shows as failed until it succeeds."""
    assert (setting(LOOP, "Service", "Restart"), setting(LOOP, "Service", "RestartPreventExitStatus")) == (
        "always",
        "2",
    )
    assert not [line for line in lines(ONCE, "Service") if line.startswith(("SuccessExitStatus", "Restart"))]


@pytest.mark.parametrize("unit", [LOOP, ONCE])
def test_stopping_waits_for_the_loads_in_hand(unit: str) -> None:
    """Longer than the loop itself, and asks the loop alone: it stops its PostgreSQL."""
    assert int(setting(unit, "Service", "TimeoutStopSec").removesuffix("s")) > LONGEST_STOP_SECONDS
    assert setting(unit, "Service", "KillMode") == "mixed"


def test_the_loop_is_supervised() -> None:
    """By notifications of the loop itself."""
    assert setting(LOOP, "Service", "Type") == "notify"
    assert setting(LOOP, "Service", "NotifyAccess") == "main"
    assert setting(LOOP, "Service", "WatchdogSec") == "20min"
