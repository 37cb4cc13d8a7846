"""Without its packages, the dashboard says how to install them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.settings.settings import PROJECT_ROOT


@pytest.mark.parametrize(
    ("is_wheel", "said"), [(True, "pip install 'cloudflare-audit-pipeline[dashboard]'"), (False, "run make dashboard")]
)
def test_what_is_missing_is_named_as_it_is_installed_here(tmp_path: Path, *, is_wheel: bool, said: str) -> None:
    """By pip, in a wheel; by make, in a checkout."""
    code = tmp_path / "cloudflare_audit" / "app" if is_wheel else tmp_path
    shutil.copytree(PROJECT_ROOT / "cloudflare_audit", tmp_path / "cloudflare_audit")
    code.mkdir(exist_ok=True)
    for name in ("dashboard", "pipelines", "sources"):
        shutil.copytree(PROJECT_ROOT / name, code / name)
    (code / "jinja2.py").write_text("raise ModuleNotFoundError(name='jinja2')")
    environment = {**os.environ, "PYTHONPATH": f"{code}:{tmp_path}"}

    ran, helped = (
        subprocess.run(
            [sys.executable, "-m", "dashboard", *more],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        for more in ((), ("--help",))
    )

    assert (ran.returncode, ran.stderr) == (1, f"The dashboard's packages are not installed (jinja2): {said}\n")
    assert helped.stdout.startswith("usage: cloudflare-audit dashboard ")
