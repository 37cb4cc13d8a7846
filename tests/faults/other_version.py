"""`dask worker --preload tests.faults.other_version`: a worker that says it has another version of distributed."""

from distributed import versions

_version = versions._version_cached  # noqa: SLF001  # where distributed asks for its own


def _other(package: str) -> str | None:
    return "2020.1.0" if package == "distributed" else _version(package)


versions._version_cached = _other  # type: ignore[assignment]  # noqa: SLF001  # as above
