"""One event's way through the code, as DESIGN.md lists it."""

import re
from collections.abc import Callable

from benchmarks.servers.commands import Finished
from pipelines.settings.settings import PROJECT_ROOT
from simulator.api import Api
from tests.factory import ACCOUNT, ago, event_at

MOST_FILES = 20


def test_an_event_enters_the_files_that_the_design_lists(api: Api, command: Callable[..., Finished]) -> None:
    """In a traced run, from the API to both stores; a reader finds the whole way in these files."""
    way = (PROJECT_ROOT / "DESIGN.md").read_text().split("<!-- way -->")[1].split("<!-- end -->")[0]
    listed = re.findall(r"`(\S+\.py)`", way)
    api.world.add(ACCOUNT, "v1", [event_at(ago(minutes=20), id="the-event")])

    traced = command("-m", "tests.loop.way", "the-event", "--once")

    assert traced.code == 0, traced.err
    entered = [line.split()[0] for line in traced.out.splitlines() if ".py " in line]
    assert sorted(entered) == sorted(listed)
    assert 10 < len(entered) <= MOST_FILES
