"""The dashboard of the events: questions to the warehouse, as the role that only reads (`roles.sql`)."""

from typing import Any

from .parts import RED, WAREHOUSE, YELLOW, Json, Panel, choice, dashboard, lines, stat, table, text_box

_SEARCHED = "concat_ws(' ', actor_email, actor_id, ip_address, action_type, resource_type, resource_id, zone_name)"
_OF_CHOICE = "account_id IN ($account) AND api_version IN ($version)"
_CHOSEN = (
    f'$__timeFilter("timestamp") AND {_OF_CHOICE}\n    AND strpos(lower({_SEARCHED}), lower(${{search:sqlstring}})) > 0'
)
_ACTOR = "coalesce(nullif(actor_email, ''), nullif(actor_id, ''), nullif(actor_type, ''))"
_FAILED = "action_result = 'failure'"
_SIGN_IN = (
    "(lower(action_type) = 'login' OR api_version = 'v2' AND lower(raw_event #>> '{action,description}') = 'login')"
)
_NARROWED = (
    "/d/audit-events?${__url_time_range}&${account:queryparam}&${version:queryparam}"
    "&var-search=${__value.raw:percentencode}"
)
_LINKS = dict.fromkeys(("actor", "address", "action", "resource"), _NARROWED)
_TWICE = "v1 and v2 are records of their own of one action: choose one version to count actions."


def _number(title: str, what: str, where: str = "true", **more: Any) -> Panel:
    query = f"SELECT {what} AS n FROM audit_logs\nWHERE {_CHOSEN}\n    AND {where}"
    return stat(title, WAREHOUSE, {"n": query}, **more)


def _over_time(series: str) -> str:
    return (
        f'SELECT $__timeGroupAlias("timestamp", $__interval), {series} AS metric, count(*) AS events\n'
        f"FROM audit_logs\nWHERE {_CHOSEN}\nGROUP BY 1, 2\nORDER BY 1"
    )


def _overview() -> list[Panel]:
    results = _over_time("coalesce(nullif(action_result, ''), 'unknown')")
    types = _over_time("coalesce(nullif(resource_type, ''), 'none')")
    return [
        _number("Events", "count(*)", description=_TWICE),
        _number("Actors", f"count(DISTINCT {_ACTOR})"),
        _number("Addresses", "count(DISTINCT nullif(ip_address, ''))"),
        _number("Failed", "count(*)", _FAILED, steps=[(1, YELLOW)]),
        _number("Sign-ins", "count(*)", _SIGN_IN, description="In v2 alone."),
        stat("Hours with gaps", WAREHOUSE, {"n": _checks("count(*) AS n", "status = 'gap'")}, steps=[(1, RED)]),
        lines("Events by result", WAREHOUSE, {"events": results}, bars=True, description=_TWICE),
        lines("Events by type of resource", WAREHOUSE, {"events": types}, bars=True),
    ]


def _most(columns: str, *, also: str = "") -> str:
    grouped = ", ".join(str(n + 1) for n in range(columns.count(" AS ")))
    return (
        f"SELECT {columns}, count(*) AS events, count(*) FILTER (WHERE {_FAILED}) AS failed{also}\n"
        f"FROM audit_logs\nWHERE {_CHOSEN}\nGROUP BY {grouped}\nORDER BY events DESC\nLIMIT 100"
    )


def _who_what_where() -> list[Panel]:
    spans = ', min("timestamp") AS first, max("timestamp") AS last'
    who = _most(f"{_ACTOR} AS actor", also=f", count(DISTINCT ip_address) AS addresses{spans}")
    origin = _most("nullif(ip_address, '') AS address", also=f", count(DISTINCT {_ACTOR}) AS actors{spans}")
    return [
        table("Who", WAREHOUSE, who, _LINKS),
        table("From where", WAREHOUSE, origin, _LINKS),
        table("What", WAREHOUSE, _most("action_type AS action"), _LINKS),
        table("On what", WAREHOUSE, _most("resource_type AS resource, zone_name AS zone"), _LINKS),
    ]


