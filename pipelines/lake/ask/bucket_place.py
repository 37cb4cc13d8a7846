"""The lake in a bucket, read by obstore: it takes a hundredth of s3fs's CPU for an object. Never writes."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import obstore
from obstore.exceptions import BaseError, NotFoundError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store

from pipelines.lake.objects import Listed
from sources.cloudflare_audit_logs.errors import AuditLogsError, TemporaryError
from sources.cloudflare_audit_logs.schema import EVENTS_TABLE

from .places import WILD, Days, Found, Part, ids_of

if TYPE_CHECKING:
    from obstore.store import ClientConfig

AT_ONCE = 32
"""Requests at once: of a bucket that answers after 30 ms, a thousand objects a second."""
_LISTINGS = 16
_PAGE, _HOURS = 1000, 24
"""Objects in an answer to a listing, and at most in a day."""
_KEYS_FOR = timedelta(minutes=5)
"""The time after which a bucket's keys are asked for anew: those of a role change."""
_REFUSAL = re.compile(r"status (?:code: )?(4\d\d)")
_PLACE = re.compile(r"\w+/account=(?P<account>[^/]+)/date=(?P<date>[^/]+)/(?:hour=(?P<hour>\d\d)/)?events\.parquet")
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_PASSING = {"408", "425", "429"}


class BucketPlace:
    """A bucket, or what is below a prefix of it.

    Args:
        place: endpoint, region, and the names that obstore has for what else there is to say.
        keys: asks for the keys that are good now; None: none are needed.
    """

    is_local = False

    def __init__(self, bucket: str, root: str, place: Mapping[str, Any], keys: Callable[[], Any] | None) -> None:
        self._bucket, self._root = bucket, root.strip("/")
        self._place, self._keys = place, keys

    @cached_property
    def _store(self) -> Any:
        authority = os.environ.get("AWS_CA_BUNDLE")
        client: ClientConfig = {
            "allow_http": True,
            "connect_timeout": "5s",
            "read_timeout": "60s",
            "timeout": "10m",
            "pool_max_idle_per_host": str(AT_ONCE),
        }
        if authority:
            client["root_certificate"] = Path(authority).read_bytes()
        # Everything is said: obstore would take from the environment what is not.
        return S3Store(
            self._bucket,
            **{"virtual_hosted_style_request": False, **self._place},
            skip_signature=self._keys is None,
            credential_provider=self._credentials if self._keys else None,
            client_options=client,
            retry_config={"max_retries": 2, "retry_timeout": timedelta(seconds=60)},
        )

    def _credentials(self) -> Any:
        access_key, secret_key, token = self._keys() if self._keys else ("", "", None)
        return {
            "access_key_id": access_key,
            "secret_access_key": secret_key,
            "token": token,
            "expires_at": datetime.now(UTC) + _KEYS_FOR,
        }

    def url(self, path: str) -> str:
        """The object's URL."""
        return f"s3://{self._bucket}/{self._full(path)}"

    def accounts(self, table: str) -> list[str]:
        """The accounts that a table has objects of: one request, however many objects there are."""
        found = self._store.list_with_delimiter(self._full(table))
        return ids_of(prefix.rpartition("/")[2] for prefix in found["common_prefixes"])

    def dates(self, table: str, account_id: str) -> set[str]:
        """The days that a table has objects of, of an account: a request for a thousand days."""
        found = self._store.list_with_delimiter(self._full(f"{table}/account={account_id}"))
        return {prefix.rpartition("/")[2].removeprefix("date=") for prefix in found["common_prefixes"]}

    def find(self, table: str, days: Days) -> Iterator[Found]:
        """Finds the objects of the days, in order: of an account, as many days at a time as one answer has room for."""
        size = _PAGE // (_HOURS if table == EVENTS_TABLE else 1)
        with ThreadPoolExecutor(_LISTINGS) as pool:
            accounts = [days.accounts]
            if WILD.search(days.accounts):
                accounts = [account_id for account_id in self.accounts(table) if fnmatchcase(account_id, days.accounts)]
            dates = pool.map(partial(self._dates_of, table, days), accounts)
            runs = [
                (account_id, *run)
                for account_id, its in zip(accounts, dates, strict=True)
                for run in _runs(its, days, size)
            ]
            for found in pool.map(lambda run: list(self._of_days(table, *run)), runs):
                yield from found

    def _dates_of(self, table: str, days: Days, account_id: str) -> set[str]:
        return self.dates(table, account_id) if WILD.search(days.pattern) else {days.pattern}

    def _of_days(self, table: str, account_id: str, day_before: str | None, dates: Sequence[str]) -> Iterator[Found]:
        folder = f"{table}/account={account_id}"
        if len(dates) == 1:
            listed = self._list(f"{folder}/date={dates[0]}")
        else:
            # From the end of the day before: from within a day on, SeaweedFS leaves out the rest of that day.
            listed = self._list(folder, after=day_before and f"{folder}/date={day_before}/~")
        for path, its in listed:
            place = _PLACE.fullmatch(path)
            if place is not None and place["date"] > dates[-1]:
                return
            if place is not None and place["date"] in dates:
                yield Found(place["account"], place["date"], place["hour"] or "", path, its)

    def walk(self, folder: str) -> dict[str, Listed]:
        """Lists all objects below a folder."""
        return dict(self._list(folder))

    def _list(self, folder: str, after: str | None = None) -> Iterator[tuple[str, Listed]]:
        skipped = len(self._full("x")) - 1
        offset = None if after is None else self._full(after)
        for page in self._store.list(self._full(folder), offset=offset, chunk_size=_PAGE):
            for item in page:
                yield item["path"][skipped:], Listed(item["size"], item["e_tag"] or "")

    def read(self, path: str, begin: int = 0, end: int | None = None) -> Part:
        """Reads an object or a part of it, in one request; a negative `begin` counts from its end.

        Raises:
            FileNotFoundError: it is not there.
        """
        options: Any = {"range": (begin, end)} if end is not None else {"range": {"suffix": -begin}} if begin else {}
        try:
            got = obstore.get(self._store, self._full(path), options=options)
            body = bytes(got.bytes())
        except NotFoundError as error:
            raise FileNotFoundError(path) from error
        return Part(body, got.meta["e_tag"] or "", got.meta["size"])

    def is_there(self) -> bool:
        """True if there is any object of the lake."""
        found = self._store.list_with_delimiter(self._root or None)
        return bool(found["common_prefixes"] or found["objects"])

    @contextmanager
    def translated_errors(self) -> Iterator[None]:
        """A block whose errors of the store are raised as ours."""
        try:
            yield
        except BaseError as error:
            text = str(error).partition("\n\nDebug source")[0]
            refusal = _REFUSAL.search(text)
            lasts = isinstance(error, PermissionDeniedError | UnauthenticatedError)
            kind = AuditLogsError if lasts or (refusal and refusal[1] not in _PASSING) else TemporaryError
            hint = "check S3_ENDPOINT, S3_BUCKET and its keys"
            raise kind("the lake is not available", detail=" ".join(text.split()), hint=hint) from error

    def _full(self, path: str) -> str:
        return f"{self._root}/{path}" if self._root else path


def _runs(dates: Iterable[str], days: Days, size: int) -> Iterator[tuple[str | None, list[str]]]:
    """Yields those of an account's dates that are asked for, some at a time, each with the date before the first."""
    ordered = sorted(filter(_DATE.fullmatch, dates))
    before = dict(zip(ordered, [None, *ordered], strict=False))
    asked = list(filter(days.has, ordered))
    for first in range(0, len(asked), size):
        yield before[asked[first]], asked[first : first + size]
