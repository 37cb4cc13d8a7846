"""Log lines: one event name and its fields, on stderr, as text or JSON.

Account ids may appear; e-mails, addresses, tokens never.

In the journal each line, of a traceback as well, has its priority (`journalctl -p warning`), and no time beside the
journal's own.
"""

import json
import logging
from datetime import UTC, datetime
from typing import Any, NamedTuple

from .masking import masked
from .output import ERROR, INFO, WARNING, is_journal, with_priority

_logger = logging.getLogger("audit")


class _Log:
    """`log.info("poll.finished", new=12)` writes `… INFO poll.finished new=12`."""

    def info(self, event: str, **fields: Any) -> None:
        _logger.info("%s", _Line(event, fields))

    def warning(self, event: str, **fields: Any) -> None:
        _logger.warning("%s", _Line(event, fields))

    def error(self, event: str, **fields: Any) -> None:
        _logger.error("%s", _Line(event, fields))


log = _Log()


def configure_logs(level: str = "INFO", *, as_json: bool = False) -> None:
    """Sends our lines to stderr from the level on, and warnings of libraries with them."""
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonFormatter() if as_json else _Formatter("" if is_journal() else "%(asctime)s "))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.captureWarnings(capture=True)
    _logger.setLevel(level)


class _Formatter(logging.Formatter):
    """Formats all that is logged, by whatever library."""

    def __init__(self, time: str) -> None:
        super().__init__(f"{time}%(levelname)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        return _for_journal(masked(super().format(record)), record)


class _JsonFormatter(logging.Formatter):
    """Formats the same as an object a line: `time`, `level`, `event` and the event's fields; numbers stay numbers."""

    def format(self, record: logging.LogRecord) -> str:
        line = record.args[0] if isinstance(record.args, tuple) and len(record.args) == 1 else None
        about = {"time": datetime.fromtimestamp(record.created, UTC).isoformat(), "level": record.levelname}
        if isinstance(line, _Line):
            about |= {"event": line.event} | {name: _as_json(value) for name, value in line.fields.items()}
        else:
            about |= {"event": "library.logged", "logger": record.name, "message": masked(super().format(record))}
        return _for_journal(json.dumps(about, ensure_ascii=False), record)


def _for_journal(text: str, record: logging.LogRecord) -> str:
    return with_priority(text, _priority(record.levelno)) if is_journal() else text


def _priority(level: int) -> int:
    return ERROR if level >= logging.ERROR else WARNING if level >= logging.WARNING else INFO


class _Line(NamedTuple):
    event: str
    fields: dict[str, Any]

    def __str__(self) -> str:
        return " ".join([self.event, *(f"{name}={_value(value)}" for name, value in self.fields.items())])


def _as_json(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | None) else masked(str(value))


def _value(value: Any) -> str:
    text = masked(str(value))  # before its quotes are changed
    plain = text.isprintable() and not any(char in text for char in ' "=')
    return (
        text
        if plain and text
        else '"' + "".join(c if c.isprintable() else repr(c)[1:-1] for c in text).replace('"', "'") + '"'
    )
