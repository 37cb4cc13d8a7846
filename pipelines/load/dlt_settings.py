"""All that this project needs of dlt's inside: its hooks, the settings of our loads, and what it need not ask twice.

dlt looks each of its settings up by name, down to bare names: `DEV_MODE`, `LAG` or `LOAD__RAISE_ON_FAILED_JOBS` in the
environment would turn off what the promise rests on. So from the first load on, the user's values count for where the
destinations are, who logs in there and what is logged. All other settings are those of this module, or dlt's defaults.
"""

import inspect
import sys
from collections.abc import Sequence
from copy import copy
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from dlt.common import validation
from dlt.common.configuration.container import Container
from dlt.common.configuration.providers.provider import ConfigProvider
from dlt.common.configuration.specs import BaseConfiguration
from dlt.common.configuration.specs.pluggable_run_context import PluggableRunContext
from dlt.common.destination.client import DestinationClientDwhConfiguration
from dlt.destinations import filesystem, postgres
from dlt.destinations.impl.filesystem.filesystem import FilesystemClient
from dlt.destinations.impl.postgres.postgres import PostgresClient
from dlt.destinations.impl.postgres.sql_client import Psycopg2SqlClient
from dlt.extract.incremental import Incremental
from typing_extensions import get_type_hints

from sources.cloudflare_audit_logs.errors import AuditLogsError

if TYPE_CHECKING:
    from dlt.common.destination import Destination
else:
    Destination = object

BUILT_FOR = "1.31"

SETTLED = {
    # The loop finishes its step on SIGTERM by itself.
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

HOOKS: dict[type, dict[str, str]] = {
    PostgresClient: {
        "create_load_job": "table, file_path, load_id, restore",
        "complete_load": "load_id",
        "should_load_data_to_staging_dataset": "table_name",
        "_create_merge_followup_jobs": "table_chain",
        "_execute_schema_update_sql": "only_tables, store_schema",
    },
    Psycopg2SqlClient: {
        "__init__": "dataset_name, staging_dataset_name, credentials, capabilities",
        "open_connection": "",
        "_reset_connection": "",
    },
    FilesystemClient: {
        "get_load_job_class": "table, file_path",
        "get_stored_state": "pipeline_name",
        "get_storage_versions": "",
        "_get_stored_schema_by_hash_or_newest": "version_hash, schema_name",
        "_list_dlt_table_files": "table_name, pipeline_name",
        "_iter_stored_schema_files": "",
        "_delete_file": "file_path",
        "list_table_files": "table_name, schema_name",
        "create_dataset": "",
        "_write_to_json_file": "filepath, data",
    },
    Incremental: {"advance": "last_value", "get_state": ""},
    DestinationClientDwhConfiguration: {"_bind_dataset_name": "dataset_name, default_schema_name"},
    postgres: {
        "client": "schema, initial_config",
        "configuration": "initial_config, accept_partial",
        "_raw_capabilities": "",
    },
    filesystem: {"configuration": "initial_config, accept_partial", "_raw_capabilities": ""},
}
"""Methods that this project extends or calls and that dlt does not promise to keep, with their parameters.

A hook that dlt no longer calls would not fail: the events would silently go dlt's own way.
"""


def verify_hooks() -> None:
    """Checks, before a run, that dlt has every hook with these parameters.

    Raises:
        AuditLogsError: it has not; with what changed, and which version to install.
    """
    methods = [(owner, name, parameters) for owner in HOOKS for name, parameters in HOOKS[owner].items()]
    changed = [f"{owner.__name__}.{name}" for owner, name, wanted in methods if _parameters(owner, name) != wanted]
    if changed:
        raise AuditLogsError(
            f"dlt {version('dlt')} is not the one that this was built for",
            detail=f"changed: {', '.join(changed)}",
            hint=f"install dlt {BUILT_FOR}: make setup, or pip install 'dlt=={BUILT_FOR}.*'",
        )


def _parameters(owner: type, name: str) -> str | None:
    method = getattr(owner, name, None)
    return None if method is None else ", ".join(list(inspect.signature(method).parameters)[1:])


def settle_configuration() -> None:
    """Makes dlt use the settings above in this process from now on. Safe to repeat."""
    container = Container()[PluggableRunContext].providers
    if not isinstance(container.providers[0], _Settled):
        container.providers = [_Settled(), *map(_Destinations, container.providers)]
        validation.__dict__["get_type_hints"] = _hints_of
        BaseConfiguration.__len__ = lambda self: _count_fields(type(self))  # type: ignore[method-assign]  # as above


def _hints_of(spec: type, globalns: Any) -> dict[str, Any]:  # noqa: ARG001  # dlt's signature
    return _type_hints(spec)


@cache
def _type_hints(spec: type) -> dict[str, Any]:
    """A class's type hints. dlt reads them anew at each of 140 validations in a run, a tenth of it."""
    return get_type_hints(spec, vars(sys.modules[spec.__module__]))


@cache
def _count_fields(spec: type[BaseConfiguration]) -> int:
    """The number of a configuration's fields. dlt counts them whenever it asks if it has one, a tenth of a run."""
    names: Any = spec.__iter__(spec)  # type: ignore[arg-type]  # which reads the class alone
    return len(list(names))


class _Settled(ConfigProvider):
    """The settings above."""

    name = "settled"
    supports_secrets = supports_sections = True

    def get_value(self, key: str, hint: type[Any], pipeline_name: str | None, *sections: str) -> tuple[Any, str]:  # noqa: ARG002  # dlt's signature
        return next((SETTLED[section, key] for section in sections if (section, key) in SETTLED), None), key


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

    @property
    def is_empty(self) -> bool:
        return self._provider.is_empty

    def get_value(self, key: str, hint: type[Any], pipeline_name: str | None, *sections: str) -> tuple[Any, str]:
        if _LEFT_TO_USERS.isdisjoint(sections):
            return None, key
        path = key, pipeline_name, sections
        if path not in self._values:
            self._values[path] = self._provider.get_value(key, hint, pipeline_name or "", *sections)
        return self._values[path]


class OwnDestination(Destination):  # type: ignore[type-arg]  # mixed into a destination of dlt's
    """Resolves its configuration once: dlt does so some ten times in a run, a fourth of a small cycle's CPU.

    One for each opening of a store, so that what it remembers ends with that.
    """

    def configuration(self, initial_config: Any, accept_partial: bool = False) -> Any:  # noqa: FBT001, FBT002  # dlt's signature
        """A copy of what it was resolved to before, if it was: callers change it."""
        key = "configuration", accept_partial, repr(sorted((initial_config or {}).items(), key=str))
        return self._once(key, lambda: super(OwnDestination, self).configuration(initial_config, accept_partial)).copy()

    def capabilities(self, config: Any = None, naming: Any = None) -> Any:
        """A copy, as above."""
        if config is not None:
            return super().capabilities(config, naming)
        key = "capabilities", type(naming), getattr(naming, "max_length", None)
        return copy(self._once(key, lambda: super(OwnDestination, self).capabilities(None, naming)))

    def _once(self, key: Any, resolve: Any) -> Any:
        resolved = self.__dict__.setdefault("_resolved", {})
        if key not in resolved:
            resolved[key] = resolve()
        return resolved[key]
