"""Log lines: one event name and its fields, on stderr. Account ids may appear; e-mails, addresses, tokens never."""

import logging
from typing import Any

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
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    _logger.setLevel(level)


def _line(event: str, fields: dict[str, Any]) -> str:
    return " ".join([event, *(f"{name}={_value(value)}" for name, value in fields.items())])


def _value(value: Any) -> str:
    text = str(value)
    plain = text.isprintable() and not any(char in text for char in ' "=')
    return (
        text
        if plain and text
        else '"' + "".join(c if c.isprintable() else repr(c)[1:-1] for c in text).replace('"', "'") + '"'
    )
