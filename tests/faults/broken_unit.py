"""`dask worker --preload tests.faults.broken_unit`: the rehydration of `BROKEN_ACCOUNT` fails there, or kills it."""

import os
import signal
from typing import Any

from pipelines.bulk import rehydrate_days

_rehydrate_day = rehydrate_days._rehydrate_day  # noqa: SLF001  # the point at which it breaks


def _break(account_id: str, *others: Any) -> rehydrate_days.Rehydrated:
    if account_id == os.environ["BROKEN_ACCOUNT"]:
        if "BROKEN_KILLS" in os.environ:
            os.kill(os.getpid(), signal.SIGKILL)
        raise RuntimeError("explosion")
    return _rehydrate_day(account_id, *others)


rehydrate_days._rehydrate_day = _break  # type: ignore[assignment]  # noqa: SLF001  # as above
