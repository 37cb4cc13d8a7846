"""The dashboard of the loop's health: questions to Prometheus, about the metrics of docs/watch/metrics.md."""

from .parts import GREEN, METRICS, RED, YELLOW, Json, Panel, choice, dashboard, lines, stat, table

_LOOPS = '{job="cloudflare-audit", instance=~"$instance"}'
_STREAMS = '{job="cloudflare-audit", instance=~"$instance", account=~"$account"}'
_UP = {
    "mappings": [
        {"type": "value", "options": {"0": {"text": "down", "color": RED}, "1": {"text": "up", "color": GREEN}}}
    ]
}
_STREAM = "{{account}} {{version}} {{destination}}"


def _of_loop(name: str) -> str:
    return f"cloudflare_audit_{name}{_LOOPS}"


def _of_streams(name: str) -> str:
    return f"cloudflare_audit_{name}{_STREAMS}"


def _grown(name: str, time: str = "$__range", by: str = "") -> str:
    return f"sum{by} (increase({_of_streams(name)}[{time}]))"


def _quantile(part: str, name: str, labels: str, by: str) -> str:
    return (
        f"histogram_quantile({part}, sum by (le{by}) (rate(cloudflare_audit_{name}_bucket{labels}[$__rate_interval])))"
    )


# A version that the API refuses has no poll that succeeds; it is counted by itself.
_POLLED = (
    f"{_of_streams('last_success_timestamp_seconds')} unless on (job, instance, account, version) "
    f"{_of_streams('account_refused')} == 1"
)


def _now() -> list[Panel]:
    up = {"{{destination}}": f"min by (destination) ({_of_loop('destination_up')})"}
    behind = {"behind": f"time() - min({_POLLED})"}
    return [
        stat("Destinations", METRICS, up, defaults=_UP, text="value_and_name"),
        stat(
            *("Last whole poll", METRICS, behind, "s"),
            steps=[(300, YELLOW), (1050, RED)],
            description="How long ago it began, of the account and destination that is furthest behind.",
        ),
        stat("Streams that fail", METRICS, {"fail": f"sum({_of_streams('account_up')} < bool 1)"}, steps=[(1, RED)]),
        stat(
            *("Streams refused", METRICS, {"refused": f"sum({_of_streams('account_refused')})"}),
            steps=[(1, YELLOW)],
            description="An account in a version that the API does not let the token read.",
        ),
        stat("Hours with gaps", METRICS, {"hours": f"sum({_of_streams('gap_hours')})"}, steps=[(1, RED)]),
        stat("Quarantined", METRICS, {"events": _grown("events_quarantined_total")}, steps=[(1, YELLOW)]),
    ]


def _alerts() -> list[Panel]:
    firing = (
        "sort_desc(max by (alertname, severity, account, version, destination) "
        '(ALERTS{alertname=~"Audit.+", alertstate="firing"}))'
    )
    version = {"{{version}}": f"max by (version) ({_of_loop('build_info')})"}
    left = {"left": f"min({_of_loop('api_requests_left')})"}
    starts = {"starts": f"sum(changes(process_start_time_seconds{_LOOPS}[$__range]))"}
    return [
        table(
            "Alerts that fire",
            METRICS,
            firing,
            width=12,
            height=6,
            description="docs/runbook.md has a paragraph for each.",
        ),
        stat("Version", METRICS, version, text="name", height=6),
        stat("Restarts", METRICS, starts, steps=[(4, YELLOW)], height=6),
        stat("API requests left", METRICS, left, steps=[], height=6, description="Of the token that has fewest."),
    ]


def _events() -> list[Panel]:
    stored = f"sum by (destination) (rate({_of_streams('events_stored_total')}[$__rate_interval])) * 60"
    odd = {
        f"{word} {{{{destination}}}}": _grown(f"events_{word}_total", "1h", " by (destination)")
        for word in ("late", "quarantined", "missing")
    }
    lag = _STREAMS
    lags = {f"{q}": _quantile(q, "visibility_lag_seconds", lag, "") for q in ("0.5", "0.99")}
    return [
        lines("Events stored a minute", METRICS, {"{{destination}}": stored}, bars=False),
        lines(
            *(
                "Late, quarantined, missing, in an hour",
                METRICS,
                odd | {"conflicting": _grown("events_conflicting_total", "1h")},
            ),
            description="Late: found by the sweep. Missing: found by a comparison. Conflicting: of one id and time.",
        ),
        lines(
            *("Visibility lag", METRICS, lags | {"safety lag": f"min({_of_streams('safety_lag_seconds')})"}, "s"),
            description="From an event's time until it was first read, of polls that were caught up; quantiles.",
        ),
        lines("Hours with gaps", METRICS, {"{{account}} {{version}}": _of_streams("gap_hours")}),
    ]


def _pace() -> list[Panel]:
    polls = {
        f"{q} {{{{destination}}}}": _quantile(q, "poll_duration_seconds", _LOOPS, ", destination")
        for q in ("0.5", "0.95")
    }
    loads = {
        f"{q} {{{{destination}}}}": _quantile(q, "load_duration_seconds", _LOOPS, ", destination")
        for q in ("0.5", "0.95")
    }
    return [
        lines(
            "Time since the last whole poll",
            METRICS,
            {_STREAM: f"time() - {_of_streams('last_success_timestamp_seconds')}"},
            "s",
        ),
        lines(
            "Age of the newest event", METRICS, {_STREAM: f"time() - {_of_streams('cursor_timestamp_seconds')}"}, "s"
        ),
        lines("Duration of polls", METRICS, polls, "s"),
        lines("Duration of loads", METRICS, loads, "s"),
    ]


def _resources() -> list[Panel]:
    requests = f"sum by (code) (rate({_of_loop('api_requests_total')}[$__rate_interval])) * 60"
    retries = f"sum(rate({_of_loop('api_retries_total')}[$__rate_interval])) * 60"
    cpu = f"rate(process_cpu_seconds_total{_LOOPS}[$__rate_interval])"
    return [
        lines("API requests a minute, by answer", METRICS, {"{{code}}": requests, "sent again": retries}, width=8),
        lines("CPU", METRICS, {"{{instance}}": cpu}, "percentunit", width=8),
        lines("Memory", METRICS, {"{{instance}}": f"process_resident_memory_bytes{_LOOPS}"}, "bytes", width=8),
    ]


def build() -> Json:
    """The dashboard."""
    asked = "label_values(cloudflare_audit_{}, {})"
    loops = {"qryType": 1, "refId": "A", "query": asked.format('build_info{job="cloudflare-audit"}', "instance")}
    accounts = {"qryType": 1, "refId": "A", "query": asked.format(f"account_up{_LOOPS}", "account")}
    variables = [
        METRICS.as_variable(),
        choice("instance", "Loop", METRICS, loops),
        choice("account", "Account", METRICS, accounts),
    ]
    rows = {"Now": _now() + _alerts(), "Events": _events(), "Pace": _pace(), "API and process": _resources()}
    return dashboard("audit-loop", "Cloudflare audit: the loop", "now-6h", variables, rows)
