# /// script
# [tool.marimo.display]
# theme = "system"
# ///
"""The page: controls, key numbers, and the section that is chosen. Asks nothing that is not shown. See page.py."""

import marimo

app = marimo.App(width="full", app_title="Cloudflare audit events", css_file="style.css")

with app.setup:
    from datetime import UTC, datetime

    import marimo as mo

    from dashboard import page, pieces, questions, sections  # marimo runs this file as a script
    from sources.cloudflare_audit_logs.errors import AuditLogsError


@app.cell
def controls():
    """The controls that do not depend on the store."""
    query = mo.query_params().to_dict()
    ranges = [*page.RANGES, page.DATES]
    store = mo.ui.radio(list(page.STORES), value=page.chosen(query, "store", page.STORES, "Warehouse"), inline=True)
    span = mo.ui.dropdown(ranges, value=page.chosen(query, "range", ranges, page.DEFAULT_RANGE), label="Time (UTC)")
    version = mo.ui.dropdown(
        list(page.VERSIONS), value=page.chosen(query, "version", page.VERSIONS, "v1 and v2"), label="API"
    )
    search = mo.ui.text(value=str(query.get("search") or ""), placeholder="actor, address …", label="Search")
    failures = mo.ui.switch(value=query.get("failures") == "1", label="Failures only")
    refresh = mo.ui.refresh(options=["30s", "1m", "5m"], label="")
    section = mo.ui.tabs(
        dict.fromkeys(page.SECTIONS, ""), value=page.chosen(query, "section", page.SECTIONS, page.SECTIONS[0])
    )
    remembered = {"account": str(query.get("account") or "")}  # a refresh makes that control anew
    return failures, query, refresh, remembered, search, section, span, store, version


@app.cell
def dates(query, span):
    """Only where the time is chosen by date."""
    _first, _last = page.dates_of(query, datetime.now(UTC))
    begin, end = mo.ui.datetime(value=_first, label="From"), mo.ui.datetime(value=_last, label="to")
    shown_days = [begin, end] if span.value == page.DATES else []
    return begin, end, shown_days


@app.cell
def opened_store(refresh, remembered, store):
    """Opened anew at each refresh, with the settings as they are then."""
    refresh.value  # runs this again
    now = datetime.now(UTC)
    opened = page.open_store(page.STORES[store.value])
    _accounts = [page.ALL_ACCOUNTS, *opened.accounts]
    account = mo.ui.dropdown(
        _accounts,
        value=page.chosen(remembered, "account", _accounts, page.ALL_ACCOUNTS),
        label="Account",
        searchable=True,
        on_change=lambda chosen: remembered.update(account=chosen or page.ALL_ACCOUNTS),
    )
    return account, now, opened


@app.cell
def header(account, failures, refresh, search, shown_days, span, store, version):
    """The title and the controls."""
    _title = mo.Html('<h1 class="title">Cloudflare audit events</h1>')
    _line = [span, *shown_days, account, version, search, failures]
    mo.vstack(
        [
            mo.hstack(
                [_title, mo.hstack([store, refresh], justify="end", gap=1, wrap=True)], align="center", wrap=True
            ),
            mo.hstack(_line, justify="start", align="end", gap=1, wrap=True),
        ]
    )


@app.cell
def filtered(account, begin, end, failures, now, search, span, store, version):
    """The filters, and the address that says the same."""
    _since, _before = page.window_of(span.value, begin.value or now, end.value or now, now)
    filters = page.filters_of(
        _since, _before, account.value or page.ALL_ACCOUNTS, version.value, search.value, failures=failures.value
    )
    link = {
        "store": store.value,
        "range": span.value,
        "account": account.value or page.ALL_ACCOUNTS,
        "version": version.value,
        "search": search.value,
        "failures": "1" if failures.value else "",
        **({"from": f"{_since:{page.TIME}}", "to": f"{_before:{page.TIME}}"} if span.value == page.DATES else {}),
    }
    return filters, link


@app.cell
def overview(filters, opened):
    """One pass over the events: the key numbers and the section Overview come from it."""
    error = opened.error
    found = page.by_subject([])
    if opened.store is not None:
        try:
            with mo.status.spinner(f"Asking the {opened.store.name} …"):
                found = page.by_subject(opened.store.ask(questions.overview(filters))[0])
        except AuditLogsError as _error:
            error = _error
    return error, found


@app.cell
def numbers(error, filters, found, opened, query, section):
    """The key numbers, or why there are none: once, where the section says the same."""
    _said = "".join(pieces.note(s) for s in [*page.misread(query, opened.accounts), *page.counted_twice(found)])
    _numbers = _said + pieces.key_numbers(page.numbers_of(found, filters))
    mo.Html(_numbers if error is None else "" if section.value == "Health" else pieces.problem(error))


@app.cell
def navigation(section):
    """The sections."""
    section


@app.cell
def content(error, filters, found, link, now, opened, query, section):
    """The section that is chosen. The pipeline's health can be shown without events."""
    try:
        if section.value == "Health":
            _shown = sections.health(now)
        elif section.value == "Completeness":
            _shown = sections.completeness(filters, link)
        elif error is not None:
            _shown = None
        elif section.value == "First seen":
            _shown = sections.first_seen(opened.store, filters)
        elif section.value == "Failures":
            _shown = sections.failures(opened.store, filters, found)
        elif section.value == "Events":
            _address = [str(query.get(name) or "") for name in ("event", "older")]
            _shown = sections.events(opened.store, filters, link, *_address)
        else:
            _shown = sections.overview(found, filters, link)
    except AuditLogsError as _error:
        _shown = None if str(_error) == str(error) else mo.Html(pieces.problem(_error))
    _shown


if __name__ == "__main__":
    app.run()
