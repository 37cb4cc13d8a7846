"""The options of a command: its docstring is its help, whose indented lines stay as they are."""

import argparse
import textwrap


def command_parser(verb: str, doc: str | None) -> argparse.ArgumentParser:
    """Returns a parser for `cloudflare-audit VERB`, to which the command adds its options."""
    return argparse.ArgumentParser(prog=f"cloudflare-audit {verb}", description=doc, formatter_class=_HelpFormatter)


def add_json_option(parser: argparse.ArgumentParser, what: str = "the result as JSON") -> None:
    """Adds `--json`."""
    parser.add_argument("--json", action="store_true", help=what)


class _HelpFormatter(argparse.HelpFormatter):
    def _fill_text(self, text: str, width: int, indent: str) -> str:  # noqa: ARG002  # argparse's names
        paragraphs = textwrap.dedent(text).strip().split("\n\n")
        return "\n\n".join(_filled(paragraph, width) for paragraph in paragraphs)


def _filled(paragraph: str, width: int) -> str:
    head, *rest = paragraph.split("\n")
    if any(line.startswith("  ") for line in rest):
        return paragraph
    return textwrap.fill(" ".join([head, *rest]), width)
