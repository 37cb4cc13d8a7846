"""Reads docker-compose.yml as Compose does: variables filled in, services chosen by profile. Starts nothing."""

import re
from collections.abc import Mapping
from typing import Any

import yaml

from pipelines.settings.settings import PROJECT_ROOT

COMPOSE_FILE = PROJECT_ROOT / "docker-compose.yml"
VARIABLE = re.compile(r"\$\$|\$\{(?P<name>\w+)(?:(?P<operator>:[-+])(?P<other>[^}]*))?\}")


def compose_file(variables: Mapping[str, str]) -> dict[str, Any]:
    """The file with `${NAME}`, `${NAME:-default}` and `${NAME:+other}` filled in."""

    def value(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        found = variables.get(match["name"], "")
        if match["operator"] == ":+":
            return match["other"] if found else ""
        return found or match["other"] or ""

    read = yaml.safe_load(COMPOSE_FILE.read_text())
    return {part: _filled(content, value) for part, content in read.items()}


def services(variables: Mapping[str, str], *profiles: str) -> dict[str, Any]:
    """The services that `docker compose up` starts; profiles given on the command line replace `COMPOSE_PROFILES`."""
    active = set(profiles or variables.get("COMPOSE_PROFILES", "").split(","))
    found = compose_file(variables)["services"]
    return {name: it for name, it in found.items() if not it.get("profiles") or active & set(it["profiles"])}


def _filled(content: Any, value: Any) -> Any:
    if isinstance(content, dict):
        return {name: _filled(part, value) for name, part in content.items()}
    if isinstance(content, list):
        return [_filled(part, value) for part in content]
    return VARIABLE.sub(value, content) if isinstance(content, str) else content
