"""TLS is verified: a server that cannot prove its name gets neither token nor password nor events."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from benchmarks.servers.commands import Finished
from benchmarks.servers.seaweed import Bucket
from pipelines.settings.settings import PostgresSettings
from simulator.api import Api
from tests.factory import ACCOUNT, ago, ids, spread
from tests.stores import Stores

pytestmark = pytest.mark.integration

Command = Callable[..., Finished]
ONCE = ("pipelines/run.py", "--once", "--json")


@pytest.fixture
def authority(tmp_path: Path) -> tuple[trustme.CA, str]:
    """A certificate authority that no host knows, and its certificate's file."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    return authority, str(tmp_path / "authority.pem")


@contextmanager
def _in_tls(authority: trustme.CA, port: int, *, is_postgres: bool = False) -> Iterator[int]:
    """A server that speaks TLS before one that does not, and yields its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_serve, args=[server, context, port, is_postgres], daemon=True).start()
        yield server.getsockname()[1]


def _serve(server: socket.socket, context: ssl.SSLContext, port: int, is_postgres: bool) -> None:  # noqa: FBT001
    with contextlib.suppress(OSError):
        while True:
            client, _ = server.accept()
            threading.Thread(target=_encrypt, args=[client, context, port, is_postgres], daemon=True).start()


def _encrypt(client: socket.socket, context: ssl.SSLContext, port: int, is_postgres: bool) -> None:  # noqa: FBT001
    with contextlib.suppress(OSError), client, socket.create_connection(("127.0.0.1", port)) as plain:
        if is_postgres:
            client.recv(8)  # SSLRequest
            client.sendall(b"S")
        with context.wrap_socket(client, server_side=True) as encrypted:
            threading.Thread(target=_pump, args=[plain, encrypted], daemon=True).start()
            _pump(encrypted, plain)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError, ValueError):
        while chunk := source.recv(65536):
            sink.sendall(chunk)
        sink.shutdown(socket.SHUT_RDWR)


def test_an_api_that_cannot_prove_its_name_is_asked_nothing(
    api: Api, command: Command, environment: dict[str, str], authority: tuple[trustme.CA, str]
) -> None:
    """With the authority known to the host, it is."""
    port = int(environment["CLOUDFLARE_API_URL"].split(":")[2].split("/")[0])
    with _in_tls(authority[0], port) as tls_port:
        url = f"https://localhost:{tls_port}/client/v4"
        refused = command(*ONCE, CLOUDFLARE_API_URL=url, CLOUDFLARE_MAX_RETRIES="0")
        asked_in_vain = len(api.requests)
        known = command(*ONCE, CLOUDFLARE_API_URL=url, REQUESTS_CA_BUNDLE=authority[1])

    assert (refused.code, asked_in_vain, known.code) == (75, 0, 0)
    assert "CERTIFICATE_VERIFY_FAILED" in refused.err


@pytest.mark.wide
@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
def test_a_warehouse_that_cannot_prove_its_name_is_told_nothing(
    api: Api,
    command: Command,
    stores: Stores,
    postgres: PostgresSettings,
    authority: tuple[trustme.CA, str],
    mode: str,
) -> None:
    """Both of the drivers that reach it verify as PG_SSLMODE says."""
    events = spread(5, ago(hours=1), ago(minutes=1))
    api.world.add(ACCOUNT, "v1", events)
    other = trustme.CA()
    other.cert_pem.write_to_path(Path(authority[1] + ".other"))
    with _in_tls(authority[0], postgres.port, is_postgres=True) as tls_port:
        encrypted = {"PG_PORT": str(tls_port), "PG_HOST": "localhost", "PG_SSLMODE": mode}
        refused = command(*ONCE, **encrypted, PGSSLROOTCERT=authority[1] + ".other")
        stored_in_vain = stores.warehouse_ids()
        known = command(*ONCE, **encrypted, PGSSLROOTCERT=authority[1])

    assert (refused.code, stored_in_vain) == (75, [])
    assert "certificate verify failed" in refused.err
    assert known.code == 0, known.err
    assert stores.warehouse_ids() == sorted(ids(events))


def test_a_warehouse_without_tls_is_told_nothing_if_tls_is_required(command: Command) -> None:
    """PG_SSLMODE=require."""
    done = command(*ONCE, PG_SSLMODE="require")

    assert done.code == 75
    assert "does not support SSL" in done.err


@pytest.mark.long
def test_a_bucket_that_cannot_prove_its_name_is_told_nothing(
    api: Api,
    command: Command,
    environment: dict[str, str],
    stores: Stores,
    bucket: Bucket,
    authority: tuple[trustme.CA, str],
) -> None:
    """With the authority known to the host, it is."""
    events = spread(5, ago(hours=1), ago(minutes=1))
    api.world.add(ACCOUNT, "v1", events)
    environment.update(bucket.settings(prefix=stores.schema))
    with _in_tls(authority[0], int(bucket.endpoint.rpartition(":")[2])) as tls_port:
        endpoint = f"https://localhost:{tls_port}"
        refused = command(*ONCE, S3_ENDPOINT=endpoint)
        stored_in_vain = stores.lake_ids()
        known = command(*ONCE, S3_ENDPOINT=endpoint, AWS_CA_BUNDLE=authority[1])

    assert (refused.code, stored_in_vain) == (75, [])
    assert "CERTIFICATE_VERIFY_FAILED" in refused.err
    assert known.code == 0, known.err
    assert stores.lake_ids() == sorted(ids(events))
