"""The plugin that dlt loads wherever we are installed: it does nothing, unless the process runs our code.

In a checkout, that is every `dlt` of its environment. With a wheel, it is `cloudflare-audit dlt`, and each command.
"""

from importlib.util import find_spec
from typing import Any

from dlt.common.configuration.plugins import hookimpl

from . import CODE


@hookimpl(tryfirst=True)
def plug_run_context(run_dir: str | None, runtime_kwargs: dict[str, Any] | None) -> Any:
    """Called by dlt when it looks for its context; None leaves it to others."""
    if not _runs_our_code():
        return None
    from pipelines.cli import dlt_context  # noqa: PLC0415  # 0.3 s

    return dlt_context.plug_run_context(run_dir, runtime_kwargs)


@hookimpl(specname="plug_cli", tryfirst=True)
def plug_pipeline_command(host: str) -> Any:
    """Called by dlt when it collects its commands: ours takes the place of its `pipeline`."""
    if not _runs_our_code():
        return None
    from pipelines.cli import dlt_context  # noqa: PLC0415

    return dlt_context.plug_pipeline_command(host)


def _runs_our_code() -> bool:
    """True if `pipelines` is ours: a wheel's code is on nobody's path but our own commands'."""
    found = find_spec("pipelines")
    return found is not None and found.origin == f"{CODE}/pipelines/__init__.py"
