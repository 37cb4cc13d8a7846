"""The one name that an installation adds: finds the project's code, and runs its commands.

A wheel keeps the code in a folder of its own, `app/`, so that no `pipelines` or `tests` lies among somebody's packages.
In a checkout it is the checkout.
"""

import os
import sys

PROGRAM = "cloudflare-audit"

_HERE = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120  # every `dlt` of the environment comes here
_APP = os.path.join(_HERE, "app")  # noqa: PTH118
IS_WHEEL = os.path.isdir(_APP)  # noqa: PTH112
CODE = _APP if IS_WHEEL else os.path.dirname(_HERE)  # noqa: PTH120
"""The folder of `pipelines`, `sources` and the others."""


def add_code_to_path() -> None:
    """Makes the code importable, here and in Python processes that are started from here."""
    if sys.path[:1] != [CODE]:
        sys.path.insert(0, CODE)
    inherited = os.environ.get("PYTHONPATH")
    if CODE not in (inherited or "").split(os.pathsep):
        os.environ["PYTHONPATH"] = os.pathsep.join([CODE, *([inherited] if inherited else [])])
