"""Accounts and addresses have names, where there are any."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from dashboard.ask.stores import WarehouseStore
from dashboard.names import AccountNames, Countries
from pipelines.loop.report import Report
from pipelines.settings.settings import PROJECT_ROOT, read_settings
from simulator.api import Api
from simulator.world import SimulatedEvent
from tests.factory import ACCOUNT, OTHER_ACCOUNT, ago, encoded, v2_tree

from .conftest import Site, serving
from .site.reading import Page

TOKEN = "t" * 40
THIRD = "9a7806061c88ada191ed06f989cc3dac"


@contextmanager
def _accounts_api(names: dict[str, str]) -> Iterator[str]:
    """The part of Cloudflare's API that knows accounts; it refuses those that it has no name of."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = names.get(self.path.rpartition("/")[2])
            is_known = name is not None and self.headers["Authorization"] == f"Bearer {TOKEN}"
            self.send_response(200 if is_known else 403)
            self.end_headers()
            self.wfile.write(json.dumps({"success": is_known, "result": {"name": name} if is_known else None}).encode())

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.integration
def test_an_account_is_called_as_the_operator_the_api_or_its_events_say(
    api: Api, poll: Callable[..., Report], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In this order; where nobody says a name, there is none, and no error."""
    at = ago(hours=2)
    tree = v2_tree(account={"id": ACCOUNT, "name": "of events"}, action={"time": f"{at:%Y-%m-%dT%H:%M:%SZ}"})
    api.world.add(ACCOUNT, "v2", [SimulatedEvent(at, encoded(tree), at)])
    poll(CLOUDFLARE_API_VERSION="v2")
    file = tmp_path / "accounts.toml"
    file.write_text(f'[[accounts]]\nid = "{OTHER_ACCOUNT}"\nname = "of the operator"\n')
    names = AccountNames()
    with _accounts_api({THIRD: "of the API", OTHER_ACCOUNT: "of the API"}) as url:
        monkeypatch.setenv("CLOUDFLARE_API_URL", url)
        monkeypatch.setenv("CLOUDFLARE_API_TOKEN", TOKEN)
        monkeypatch.setenv("CLOUDFLARE_ACCOUNT_ID", f"{ACCOUNT},{OTHER_ACCOUNT},{THIRD},nobody")
        monkeypatch.setenv("ACCOUNTS_FILE", str(file))
        names.learn(WarehouseStore())

    known = [names[account] for account in (ACCOUNT, OTHER_ACCOUNT, THIRD, "nobody")]
    assert known == ["of events", "of the operator", "of the API", ""]
    monkeypatch.setenv("CLOUDFLARE_API_TOKEN", "")
    monkeypatch.setenv("CLOUDFLARE_API_URL", "")
    AccountNames().learn(WarehouseStore())


def test_a_name_in_the_accounts_file_changes_nothing_else(tmp_path: Path) -> None:
    """The account is read as without it."""
    accounts = []
    for name in ("", 'name = "ACME"\n'):
        (tmp_path / "accounts.toml").write_text(f'[[accounts]]\nid = "a"\n{name}CLOUDFLARE_PER_PAGE = 7\n')
        settings = read_settings({"CLOUDFLARE_API_TOKEN": "t"}, now=datetime.now(UTC), root=tmp_path)
        accounts.append(settings.accounts["a"])

    assert [account.name for account in accounts] == ["", "ACME"]
    assert accounts[0].per_page == accounts[1].per_page == 7


@pytest.mark.integration
def test_countries_are_those_of_the_users_database(site: Site, tmp_path: Path) -> None:
    """A section of their own, and a name beside each address; without a database neither."""
    pytest.importorskip("maxminddb")
    write_countries(tmp_path / "c.mmdb", {"198.51.100.0/24": "Utopia", "2001:db8::/32": "Erewhon"})
    with serving(
        {**site.environment, "DASHBOARD_GEOIP": str(tmp_path / "c.mmdb")}, tmp_path, "-m", "dashboard", "--port", "0"
    ) as url:
        its = Site(url, site.environment, tmp_path)
        page, listed = its.page("/countries?range=90d"), its.page("/sign-ins?range=90d")

    countries = {row["Country"].text: (row["Addresses"].text, row["Records"].text) for row in page.rows()}
    assert countries == {"unknown": ("2", "41"), "Utopia": ("2", "4"), "Erewhon": ("1", "5")}
    assert listed.rows()[0]["Address"].text == "2001:db8:66::1 Erewhon"
    assert site.get("/countries").status_code == 404
    assert "Countries" not in Page(200, site.get("/").text).root.text


def test_what_is_no_address_has_no_country(tmp_path: Path) -> None:
    """A text that an event has in an address's place, or none."""
    pytest.importorskip("maxminddb")
    write_countries(tmp_path / "c.mmdb", {"10.0.0.0/8": "Utopia"})
    countries = Countries(tmp_path / "c.mmdb")

    assert [countries[one] for one in ("10.1.2.3", "::ffff:10.1.2.3", "11.0.0.1", "x", "", None)] == [
        "Utopia",
        "Utopia",
        *[""] * 4,
    ]
    assert Countries(None)["10.1.2.3"] == ""


@pytest.mark.integration
def test_what_is_no_database_is_told(command: Callable[..., Any]) -> None:
    """At the start, in one line."""
    pytest.importorskip("maxminddb")
    answer = command("-m", "dashboard", "--port", "0", DASHBOARD_GEOIP=__file__)

    assert answer.code == 1
    assert "DASHBOARD_GEOIP is no database of countries" in answer.err


# --- A database of countries, as MaxMind's are -----------------------------------------------------------------------

_SEPARATOR = bytes(16)
_METADATA = b"\xab\xcd\xefMaxMind.com"


class _Short(int):
    """A number of two bytes."""


class _Long(int):
    """A number of eight."""


def write_countries(file: Path, networks: Mapping[str, str]) -> None:
    """Each network with the name of its country."""
    nodes: list[list[int | bytes]] = [[0, 0]]
    data = b""
    for text, name in networks.items():
        record = _encoded({"country": {"iso_code": name[:2].upper(), "names": {"en": name}}})
        at, data = len(data), data + record
        bits = _bits(ip_network(text))
        node = 0
        for bit in bits[:-1]:
            if not nodes[node][bit]:
                nodes.append([0, 0])
                nodes[node][bit] = len(nodes) - 1
            node = int(nodes[node][bit])
        nodes[node][bits[-1]] = at.to_bytes(4)
    tree = b"".join(_record(one, len(nodes)) for node in nodes for one in node)
    fields = {"binary_format_major_version": _Short(2), "binary_format_minor_version": _Short(0)}
    sizes = {"node_count": len(nodes), "record_size": _Short(24), "ip_version": _Short(6), "build_epoch": _Long(1)}
    more = {**sizes, "database_type": "Country", "languages": []}
    described = _encoded({**fields, **more, "description": {"en": "of a test"}})
    file.write_bytes(tree + _SEPARATOR + data + _METADATA + described)


def _bits(network: IPv4Network | IPv6Network) -> list[int]:
    """From the first to the last of the prefix; IPv4 stands at `::/96`."""
    before = [0] * (96 if network.version == 4 else 0)
    size = network.max_prefixlen
    return before + [int(network.network_address) >> (size - 1 - place) & 1 for place in range(network.prefixlen)]


def _record(one: int | bytes, nodes: int) -> bytes:
    if isinstance(one, bytes):
        return (nodes + len(_SEPARATOR) + int.from_bytes(one)).to_bytes(3)
    return (one or nodes).to_bytes(3)


def _encoded(value: Any) -> bytes:
    if isinstance(value, dict):
        body = b"".join(_encoded(name) + _encoded(its) for name, its in value.items())
        return bytes([7 << 5 | len(value)]) + body
    if isinstance(value, list):
        return bytes([len(value), 4])
    if isinstance(value, _Short):
        return bytes([5 << 5 | 2]) + value.to_bytes(2)
    if isinstance(value, _Long):
        return bytes([8, 2]) + value.to_bytes(8)
    if isinstance(value, int):
        return bytes([6 << 5 | 4]) + value.to_bytes(4)
    text: bytes = value.encode()
    return bytes([2 << 5 | len(text)]) + text


@pytest.mark.parametrize(
    ("is_wheel", "said"), [(True, "pip install 'cloudflare-audit-pipeline[dashboard]'"), (False, "run make dashboard")]
)
def test_what_is_missing_is_named_as_it_is_installed_here(tmp_path: Path, *, is_wheel: bool, said: str) -> None:
    """By pip, in a wheel; by make, in a checkout."""
    code = tmp_path / "cloudflare_audit" / "app" if is_wheel else tmp_path
    shutil.copytree(PROJECT_ROOT / "cloudflare_audit", tmp_path / "cloudflare_audit")
    code.mkdir(exist_ok=True)
    for name in ("dashboard", "pipelines", "sources"):
        shutil.copytree(PROJECT_ROOT / name, code / name)
    (code / "jinja2.py").write_text("raise ModuleNotFoundError(name='jinja2')")
    environment = {**os.environ, "PYTHONPATH": f"{code}:{tmp_path}"}

    ran, helped = (
        subprocess.run(
            [sys.executable, "-m", "dashboard", *more],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        for more in ((), ("--help",))
    )

    assert (ran.returncode, ran.stderr) == (1, f"The dashboard's packages are not installed (jinja2): {said}\n")
    assert helped.stdout.startswith("usage: cloudflare-audit dashboard ")
