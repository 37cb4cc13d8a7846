"""The command `cloudflare-audit VERB`: runs `pipelines/VERB.py`, `python -m VERB`, or dlt's or Dask's own command."""

import os
import re
import signal
import sys
from typing import NoReturn

from . import CODE, PROGRAM, add_code_to_path


def main() -> None:
    """Runs the verb that the arguments begin with; its exit code is this one's."""
    add_code_to_path()
    verb, *arguments = sys.argv[1:] or ["--help"]
    if verb.startswith("-"):
        _answer([verb, *arguments])
    name = verb.replace("-", "_")
    script = f"{CODE}/pipelines/{name}.py"
    is_word = re.fullmatch("[a-z0-9][a-z0-9_]*", name)
    sys.argv = [f"{PROGRAM} {verb}", *arguments]
    if is_word and os.path.isfile(script):  # noqa: PTH113  # pathlib costs each start 5 ms
        _run(script)
    elif is_word and os.path.isfile(f"{CODE}/{name}/__main__.py"):  # noqa: PTH113
        from runpy import run_module  # noqa: PLC0415

        run_module(name, run_name="__main__", alter_sys=True)
    else:
        _run_other(verb)


def _run(script: str) -> None:
    """Runs the script as the main module, as Python does, without the 10 ms that runpy costs each start."""
    module = sys.modules["__main__"]
    module.__file__ = script
    with open(script, "rb") as file:  # noqa: PTH123  # as above
        exec(compile(file.read(), script, "exec"), module.__dict__)  # noqa: S102  # it is ours


def _run_other(verb: str) -> None:
    """Runs the command of another project on the settings here. Ends the process (exit 2) if there is none."""
    from .verbs import OTHERS, unknown  # noqa: PLC0415  # no command needs it

    if verb not in OTHERS:
        _fail(unknown(verb))
    from importlib.metadata import entry_points  # noqa: PLC0415

    found = [*entry_points(group="console_scripts", name=verb)]
    if not found:
        _fail(f"{verb} is not installed: pip install 'cloudflare-audit-pipeline[{verb}]'")
    sys.exit(found[0].load()())


def _answer(arguments: list[str]) -> NoReturn:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `… | head`
    from .verbs import SHELLS, example_settings, help_text, version_text  # noqa: PLC0415  # no command needs it

    match arguments:
        case ["-h" | "--help"]:
            print(help_text())
        case ["--version"]:
            print(version_text())
        case ["--print-settings"]:
            print(example_settings())
        case ["--print-completion", shell] if shell in SHELLS:
            from .completion import completion  # noqa: PLC0415  # it imports everything

            print(completion(shell))
        case _:
            _fail(f"unknown option {' '.join(arguments):.80}: see {PROGRAM} --help")
    sys.exit(0)


def _fail(text: str) -> NoReturn:
    print(f"{PROGRAM}: {text}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
