"""Names for ids and addresses: of accounts, from `accounts.toml`, the API or the events; of countries, from a database.

None of them is needed: a name that cannot be found is not there, and nothing is said of it.
"""

import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import requests

from cloudflare_audit import IS_WHEEL
from pipelines.host.masking import masked
from pipelines.settings.settings import read_environment, read_settings
from sources.cloudflare_audit_logs.errors import AuditLogsError

from .ask.stores import WarehouseStore

INSTALL = "pip install 'cloudflare-audit-pipeline[dashboard]'" if IS_WHEEL else "run make dashboard"
"""The command that installs the packages of the pages."""
_AGAIN_SECONDS = 3_600
_PAUSE_SECONDS = 0.3
"""Between two requests: the loop has the token's budget, and this takes little of it."""
_LOOK_BACK = timedelta(days=7)
_IN_EVENTS = """
    SELECT raw_event #>> '{account,name}' AS name FROM {schema}.audit_logs
    WHERE account_id = $1 AND api_version = 'v2' AND "timestamp" >= $2 ORDER BY "timestamp" DESC LIMIT 1"""


class AccountNames:
    """The accounts' names, as far as they are known by now."""

    def __init__(self) -> None:
        self._names = dict[str, str]()

    def __getitem__(self, account_id: str) -> str:
        return self._names.get(account_id, "")

    def learn_beside(self, warehouse: WarehouseStore) -> None:
        """Learns them in a thread of its own, now and every hour."""

        def learn() -> None:
            while True:
                with suppress(Exception):
                    self.learn(warehouse)
                time.sleep(_AGAIN_SECONDS)

        threading.Thread(target=learn, daemon=True, name="account-names").start()

    def learn(self, warehouse: WarehouseStore) -> None:
        """Learns the names of the accounts: the operator's first, then the API's, then those in events."""
        with suppress(Exception):
            self._learn_from_settings()
        with suppress(Exception):
            self._learn_from_events(warehouse, warehouse.accounts())

    def _learn_from_settings(self) -> None:
        settings = read_settings(read_environment(), now=datetime.now(UTC), asks_api=False)
        self._names |= {account.id: account.name for account in settings.accounts.values() if account.name}
        settings = read_settings(read_environment(), now=datetime.now(UTC))
        for account in settings.accounts.values():
            if not account.name and account.token:
                url = f"{settings.api_url}/accounts/{account.id}"
                headers = {"Authorization": f"Bearer {account.token}"}
                with suppress(Exception):
                    answer: Any = requests.get(url, headers=headers, timeout=settings.request_timeout_seconds).json()
                    self._names[account.id] = masked(str(answer["result"]["name"]))
                time.sleep(_PAUSE_SECONDS)

    def _learn_from_events(self, warehouse: WarehouseStore, accounts: Iterable[str]) -> None:
        for account_id in accounts:
            if account_id not in self._names:
                with warehouse.sessions.session() as session:
                    rows = session.rows(_IN_EVENTS, account_id, datetime.now(UTC) - _LOOK_BACK)
                for row in rows:
                    self._names[account_id] = masked(row["name"] or "")


class Countries:
    """The countries of addresses, by a database of the user's; without one, no address has any."""

    def __init__(self, file: Path | None) -> None:
        self._reader: Any = None
        if file is not None:
            try:
                import maxminddb  # noqa: PLC0415  # only who has a database needs it
            except ModuleNotFoundError as error:
                raise AuditLogsError("DASHBOARD_GEOIP needs the package maxminddb", hint=INSTALL) from error
            try:
                self._reader = maxminddb.open_database(file)
            except (maxminddb.InvalidDatabaseError, OSError) as error:
                raise AuditLogsError("DASHBOARD_GEOIP is no database of countries", detail=str(error)) from error

    def __bool__(self) -> bool:
        return self._reader is not None

    def __getitem__(self, address: str | None) -> str:
        """The country's name, or nothing."""
        found: Any = None
        with suppress(ValueError):
            found = self._reader and self._reader.get((address or "").removeprefix("::ffff:"))
        country = found.get("country") or found.get("registered_country") or {} if isinstance(found, dict) else {}
        names = country.get("names", {})
        return str(names.get("en") or country.get("iso_code") or "")
