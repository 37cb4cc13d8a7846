"""A client of a bucket for somebody who waits: the doctor's and the status's. The loop's own tries for minutes."""

import asyncio
from typing import Any

import fsspec.asyn

from .bucket import adapt

LIMIT_SECONDS = 6
"""Of a request with its retries."""
_SILENCE_SECONDS = 3
"""Of a connection: to be made, or between two pieces of an answer."""


def hasten(client: Any) -> None:
    """Makes dlt's client of a lake give up at the first request that is not answered, and not ask again after it.

    However many requests there are, a store that does not answer costs less than ten seconds in all. Clients that were
    made before, or by others, are as they were.
    """
    if client.is_local_filesystem:
        return
    options = client.fs_client.storage_options
    timeouts = {"connect_timeout": _SILENCE_SECONDS, "read_timeout": _SILENCE_SECONDS}
    changed = {"skip_instance_cache": True, "config_kwargs": {**options.get("config_kwargs", {}), **timeouts}}
    client.fs_client = adapt(_hasty(type(client.fs_client))(**{**options, **changed}))


def _hasty(s3fs: Any) -> Any:
    """A class of its own, made here: nobody needs s3fs for a folder."""

    class Hasty(s3fs):  # type: ignore[misc]  # s3fs has no types
        has_given_up = False

        async def _call_s3(self, *arguments: Any, **named: Any) -> Any:
            if not self.has_given_up:
                try:
                    return await asyncio.wait_for(super()._call_s3(*arguments, **named), LIMIT_SECONDS)
                except TimeoutError:
                    self.has_given_up = True
            raise ConnectionError(f"no answer from {self.endpoint_url or 'the store'} within {LIMIT_SECONDS} s")

        call_s3 = fsspec.asyn.sync_wrapper(_call_s3)

    return Hasty
