"""A text that a repair has copied from the warehouse is counted, and becomes the API's own again where it can."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.servers.commands import Finished
from pipelines.loop.report import Report
from simulator.api import Api
from tests.factory import ACCOUNT, event_at
from tests.stores import Stores

pytestmark = pytest.mark.integration

DAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=3)
RECONCILE = ("pipelines/reconcile.py", "--since", DAY.isoformat(), "--before", (DAY + timedelta(days=1)).isoformat())
ODD: dict[str, Any] = {
    "ä": '\x7f\x01\n\\"/é\u2028😀',
    "bb": [1.50, -0.0, 12345678901234567890, True, None, {}, []],
    "a": {"": " , : "},
}
"""Of which jsonb changes the order, at least."""


@pytest.fixture
def hour(api: Api, poll: Callable[..., Report], stores: Stores) -> tuple[Path, list[str]]:
    """An hour's object that was lost, and what its texts were."""
    events = [event_at(DAY + timedelta(minutes=n), id=f"e{n}", newValue="low", odd={**ODD, "n": n}) for n in range(3)]
    api.world.add(ACCOUNT, "v1", events)
    poll()
    (path,) = (stores.lake / "cloudflare/audit_logs").rglob("*.parquet")
    texts = _texts(path)
    path.unlink()
    return path, texts


def _texts(path: Path) -> list[str]:
    texts: list[str] = pq.ParquetFile(path).read(["raw_event"])["raw_event"].to_pylist()
    return texts


def _rewrite(path: Path, change: Callable[[str], str]) -> None:
    rows: list[dict[str, Any]] = pq.ParquetFile(path).read().to_pylist()
    changed = [row | {"raw_event": change(row["raw_event"])} for row in rows]
    pq.write_table(pa.Table.from_pylist(changed, schema=pq.read_schema(path)), path)


def test_a_repair_says_of_how_many_events_the_exact_text_is_not_known(
    command: Callable[..., Finished], hour: tuple[Path, list[str]]
) -> None:
    """For people, in the log and in the result; what the API shows is exact."""
    path, texts = hour

    copied = command(*RECONCILE, "--repair", "--without-api")
    path.unlink()
    counted = command(*RECONCILE, "--repair", "--without-api", "--json")
    path.unlink()
    shown = command(*RECONCILE, "--repair", "--json")

    assert (copied.code, counted.code, shown.code) == (0, 0, 0), copied.err + counted.err + shown.err
    assert "3 events from the warehouse, whose exact text is not known" in copied.out
    assert copied.err.count("repair.inexact events=3") == 1
    assert (counted.report["inexact"], shown.report["inexact"]) == (3, 0)
    assert "repair.inexact" not in shown.err
    assert _texts(path) == texts


def test_content_and_repair_put_the_text_of_the_api_back(
    command: Callable[..., Finished], hour: tuple[Path, list[str]]
) -> None:
    """A gap in the lake, not in the warehouse: that means the same."""
    path, texts = hour
    command(*RECONCILE, "--repair", "--without-api")
    copies = _texts(path)

    named = command(*RECONCILE, "--content", "--json")
    mended = command(*RECONCILE, "--content", "--repair", "--json")
    again = command(*RECONCILE, "--content", "--json")

    assert all(copy != text for copy, text in zip(copies, texts, strict=True))
    assert (named.code, [gap["differing"] for gap in named.report["gaps"]]) == (3, [{"lake": ["e0", "e1", "e2"]}])
    assert (mended.code, mended.report["inexact"], again.code) == (0, 0, 0), mended.err
    assert _texts(path) == texts


def test_a_text_of_another_form_is_no_difference(
    command: Callable[..., Finished], hour: tuple[Path, list[str]]
) -> None:
    """The API may write an event anew."""
    path, _ = hour
    command(*RECONCILE, "--repair")
    _rewrite(path, lambda text: text.replace('":', '" :', 1))

    done = command(*RECONCILE, "--content", "--json")

    assert (done.code, done.report["gaps"]) == (0, []), done.err
