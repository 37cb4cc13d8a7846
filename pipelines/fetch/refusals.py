"""Refusals of one version alone: the account can be read in another one, so it has not failed. Pure."""

from collections import Counter
from collections.abc import Collection, Mapping

from sources.cloudflare_audit_logs.errors import AuditLogsError, RefusedError, RefusedRequestError
from sources.cloudflare_audit_logs.streams import API_VERSIONS, Stream

Failures = Mapping[Stream, AuditLogsError]
"""The last error of each stream that failed when it was read last."""


def refused_versions(failures: Failures, readable: Collection[Stream]) -> dict[Stream, AuditLogsError]:
    """Returns the refusals of accounts that can be read in another version, which is not refused now.

    A token that is wrong, rate limits and requests that are wrong are no refusals of a version.
    """
    refused = {stream: error for stream, error in failures.items() if is_refusal(error)}
    return {
        stream: error
        for stream, error in refused.items()
        if any(other in readable and other not in refused for other in _others(stream))
    }


def is_undecided(stream: Stream, failures: Failures, readable: Collection[Stream], asked: Collection[Stream]) -> bool:
    """True if a refused stream's account is asked in another version, too, which has neither answered nor failed."""
    waiting = [o for o in _others(stream) if o in asked and o not in failures and o not in readable]
    return bool(waiting) and stream in failures and is_refusal(failures[stream])


def _others(stream: Stream) -> list[Stream]:
    return [Stream(stream.account_id, version) for version in API_VERSIONS if version != stream.api_version]


def is_refusal(error: AuditLogsError) -> bool:
    """True if the account is refused, not what it is asked for."""
    return isinstance(error, RefusedError) and not isinstance(error, RefusedRequestError)


def words_of(error: AuditLogsError) -> str:
    """Returns what the API said; the error's own hint is on the account, which can be read."""
    return f"{error.message}: {error.detail}" if error.detail else error.message


def refused_in_words(refused: Collection[Stream]) -> str:
    """Returns a result's words on the versions that were refused, none if there are none."""
    counts = sorted(Counter(stream.api_version for stream in refused).items())
    return "".join(f"; {version} is refused for {count:,} of the accounts" for version, count in counts)


def hint_for(version: str) -> str:
    """Returns the operator's choices where a version is refused."""
    others = ",".join(other for other in API_VERSIONS if other != version)
    return f"let the token read {version} of the account, or set CLOUDFLARE_API_VERSION={others} for the account"
