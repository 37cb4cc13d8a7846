"""dlt's settings that must hold in each of our loads, whatever `.dlt/config.toml` and the environment say.

dlt looks each of its settings up by name, down to bare names: `DEV_MODE`, `LAG` or `LOAD__RAISE_ON_FAILED_JOBS` in the
environment would turn off what the promise rests on. So from the first load on, a user's values are asked for where
the destinations are, for who logs in there and for what is logged; all else is what stands here, or dlt's default.
"""

from collections.abc import Sequence
from typing import Any

from dlt.common.configuration.container import Container
from dlt.common.configuration.providers.provider import ConfigProvider
from dlt.common.configuration.specs.pluggable_run_context import PluggableRunContext

SETTLED = {
    # The loop finishes the step in hand on SIGTERM by itself.
    ("runtime", "intercept_signals"): False,
    # A failed load is tried again by the loop, which waits longer each time, and opens the store anew.
    ("load", "raise_on_max_retries"): 1,
    # The files of a load are as large as its events.
    ("load", "delete_completed_jobs"): True,
    # Files that live for seconds: to compress them costs more than it saves.
    ("data_writer", "disable_compression"): True,
}
"""By section and name."""

_LEFT_TO_USERS = {"destination", "credentials", "runtime"}


def settle_configuration() -> None:
    """Makes dlt use these settings in this process from now on. Safe to repeat."""
    container = Container()[PluggableRunContext].providers
    asked = container.providers
    if not isinstance(asked[0], _Settled):
        container.providers = [_Settled(), *map(_Destinations, asked)]


class _Settled(ConfigProvider):
    """What stands above."""

    name = "settled"
    supports_secrets = supports_sections = True

    def get_value(self, key: str, hint: type[Any], pipeline_name: str | None, *sections: str) -> tuple[Any, str]:  # noqa: ARG002  # dlt's signature
        for section in sections:
            if (section, key) in SETTLED:
                return SETTLED[section, key], key
        return None, key


class _Destinations(ConfigProvider):
    """The part of another provider that is about destinations and logging.

    Asked once for each value: nothing changes while we run, and dlt asks 1,700 times in each of its runs.
    """

    supports_secrets = supports_sections = True

    def __init__(self, provider: ConfigProvider) -> None:
        self._provider = provider
        self._values: dict[tuple[str, str | None, Sequence[str]], tuple[Any, str]] = {}

    @property
    def name(self) -> str:
        return self._provider.name

    def get_value(self, key: str, hint: type[Any], pipeline_name: str | None, *sections: str) -> tuple[Any, str]:
        if _LEFT_TO_USERS.isdisjoint(sections):
            return None, key
        path = key, pipeline_name, sections
        if path not in self._values:
            self._values[path] = self._provider.get_value(key, hint, pipeline_name or "", *sections)
        return self._values[path]
