"""Accounts with the same failure share one line; a version that is refused alone is a warning, once."""

import pytest

from pipelines.fetch.refusals import refused_versions
from pipelines.loop.account_failures import AccountFailures
from sources.cloudflare_audit_logs.answers import is_about_access
from sources.cloudflare_audit_logs.errors import (
    AuditLogsError,
    RateLimitedError,
    RefusedError,
    RefusedRequestError,
    UnavailableError,
    UnknownPathError,
)
from sources.cloudflare_audit_logs.streams import Stream
from tests.factory import ago

V1, V2, OTHER = Stream("a", "v1"), Stream("a", "v2"), Stream("b", "v1")
REFUSED = RefusedError("the API refuses the token")


def test_a_wrong_token_is_one_line_however_many_accounts_it_reads(caplog: pytest.LogCaptureFixture) -> None:
    """The line names five accounts; another error has a line of its own; nothing is reported twice."""
    streams = [Stream(f"a{number}", version) for number in range(8) for version in ("v1", "v2")]
    failed = {**dict.fromkeys(streams, REFUSED), OTHER: UnavailableError("the API is not available")}
    failures = AccountFailures(failed)
    for stream in streams:
        failures.note(stream, REFUSED, "in 300 s")
    failures.note(OTHER, failed[OTHER], "next poll")

    failures.log(at_once=False)
    waiting = caplog.messages.copy()
    failures.log(at_once=True)
    failures.log(at_once=True)
    refused, unavailable = caplog.messages

    assert waiting == []
    assert 'account="a0,a1,a2,a3,a4 and 3 more" version=v1,v2 error="the API refuses the token"' in refused
    assert "account=b version=v1 " in unavailable


@pytest.mark.parametrize(
    ("error", "is_alone"),
    [
        (REFUSED, True),
        (UnknownPathError("the API does not know this account"), True),
        (RefusedRequestError("the API refuses the request"), False),
        (RateLimitedError("rate limited by the API", until=ago()), False),
        (UnavailableError("the API is not available"), False),
    ],
)
def test_a_refusal_is_of_a_version_alone_if_the_account_can_be_read_in_another(
    error: AuditLogsError, *, is_alone: bool
) -> None:
    """Whatever else may keep a version from being read is a failure of the account, and so are refusals of both."""
    failed = {V2: error}

    assert refused_versions(failed, {V1}) == (failed if is_alone else {})
    assert refused_versions(failed, {V1, V2}) == (failed if is_alone else {})
    assert refused_versions(failed, {V2, OTHER}) == {}
    assert refused_versions({**failed, V1: REFUSED}, {V1, OTHER}) == {}
    assert refused_versions({**failed, V1: UnavailableError("down")}, {V1}) == (failed if is_alone else {})


def test_a_refused_version_is_told_once_when_the_other_was_read_and_again_after_it_was_granted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Until then nobody knows whether it is the account; each try that is refused again is no news."""
    caplog.set_level("INFO", "audit")
    failures = AccountFailures([V1, V2])
    failures.note(V2, REFUSED, "in 300 s")
    failures.log(at_once=True)
    undecided = caplog.messages.copy()
    failures.note_readable(V1)
    for _ in range(3):
        failures.log(at_once=True)
        failures.note(V2, REFUSED, "in 300 s")
    failures.log(at_once=True)
    told = caplog.messages.copy()
    failures.note_readable(V2)
    failures.note(V2, REFUSED, "in 300 s")
    failures.log(at_once=True)

    assert undecided == []
    assert len(told) == 1
    assert told[0].startswith('version.refused account=a version=v2 error="the API refuses the token" retry="in 300 s"')
    assert "CLOUDFLARE_API_VERSION=v1 " in told[0]
    assert [line.split()[0] for line in caplog.messages[1:]] == ["version.granted", "version.refused"]
    assert {record.levelname for record in caplog.records} == {"WARNING", "INFO"}


def test_what_is_undecided_in_the_end_is_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    """The other version was never read: a store failed first, say."""
    failures = AccountFailures([V1, V2])
    failures.note(V2, REFUSED, "in 300 s")

    failures.log(at_once=True, is_last=True)

    assert [line.split()[0] for line in caplog.messages] == ["account.failed"]


@pytest.mark.parametrize(
    ("status", "body", "is_refusal"),
    [
        (400, b'{"errors":[{"code":10003,"message":"Audit Logs v2 is not available for this account"}]}', True),
        (400, b'{"errors":[{"code":7000,"message":"No route for that URI"}]}', True),
        (410, b'{"errors":[{"message":"Audit Logs v1 was retired"}]}', True),
        (402, b"{}", True),
        (400, b'{"errors":[{"message":"Invalid format for parameter since"}]}', False),
        (400, b'{"errors":[{"message":"the time range is not supported"}]}', False),
        (422, b'{"errors":[{"message":"something else"}]}', False),
        (413, b"", False),
    ],
)
def test_a_400_is_a_refusal_where_it_says_so(status: int, body: bytes, *, is_refusal: bool) -> None:
    """A request of ours that is wrong must not pass for a version that the account may not read."""
    assert is_about_access(status, body) == is_refusal
