"""What went wrong with accounts, told in a line for all that met the same: a wrong token is one mistake, not sixty.

A version that is refused while the account can be read in another one is a warning, once.
"""

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from pipelines.fetch.refusals import Failures, hint_for, is_undecided, refused_versions, words_of
from pipelines.host.logs import log
from sources.cloudflare_audit_logs.errors import AuditLogsError
from sources.cloudflare_audit_logs.streams import Stream

GATHERING_SECONDS = 2
"""How long a failure waits for others like it."""

MOST_NAMED = 5
"""Accounts in a line; the result, the metrics and /readyz name each."""

Told = tuple[AuditLogsError, dict[str, str]]
"""An error, and what else is told of it."""


class AccountFailures:
    """Gathers failures, and logs them."""

    def __init__(self, asked: Iterable[Stream] = (), monotonic: Callable[[], float] = time.monotonic) -> None:
        """A refusal is told when the account's other versions among these have answered or failed."""
        self._asked, self._monotonic = frozenset(asked), monotonic
        self._untold: dict[Stream, Told] = {}
        self._refused: set[Stream] = set()
        """Versions whose refusal was told."""
        self._since = 0.0

    def note(self, stream: Stream, error: AuditLogsError, retry: str = "") -> None:
        """Takes one in; `retry` says when it is tried again, if it is."""
        if not self._untold:
            self._since = self._monotonic()
        self._untold[stream] = error, {"retry": retry} if retry else {}

    def note_readable(self, stream: Stream) -> None:
        """The stream was read: if its refusal was told, so is its end."""
        if stream in self._refused:
            self._refused.remove(stream)
            log.info("version.granted", account=stream.account_id, version=stream.api_version)

    def tell(self, failures: Failures, readable: Collection[Stream], *, at_once: bool, is_last: bool = False) -> None:
        """Logs what has waited long enough, or all. Undecided refusals wait on, unless nothing more is to come."""
        if not self._untold or not (at_once or self._monotonic() >= self._since + GATHERING_SECONDS):
            return
        due = [s for s in self._untold if is_last or not is_undecided(s, failures, readable, self._asked)]
        told = {stream: self._untold.pop(stream) for stream in due}
        refused = refused_versions(failures, readable).keys() & told.keys()
        _tell_refused({stream: told[stream] for stream in due if stream in refused - self._refused})
        self._refused |= refused
        _tell_failed({stream: told[stream] for stream in due if stream not in refused})


def _tell_failed(told: Mapping[Stream, Told]) -> None:
    for about, streams in _alike({s: {"error": str(error), **retry} for s, (error, retry) in told.items()}):
        versions = ",".join(sorted({stream.api_version for stream in streams}))
        log.error("account.failed", account=_named(streams), version=versions, **about)


def _tell_refused(told: Mapping[Stream, Told]) -> None:
    for about, streams in _alike(
        {s: {"version": s.api_version, "error": words_of(error), **retry} for s, (error, retry) in told.items()}
    ):
        hint = f"nothing else is held up; {hint_for(about['version'])}"
        log.warning("version.refused", account=_named(streams), **about, hint=hint)


def _alike(told: Mapping[Stream, dict[str, str]]) -> Iterable[tuple[dict[str, str], list[Stream]]]:
    """The streams of which the same is told."""
    alike: dict[tuple[str, ...], list[Stream]] = {}
    for stream, about in told.items():
        alike.setdefault(tuple(about.values()), []).append(stream)
    return [(told[streams[0]], streams) for streams in alike.values()]


def _named(streams: Sequence[Stream]) -> str:
    accounts = list(dict.fromkeys(stream.account_id for stream in streams))
    more = f" and {len(accounts) - MOST_NAMED} more" if len(accounts) > MOST_NAMED else ""
    return ",".join(accounts[:MOST_NAMED]) + more
