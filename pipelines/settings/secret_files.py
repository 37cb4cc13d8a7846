"""Secrets that files give: `NAME_FILE` (Docker), or `$CREDENTIALS_DIRECTORY/NAME` (systemd). Only reads them."""

import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from pipelines.host.masking import learn

SECRETS = ("CLOUDFLARE_API_TOKEN", "PG_PASSWORD", "PG_OWNER_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY")
"""The settings that a file can give."""
FILE_NAMES = {name: f"{name}_FILE" for name in SECRETS}
"""The settings that name their files."""

_NAMES_SECRET_FILE = re.compile(r"(CLOUDFLARE|PG|S3|SEAL|ALERT)_\w*(TOKEN|PASSWORD|KEY|URL)_FILE")
_GUARDED = ("/run/secrets", "/var/run/secrets", "/run/credentials")
"""Folders of Docker, Kubernetes and systemd, which guard their files themselves."""
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def read_secrets(environment: Mapping[str, str], root: Path) -> tuple[dict[str, str], list[str]]:
    """The secrets that files give, and what is wrong with them, one line each. Relative paths begin at `root`."""
    secrets, problems = {}, []
    for name in SECRETS:
        learn(name, environment.get(name, ""))  # whatever its name says: `host/masking.py` goes by names alone
        files = dict(_files(environment, name, root))
        ways = [*([name] if name in environment else []), *files]
        if len(ways) > 1:
            problems.append(f"{name} is given {len(ways)} times, by {' and '.join(ways)}: keep one of them")
            continue
        for way, file in files.items():
            try:
                secrets[name] = read_secret(file)
            except ValueError as error:
                problems.append(f"{way} {error}")
    return secrets, problems


def readable_by_others(environment: Mapping[str, str], root: Path, more: Iterable[Path] = ()) -> Iterator[str]:
    """A line for each file with secrets whose mode lets others than its owner read or change it."""
    named = [root / path for name, path in environment.items() if _NAMES_SECRET_FILE.fullmatch(name)]
    guarded = [Path(folder) for folder in (*_GUARDED, environment.get("CREDENTIALS_DIRECTORY")) if folder]
    for file in dict.fromkeys([root / ".env", root / ".dlt" / "secrets.toml", *named, *more]):
        mode = file.stat().st_mode if os.access(file, os.F_OK) else 0
        if stat.S_ISREG(mode) and mode & _OTHERS and not any(folder in file.parents for folder in guarded):
            yield f"{file} holds secrets and others may read it (mode {stat.S_IMODE(mode):o}): chmod 600 {file}"


def _files(environment: Mapping[str, str], name: str, root: Path) -> Iterator[tuple[str, Path]]:
    """The files that give a secret, by what the operator calls them."""
    if FILE_NAMES[name] in environment:
        yield FILE_NAMES[name], root / environment[FILE_NAMES[name]]
    credential = credential_file(environment, name)
    if os.access(credential, os.F_OK):  # unlike exists(), no error where the folder is another service's
        yield f"systemd's credential {name}", credential


def credential_file(environment: Mapping[str, str], name: str) -> Path:
    """Where systemd puts a credential."""
    return Path(environment.get("CREDENTIALS_DIRECTORY", "/nonexistent"), name)


def read_secret(file: Path) -> str:
    """The file's text without the newline that editors put at its end.

    Raises:
        ValueError: it has none; the text continues a sentence that begins with the file's name.
    """
    try:
        secret = file.read_text(encoding="utf-8").rstrip("\r\n")
    except UnicodeDecodeError:  # whose own text would show the secret
        raise ValueError(f"({file}) is not UTF-8 text: write the secret alone into it") from None
    except OSError as error:
        raise ValueError(f"({file}) cannot be read: {error.strerror}; see its path and rights") from error
    if not secret:
        raise ValueError(f"({file}) is empty: write the secret into it")
    learn(file.name, secret)
    return secret
