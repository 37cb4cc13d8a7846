"""What our two dlt destinations have in common: their configuration is resolved once."""

from copy import copy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlt.common.destination import Destination
else:
    Destination = object


class OwnDestination(Destination):  # type: ignore[type-arg]  # mixed into a destination of dlt's
    """One for each opening of a store, so that what it remembers ends with that."""

    # dlt resolves these anew some ten times in a run: 12 % of what a load of 100,000 events took (py-spy).

    def configuration(self, initial_config: Any, accept_partial: bool = False) -> Any:  # noqa: FBT001, FBT002  # dlt's signature
        """A copy of what it was resolved to before, if it was; callers change it."""
        key = "configuration", accept_partial, repr(sorted((initial_config or {}).items(), key=str))
        return self._once(key, lambda: super(OwnDestination, self).configuration(initial_config, accept_partial)).copy()

    def capabilities(self, config: Any = None, naming: Any = None) -> Any:
        """A copy, as above."""
        if config is not None:
            return super().capabilities(config, naming)
        key = "capabilities", type(naming), getattr(naming, "max_length", None)
        return copy(self._once(key, lambda: super(OwnDestination, self).capabilities(None, naming)))

    def _once(self, key: Any, resolve: Any) -> Any:
        resolved = self.__dict__.setdefault("_resolved", {})
        if key not in resolved:
            resolved[key] = resolve()
        return resolved[key]
