"""A real S3 server on loopback: SeaweedFS, with authentication and enforced conditions."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

S3_KEYS = {"S3_ACCESS_KEY": "test-access-key", "S3_SECRET_KEY": "test-secret-key"}


@dataclass
class Bucket:
    """A bucket of a real S3 server."""

    endpoint: str
    name: str
    client: Any

    def settings(self, prefix: str) -> dict[str, str]:
        """The environment that makes it the lake."""
        return {
            "S3_ENDPOINT": self.endpoint,
            "S3_BUCKET": self.name,
            "S3_PREFIX": prefix,
            "S3_REGION": "us-east-1",
            **S3_KEYS,
        }


@contextmanager
def seaweed(server_dir: Path) -> Iterator[Bucket]:
    """A bucket on SeaweedFS as long as the block runs: real authentication, enforced conditions."""
    for attempt in range(3):  # another test's server may take one of the ports before it does
        process, endpoint = _start_weed(server_dir / f"weed{attempt}")
        client = s3_client(endpoint)
        if _has_bucket(client, "lake", process):
            break
        process.kill()
        process.wait(120)
    else:
        raise RuntimeError("the S3 server of the tests did not start")
    try:
        yield Bucket(endpoint, "lake", client)
    finally:
        process.terminate()
        process.wait(120)


def _start_weed(folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    ports = free_ports(8)
    names = [
        "s3",
        "master",
        "master.port.grpc",
        "volume",
        "volume.port.grpc",
        "filer",
        "filer.port.grpc",
        "s3.port.grpc",
    ]
    flags = [f"-{name if '.' in name else f'{name}.port'}={port}" for name, port in zip(names, ports, strict=True)]
    folder.mkdir()
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert weed, "install the development packages: make setup-dev"
    command = [weed, "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", *flags]
    command += ["-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-bucket=lake"]
    keys = {"AWS_ACCESS_KEY_ID": S3_KEYS["S3_ACCESS_KEY"], "AWS_SECRET_ACCESS_KEY": S3_KEYS["S3_SECRET_KEY"]}
    with (folder / "weed.log").open("w") as output:
        process = subprocess.Popen(command, env={**os.environ, **keys}, stdout=output, stderr=output, cwd=folder)
    return process, f"http://127.0.0.1:{ports[0]}"


def s3_client(endpoint: str) -> Any:
    """A client with the keys of the tests."""
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=S3_KEYS["S3_ACCESS_KEY"],
        aws_secret_access_key=S3_KEYS["S3_SECRET_KEY"],
        region_name="us-east-1",
    )


def free_ports(number: int) -> list[int]:
    """Ports of loopback that are free now."""
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [server.getsockname()[1] for server in servers]
    for server in servers:
        server.close()
    return ports


def _has_bucket(client: Any, name: str, process: subprocess.Popen[bytes]) -> bool:
    """Once it is there; not if the server has ended."""
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        try:
            client.put_object(Bucket=name, Key="ready", Body=b"")
        except (BotoCoreError, ClientError):
            time.sleep(0.1)
        else:
            return True
    return False
