"""The doctor's checks of the API: a line for each account, token and budget, whatever some of them answer."""

import pytest

from simulator.api import Api, Fault
from tests.cli.test_doctor import DOCTOR, Command, checks_of
from tests.factory import ACCOUNT, OTHER_ACCOUNT


@pytest.mark.integration
def test_every_account_has_a_line(api: Api, command: Command) -> None:
    """One that is refused is named, and fails nothing but itself."""
    unknown = "f" * 32

    done = command(
        *DOCTOR, CLOUDFLARE_ACCOUNT_ID=f"{ACCOUNT},{unknown},{OTHER_ACCOUNT}", CLOUDFLARE_API_VERSION="v1,v2"
    )

    lines = [line for line in done.out.splitlines() if "account" in line.split()[1]]
    assert done.code == 1
    assert [line.startswith("fail") for line in lines] == [False, False, True, True, False, False]
    assert all(unknown in line for line in lines[2:4])
    assert len(api.requests) == 6


@pytest.mark.integration
def test_a_clock_that_drifts_is_warned_of_before_it_stops_the_loop(api: Api, command: Command) -> None:
    """Two minutes: the loop goes on until five."""
    api.behaviour.clock_offset_seconds = 120

    done = command(*DOCTOR)

    assert done.code == 0
    assert "warn  clock        1" in done.out
    assert "behind the API's (set it" in done.out


@pytest.mark.integration
def test_an_account_without_answers_hides_no_other_check(
    command: Command, api: Api, environment: dict[str, str]
) -> None:
    """It is named; the API is there for the others."""
    api.faults.append(Fault(account_id=ACCOUNT, status=500, times=None))

    done = command(*DOCTOR, "--json", CLOUDFLARE_ACCOUNT_ID=f"{ACCOUNT},{OTHER_ACCOUNT}")
    api.faults[:] = [Fault(status=500, times=None)]
    nobody = command(*DOCTOR, "--json", CLOUDFLARE_ACCOUNT_ID=f"{ACCOUNT},{OTHER_ACCOUNT}")

    assert (done.code, checks_of(done, "fail")) == (1, ["account"]), done.out
    assert {"api", "clock", "token", "account"} <= set(checks_of(done, "ok"))
    assert f"{ACCOUNT} v1: the API is not available" in done.out
    assert (nobody.code, checks_of(nobody, "fail")[0]) == (1, "api"), environment


@pytest.mark.integration
def test_a_wrong_path_of_the_api_is_no_wrong_token(command: Command, environment: dict[str, str]) -> None:
    """Where nothing of the API is found, the address is named."""
    done = command(*DOCTOR, CLOUDFLARE_API_URL=environment["CLOUDFLARE_API_URL"].replace("/v4", "/v5"))

    assert "nothing of the API is at this address (check CLOUDFLARE_API_URL)" in done.out


@pytest.mark.integration
def test_a_token_with_too_many_accounts_is_told(command: Command) -> None:
    """The message has the share of the budget that polls would need, and an interval that leaves room."""
    ids = ",".join(f"{number:032x}" for number in range(100))

    done = command(*DOCTOR, CLOUDFLARE_ACCOUNT_ID=ids, POLL_INTERVAL_SECONDS="30")

    assert "CLOUDFLARE_API_TOKEN: 1,000 requests in 5 minutes to poll 100 accounts and versions, of 1,200" in done.out
    assert "(POLL_INTERVAL_SECONDS=36 or more, or tokens of their own: docs/scale/README.md)" in done.out


@pytest.mark.integration
def test_accounts_that_do_not_answer_hide_none_that_does(command: Command, api: Api) -> None:
    """However many stand before it; what they lack is no token."""
    hanging = [f"{number:032x}" for number in range(7)]
    api.faults += [Fault(account_id=account, latency_seconds=60, times=None) for account in hanging]

    done = command(
        *DOCTOR,
        "--json",
        CLOUDFLARE_ACCOUNT_ID=",".join([*hanging, ACCOUNT]),
        CLOUDFLARE_REQUEST_TIMEOUT_SECONDS="1",
    )

    assert (done.code, checks_of(done, "fail")) == (1, ["account"] * 7), done.out
    assert {"api", "clock", "token", "account"} <= set(checks_of(done, "ok"))
