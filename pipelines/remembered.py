"""Answers from memory what dlt asks anew in each of its runs: the configuration, and the schema that it wrote itself.

Neither changes while we run. Of the 250 ms of CPU that loading ten events into both stores took (timed by hand, beside
other work), 70 went into asking.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import dlt
from dlt.common.configuration.container import Container
from dlt.common.configuration.providers.provider import ConfigProvider, get_key_name
from dlt.common.configuration.specs.pluggable_run_context import PluggableRunContext
from dlt.common.schema import Schema
from dlt.common.storages import LiveSchemaStorage


@contextmanager
def remembered_configuration() -> Iterator[None]:
    """A block in which each value is looked up once, in the order in which dlt asks its providers."""
    container = Container()[PluggableRunContext].providers
    asked = container.providers
    container.providers = [_Remembered(asked)]
    try:
        yield
    finally:
        container.providers = asked


def remember_schemas(pipeline: dlt.Pipeline) -> None:
    """Makes the pipeline read each schema file once; its directory is ours alone."""
    storage = pipeline._schema_storage  # noqa: SLF001  # checked by dlt_hooks
    pipeline._schema_storage = _Schemas(storage.config)  # noqa: SLF001


class _Schemas(LiveSchemaStorage):
    def __getitem__(self, name: str) -> Schema:
        return self.live_schemas.get(name) or super().__getitem__(name)


class _Remembered(ConfigProvider):
    """Several providers as one."""

    name = "remembered"
    supports_secrets = supports_sections = True

    def __init__(self, providers: Sequence[ConfigProvider]) -> None:
        self._providers = providers
        self._values: dict[Any, Any] = {}

    def get_value(self, key: str, hint: type[Any], pipeline_name: str | None, *sections: str) -> tuple[Any, str]:
        path = key, pipeline_name, sections
        if path not in self._values:
            found = (provider.get_value(key, hint, pipeline_name or "", *sections)[0] for provider in self._providers)
            self._values[path] = next((value for value in found if value is not None), None)
        return self._values[path], get_key_name(key, ".", *sections)
