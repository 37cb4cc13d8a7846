"""One request to the API: retried where that helps, reported in one line where not; the token stays with its host."""

import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from simulator.api import Api, Fault
from simulator.server import serving
from sources.cloudflare_audit_logs.client import AuditLogsClient, open_session
from sources.cloudflare_audit_logs.errors import (
    AuditLogsError,
    BadAnswerError,
    ClockError,
    RateLimitedError,
    RefusedError,
    UnavailableError,
)
from tests.conftest import TOKEN
from tests.factory import ACCOUNT, ago, spread

Ask = Callable[..., list[bytes]]
PATH = f"accounts/{ACCOUNT}/audit_logs"


@pytest.fixture
def waits() -> list[float]:
    """The seconds that the client would have slept."""
    return []


@pytest.fixture
def ask(api: Api, waits: list[float]) -> Iterator[Ask]:
    """Asks the simulator, whose account has five events."""
    api.world.add(ACCOUNT, "v1", spread(5, ago(hours=1), ago(minutes=1)))
    with serving(api) as server, open_session() as session:

        def ask(*, url: str = server.url, token: str = TOKEN, path: str = PATH) -> list[bytes]:
            client = AuditLogsClient(session, url, token, clock=lambda: datetime.now(UTC), sleep=waits.append)
            return client.get(path, {"direction": "asc"}).slices

        yield ask


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        *(
            (Fault(times=None, status=status), UnavailableError)
            for status in (500, 502, 503, 520, 521, 522, 523, 524, 408)
        ),
        (Fault(times=None, body="<html>504</html>"), BadAnswerError),
        (Fault(times=None, body='{"success":false,"result":[]}'), BadAnswerError),
        (Fault(times=None, cut=100), UnavailableError),
        (Fault(times=None, body="cut", headers={"Content-Encoding": "gzip"}), UnavailableError),
    ],
)
def test_what_may_pass_is_retried_and_then_given_up(
    api: Api, ask: Ask, waits: list[float], fault: Fault, error: type[AuditLogsError]
) -> None:
    """Three times, each after a longer wait."""
    api.faults.append(fault)

    with pytest.raises(error):
        ask()

    assert len(api.requests) == 4
    assert len(waits) == 3
    assert all(1 <= wait <= 6 for wait in waits)


@pytest.mark.parametrize("fault", [Fault(status=503), Fault(body="<html>"), Fault(cut=100)])
def test_a_fault_that_passes_is_not_noticed(api: Api, ask: Ask, fault: Fault) -> None:
    """The second try brings the events."""
    api.faults.append(fault)

    assert len(ask()) == 5


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405])
def test_a_refusal_is_final_and_says_what_to_do(api: Api, ask: Ask, status: int) -> None:
    """No retry: an operator has to act."""
    api.faults.append(Fault(times=None, status=status, body='{"success":false}'))

    with pytest.raises(RefusedError, match=str(status)):
        ask()

    assert len(api.requests) == 1


def test_a_wrong_token_is_answered_with_the_permission_that_is_needed(ask: Ask) -> None:
    """The error names the permission that is needed, and never shows the token."""
    with pytest.raises(RefusedError, match="Account Settings: Read") as caught:
        ask(token="a-wrong-token")

    assert "a-wrong-token" not in str(caught.value)


def test_an_unknown_account_is_reported_with_the_name_of_the_setting(ask: Ask) -> None:
    """404 has the account id in its path."""
    with pytest.raises(RefusedError, match="CLOUDFLARE_ACCOUNT_ID"):
        ask(path="accounts/nobody/audit_logs")


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7), ("300", 300), (None, 300), ("soon", 300), ("-5", 300), ("99999999999999999999", 300), ("1e3", 300)],
)
def test_a_rate_limit_is_reported_at_once_with_its_end(api: Api, ask: Ask, header: str | None, seconds: int) -> None:
    """Five minutes, as long as Cloudflare refuses a token, where the header is absent or absurd."""
    api.faults.append(Fault(times=None, status=429, headers={"Retry-After": header} if header else {}))

    with pytest.raises(RateLimitedError) as caught:
        ask()

    wait = caught.value.until - datetime.now(UTC)
    assert timedelta(seconds=seconds - 5) <= wait <= timedelta(seconds=seconds)
    assert len(api.requests) == 1


def test_a_rate_limit_may_end_at_a_date(api: Api, ask: Ask) -> None:
    """The header's other form."""
    end = datetime.now(UTC) + timedelta(minutes=2)
    api.faults.append(Fault(status=429, headers={"Retry-After": f"{end:%a, %d %b %Y %H:%M:%S} GMT"}))

    with pytest.raises(RateLimitedError) as caught:
        ask()

    assert abs(caught.value.until - end) < timedelta(seconds=2)


@pytest.mark.parametrize("offset", [400, -400])
def test_a_clock_that_is_far_off_the_apis_stops_everything(api: Api, ask: Ask, offset: int) -> None:
    """Windows by it would be wrong."""
    api.behaviour.clock_offset_seconds = offset

    with pytest.raises(ClockError, match="clock"):
        ask()


@pytest.mark.parametrize("offset", [240, -240])
def test_a_clock_that_is_a_little_off_is_fine(api: Api, ask: Ask, offset: int) -> None:
    """Five minutes are allowed."""
    api.behaviour.clock_offset_seconds = offset

    assert len(ask()) == 5


def test_an_api_that_is_not_there_is_reported_without_a_trace_of_internals(ask: Ask) -> None:
    """The cause in its own words."""
    with pytest.raises(UnavailableError, match=r"cannot be reached.*refused"):
        ask(url="http://127.0.0.1:1/client/v4")


def test_a_redirect_is_not_followed_and_the_token_not_sent_elsewhere(api: Api, ask: Ask) -> None:
    """Not even to the same name at another port."""
    with _other_host() as (url, seen):
        api.faults.append(Fault(times=None, status=302, headers={"Location": url}))

        with pytest.raises(BadAnswerError):
            ask()

    assert seen == []


def test_a_netrc_of_the_user_does_not_replace_the_token(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would, for a header that is merely set."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(netrc))

    assert len(ask()) == 5


@contextmanager
def _other_host() -> Iterator[tuple[str, list[str]]]:
    seen: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers.get("Authorization", ""))

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://localhost:{server.server_address[1]}/", seen
        server.shutdown()
        thread.join()


def test_an_answer_that_does_not_end_is_given_up(api: Api, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it takes the memory of all accounts, however small it is packed: the server packs it to 2 KB."""
    monkeypatch.setattr("sources.cloudflare_audit_logs.client.LARGEST_ANSWER", 1_000_000)
    api.faults.append(Fault(times=None, body=" " * 2_000_000))

    with pytest.raises(BadAnswerError, match="does not end"):
        ask()
