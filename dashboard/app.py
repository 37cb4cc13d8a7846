"""The pages: each view is an address, answered with HTML; the same with `format=csv` or `json` is its export."""

import asyncio
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from pipelines.cli.status_text import duration
from pipelines.host.logs import log
from pipelines.host.masking import masked
from pipelines.settings.dashboard import DashboardSettings
from sources.cloudflare_audit_logs.errors import AuditLogsError

from . import charts, export
from .ask.conditions import EXPRESSIONS
from .ask.deadline import Deadline
from .ask.search import FIELDS, TEXTS
from .ask.sessions import read_settings_anew
from .ask.stores import LakeStore, WarehouseStore
from .guard import OWN_NAMES, STRICT, App, only_own_pages
from .look import TITLES, Look, Shown
from .names import AccountNames, Countries
from .sections import SHOW, event
from .view import RANGES, SECTIONS, STORES, view_of, written

T = TypeVar("T")
_HERE = Path(__file__).parent
_LOOK_SECONDS = 0.2
"""So often it is looked whether the browser still waits."""
_LONGEST_USER = 200


class Dashboard:
    """The pages over two stores."""

    def __init__(self, settings: DashboardSettings) -> None:
        self._base = settings.base_path
        self._stores: dict[str, Any] = {"warehouse": WarehouseStore(), "lake": LakeStore()}
        self._names, self._countries = AccountNames(), Countries(settings.geoip)
        self._sections = {name: title for name, title in SECTIONS.items() if name != "countries" or self._countries}
        loader = FileSystemLoader(_HERE / "templates")
        self._templates = Environment(
            loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        self._templates.globals |= {
            "base": self._base,
            "charts": charts,
            "countries": self._countries,
            "duration": duration,
            "fields": EXPRESSIONS,
            "hour": timedelta(hours=1),
            "help": FIELDS | TEXTS,
            "masked": masked,
            "names": self._names,
            "ranges": RANGES,
            "sections": self._sections,
            "stores": STORES,
            "titles": TITLES,
            "written": written,
        }

    def routes(self) -> list[Route | Mount]:
        """A route for each section; `values` has no tab of its own."""
        shown = [name for name in SHOW if name in self._sections or name == "values"]
        return [
            *(Route(f"/{name if name != 'overview' else ''}", partial(self.answer, section=name)) for name in shown),
            Route("/healthz", lambda _: PlainTextResponse("ok\n")),
            Mount("/static", StaticFiles(directory=_HERE / "static")),
        ]

    def learn_names(self) -> None:
        """Learns the accounts' names, beside the pages."""
        self._names.learn_beside(self._stores["warehouse"])

    async def answer(self, request: Request, section: str) -> Response:
        """A section's page, or the part of it that was asked for; of an error that nobody foresaw, one sentence."""
        try:
            return await self._answer(request, section)
        except Exception as error:  # noqa: BLE001  # the last resort
            where = traceback.extract_tb(error.__traceback__)[-1]
            log.error("page.failed", path=request.url.path, error=repr(error), at=f"{where.name}:{where.lineno}")
            said = (
                f"This page cannot be shown ({type(error).__name__}): an error of the dashboard. Its log says more.\n"
            )
            return PlainTextResponse(said, 500)

    async def _answer(self, request: Request, section: str) -> Response:
        now, deadline = datetime.now(UTC).replace(microsecond=0), Deadline()
        view = view_of(request.query_params.multi_items(), section, now, self._base)
        look = Look(view, self._stores, self._countries, now, deadline)
        kind = request.query_params.get("format", "")
        if kind in export.FORMATS and not view.is_search_wrong:
            work: Callable[[], Response] = partial(self._export, look, kind, request.query_params.get("table", ""))
        elif "x-fragment" in request.headers:
            work = partial(self._fragment, look)
        else:
            work = partial(self._page, look)
        return await _while_waited_for(request, deadline, work)

    def _page(self, look: Look) -> Response:
        """The page; what goes wrong is told in its place."""
        view, error, shown, accounts = look.view, None, None, list[str]()
        try:
            with suppress(*[AuditLogsError] * (view.section in {"health", "completeness"})):
                accounts = look.store.accounts(look.deadline)
            if not view.is_search_wrong:
                shown = SHOW[view.section](look)
        except AuditLogsError as its:
            error = its
        strange = [f"there is no account {one} here" for one in view.accounts if accounts and one not in accounts]
        text = self._templates.get_template("page.html").render(
            view=view, shown=shown, error=error, accounts=accounts, now=look.now, problems=[*view.problems, *strange]
        )
        return HTMLResponse(text, 503 if error else 400 if view.is_search_wrong else 200)

    def _fragment(self, look: Look) -> Response:
        """The event alone that the address opens, to be put into the page."""
        try:
            found = event(look, look.view["event"])
        except AuditLogsError as error:
            return PlainTextResponse(masked(str(error)), 503)
        return HTMLResponse(self._templates.get_template("event.html").render(view=look.view, opened=found))

    def _export(self, look: Look, kind: str, name: str) -> Response:
        """The rows that are shown, as a file; of events all columns and rows, up to a number that its name says."""
        try:
            if look.view.section == "events":
                filters = look.filters
                days = export.days_of(look.store, filters, look.deadline)
                number = sum(day["events"] for day in days)
                first = "oldest" if look.view.is_oldest_first else "newest"
                part = "all" if number <= export.MOST_EVENTS else f"{first}-{export.MOST_EVENTS}-of"
                rows = export.events(look.store, filters, days, is_oldest_first=look.view.is_oldest_first)
                columns, name = export.EVENT_COLUMNS, f"{part}-{number}"
            else:
                shown: Shown = SHOW[look.view.section](look)
                table = next((one for one in shown.tables if one.name == name), None)
                if table is None:
                    return PlainTextResponse("there is no such table here\n", 404)
                columns, rows = [*table.columns, *table.beside], iter(table.rows)
        except AuditLogsError as error:
            return PlainTextResponse(masked(str(error)), 503)
        file = f"{export.file_name(look.view, name)}.{kind}"
        headers = {"content-disposition": f'attachment; filename="{file}"'}
        return StreamingResponse(export.written(kind, columns, rows), media_type=export.FORMATS[kind], headers=headers)


async def _while_waited_for(request: Request, deadline: Deadline, work: Callable[[], T]) -> T:
    """Works in a thread; gives the question up if the browser has gone."""
    task = asyncio.ensure_future(run_in_threadpool(work))
    while not (await asyncio.wait({task}, timeout=_LOOK_SECONDS))[0]:
        if await request.is_disconnected():
            await run_in_threadpool(deadline.give_up)
    return task.result()


def served_app(settings: DashboardSettings) -> App:
    """The ASGI app, guarded, below its base path, with a line in the log for each page."""
    dashboard = Dashboard(settings)
    read_settings_anew()
    dashboard.learn_names()
    app = Starlette(routes=dashboard.routes())
    names = OWN_NAMES | set(settings.allowed_hosts)
    app.add_middleware(GZipMiddleware)
    guarded = only_own_pages(_below(app, settings.base_path), names=names, policy=STRICT, takes_links=True)
    return _logged(guarded, settings.user_header)


def _below(app: App, base: str) -> App:
    """The app for a proxy that leaves the base path in the address, and for one that takes it out."""

    async def below(scope: Any, receive: Any, send: Any) -> None:
        path = scope.get("path", "")
        if base and (path == base or path.startswith(f"{base}/")):
            scope = {**scope, "path": path.removeprefix(base) or "/", "raw_path": b""}
        await app(scope, receive, send)

    return below


def _logged(app: App, user_header: str) -> App:
    """The app, which logs who looked at which section, but not what was searched for: there are addresses in it."""

    async def logged(scope: Any, receive: Any, send: Any) -> None:
        began, status = time.monotonic(), 0

        async def sent(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                kept = (
                    [] if "/static/" in scope["path"] else [(b"cache-control", b"no-store"), (b"vary", b"x-fragment")]
                )
                message["headers"] = [*message["headers"], *kept]
            await send(message)

        try:
            await app(scope, receive, sent)
        finally:
            path = scope.get("path", "")
            if scope["type"] == "http" and not path.endswith("/healthz") and "/static/" not in path:
                headers = dict(scope["headers"])
                user = headers.get(user_header.lower().encode(), b"").decode("latin-1")[:_LONGEST_USER]
                seen = {"user": user or "-"} if user_header else {}
                milliseconds = round((time.monotonic() - began) * 1000)
                log.info("page.answered", path=path[:_LONGEST_USER], status=status, ms=milliseconds, **seen)

    return logged
