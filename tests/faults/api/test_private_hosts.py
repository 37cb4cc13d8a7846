"""Behind a proxy, and with a private authority: one variable each for the API, and for all that reads or writes S3."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trustme

from benchmarks.servers.commands import Finished
from benchmarks.servers.seaweed import Bucket
from simulator.api import Api
from tests.factory import ACCOUNT, ago, spread
from tests.stores import Stores

from .test_tls import _in_tls, _pump

pytestmark = pytest.mark.integration

Command = Callable[..., Finished]
ONCE = ("pipelines/run.py", "--once", "--json")
URL = "CLOUDFLARE_API_URL"
ASK = ("pipelines/ask.py", "--json", "SELECT count(*) AS n FROM audit_logs()")


@contextmanager
def _proxy() -> Iterator[tuple[str, list[str]]]:
    """A proxy that tunnels (CONNECT), and yields its URL and the targets that it was asked for."""
    asked: list[str] = []

    def tunnel(client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            head = b""
            while b"\r\n\r\n" not in head:
                head += client.recv(4096)
            method, target = head.split()[:2]
            assert method == b"CONNECT"
            asked.append(target.decode())
            host, _, port = target.decode().rpartition(":")
            with socket.create_connection((host, int(port))) as server:
                client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                threading.Thread(target=_pump, args=[server, client], daemon=True).start()
                _pump(client, server)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=tunnel, args=[listening.accept()[0]], daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", asked


def test_api_and_bucket_are_reached_through_a_proxy_and_known_by_a_private_authority(
    api: Api, command: Command, environment: dict[str, str], stores: Stores, bucket: Bucket, tmp_path: Path
) -> None:
    """As docs/operations.md says: a variable for the API, one for S3, and HTTPS_PROXY for both."""
    api.world.add(ACCOUNT, "v1", spread(5, ago(hours=1), ago(minutes=1)))
    authority, file = trustme.CA(), tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(file))
    port_of_api, port_of_s3 = (int(urlsplit(url).port or 0) for url in (environment[URL], bucket.endpoint))
    environment.update(bucket.settings(prefix=stores.schema))
    known = {"REQUESTS_CA_BUNDLE": str(file), "AWS_CA_BUNDLE": str(file)}
    with _in_tls(authority, port_of_api) as of_api, _in_tls(authority, port_of_s3) as of_s3, _proxy() as (proxy, asked):
        private = {URL: f"https://localhost:{of_api}/client/v4", "S3_ENDPOINT": f"https://localhost:{of_s3}"}
        done = command(*ONCE, **private, **known, HTTPS_PROXY=proxy)
        asked_by_run = {*asked}
        asked.clear()
        found = command(*ASK, **private, **known, HTTPS_PROXY=proxy)
        doctor = command("pipelines/doctor.py", **private, **known, HTTPS_PROXY=proxy)

    assert (done.code, done.report["new"]) == (0, {"warehouse": 5, "lake": 5}), done.err
    assert asked_by_run == {f"localhost:{of_api}", f"localhost:{of_s3}"}
    assert (found.report, {*asked}) == ({"n": 5}, {f"localhost:{of_s3}", f"localhost:{of_api}"}), found.err
    assert doctor.code == 0, doctor.out