def _listed(where: str = "true", more: str = "") -> str:
    return (
        f'SELECT "timestamp" AS time, {_ACTOR} AS actor, ip_address AS address, action_type AS action,\n'
        f"    action_result AS result, resource_type AS resource, resource_id, zone_name AS zone{more},\n"
        f"    api_version, event_id\nFROM audit_logs\nWHERE {_CHOSEN}\n    AND {where}\n"
        'ORDER BY "timestamp" DESC\nLIMIT 200'
    )


def _suspicious() -> list[Panel]:
    seen_first = (
        "SELECT min(hour) AS hour, actor, ip_address AS address, sum(events) AS events\nFROM audit_seen_hourly\n"
        "WHERE hour >= $__timeFrom()::timestamptz - INTERVAL '30 days' AND hour <= $__timeTo()\n"
        f"    AND {_OF_CHOICE} AND ip_address IS NOT NULL\n"
        "GROUP BY actor, ip_address\nHAVING min(hour) >= $__timeFrom()\nORDER BY 1 DESC\nLIMIT 100"
    )
    said = "An actor from an address that it was not seen at in the 30 days before."
    values = ", raw_event -> 'oldValue' AS old, raw_event -> 'newValue' AS new"
    return [
        table("Failed actions", WAREHOUSE, _listed(_FAILED), _LINKS),
        table("The newest sign-ins", WAREHOUSE, _listed(_SIGN_IN), _LINKS),
        table("Seen for the first time", WAREHOUSE, seen_first, _LINKS, description=said, width=24),
        table("The newest events", WAREHOUSE, _listed(more=values), _LINKS, width=24, height=12),
    ]


def _checks(columns: str, where: str, end: str = "") -> str:
    newest = (
        "SELECT DISTINCT ON (account_id, api_version, hour) *\n    FROM audit_completeness\n"
        f"    WHERE $__timeFilter(hour) AND {_OF_CHOICE}\n    ORDER BY account_id, api_version, hour, checked_at DESC"
    )
    return f"SELECT {columns}\nFROM (\n    {newest}\n) AS newest\nWHERE {where}{end}"


def _proof() -> list[Panel]:
    columns = (
        "hour, account_id, api_version, status, api_events, warehouse_events, lake_events, missing_in_warehouse,\n"
        "    missing_in_lake, doubled_in_lake, differing, checked_at"
    )
    compared = _checks(columns, "true", "\nORDER BY status = 'complete', hour DESC\nLIMIT 200")
    quarantined = (
        "SELECT received_at AS time, account_id, api_version, reason, event_id, left(raw_event, 200) AS event\n"
        f"FROM audit_logs_quarantine\nWHERE $__timeFilter(received_at) AND {_OF_CHOICE}\n"
        "ORDER BY received_at DESC\nLIMIT 100"
    )
    said = "The newest comparison of each hour: API, warehouse, lake; gaps first. The loop compares after a day."
    return [
        table("Completeness", WAREHOUSE, compared, description=said, width=24),
        table(
            "Quarantine",
            WAREHOUSE,
            quarantined,
            description="What has no readable time, or PostgreSQL refused.",
            width=24,
        ),
    ]


def build() -> Json:
    """The dashboard."""
    accounts = "SELECT DISTINCT account_id FROM audit_activity_hourly WHERE $__timeFilter(hour) ORDER BY 1"
    versions = "SELECT unnest(ARRAY['v1', 'v2'])"
    variables = [
        WAREHOUSE.as_variable(),
        choice("account", "Account", WAREHOUSE, accounts),
        choice("version", "API version", WAREHOUSE, versions),
        text_box("search", "Actor, address, action, resource or zone"),
    ]
    rows = {
        "Activity": _overview(),
        "Who, what, where": _who_what_where(),
        "What to look at": _suspicious(),
        "Proof": _proof(),
    }
    return dashboard("audit-events", "Cloudflare audit: the events", "now-24h", variables, rows)
