"""Replays the Dockerfile in a folder that stands for `/`, with this host's Python as its base. No container is made."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import translate
from pathlib import Path

from pipelines.settings.settings import PROJECT_ROOT

DOCKERFILE = PROJECT_ROOT / "Dockerfile"
OF_THIS_HOST = ("useradd", "get_path('stdlib')")
"""A RUN with one of these is not replayed: it would make a user here, or compile this host's standard library."""
_ABSOLUTE = re.compile(r"(?<![\w./])/(?=(?:app|opt|var)\b)")


def instructions() -> Iterator[tuple[str, str]]:
    """Name and arguments of each instruction, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE)
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip():
            name, _, arguments = line.partition(" ")
            yield name, arguments.strip()


def is_ignored(path: str) -> bool:
    """What .dockerignore keeps out of the build: the last pattern that matches the path or a folder above decides."""
    above = [path, *(str(parent) for parent in Path(path).parents)]
    ignored = False
    for line in (PROJECT_ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.strip().removeprefix("!")
        if pattern and not pattern.startswith("#"):
            form = re.compile(translate(pattern.removeprefix("**/")).replace(".*", "[^/]*"))
            parts = [part.rpartition("/")[2] for part in above] if pattern.startswith("**/") else above
            ignored = not line.startswith("!") if any(map(form.fullmatch, parts)) else ignored
    return ignored


def stages_for(target: str) -> set[str]:
    """The stages that a target is made of, itself among them."""
    made_of: dict[str, set[str]] = {}
    stage = ""
    for name, arguments in instructions():
        if name == "FROM":
            parent, stage = arguments.split(" AS ")
            made_of[stage] = {parent}
        made_of[stage] |= set(re.findall(r"^--from=(\S+)", arguments)) if name == "COPY" else set()
    needed, found = set[str](), {target}
    while found - needed:
        needed |= found
        found = {part for whole in found for part in made_of[whole] if part in made_of}
    return needed


class Replay:
    """The stages up to a target, built below `folder`."""

    def __init__(self, folder: Path, target: str) -> None:
        self._folder = folder
        self.root = folder / "root"
        """The same in every stage, since a virtual environment holds its own path."""
        self.environments: dict[str, dict[str, str]] = {}
        self.skipped: list[str] = []
        self._stage = ""
        steps = {"FROM": self._from, "ENV": self._env, "COPY": self._copy, "RUN": self._run}
        needed = stages_for(target)
        stage = ""
        for name, arguments in instructions():
            stage = arguments.split(" AS ")[1] if name == "FROM" else stage
            if stage in needed and name in steps:
                steps[name](arguments)

    def run(self, *command: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        """Runs a command in what was built, without this host's settings but those of pip."""
        host = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        return subprocess.run(
            command,
            cwd=self.root / "app",
            env={**host, "HOME": "/nonexistent", **self.environments[self._stage], **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    def _from(self, arguments: str) -> None:
        parent, stage = arguments.split(" AS ")
        if self._stage:
            self.root.rename(self._folder / self._stage)
        python = f"{Path(sys._base_executable).parent}:/usr/bin:/bin"  # type: ignore[attr-defined]  # noqa: SLF001  # outside of any virtual environment
        self.environments[stage] = dict(self.environments.get(parent, {"PATH": python}))
        if parent in self.environments:
            shutil.copytree(self._folder / parent, self.root, symlinks=True, copy_function=os.link)
        else:
            (self.root / "app").mkdir(parents=True)
        self._stage = stage

    def _env(self, arguments: str) -> None:
        environment = self.environments[self._stage]
        for pair in shlex.split(arguments):
            name, _, value = pair.partition("=")
            environment[name] = self._rooted(value).replace("$PATH", environment["PATH"])

    def _copy(self, arguments: str) -> None:
        *sources, target = arguments.split()
        if sources[0].startswith("--from="):
            other = self._folder / sources[0].removeprefix("--from=")
            to = self.root / target.lstrip("/")
            shutil.copytree(other / sources[1].lstrip("/"), to, symlinks=True, dirs_exist_ok=True)
            return
        for source in sources:
            to = self.root / "app" / target
            if target.endswith("/"):
                to.mkdir(parents=True, exist_ok=True)
            if (PROJECT_ROOT / source).is_dir():
                shutil.copytree(PROJECT_ROOT / source, to, ignore=_left_out, dirs_exist_ok=True)
            else:
                shutil.copy2(PROJECT_ROOT / source, to)

    def _run(self, arguments: str) -> None:
        if any(words in arguments for words in OF_THIS_HOST):
            self.skipped.append(arguments)
            return
        done = self.run("/bin/sh", "-c", self._rooted(arguments))
        assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"

    def _rooted(self, text: str) -> str:
        return _ABSOLUTE.sub(f"{self.root}/", text)


def _left_out(folder: str, names: list[str]) -> set[str]:
    inside = Path(folder).relative_to(PROJECT_ROOT)
    return {name for name in names if is_ignored(str(inside / name))}
