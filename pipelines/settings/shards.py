"""The parts of the accounts that several loops divide among them, and the names of their pipelines. Pure.

An account belongs to a shard by a digest of its id, so that no one has to assign it. A store is loaded by all of them,
whatever their number was: their pipelines are known by their names.
"""

import argparse
import re
from dataclasses import dataclass
from hashlib import sha256

_WRITTEN = re.compile(r"([1-9]\d{0,3})/([1-9]\d{0,3})", re.ASCII)
_SUFFIX = "(_shard_[0-9]+_of_[0-9]+)?"


@dataclass(frozen=True)
class Shard:
    """One of several loops that divide the accounts among them."""

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """The shard that is written as `2/3`, for argparse."""
        written = _WRITTEN.fullmatch(text)
        if written is None:
            raise argparse.ArgumentTypeError(f"{text!r:.40} is not a shard: write it as 1/3, the first one of three")
        shard = cls(int(written[1]), int(written[2]))
        if shard.number > shard.count:
            raise argparse.ArgumentTypeError(f"there is no shard {text}: the last one is {shard.count}/{shard.count}")
        return shard

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @property
    def suffix(self) -> str:
        """The end of the names of its pipelines and locks; nothing where it is the whole."""
        return f"_shard_{self.number}_of_{self.count}" if self.count > 1 else ""

    @property
    def all(self) -> "list[Shard]":
        """It and those that it divides the accounts with."""
        return [Shard(number, self.count) for number in range(1, self.count + 1)]

    def takes(self, account_id: str) -> bool:
        """True if the account belongs to the shard: to exactly one, and to the same one on each host."""
        return int(sha256(account_id.encode()).hexdigest(), 16) % self.count == self.number - 1


WHOLE = Shard()


def sibling_pattern(*base_names: str) -> str:
    """A pattern of the pipelines that move cursors under these names, whole or sharded; for Python and PostgreSQL.

    Those of sweep, backfill and repair are none: they have no cursors.
    """
    return f"^({'|'.join(base_names)}){_SUFFIX}$"
