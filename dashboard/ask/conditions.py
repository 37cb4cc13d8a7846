"""The events that are looked at, as conditions in SQL that PostgreSQL and DuckDB both understand. Pure.

Names in braces are the store's: the parts of JSON, and the collation. Whatever a user typed is a parameter.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from .search import Term

ACTOR = "coalesce(nullif(actor_email, ''), nullif(actor_id, ''), nullif(actor_type, ''))"
FAILED = "coalesce(action_result = 'failure', false)"
EXPRESSIONS = {
    "actor": ACTOR,
    "actor_id": "nullif(actor_id, '')",
    "context": "nullif(actor_context, '')",
    "token": "nullif({token}, '')",
    "action": "nullif(action_type, '')",
    "description": "nullif({description}, '')",
    "result": "nullif(action_result, '')",
    "address": "nullif(ip_address, '')",
    "type": "nullif(resource_type, '')",
    "resource": "nullif(resource_id, '')",
    "product": "nullif(resource_product, '')",
    "zone": "coalesce(nullif(zone_name, ''), nullif(zone_id, ''))",
    "account": "account_id",
    "version": "api_version",
    "event": "event_id",
}
"""The SQL of each field of a search: with what a list shows, the only expressions that events are compared by."""
_IDS = {"actor_id", "token", "resource", "account", "version", "event"}
"""Fields in which capitals count."""
_COLUMNS = """concat_ws(chr(31), actor_email, actor_id, actor_type, actor_context, action_type, {description},
    action_result, ip_address, resource_type, resource_id, resource_product, zone_name, zone_id, event_id)"""


@dataclass(frozen=True)
class Filters:
    """The events that are looked at: `[since, before)` in UTC, and what else they must be."""

    since: datetime
    before: datetime
    accounts: tuple[str, ...] = ()
    version: str = ""
    terms: tuple[Term, ...] = ()
    only_failures: bool = False


def where_of(filters: Filters, given: tuple[Any, ...] = (), time: str = '"timestamp"') -> tuple[str, tuple[Any, ...]]:
    """The conditions of the filters, and the parameters that were given with theirs."""
    first = len(given) + 1
    conditions, parameters = [f"{time} >= ${first}", f"{time} < ${first + 1}"], [*given, filters.since, filters.before]
    for condition, value in (
        ("account_id = ANY(string_to_array({}::text, ' '))", " ".join(filters.accounts)),
        ("api_version = {}", filters.version),
    ):
        if value:
            parameters.append(value)
            conditions.append(condition.format(f"${len(parameters)}"))
    narrower, all_parameters = narrower_of(filters, tuple(parameters))
    return " AND ".join([*conditions, narrower]), all_parameters


def narrower_of(filters: Filters, parameters: tuple[Any, ...]) -> tuple[str, tuple[Any, ...]]:
    """The conditions of search and failures, and the parameters with those of it; each term has to hold."""
    conditions = [FAILED] if filters.only_failures else []
    for term in filters.terms:
        value, condition = _condition(term, f"${len(parameters) + 1}::text")
        parameters = (*parameters, value)
        conditions.append(f"{'NOT ' * term.is_not}coalesce({condition}, false)")
    return " AND ".join(conditions) or "true", parameters


def _condition(term: Term, given: str) -> tuple[str, str]:
    """A parameter, and what has to hold of it."""
    value, expression = term.value, EXPRESSIONS.get(term.field, "")
    if term.network is not None:
        value, condition = " ".join(term.matching or ()), f"ip_address = ANY(string_to_array(nullif({given}, ''), ' '))"
    elif not expression:
        condition = _text_condition(term.field, given)
    elif term.is_pattern:
        for special in "$%_":
            value = value.replace(special, f"${special}")
        value, condition = value.replace("*", "%"), f"{_folded(expression)} LIKE {_folded(given)} ESCAPE '$'"
    elif not value:
        condition = f"coalesce({expression}, {given}) = {given}"
    elif term.field in _IDS:
        condition = f"{expression} = {given}"
    else:
        condition = f"{_folded(expression)} = {_folded(given)}"
    return value, condition


def _text_condition(field: str, given: str) -> str:
    columns = f"strpos({_folded(_COLUMNS)}, {_folded(given)}) > 0"
    texts = {"old": "{old}", "new": "{new}", "text": "concat_ws(chr(31), {values}, {metadata})"}
    if field not in texts:
        return columns
    # PostgreSQL writes JSON with spaces, the lake has it as it was sent.
    inside, part = _folded(f"replace({texts[field]}, ' ', '')"), _folded(f"replace({given}, ' ', '')")
    return f"(strpos({inside}, {part}) > 0{f' OR {columns}' if field == 'text' else ''})"


def _folded(text: str) -> str:
    return f"lower({text}{{collate}})"
