"""docs/scale/shards.md: what it tells Kubernetes, Prometheus and a shell to do is what they would understand."""

import re
import subprocess
from typing import Any

import pytest
import yaml

from pipelines.run import LONGEST_STOP_SECONDS, parser
from pipelines.settings.secret_files import SECRETS
from pipelines.settings.settings import PROJECT_ROOT, read_settings
from pipelines.settings.shards import Shard
from sources.cloudflare_audit_logs import Stream
from tests.factory import time_of

PAGE = (PROJECT_ROOT / "docs/scale/shards.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
DOCUMENTS = [document for language, code in BLOCKS if language == "yaml" for document in yaml.safe_load_all(code)]
KINDS: dict[str, Any] = {document["kind"]: document for document in DOCUMENTS if "kind" in document}
POD: dict[str, Any] = KINDS["StatefulSet"]["spec"]["template"]["spec"]
(LOOP,) = POD["containers"]
SETTINGS: dict[str, str] = KINDS["ConfigMap"]["data"]


def test_the_settings_are_settings() -> None:
    """With the secrets, they are right and none is unknown; the stores are outside of the pod."""
    own = {name: value for name, value in SETTINGS.items() if name != "SHARDS"}
    secrets = re.findall(r"--from-file=(\w+)", PAGE)

    settings = read_settings({**own, **dict.fromkeys(secrets, "secret")}, now=time_of("2026-11-25T00:00:00Z"))

    assert set(secrets) <= set(SECRETS)
    assert settings.warnings == ()
    assert settings.stores.postgres
    assert settings.stores.s3
    assert settings.streams[0] == Stream("ACCOUNT-1", "v1")


@pytest.mark.parametrize("index", [1, 2, 3])
def test_each_pod_is_a_shard(index: int) -> None:
    """As Kubernetes fills in the arguments, of as many as there are replicas."""
    spec = KINDS["StatefulSet"]["spec"]
    known = {**SETTINGS, "SHARD": str(index)}
    arguments = [re.sub(r"\$\((\w+)\)", lambda name: known[name[1]], argument) for argument in LOOP["args"]]

    assert parser().parse_args(arguments).shard == Shard(index, spec["replicas"])
    assert spec["ordinals"] == {"start": 1}
    assert "SHARD" in {variable["name"] for variable in LOOP["env"]}


def test_pods_are_watched_stopped_and_confined_as_the_image_expects() -> None:
    """Its user, its folder, its port, the paths that the loop answers."""
    image = (PROJECT_ROOT / "Dockerfile").read_text()
    mounted = {mount["name"]: mount["mountPath"] for mount in LOOP["volumeMounts"]}
    probes = {probe: LOOP[f"{probe}Probe"]["httpGet"] for probe in ("startup", "liveness", "readiness")}

    assert {probe: get["path"] for probe, get in probes.items()} == {
        "startup": "/livez",
        "liveness": "/livez",
        "readiness": "/readyz",
    }
    assert {get["port"] for get in probes.values()} == {port["name"] for port in LOOP["ports"]}
    assert str(LOOP["ports"][0]["containerPort"]) == SETTINGS["METRICS_PORT"]
    assert f"USER {POD['securityContext']['runAsUser']}" in image
    assert f"VOLUME {mounted['scratch']}" in image
    assert {"name": "CREDENTIALS_DIRECTORY", "value": mounted["secrets"]} in LOOP["env"]
    assert set(mounted) == {volume["name"] for volume in POD["volumes"]}
    assert POD["terminationGracePeriodSeconds"] > LONGEST_STOP_SECONDS
    assert KINDS["StatefulSet"]["spec"]["selector"]["matchLabels"] == KINDS["Service"]["spec"]["selector"]


def test_prometheus_asks_each_of_the_loops_of_one_host() -> None:
    """At the ports that the shell and systemd give them."""
    (job,) = next(document for document in DOCUMENTS if "scrape_configs" in document)["scrape_configs"]
    by_hand = re.findall(r"METRICS_PORT=(\d+) \S+ pipelines/run\.py --shard", PAGE)

    assert job["static_configs"] == [{"targets": [f"127.0.0.1:{port}" for port in by_hand]}]


def test_every_shell_block_is_shell() -> None:
    """Bash reads them without running them; the units are those that there are."""
    for code in (code for language, code in BLOCKS if language == "sh"):
        done = subprocess.run(["/bin/bash", "-n"], input=code, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
    for path in re.findall(r"/opt/cloudflare-audit/(\S+)", PAGE):
        assert (PROJECT_ROOT / path).is_file(), path
