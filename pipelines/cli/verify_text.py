"""The result of verify.py, for people."""

from pipelines.seals.verification import Verified

MOST_SHOWN = 50
"""Lines of hours that are not simply intact; `--json` has all."""


def as_text(found: Verified) -> str:
    """Returns what is wrong, then what is told, then a line with the result."""
    chain = sorted(found.chain, key=lambda one: not one.is_alarm(found.since))
    problems = sorted(found.problems, key=lambda one: not one.is_alarm)
    lines = [_line(one.kind, one.text, is_alarm=one.is_alarm(found.since)) for one in chain[:MOST_SHOWN]]
    lines += [_line(one.verdict, f"{one.path}: {one.text}", is_alarm=one.is_alarm) for one in problems[:MOST_SHOWN]]
    lines += [
        _line(
            "amendment", f"seal {number}, account {one.account_id}, {one.hour:%Y-%m-%d %H}h: {one.why}", is_alarm=False
        )
        for number, one in found.amendments[-MOST_SHOWN:]
    ]
    left = sum(max(0, len(those) - MOST_SHOWN) for those in (chain, problems, found.amendments))
    lines += [f"… and {left:,} more: --json has all"] if left else []
    hours = ", ".join(f"{count:,} {verdict}" for verdict, count in sorted(found.hours.items())) or "none"
    copies = ", ".join(f"{count:,} {verdict}" for verdict, count in sorted(found.copies.items()))
    newest = f", the newest of {found.newest:%Y-%m-%d %H:%M} UTC" if found.newest else ""
    lines.append(f"{found.seals:,} seals{newest}; {found.events:,} sealed events; hours: {hours}")
    lines[-1] += f"; day copies: {copies}" if copies else ""
    result = "NOT as it was sealed" if found.is_alarm else "all is as it was sealed"
    return "\n".join([*lines, result])


def _line(what: str, text: str, *, is_alarm: bool) -> str:
    return f"{'ALARM' if is_alarm else 'told '}  {what}: {text}"
