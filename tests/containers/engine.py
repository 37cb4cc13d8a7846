"""Docker and Compose by their command line, for a project folder of its own. Starts nothing by itself."""

import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATIENCE_SECONDS = 240
_KILL = "import os, sys; os.kill(int(sys.argv[1]), int(sys.argv[2]))"


def docker(*arguments: str | Path, cwd: Path | None = None, check: bool = True) -> "subprocess.CompletedProcess[str]":
    """Runs `docker …`; its errors are the test's message."""
    done = subprocess.run(  # the one that the user's PATH has
        ["docker", *arguments],  # noqa: S607
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not check or done.returncode == 0, f"docker {arguments}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done


def wait_until(is_so: Callable[[], object], what: str) -> None:
    """Asks every second; fails when nothing but a hang can be the cause."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < end, f"not within {PATIENCE_SECONDS} s: {what}"
        time.sleep(1)


@dataclass(frozen=True)
class Project:
    """A copy of this repository with settings of its own, as Compose sees it."""

    folder: Path
    name: str
    image: str
    """The one that runs the pipeline; it also sends signals, from outside of the containers."""

    def compose(self, *arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """Runs `docker compose …` in the project's folder."""
        return docker("compose", "-p", self.name, *arguments, cwd=self.folder, check=check)

    def execute(self, service: str, *command: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """Runs a command in a running container."""
        return self.compose("exec", "-T", service, *command, check=check)

    def python(self, service: str, code: str) -> str:
        """What a line of Python prints in the container."""
        return self.execute(service, "python3", "-c", code).stdout.strip()

    def inspect(self, service: str) -> dict[str, Any]:
        """All that the engine says of the service's container."""
        container = self.compose("ps", "-aq", service).stdout.strip()
        (said,) = json.loads(docker("inspect", container).stdout)
        return dict(said)

    def health(self, service: str) -> str:
        """By its own check: `healthy`, `unhealthy` or `starting`."""
        return str(self.inspect(service)["State"]["Health"]["Status"])

    def wait_for(self, service: str, status: str) -> None:
        """Until its check says so."""
        wait_until(lambda: self.health(service) == status, f"{service} {status}")

    def signal(self, service: str, number: int, program: str = "") -> None:
        """Sends a signal from the host to the first process, or to the one whose command line has the text.

        A container's first process ignores what is sent from inside, and what `docker kill` ends is not started again.
        """
        state = self.inspect(service)
        pid = str(state["State"]["Pid"])
        if program:
            lines = docker("top", state["Id"], "-eo", "pid,args").stdout.splitlines()
            pid = next(line.split()[0] for line in lines if program in line and "docker-init" not in line)
        run = ("run", "--rm", "--pid=host", "--user=0", "--cap-add=KILL", "--entrypoint=python3")
        docker(*run, self.image, "-c", _KILL, pid, str(int(number)))

    def starts(self, service: str) -> int:
        """How often the engine has started it again."""
        return int(self.inspect(service)["RestartCount"])

    def left(self) -> str:
        """Containers, volumes and networks of the project."""
        mine = f"label=com.docker.compose.project={self.name}"
        listed = [("ps", "-aq"), ("volume", "ls", "-q"), ("network", "ls", "-q")]
        return "".join(docker(*words, "--filter", mine).stdout for words in listed)
