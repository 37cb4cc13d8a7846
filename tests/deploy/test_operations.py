"""docs/operations.md and docs/settings.md say what is so."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipelines.settings.secret_files import FILE_NAMES, SECRETS
from pipelines.settings.settings import PROJECT_ROOT
from tests.settings_table import PAGE, names_in_code, page_with_table

from .compose_file import compose_file

OPERATIONS = (PROJECT_ROOT / "docs/operations.md").read_text()
UNITS = PROJECT_ROOT / "deploy" / "systemd"
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", OPERATIONS, re.MULTILINE | re.DOTALL)


def test_the_table_of_settings_is_the_examples() -> None:
    """`python -m tests.settings_table` writes it anew; `test_docs` compares the example with the code."""
    assert PAGE.read_text() == page_with_table()


def test_every_secret_is_named_where_secrets_are_explained() -> None:
    """Each can be a file."""
    explained = PAGE.read_text().partition("## Secrets")[2].partition("<!--")[0]

    assert set(re.findall(r"`([A-Z][A-Z0-9_]+)`", explained)) >= set(SECRETS)
    assert "`PG_PASSWORD_FILE=/" in explained


PAGES = ["README.md", "DESIGN.md", *(str(path.relative_to(PROJECT_ROOT)) for path in PROJECT_ROOT.glob("docs/**/*.md"))]


@pytest.mark.parametrize("page", PAGES)
def test_every_file_command_and_link_is_there(page: str) -> None:
    """Whoever is on call has only this page."""
    text = (PROJECT_ROOT / page).read_text()
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT_ROOT / "Makefile").read_text(), re.MULTILINE))

    made = re.findall(
        r"\bmake (?:-C \S+ |PYTHON=\S+ )?([a-z-]+)", " ".join(re.findall(r"`[^`\n]+`|^make .*", text, re.MULTILINE))
    )
    paths = re.findall(r"\b(?:pipelines|deploy|docs|tests)/[\w./-]*\w", text)
    assert set(made) <= targets
    assert [path for path in paths if not list(PROJECT_ROOT.glob(f"{path}*"))] == []
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert link.startswith("https:") or (PROJECT_ROOT / page).parent.joinpath(link).exists(), link


def test_every_unit_and_path_is_that_of_the_units() -> None:
    """A unit's file without its ending is the service."""
    units = {path.name for path in UNITS.iterdir()}
    service = (UNITS / "cloudflare-audit.service").read_text()
    named = set(re.findall(r"(?<![\w/.=])cloudflare-audit[\w-]*\.(?:service|timer)\b", OPERATIONS))

    assert named <= units
    for path in (
        "/opt/cloudflare-audit",
        "/etc/cloudflare-audit/settings.env",
        "cloudflare-audit.CLOUDFLARE_API_TOKEN",
    ):
        assert path in service
        assert path in OPERATIONS


def test_the_commands_by_hand_get_what_the_service_gets() -> None:
    """The same secrets, settings, user and folders."""
    function = next(code for _, code in BLOCKS if code.startswith("audit() {"))
    service = (UNITS / "cloudflare-audit.service").read_text()

    for line in re.findall(r"^(?:LoadCredential|EnvironmentFile)=.*", service, re.MULTILINE):
        assert f"-p {line} " in function, line
    script = f'sudo() {{ printf "%s\\n" "$@"; }}\n{function.partition("audit psql.py")[0]}audit psql.py -c "SELECT 1"'
    done = subprocess.run(["/bin/bash", "-c", script], capture_output=True, text=True, check=True)
    given = done.stdout.splitlines()
    assert given[-4:] == ["/opt/cloudflare-audit/.venv/bin/python", "pipelines/psql.py", "-c", "SELECT 1"]
    assert {"--uid=cloudflare-audit", "--setenv=DATA_DIR=/var/lib/cloudflare-audit"} <= set(given)


def test_every_name_in_capitals_that_looks_like_a_setting_is_one() -> None:
    """Or the file of a secret, or Compose's."""
    named = set(
        re.findall(r"\b(?:CLOUDFLARE|PG|S3|SWEEP|RECONCILE|TIMESCALE)_[A-Z_]+\b|\bINITIAL_CHECKPOINT\b", OPERATIONS)
    )

    assert named <= {*names_in_code(), *FILE_NAMES.values()}
    assert "INITIAL_CHECKPOINT" in named


def test_every_shell_block_is_shell() -> None:
    """Bash reads them without running them."""
    scripts = [code for language, code in BLOCKS if language == "sh"]

    assert len(scripts) > 4
    for script in scripts:
        done = subprocess.run(["/bin/bash", "-n"], input=script, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


def test_the_override_with_secrets_fits_the_compose_file(tmp_path: Path) -> None:
    """By the schema, and in the services that it names."""
    override = yaml.safe_load(next(code for language, code in BLOCKS if language == "yaml"))
    file = tmp_path / "override.json"
    file.write_text(json.dumps(override))

    check: list[str | Path] = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        "vendor.compose-spec",
        file,
    ]
    done = subprocess.run(check, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout
    assert set(override["services"]) <= set(compose_file({})["services"])
    for service in override["services"].values():
        assert set(service["environment"]) <= set(FILE_NAMES.values())
        paths = {Path(path).name for path in service["environment"].values()}
        assert paths == set(service["secrets"]) == set(override["secrets"])
