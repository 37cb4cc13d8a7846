"""Runs psql on the warehouse: the same login as the loop's, by variables that the list of processes does not show."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing

import psycopg2

from pipelines.load.store import client_of
from pipelines.settings.settings import StoreSettings
from pipelines.warehouse.connection import conninfo, message_of, parameters_of
from pipelines.warehouse.destination import Warehouse
from pipelines.warehouse.embedded import BINARIES

_NAMES = {"dbname": "PGDATABASE", "application_name": "PGAPPNAME", "connect_timeout": "PGCONNECT_TIMEOUT"}
"""The variables that are not called as libpq's parameters are."""
_NOT_PSQLS = {"application_name", "client_encoding"}
"""Parameters that psql chooses for itself."""


def run_psql(arguments: Sequence[str], stores: StoreSettings) -> int:
    """Runs psql on the warehouse and returns its exit code."""
    parameters = parameters_of(client_of(Warehouse.of(stores)).config.credentials)
    search_path = {"options": f"{parameters.get('options', '')} -csearch_path={stores.postgres_schema}".strip()}
    if _are_accepted(parameters | search_path):
        parameters |= search_path
    command = [shutil.which("psql") or str(BINARIES / "psql"), *arguments]
    # On a terminal psql has it to itself; elsewhere its errors go the way of ours: without secrets.
    errors = None if sys.stderr.isatty() else subprocess.PIPE
    environment = os.environ | variables_of(parameters)
    with subprocess.Popen(command, env=environment, stderr=errors, text=True, errors="replace") as process:
        sys.stderr.writelines(process.stderr or ())
    return process.returncode


def variables_of(parameters: Mapping[str, str]) -> dict[str, str]:
    """The parameters as the variables that libpq reads, so that the list of processes shows none."""
    chosen = {name: value for name, value in parameters.items() if name not in _NOT_PSQLS}
    return {_NAMES.get(name, f"PG{name.replace('_', '').upper()}"): value for name, value in chosen.items()}


def _are_accepted(parameters: Mapping[str, str]) -> bool:
    """False if a pooler refuses a startup parameter; other errors psql reports in its own words."""
    try:
        with closing(psycopg2.connect(conninfo(parameters))):
            return True
    except psycopg2.Error as error:
        return "startup parameter" not in message_of(error)
