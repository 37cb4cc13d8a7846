"""Appends seals as fast as it can, against others: for a process of its own."""

from datetime import UTC, datetime
from functools import partial

from pipelines.lake.reads import read_lake
from pipelines.seals.chain import Chain
from pipelines.seals.pure.seal_format import Entry, Seal
from pipelines.settings.settings import read_environment, read_seal_settings


def race(name: str, count: str) -> None:
    """Appends so many seals to the lake of the settings."""
    file = read_seal_settings(read_environment()).key_file
    assert file is not None
    with read_lake() as lake:
        chain = Chain(lake.objects, file, lambda: datetime.now(UTC))
        for number in range(int(count)):
            chain.append(partial(_entry, {"test": f"{name} {number}"}))


def _entry(entry: Entry, _: Seal | None) -> tuple[list[Entry], bytes]:
    return [entry], b""
