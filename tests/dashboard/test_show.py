"""`dlt pipeline NAME show` opens dlt's own dashboard on the settings of the project."""

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from pipelines.report import Report
from simulator.api import Api
from tests.factory import ACCOUNT, ago, spread

from .conftest import Look, serving

pytestmark = [pytest.mark.browser, pytest.mark.integration]

LOGO = "https://dlthub.com/docs/img/dlthub-logo.png"
DLT = str(Path(sys.executable).with_name("dlt"))


@pytest.mark.parametrize("store", ["warehouse", "lake"])
def test_dlts_dashboard_shows_state_and_data(
    api: Api,
    poll: Callable[..., Report],
    environment: Mapping[str, str],
    look: Look,
    tmp_path: Path,
    store: str,
) -> None:
    """Its logo alone is asked for elsewhere, and is not needed."""
    api.world.add(ACCOUNT, "v1", spread(5, ago(hours=3), ago(hours=2)))
    poll()
    pipeline = f"cloudflare_audit_{store}"
    without_path = {**environment, "PATH": os.defpath}
    with serving(without_path, tmp_path, DLT, "pipeline", pipeline, "show") as url:
        page = look(url, height=3000, elsewhere=LOGO)
        page.get_by_text("succeeded").first.wait_for()

        page.locator(".cm-content", has_text="audit_logs").wait_for()  # the query, which comes after the button
        page.get_by_role("button", name="Run Query").click()
        page.get_by_role("cell", name="alice@example.com").first.wait_for()
        page.get_by_role("switch").nth(5).click()
        page.get_by_text('"_state_version"').wait_for()
