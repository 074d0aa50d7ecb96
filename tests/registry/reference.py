"""Writes docs/reference/semconv.md from the registry: ``python tests/registry/reference.py``; a test compares."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from registry.definitions import BORROWED, Attribute, Event, Metric, Registry, Span, Used, registry

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "semconv.md"

_HEAD = """\
# Names on the wire: the reference

<!-- Written by tests/registry/reference.py from src/papyra_otel/registry/*.yaml: do not edit. -->

Every event, metric, span and attribute of papyra-otel. What they mean in context: [facts.md](../facts.md). The same
is in the package as `papyra_otel/registry/`, in the definition format of OpenTelemetry's
[weaver](https://github.com/open-telemetry/weaver), which makes code and checks from it. All of it is in development:
changes are listed under *Wire* in the changelog.

The scope of all of it is `papyra_otel`. **Bold** attributes are always there.
"""
_PROMETHEUS_TYPES = {
    "counter": "counter",
    "updowncounter": "gauge",
    "gauge": "gauge",
    "histogram": "histogram",
}
_UNIT_SUFFIXES = {"s": "seconds", "By": "bytes"}


def prometheus_name(metric: Metric) -> str:
    """Return the name that OpenTelemetry's default translation gives *metric* in Prometheus."""
    name = metric.name.replace(".", "_")
    suffix = _UNIT_SUFFIXES.get(metric.unit, "")
    if suffix and suffix not in name.split("_"):
        name = f"{name}_{suffix}"
    return f"{name}_total" if metric.instrument == "counter" else name


def prometheus_type(metric: Metric) -> str:
    """Return the type of *metric* in Prometheus."""
    return _PROMETHEUS_TYPES[metric.instrument]


def prometheus_label(key: str) -> str:
    """Return the label that attribute *key* becomes."""
    return key.replace(".", "_")


def page(known: Registry) -> str:
    """Return the whole page."""
    parts = [_HEAD, "## Metrics\n"]
    parts += [_metric(metric) for metric in known.metrics.values()]
    parts += ["## Events\n"]
    parts += [_event(event) for event in known.events.values()]
    parts += ["## Spans\n"]
    parts += [_span(span) for span in known.spans.values()]
    parts += ["## Attributes\n", "| attribute | type | meaning |\n|---|---|---|"]
    parts[-1] += "".join(
        f"\n{_row(attribute)}" for attribute in known.attributes.values() if attribute.key not in BORROWED
    )
    borrowed = ", ".join(f"`{key}`" for key in BORROWED)
    parts += [f"\nAs OpenTelemetry defines them: {borrowed}.\n"]
    return "\n".join(parts)


def _metric(metric: Metric) -> str:
    return (
        f"### `{metric.name}`\n\n{metric.brief} {_sentence(metric.note)}\n\n"
        "| instrument | unit | in Prometheus | as |\n|---|---|---|---|\n"
        f"| {metric.instrument} | `{metric.unit}` | `{prometheus_name(metric)}` | {prometheus_type(metric)} |\n\n"
        f"Attributes: {_uses(metric.attributes)}.\n"
    ).replace(" \n\n|", "\n\n|")


def _event(event: Event) -> str:
    severities = ", ".join(event.severities)
    return (
        f"### `{event.name}`\n\n{event.brief} {_sentence(event.note)}".rstrip()
        + f"\n\nKind `{event.kind}`, severity {severities}.\nAttributes: {_uses(event.attributes)}.\n"
    )


def _span(span: Span) -> str:
    return (
        f"### {span.named}\n\n{span.brief} {_sentence(span.note)}".rstrip()
        + f"\n\nKind {span.kind}.\nAttributes: {_uses(span.attributes)}.\n"
    )


def _uses(attributes: Mapping[str, Used]) -> str:
    return ", ".join(_use(used) for used in attributes.values()) or "none"


def _use(used: Used) -> str:
    if used.level == "required":
        return f"**`{used.key}`**"
    if used.condition:
        return f"`{used.key}` ({used.condition})"
    return f"`{used.key}` (if asked for)" if used.level == "opt_in" else f"`{used.key}`"


def _row(attribute: Attribute) -> str:
    meaning = f"{attribute.brief} {_sentence(attribute.note)}".rstrip()
    if attribute.members is not None and attribute.member_briefs is not None:
        values = [
            f"`{value}`" + (f" ({brief.rstrip('.').lower()})" if brief else "")
            for value, brief in attribute.member_briefs.items()
        ]
        meaning += f" One of {', '.join(values)}."
    return f"| `{attribute.key}` | {'enum' if attribute.members else attribute.type} | {meaning} |"


def _sentence(note: str) -> str:
    return note.strip()


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(registry()), "utf-8")
