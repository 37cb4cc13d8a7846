"""The options of a command: its docstring is its help, whose indented lines stay as they are."""

import argparse
import sys
import textwrap
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, NoReturn


def command_parser(verb: str, doc: str | None) -> argparse.ArgumentParser:
    """Returns a parser for `cloudflare-audit VERB`, to which the command adds its options."""
    return _Parser(prog=f"cloudflare-audit {verb}", description=doc, formatter_class=_HelpFormatter)


def add_json_option(parser: argparse.ArgumentParser, what: str = "the result as JSON") -> None:
    """Adds `--json`."""
    parser.add_argument("--json", action="store_true", help=what)


class _Parser(argparse.ArgumentParser):
    _given: Sequence[str] = ()

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]  # its overloads
        """As argparse has it; remembers what was given, for the error."""
        self._given = sys.argv[1:] if args is None else args
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Ends the process (exit 2), with the options that were probably meant."""
        if message.endswith("expected one argument"):
            message += ", which may not begin with -: that begins an option"
        elif near := self._meant():
            message += f": did you mean {' '.join(near)}?"
        super().error(message)

    def _meant(self) -> dict[str, None]:
        """The options that are near to those that were given and are none."""
        options = [option for option in self._option_string_actions if option.startswith("--")]
        words = [word.partition("=")[0] for word in self._given if word.startswith("--")]
        unknown = [word for word in words if not any(option.startswith(word) for option in options)]
        return dict.fromkeys(match for word in unknown for match in get_close_matches(word, options, n=1, cutoff=0.75))


class _HelpFormatter(argparse.HelpFormatter):
    def _fill_text(self, text: str, width: int, indent: str) -> str:  # noqa: ARG002  # argparse's names
        paragraphs = textwrap.dedent(text).strip().split("\n\n")
        return "\n\n".join(_filled(paragraph, width) for paragraph in paragraphs)


def _filled(paragraph: str, width: int) -> str:
    head, *rest = paragraph.split("\n")
    if any(line.startswith("  ") for line in rest):
        return paragraph
    return textwrap.fill(" ".join([head, *rest]), width)
