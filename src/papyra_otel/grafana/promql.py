"""The few shapes of PromQL and LogQL that all panels are made of."""

from __future__ import annotations

from papyra_otel import semconv as s
from papyra_otel.grafana.names import label, metric

__all__ = [
    "NO_GOOD_AUDITS",
    "NO_GOOD_SCANS",
    "RATE",
    "born_or_grown",
    "events",
    "facts",
    "found_in_range",
    "growth_in_range",
    "line",
    "matching",
    "per_second",
    "picked",
    "quantile",
    "summed",
]

RATE = "$__rate_interval"
NO_GOOD_AUDITS = f'event_name!="{s.AUDIT_COMPLETED}" or {label(s.AUDIT_HEALTHY)}="false"'
"""The LogQL filter that leaves out audits which found nothing: there are many, and they hide the rest."""
NO_GOOD_SCANS = f'event_name!="{s.LOG_SCANNED}" or {label(s.SCAN_ANOMALIES)}!="0"'
"""The same for scans."""
_PICKED = 'job=~"$job",instance=~"$instance"'


def matching(attribute: str, values: str, *, negated: bool = False) -> str:
    """Return a matcher of label *attribute*: *values* are plain, with ``|`` between them."""
    plain = "|" not in values
    operator = ("!=" if negated else "=") if plain else ("!~" if negated else "=~")
    return f'{label(attribute)}{operator}"{values}"'


def picked(name: str, *matchers: str, suffix: str = "") -> str:
    """Return the series of metric *name* that the dashboard's variables pick."""
    return f"{metric(name)}{suffix}{{{','.join((_PICKED, *matchers))}}}"


def summed(what: str, *by: str, how: str = "sum") -> str:
    """Return *what*, aggregated over all labels but the attributes *by*."""
    grouped = f" by ({', '.join(map(label, by))})" if by else ""
    return f"{how}{grouped} ({what})"


def per_second(name: str, *by: str, matchers: tuple[str, ...] = (), suffix: str = "") -> str:
    """Return the rate of counter *name*, summed by the attributes *by*."""
    return summed(f"rate({picked(name, *matchers, suffix=suffix)}[{RATE}])", *by)


def growth_in_range(name: str, *by: str, matchers: tuple[str, ...] = (), suffix: str = "") -> str:
    """Return by how much counter *name* grew in the picked range.

    ``increase`` alone misses what a series is born with, and each process start is a new series.
    """
    series = picked(name, *matchers, suffix=suffix)
    born = f"last_over_time({series}[$__range]) unless last_over_time({series}[1h] offset $__range)"
    return f"round({summed(f'({born}) or increase({series}[$__range])', *by)})"


def found_in_range(name: str, *by: str, matchers: tuple[str, ...] = ()) -> str:
    """Return ``growth_in_range`` without what did not grow."""
    return f"{growth_in_range(name, *by, matchers=matchers)} > 0"


def born_or_grown(series: str, window: str) -> str:
    """Return by how much *series* grew in *window*, counting what it was born with."""
    return f"({series} unless {series} offset {window}) or increase({series}[{window}])"


def quantile(fraction: float, name: str, *by: str, matchers: tuple[str, ...] = ()) -> str:
    """Return the *fraction* quantile of histogram *name*."""
    grouped = ", ".join(("le", *map(label, by)))
    series = picked(name, *matchers, suffix="_bucket")
    return f"histogram_quantile({fraction}, sum by ({grouped}) (rate({series}[{RATE}])))"


def facts(*filters: str) -> str:
    """Return the LogQL of all facts of the picked services that pass *filters*."""
    return " | ".join(('{service_name=~"$service"}', *filters))


def events(*names: str) -> str:
    """Return the LogQL filter for the events *names*."""
    if len(names) == 1:
        return f'event_name="{names[0]}"'
    return f'event_name=~"{"|".join(name.replace(".", "[.]") for name in names)}"'


def line(*attributes: str) -> str:
    """Return the LogQL that shows a fact as its name and *attributes*, or what of them it has."""
    return f"line_format `{' '.join(f'{{{{.{name}}}}}' for name in ('event_name', *map(label, attributes)))}`"
