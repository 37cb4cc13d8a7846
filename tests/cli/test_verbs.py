"""`cloudflare-audit VERB` is every command, with help that says what it is for, and completion."""

import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from benchmarks.servers.commands import Finished, finished
from pipelines.settings.settings import PROJECT_ROOT

COMMANDS = sorted(
    path.stem for path in (PROJECT_ROOT / "pipelines").glob("*.py") if '__name__ == "__main__"' in path.read_text()
)


def run(*arguments: str, **changes: str) -> Finished:
    """Runs `cloudflare-audit` from the checkout."""
    return python("-m", "cloudflare_audit", *arguments, **changes)


def python(*arguments: str, **changes: str) -> Finished:
    """Runs Python with this checkout's code."""
    return finished({**os.environ, "PYTHONPATH": str(PROJECT_ROOT), **changes}, *arguments)


def test_help_lists_every_command_with_a_line() -> None:
    """Nothing is written twice: the line is the first sentence of the command's docstring."""
    shown = run("--help", COLUMNS="200")

    lines = dict(re.findall(r"^  ([a-z0-9_]+) +(\S.*)$", shown.out, re.MULTILINE))
    assert len(COMMANDS) > 10
    assert (shown.code, shown.err) == (0, "")
    assert {*COMMANDS, "dashboard", "simulator", "dlt", "dask"} <= lines.keys()
    assert lines["run"] == "Polls the Cloudflare Audit Logs API into both stores: the main job."
    assert [verb for verb, line in lines.items() if not re.fullmatch(r"[A-Z].*[.?]", line) or "`" in line[:2]] == []
    assert run().out == run("--help").out


@pytest.mark.parametrize("verb", COMMANDS)
def test_the_help_of_a_verb_has_examples_and_exit_codes(verb: str) -> None:
    """Each example is of this verb, with options that there are."""
    shown = import_module(f"pipelines.{verb}").parser().format_help()

    assert f"usage: cloudflare-audit {verb} " in shown
    assert "\n\nExit codes: " in shown
    examples = re.findall(r"^  (cloudflare-audit .*)$", shown.partition("\nExamples:\n")[2], re.MULTILINE)
    assert examples
    options = set(re.findall(r"--[a-z-]+", shown.partition("\noptions:\n")[2]))
    for example in examples:
        assert example.split()[1] == verb
        assert set(re.findall(r" (--[a-z-]+)", example)) <= options


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("statsu",), "'statsu' is not a verb: did you mean status?"),
        (("s3_polcy",), "did you mean s3_policy?"),
        (("xyzzy",), "'xyzzy' is not a verb: cloudflare-audit --help lists all"),
        (("../pipelines/run",), "is not a verb"),
        (("cli",), "is not a verb"),
        (("tests",), "is not a verb"),
        (("",), "is not a verb"),
        (("--bogus",), "unknown option --bogus: see cloudflare-audit --help"),
        (("--print-completion",), "unknown option --print-completion"),
        (("--print-completion", "tcsh"), "unknown option --print-completion tcsh"),
    ],
)
def test_what_is_no_verb_is_one_line(arguments: tuple[str, ...], says: str) -> None:
    """Exit 2, and the verbs that it may have meant."""
    done = run(*arguments)

    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1)
    assert says in done.err


@pytest.mark.parametrize("verb", COMMANDS)
def test_a_misspelt_option_is_told_with_the_one_that_was_meant(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Of every command, also where another one is required; nothing is made up where none is near."""
    parser = import_module(f"pipelines.{verb}").parser()
    longest = max((word for word in re.findall(r"--[a-z-]+", parser.format_help())), key=len)

    for wrong, says in ((f"{longest[:-2]}{longest[:-3:-1]}", f": did you mean {longest}?"), ("--xyzzy", "error: ")):
        with pytest.raises(SystemExit, match="2"):
            parser.parse_args([wrong])
        said = capsys.readouterr().err
        assert (says in said, "did you mean" in said) == (True, wrong != "--xyzzy")


def test_a_value_that_looks_like_an_option_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """As in `--since -5h`, which is written 5h."""
    with pytest.raises(SystemExit, match="2"):
        import_module("pipelines.verify").parser().parse_args(["--since", "-5h"])

    assert "--since: expected one argument, which may not begin with -" in capsys.readouterr().err


@pytest.mark.parametrize(("verb", "arguments"), [("s3-policy", []), ("s3_policy", []), ("ask", ["--help"])])
def test_a_verb_is_the_command_at_its_path(verb: str, arguments: list[str], tmp_path: Path) -> None:
    """Exit code and words are the same, and a `-` is as good as a `_`."""
    env = {"DATA_DIR": str(tmp_path), "S3_BUCKET": ""}

    by_verb = run(verb, *arguments, **env)
    by_path = python(f"pipelines/{verb.replace('-', '_')}.py", *arguments, **env)

    assert by_verb == by_path
    assert by_verb.out + by_verb.err


COMPLETE = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 )); COMPREPLY=()
$(complete -p cloudflare-audit | sed -E 's/.*-F ([^ ]+).*/\\1/')
printf '%s\\n' "${COMPREPLY[@]}"
"""


def test_bash_completes_verbs_and_options(tmp_path: Path) -> None:
    """In a real bash."""
    script = tmp_path / "completion"
    script.write_text(run("--print-completion", "bash").out)

    def complete(*words: str) -> set[str]:
        shell = ["bash", "--norc", "-c", COMPLETE, "bash", str(script), "cloudflare-audit", *words]
        return set(subprocess.run(shell, capture_output=True, text=True, check=True).stdout.split())

    assert complete("re") == {"reconcile", "rehydrate", "retention"}
    assert {*COMMANDS, "dashboard", "dlt"} <= complete("")
    assert complete("reconcile", "--re") == {"--repair"}
    assert complete("rehydrate", "--d") == {"--dry-run", "--drop"}
    assert complete("--print-completion", "f") == {"fish"}


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_a_script_with_every_verb(shell: str) -> None:
    """Which names the options as well."""
    script = run("--print-completion", shell).out

    assert [verb for verb in COMMANDS if verb not in script] == []
    assert "without-api" in script


def test_help_ends_quietly_if_nobody_reads_it() -> None:
    """As in `cloudflare-audit --help | head`."""
    first = f"{sys.executable} -m cloudflare_audit --print-settings | head -1"

    done = subprocess.run(["bash", "-c", first], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True)  # noqa: S607  # the user's

    assert (done.stdout[0], done.stderr) == ("#", "")
