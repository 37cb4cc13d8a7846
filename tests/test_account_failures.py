"""Accounts that meet the same are told of in one line."""

import pytest

from pipelines.account_failures import AccountFailures
from sources.cloudflare_audit_logs.errors import RefusedError, UnavailableError
from sources.cloudflare_audit_logs.streams import Stream


def test_a_wrong_token_is_one_line_however_many_accounts_it_reads(caplog: pytest.LogCaptureFixture) -> None:
    """Five are named; another error has a line of its own; what was told is not told again."""
    failures = AccountFailures()
    for number in range(8):
        for version in ("v1", "v2"):
            failures.note(Stream(f"a{number}", version), RefusedError("the API refuses the token"), "in 300 s")
    failures.note(Stream("b", "v1"), UnavailableError("the API is not available"), "next poll")

    failures.tell(at_once=False)
    waiting = caplog.messages.copy()
    failures.tell(at_once=True)
    failures.tell(at_once=True)
    refused, unavailable = caplog.messages

    assert waiting == []
    assert 'account="a0,a1,a2,a3,a4 and 3 more" version=v1,v2 error="the API refuses the token"' in refused
    assert "account=b version=v1 " in unavailable
