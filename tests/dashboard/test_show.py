"""`dlt pipeline NAME show` opens dlt's own dashboard on the settings of the project."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from benchmarks.servers.seaweed import Bucket
from pipelines.loop.report import Report
from simulator.api import Api
from tests.factory import ACCOUNT, ago, spread
from tests.rows import rows

from .conftest import Look, serving

pytestmark = [pytest.mark.browser, pytest.mark.integration]

PICTURE = "http://evil.example/pixel.png"
LOGO = "https://dlthub.com/docs/img/dlthub-logo.png"
DLT = str(Path(sys.executable).with_name("dlt"))


@pytest.mark.parametrize("store", rows("bucket", long=["lake", "warehouse"]))
def test_dlts_dashboard_shows_state_and_data(
    api: Api,
    poll: Callable[..., Report],
    environment: dict[str, str],
    look: Look,
    bucket: Bucket,
    tmp_path: Path,
    store: str,
) -> None:
    """The view, of a bucket too, loads no logo and no picture that an event names; other pages are refused."""
    environment |= bucket.settings("shown") if store == "bucket" else {}
    api.world.add(ACCOUNT, "v1", spread(5, ago(hours=3), ago(hours=2), resource={"id": PICTURE, "type": "t"}))
    poll()
    pipeline = f"cloudflare_audit_{'warehouse' if store == 'warehouse' else 'lake'}"
    without_path = {**environment, "PATH": os.defpath}
    with serving(without_path, tmp_path, DLT, "pipeline", pipeline, "show") as url:
        page = look(url, height=3000, forbidden=(LOGO, PICTURE))
        page.get_by_text("succeeded").first.wait_for()
        assert requests.get(url, headers={"Origin": "http://evil.example"}, timeout=60).status_code == 403

        page.locator(".cm-content", has_text="audit_logs").wait_for()  # the query, which comes after the button
        page.get_by_role("button", name="Run Query").click()
        page.get_by_role("cell", name="alice@example.com").first.wait_for()
        page.get_by_role("switch").nth(5).click()
        page.get_by_text('"_state_version"').wait_for()
