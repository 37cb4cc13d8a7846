"""`python -m tests.faults.failing FUNCTION ERROR COMMAND [its arguments]`: run.py or another; a function fails.

`FUNCTION` is written as in `dying`; each call of it raises the built-in `ERROR`. Nothing else of it is different.
"""

import builtins
import importlib
import sys
import threading
from typing import Any

from .dying import replace


def main() -> int:
    """Runs the command with the function broken."""
    function, error_name, command, *arguments = sys.argv[1:]
    run = importlib.import_module(f"pipelines.{command}").main

    def fail(*_: Any, **__: Any) -> None:
        error: type[BaseException] = getattr(builtins, error_name)
        raise error("explosion\nof two lines")

    replace(function, lambda _: fail)
    return int(run(arguments))


def hang(*_: Any, **__: Any) -> None:
    """Lasts for ever."""
    threading.Event().wait()


if __name__ == "__main__":
    sys.exit(main())
