"""Log lines: one event name and its fields, on stderr. Account ids may appear; e-mails, addresses, tokens never.

In the journal each line, of a traceback as well, has its priority (`journalctl -p warning`), and no time beside the
journal's own.
"""

import logging
from typing import Any

from .masking import masked
from .output import ERROR, INFO, WARNING, is_journal, with_priority

_logger = logging.getLogger("audit")


class _Log:
    """`log.info("poll.finished", new=12)` writes `… INFO poll.finished new=12`."""

    def info(self, event: str, **fields: Any) -> None:
        _logger.info("%s", _line(event, fields))

    def warning(self, event: str, **fields: Any) -> None:
        _logger.warning("%s", _line(event, fields))

    def error(self, event: str, **fields: Any) -> None:
        _logger.error("%s", _line(event, fields))


log = _Log()


def configure_logs(level: str = "INFO") -> None:
    """Sends our lines to stderr, and warnings of libraries with them."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter("" if is_journal() else "%(asctime)s "))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.captureWarnings(capture=True)
    _logger.setLevel(level)


class _Formatter(logging.Formatter):
    """Formats all that is logged, by whatever library."""

    def __init__(self, time: str) -> None:
        super().__init__(f"{time}%(levelname)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        text = masked(super().format(record))
        return with_priority(text, _priority(record.levelno)) if is_journal() else text


def _priority(level: int) -> int:
    return ERROR if level >= logging.ERROR else WARNING if level >= logging.WARNING else INFO


def _line(event: str, fields: dict[str, Any]) -> str:
    return " ".join([event, *(f"{name}={_value(value)}" for name, value in fields.items())])


def _value(value: Any) -> str:
    text = masked(str(value))  # before its quotes are changed
    plain = text.isprintable() and not any(char in text for char in ' "=')
    return (
        text
        if plain and text
        else '"' + "".join(c if c.isprintable() else repr(c)[1:-1] for c in text).replace('"', "'") + '"'
    )
