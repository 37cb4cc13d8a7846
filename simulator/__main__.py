"""`python -m simulator`: a Cloudflare Audit Logs API on loopback, until it is stopped. Prints its URL when it is ready.

Its accounts have a story: six weeks of work by people and tokens with habits, and an incident in the night before
today (`simulator/cast.py`, `simulator/incident.py`). With `--events`, they have as many random events instead.

While it runs, it takes commands: `POST /_simulator/faults`, `/_simulator/behaviour` and `/_simulator/events` take the
fields of `Fault`, `Behaviour` and of `{account_id, version, events: [{time, visible_at, raw}]}` as JSON.
`GET /_simulator/requests` lists the requests: account, version, parameters, time and token.

Options set what the server refuses or leaves out (`simulator/limits.py`), such as
`--shows-at-most 10000 --end-of-results empty`.

Many accounts: `--account-count 1000 --token-each --write-accounts FILE`, and `ACCOUNTS_FILE=FILE` for the loop.
"""

import argparse
import signal
import threading
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from .accounts import account_ids_of, token_of, write_accounts
from .api import Api, Behaviour
from .limits import Limits
from .server import serving
from .story import build_story
from .world import Plan, World, build_world

_LIMITS = {limit.name: limit for limit in fields(Limits)}


def main() -> None:
    """Serves until SIGTERM or SIGINT."""
    options = _parse_arguments()
    account_ids = account_ids_of(options.account_count) or tuple(options.accounts.split(","))
    tokens = {token_of(account_id): {account_id} for account_id in account_ids if options.token_each}
    api = Api(
        _world(options, account_ids, datetime.now(UTC)),
        token=options.token,
        clock=lambda: datetime.now(UTC),
        tokens=tokens,
    )
    api.behaviour = Behaviour(**{name: getattr(options, name) for name in _LIMITS})
    if options.write_accounts:
        write_accounts(options.write_accounts, account_ids, with_tokens=options.token_each)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with serving(api, options.port, options.host) as server:
        print(server.url, flush=True)
        stop.wait()


def _world(options: argparse.Namespace, account_ids: tuple[str, ...], now: datetime) -> World:
    end = now + timedelta(minutes=options.live_minutes)
    if options.events is None:
        return build_story(account_ids, seed=options.seed, now=now, before=end, live_rate=options.live_rate)
    history = Plan(
        account_ids=account_ids,
        versions=tuple(options.versions.split(",")),
        count=options.events,
        since=now - timedelta(hours=options.history_hours),
        before=now,
        seed=options.seed,
        delay=timedelta(seconds=options.delay_seconds),
        padding=options.event_bytes,
    )
    coming = replace(history, count=round(options.live_minutes * options.live_rate), since=now, before=end)
    return build_world(history, coming)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m simulator", description=__doc__.splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on; a container's is 0.0.0.0")
    parser.add_argument("--port", type=int, default=0, help="the port to listen on; 0: a free one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--token", default="simulated-token", help="the token that is valid for all accounts")
    parser.add_argument("--accounts", default="a" * 32, help="account ids, comma separated")
    parser.add_argument("--account-count", type=int, default=0, help="instead: the number of accounts, without events")
    parser.add_argument(
        "--token-each", action="store_true", help="each account has a token of its own, too: token-<id>"
    )
    parser.add_argument("--write-accounts", type=Path, metavar="FILE", help="where to write their accounts.toml")
    parser.add_argument(
        "--events", type=int, metavar="N", help="instead of the story: N random past events of each account and version"
    )
    parser.add_argument("--event-bytes", type=int, default=0, help="bytes that each random event is padded with")
    parser.add_argument("--versions", default="v1,v2", help="that have random events")
    parser.add_argument("--history-hours", type=float, default=24, help="how far back random events go")
    parser.add_argument(
        "--live-rate", type=float, default=30, help="events a minute from now on, of each account and version"
    )
    parser.add_argument("--live-minutes", type=float, default=60, help="for how long events come")
    parser.add_argument(
        "--delay-seconds", type=float, default=2, help="the longest time until a random event is visible"
    )
    for name, limit in _LIMITS.items():
        option = "--" + name.replace("_", "-")
        if isinstance(limit.default, bool):
            parser.add_argument(option, action="store_true", help=f"see Limits.{name}")
        else:
            parser.add_argument(option, type=type(limit.default), default=limit.default, help=f"see Limits.{name}")
    if parser.parse_known_args()[0].account_count:
        parser.set_defaults(events=0, live_rate=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
