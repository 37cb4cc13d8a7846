"""The documents are true: every setting and command of the code is in them, and theirs work."""

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from dotenv import dotenv_values

from pipelines.cli.demo.tour import commands_to_paste
from pipelines.settings.settings import PROJECT_ROOT, read_settings
from sources.cloudflare_audit_logs.schema import EVENT_SCHEMA, QUARANTINE_SCHEMA
from tests.settings_table import names_in_code

EXAMPLES = (".env.example", "config.example.env")
REQUIRED = {"CLOUDFLARE_API_TOKEN": "t", "CLOUDFLARE_ACCOUNT_ID": "a"}


def _read(path: str) -> str:
    return (PROJECT_ROOT / path).read_text()


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_setting_is_in_the_example_with_a_comment(example: str) -> None:
    """The example has every setting with a comment, and none that the code does not know."""
    in_example = re.findall(r"^#?((?!COMPOSE_|READER_|GRAFANA_)[A-Z][A-Z0-9_]+)=", _read(example), re.MULTILINE)
    lines = _read(example).splitlines()
    starts = [number for number, line in enumerate(lines) if re.match(r"#?[A-Z][A-Z0-9_]+=", line)]

    assert sorted(in_example) == sorted(names_in_code())
    assert all(lines[number - 1].startswith("#") for number in starts)


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_with_token_and_account_is_valid(example: str, tmp_path: Path) -> None:
    """A user sets two values and runs."""
    values = {name: value for name, value in dotenv_values(PROJECT_ROOT / example).items() if value}

    settings = read_settings({**values, **REQUIRED}, now=datetime.now(UTC), root=tmp_path)

    assert settings.warnings == ()
    assert (settings.stores.postgres is None) == (example == "config.example.env")


def test_commented_out_values_are_the_defaults() -> None:
    """Uncommenting a line changes nothing."""
    text = re.sub(r"^#([A-Z][A-Z0-9_]+=.+)$", r"\1", _read("config.example.env"), flags=re.MULTILINE)
    only_with_stores = re.compile("PG_(?!SCHEMA)|S3_|INITIAL_CHECKPOINT|DATA_DIR")
    shown = dict(re.findall(r"^([A-Z][A-Z0-9_]+)=(.+)$", text, re.MULTILINE))
    values = {name: value for name, value in shown.items() if not only_with_stores.match(name)}

    now = datetime.now(UTC)

    assert read_settings({**values, **REQUIRED}, now=now) == read_settings(REQUIRED, now=now)


def test_every_column_is_in_the_table_of_columns() -> None:
    """docs/columns.md maps v1 and v2 to each of them."""
    named = set(re.findall(r"`([a-z_]+)`", _read("docs/columns.md")))

    assert {*EVENT_SCHEMA.names, *QUARANTINE_SCHEMA.names} <= named


def test_every_file_and_make_target_that_the_readme_names_exists() -> None:
    """A newcomer has only the README."""
    readme = _read("README.md")
    targets = set(re.findall(r"^([a-z-]+):", _read("Makefile"), re.MULTILINE))

    assert set(re.findall(r"\bmake ([a-z-]+)", readme)) <= targets
    for path in re.findall(r"\b(?:pipelines|sources|tests|docs|simulator)/[\w./-]*\w", readme):
        assert (PROJECT_ROOT / path).exists(), path
    for link in re.findall(r"\]\(([^)#]+)\)?", readme):
        assert link.startswith("https:") or (PROJECT_ROOT / link).exists(), link


def test_every_command_is_in_the_readme() -> None:
    """Every file that can be run by itself is named."""
    commands = [
        f"cloudflare-audit {path.stem}"
        for path in (PROJECT_ROOT / "pipelines").glob("*.py")
        if '__name__ == "__main__"' in path.read_text()
    ]

    assert commands
    assert [command for command in commands if command not in _read("README.md")] == []


def test_no_lock_file_names_a_package_index() -> None:
    """Hashes alone: whoever installs uses the index of their own."""
    locks = list((PROJECT_ROOT / "locks").glob("*.lock"))

    assert len(locks) >= 6
    for lock in locks:
        lines = lock.read_text().splitlines()
        assert not [line for line in lines if "://" in line or line.lstrip().startswith("--index")]
        assert len([line for line in lines if line.startswith("    --hash=sha256:")]) > len(lines) / 2


def test_no_secret_is_in_the_repository() -> None:
    """Git ignores the files that hold secrets."""
    ignored = Path(PROJECT_ROOT / ".gitignore").read_text().splitlines()

    assert {".env", "/data/", "/secrets/", ".dlt/secrets.toml"} <= set(ignored)


def test_what_the_demo_tells_to_paste_says_for_itself_where_its_data_are() -> None:
    """Nothing is exported: in the same shell, the user's own `make run` must not load into the demo's folder."""
    commands = list(commands_to_paste())

    assert len(commands) >= 6
    assert [command for command in commands if "DATA_DIR=data/demo " not in command or "export" in command] == []
