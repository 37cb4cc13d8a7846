"""RFC 6962's tree of SHA-256: the root over leaves, and a tree that grows by a few hashes. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256

EMPTY_ROOT = sha256(b"").digest()


def leaf_hash(data: bytes) -> bytes:
    """Returns the hash of a leaf's data."""
    return sha256(b"\0" + data).digest()


def root_of(leaves: Sequence[bytes]) -> bytes:
    """Returns the root over leaf hashes in this order; level by level, a node without partner goes up as it is."""
    level = list(leaves)
    if not level:
        return EMPTY_ROOT
    while len(level) > 1:
        pairs = [sha256(b"\1" + left + right).digest() for left, right in zip(level[::2], level[1::2], strict=False)]
        level = pairs + level[len(pairs) * 2 :]
    return level[0]


@dataclass(frozen=True)
class Tree:
    """A tree that only grows: its size, and the roots of its complete subtrees, the largest first."""

    size: int = 0
    frontier: tuple[bytes, ...] = ()

    @classmethod
    def of(cls, leaves: Iterable[bytes]) -> "Tree":
        """Returns the tree of these leaf hashes."""
        tree = cls()
        for leaf in leaves:
            tree = tree.with_leaf(leaf)
        return tree

    @property
    def root(self) -> bytes:
        """The root over all leaves."""
        if not self.frontier:
            return EMPTY_ROOT
        *others, node = self.frontier
        for left in reversed(others):
            node = sha256(b"\1" + left + node).digest()
        return node

    def with_leaf(self, leaf: bytes) -> "Tree":
        """Returns the tree with one leaf hash more."""
        frontier, size = list(self.frontier), self.size
        node = leaf
        while size & 1:
            node = sha256(b"\1" + frontier.pop() + node).digest()
            size >>= 1
        return Tree(self.size + 1, (*frontier, node))
