"""The result of `reconcile` as text for a terminal: a table of the hours with gaps, and a line with the sum."""

from pipelines.bulk.reconcile_days import Reconciled, Scope
from pipelines.bulk.shared import Shared
from pipelines.fetch.refusals import refused_in_words
from pipelines.proof.compare import SIDES
from pipelines.proof.gaps import hours_with_gaps

_HEAD = ("account", "version", "hour (UTC)", "API", "warehouse", "lake", "what is wrong")


def reconciled_text(found: Reconciled, scope: Scope, shared: Shared) -> str:
    """Returns the text."""
    lines = [f"account {account_id}: its quarantine in the lake is broken" for account_id in found.broken_quarantines]
    table: list[tuple[str, ...]] = [_HEAD] if found.gaps else []
    for check in found.gaps:
        stream, hour = check.stream, f"{check.hour:%Y-%m-%d %H}h"
        counts = [f"{check.events[side]:,}" if side in check.events else "-" for side in SIDES]
        table.append((stream.account_id, stream.api_version, hour, *counts, "; ".join(check.problems)))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines += ["  ".join(map(str.ljust, row, widths)).rstrip() for row in table]
    asked = "API, warehouse, lake" if scope.asks_api else "warehouse, lake"
    result = "no gap found" if shared.failed else "complete"
    result = result if found.hours else "nothing was compared"
    result = hours_with_gaps(len(found.gaps)) if found.gaps else result
    result += _in_words(len({stream.account_id for stream in shared.failing}))
    older = found.hours - found.warehouse_hours
    result += f"; {older:,} hours without the warehouse, whose retention they are older than" if older else ""
    result += refused_in_words(shared.refused_versions)
    result += f"; {found.not_in_api:,} events that the API does not show (any more)" if found.not_in_api else ""
    result += f"; {found.inexact:,} events from the warehouse, whose exact text is not known" if found.inexact else ""
    return "\n".join([*lines, f"{found.hours:,} hours, {found.events:,} events in {asked}: {result}"])


def _in_words(failed: int) -> str:
    accounts = "1 account" if failed == 1 else f"{failed:,} accounts"
    return f"; {accounts} could not be compared in full, see the log" if failed else ""
