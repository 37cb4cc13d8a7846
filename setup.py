"""The part of the build that pyproject.toml cannot say: a wheel's one top-level name is `cloudflare_audit`.

The other packages lie within it, in `cloudflare_audit/app/`; an editable installation leaves them where they are. The
extras are dependency groups, which pip does not install by name from a wheel.
"""

import sys
import tomllib
from pathlib import Path

from setuptools import find_namespace_packages, setup

PARTS = find_namespace_packages(
    include=["sources*", "pipelines*", "simulator*", "dashboard*"], exclude=["*__pycache__*"]
)
DATA = ("sql", "css", "js", "html", "svg", "woff2", "json", "toml", "env")
GROUPS = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]

if "editable_wheel" in sys.argv:
    layout = {"packages": ["cloudflare_audit", *PARTS], "package_dir": {"": "."}}
else:
    inside = {f"cloudflare_audit.app.{name}": name.replace(".", "/") for name in PARTS}
    layout = {"packages": ["cloudflare_audit", *inside], "package_dir": inside}

setup(
    **layout,
    package_data={"": [f"*.{kind}" for kind in DATA]},
    extras_require={name: GROUPS[name] for name in ("dashboard", "dask")},
)
