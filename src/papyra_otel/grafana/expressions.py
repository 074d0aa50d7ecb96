"""The shapes that the conditions of alerts have. All keep the labels ``job`` and ``instance``."""

from __future__ import annotations

from collections.abc import Callable

from papyra_otel.grafana.names import label, metric
from papyra_otel.grafana.promql import born_or_grown
from papyra_otel.grafana.rules import Conditions
from papyra_otel.grafana.thresholds import DAY, MINUTE

__all__ = ["Expr", "by_labels", "first_or_more", "growth", "level", "named", "series_of", "zero"]

Expr = Callable[[Conditions], str]


def by_labels(*attributes: str) -> str:
    """Return the grouping by process and *attributes*."""
    return f"by ({', '.join(('job', 'instance', *map(label, attributes)))})"


def named(attribute: str) -> str:
    """Return the template that puts the label of *attribute* into a text."""
    return f"{{{{ $labels.{label(attribute)} }}}}"


def series_of(name: str, *matchers: str, suffix: str = "") -> str:
    """Return the series of metric *name* that *matchers* pick."""
    return f"{metric(name)}{suffix}" + (f"{{{','.join(matchers)}}}" if matchers else "")


def first_or_more(name: str, *by: str, matchers: tuple[str, ...] = ()) -> Expr:
    """Fire from the first one on: also when a process is born with it, which ``increase`` never sees.

    A value is old when the same series had it ten minutes ago; a scrape that failed in between does not make it new.
    """
    series = series_of(name, *matchers)

    def expr(c: Conditions) -> str:
        day, ten = c.windows(DAY), c.windows(10 * MINUTE)
        return (
            f"sum {by_labels(*by)} (\n"
            f"    ( {series} > 0\n"
            f"      unless {series} == last_over_time({series}[{day}] offset {ten}) )\n"
            f"  or {series} and increase({series}[{ten}]) > 0 )"
        )

    return expr


def level(name: str, *by: str, over: Callable[[Conditions], str], matchers: tuple[str, ...] = ()) -> Expr:
    """Fire while the highest value of gauge *name* is over a limit."""
    return lambda c: f"max {by_labels(*by)} ({series_of(name, *matchers)}) > {over(c)}"


def growth(
    name: str,
    *by: str,
    window: float,
    over: Callable[[Conditions], str],
    matchers: tuple[str, ...] = (),
    suffix: str = "",
) -> Expr:
    """Fire while counter *name* grew by more than a limit in *window* seconds."""
    series = series_of(name, *matchers, suffix=suffix)
    return lambda c: f"sum {by_labels(*by)} ({born_or_grown(series, c.windows(window))}) > {over(c)}"


def zero(_: Conditions) -> str:
    """Return the limit of what must not be at all."""
    return "0"
