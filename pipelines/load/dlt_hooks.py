"""The parts of dlt that this project extends or calls, and that dlt does not promise to keep: checked before a run.

A hook that dlt no longer calls would not fail: the events would silently go dlt's own way.
"""

import inspect
from importlib.metadata import version

from dlt.common.destination.client import DestinationClientDwhConfiguration
from dlt.destinations import filesystem, postgres
from dlt.destinations.impl.filesystem.filesystem import FilesystemClient
from dlt.destinations.impl.postgres.postgres import PostgresClient
from dlt.destinations.impl.postgres.sql_client import Psycopg2SqlClient
from dlt.extract.incremental import Incremental

from sources.cloudflare_audit_logs.errors import AuditLogsError

BUILT_FOR = "1.31"

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


def verify_hooks() -> None:
    """Checks that dlt has every hook, with the parameters that ours has.

    Raises:
        AuditLogsError: it has not; with what changed, and which version to install.
    """
    changed = [
        f"{owner.__name__}.{name}"
        for owner, methods in HOOKS.items()
        for name, parameters in methods.items()
        if _parameters(owner, name) != parameters
    ]
    if changed:
        raise AuditLogsError(
            f"dlt {version('dlt')} is not the one that this was built for",
            detail=f"changed: {', '.join(changed)}",
            hint=f"install dlt {BUILT_FOR}: make setup, or pip install 'dlt=={BUILT_FOR}.*'",
        )


def _parameters(owner: type, name: str) -> str | None:
    method = getattr(owner, name, None)
    return None if method is None else ", ".join(list(inspect.signature(method).parameters)[1:])
