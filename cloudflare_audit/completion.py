"""Completion for a shell: a script with every verb and option, made once by `--print-completion`.

All commands are imported for it, which takes a second. A script that asked them at each TAB would take as long there.
"""

import argparse
from importlib import import_module

import shtab

from . import CODE, PROGRAM
from .verbs import OTHERS, SHELLS, summary_of, verbs


def completion(shell: str) -> str:
    """Returns the script for a shell."""
    everything = argparse.ArgumentParser(prog=PROGRAM)
    everything.add_argument("--version", action="store_true", help="the version")
    everything.add_argument("--print-settings", action="store_true", help="an example of .env, with every setting")
    everything.add_argument("--print-completion", choices=SHELLS, help="a script for the shell's completion")
    of_verb = everything.add_subparsers()
    for verb, file in verbs().items():
        module = import_module(file.relative_to(CODE).with_suffix("").as_posix().replace("/", "."))
        options = getattr(module, "parser", argparse.ArgumentParser)()
        of_verb.add_parser(verb, help=summary_of(file), parents=[options], add_help=False)
    for verb, summary in OTHERS.items():
        of_verb.add_parser(verb, help=summary, add_help=False)
    return str(shtab.complete(everything, shell))
