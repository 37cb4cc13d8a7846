"""The verbs, found in the code, and their help: a line each, taken from what each command says of itself."""

import ast
import re
import textwrap
from collections.abc import Iterator
from difflib import get_close_matches
from importlib.metadata import version
from pathlib import Path
from shutil import get_terminal_size

from . import CODE, IS_WHEEL, PROGRAM

OTHERS = {
    "dlt": "Dlt's own command on the settings here, such as: dlt pipeline cloudflare_audit_lake info.",
    "dask": "Dask's own command, for scheduler and workers of --scheduler.",
}
"""Verbs that run the command of another project."""

SHELLS = ("bash", "zsh", "fish")
"""The shells that completion is for."""

_HELP = """\
usage: cloudflare-audit VERB [options]
       cloudflare-audit --version | --print-settings | --print-completion bash|zsh|fish

Every event of the Cloudflare Audit Logs API, exactly once, in PostgreSQL and in a Parquet lake.

verbs:
{verbs}

cloudflare-audit VERB --help has options, examples and exit codes. Times are ISO 8601 (UTC), or 90m, 24h, 7d, 2w before
now. Results are on stdout, logs and progress on stderr.

Settings come from the environment and from the file .env: begin with cloudflare-audit --print-settings > .env
The file .env, accounts.toml, and the folder data (DATA_DIR) are looked for in {place}.
"""


def verbs() -> dict[str, Path]:
    """Returns the file of each verb that is ours."""
    code = Path(CODE)
    commands = {file.stem: file for file in code.glob("pipelines/[a-z]*.py")}
    parts = {part: code / part / "__main__.py" for part in ("dashboard", "simulator")}
    return dict(sorted({**commands, **parts}.items()))


def help_text() -> str:
    """Returns the help of `cloudflare-audit`."""
    place = f"the current directory, {Path.cwd()}" if IS_WHEEL else f"this checkout, {CODE}"
    return _HELP.format(verbs="\n".join(_lines()), place=place).rstrip()


def summary_of(file: Path) -> str:
    """Returns the first sentence of the file's docstring, without the command line that it may begin with."""
    text = " ".join((ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").split())
    text = re.sub(r"^`[^`]*`[:.] ", "", text)
    return text[:1].upper() + re.split(r"(?<=[.?]) ", text[1:], maxsplit=1)[0]


def unknown(verb: str) -> str:
    """Returns the error of a verb that there is not, with those of near names."""
    near = get_close_matches(verb.replace("-", "_"), [*verbs(), *OTHERS], cutoff=0.6)
    hint = f"did you mean {' or '.join(near)}?" if near else f"{PROGRAM} --help lists all"
    return f"{verb!r:.80} is not a verb: {hint}"


def version_text() -> str:
    """Returns the program's name and version."""
    return f"{PROGRAM} {version('cloudflare-audit-pipeline')}"


def example_settings() -> str:
    """Returns an example of `.env` with every setting, its meaning and default."""
    return Path(__file__).with_name("config.example.env").read_text(encoding="utf-8").rstrip()


def _lines() -> Iterator[str]:
    summaries = {verb: summary_of(file) for verb, file in verbs().items()} | OTHERS
    width = max(map(len, summaries)) + 4
    for verb, summary in summaries.items():
        lines = textwrap.wrap(summary, max(get_terminal_size().columns, 60) - width)
        yield f"  {verb:<{width - 2}}" + f"\n{' ' * width}".join(lines)
