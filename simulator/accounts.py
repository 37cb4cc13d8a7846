"""Many accounts with a token each, and the accounts file for a loop. Knows the file's form, not its reader."""

import json
from collections.abc import Iterable
from pathlib import Path


def account_ids_of(count: int) -> tuple[str, ...]:
    """Returns `count` ids, the same ones every time."""
    return tuple(f"{number:032x}" for number in range(1, count + 1))


def token_of(account_id: str) -> str:
    """The token that is valid for this account alone."""
    return f"token-{account_id}"


def write_accounts(file: Path, account_ids: Iterable[str], *, with_tokens: bool) -> None:
    """Writes an `accounts.toml`, and each token, if any, to a file of its own in `tokens/` next to it.

    Only the user that runs this may read them.
    """
    tokens = file.absolute().parent / "tokens"
    entries = []
    for account_id in account_ids:
        entry = f"[[accounts]]\nid = {json.dumps(account_id)}\n"
        if with_tokens:
            tokens.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write_private(tokens / account_id, token_of(account_id))
            entry += f"token_file = {json.dumps(str(tokens / account_id))}\n"
        entries.append(entry)
    _write_private(file, "\n".join(entries))


def _write_private(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch(mode=0o600)
    file.chmod(0o600)
    file.write_text(text)
