"""Compares what is really emitted with the registry: every fact of ours, every number on every instrument of ours."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import Meter
from opentelemetry.sdk.trace import Span

from papyra_otel import Fact, semconv
from papyra_otel.pipeline.exporter import FactExporter
from papyra_otel.pipeline.forward import Forwarder
from papyra_otel.pipeline.logger import FactLogger
from registry.definitions import Attribute, Used, registry

INSTRUMENTS = {
    "create_counter": "counter",
    "create_observable_counter": "counter",
    "create_up_down_counter": "updowncounter",
    "create_observable_up_down_counter": "updowncounter",
    "create_gauge": "gauge",
    "create_observable_gauge": "gauge",
    "create_histogram": "histogram",
}
_ON_ANY = {semconv.FACT_KIND, semconv.LOG_RECORD_UID, semconv.FACT_TRUNCATED, semconv.FACT_ENC_ERROR}
_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "int": (int,),
    "double": (float, int),
    "boolean": (bool,),
}


class Seen:
    """What was emitted so far, and what of it the registry does not allow. Adding to it never raises."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.events: set[str] = set()
        self.event_attributes: set[tuple[str, str]] = set()
        self.metric_attributes: set[tuple[str, str]] = set()
        self.metrics: set[str] = set()
        self.spans: set[str] = set()
        self.span_attributes: set[tuple[str, str]] = set()

    def event(self, name: str, severity: str | None, attributes: Mapping[str, Any]) -> None:
        """Take note of an event of ours as it was emitted, or as it was exported."""
        event = registry().events.get(name)
        if event is None:
            self._wrong(f"the event {name} is not in registry/events.yaml")
            return
        self.events.add(name)
        if severity not in event.severities:
            self._wrong(f"{name} has the severity {severity}, not one of {', '.join(event.severities)}")
        self._check(name, attributes, event.attributes, self.event_attributes)

    def stored(self, fact: Fact) -> None:
        """Take note of a fact of ours that was read from a log."""
        if fact.name.startswith("papyra."):
            about = {} if fact.actor is None else {semconv.ACTOR_ADDRESS: fact.actor}
            self.event(fact.name, fact.severity, {semconv.SYSTEM_ID: fact.system, **about, **fact.attributes})

    def instrument(self, name: str, instrument: str, unit: str) -> None:
        """Take note of an instrument that was made."""
        metric = registry().metrics.get(name)
        if metric is None:
            self._wrong(f"the metric {name} is not in registry/metrics.yaml")
        elif (instrument, unit) != (metric.instrument, metric.unit):
            self._wrong(
                f"{name} is a {instrument} in {unit}; the registry says {metric.instrument} in {metric.unit}"
            )

    def point(self, name: str, attributes: Mapping[str, Any]) -> None:
        """Take note of a number with its attributes."""
        metric = registry().metrics.get(name)
        if metric is not None:
            self.metrics.add(name)
            self._check(name, attributes, metric.attributes, self.metric_attributes)

    def span(self, kind: str, attributes: Mapping[str, Any]) -> None:
        """Take note of a span that ended. There is but one sort."""
        (span,) = registry().spans.values()
        self.spans.add(span.name)
        if kind != span.kind:
            self._wrong(f"{span.name} is of the kind {kind}, not {span.kind}")
        self._check(span.name, attributes, span.attributes, self.span_attributes)

    def never_emitted(self) -> list[str]:
        """Return what the registry has and nobody emitted so far."""
        known = registry()
        missing: set[str] = set()
        for what, signals, seen, noted in (
            ("event", known.events, self.events, self.event_attributes),
            ("metric", known.metrics, self.metrics, self.metric_attributes),
            ("span", known.spans, self.spans, self.span_attributes),
        ):
            missing |= {f"the {what} {name}" for name in signals.keys() - seen}
            used = {(name, key) for name, signal in signals.items() for key in signal.attributes}
            missing |= {
                f"{key} on the {what} {name}"
                for name, key in used - noted
                if name in seen and not (what == "event" and key in _ON_ANY)
            }
        anywhere = {key for _, key in self.event_attributes}
        missing |= {f"{key} on any event" for key in _ON_ANY - anywhere}
        return sorted(missing)

    def _check(
        self,
        name: str,
        attributes: Mapping[str, Any],
        allowed: Mapping[str, Used],
        noted: set[tuple[str, str]],
    ) -> None:
        described = attributes.get(semconv.FACT_ENC_ERROR, ())  # stand for what JSON cannot hold
        for key, value in attributes.items():
            if key not in allowed:
                self._wrong(f"the registry has no attribute {key} on {name}")
                continue
            noted.add((name, key))
            if key not in described and not fits(value, registry().attributes[key]):
                self._wrong(f"{key} on {name} is {value!r}, which the registry does not allow")
        for key, used in allowed.items():
            if used.level == "required" and key not in attributes:
                self._wrong(f"{name} has no {key}, which the registry requires")

    def _wrong(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)


def fits(value: Any, attribute: Attribute) -> bool:
    """Say whether *value* is of the type of *attribute*, and one of its values where it has a fixed set."""
    if attribute.type == "any":
        return True
    if attribute.type.endswith("[]"):
        inner = _TYPES[attribute.type.removesuffix("[]")]
        return (
            isinstance(value, Sequence) and not isinstance(value, str) and all(_is(v, inner) for v in value)
        )
    return _is(value, _TYPES[attribute.type]) and (attribute.members is None or value in attribute.members)


def _is(value: Any, types: tuple[type, ...]) -> bool:
    return isinstance(value, types) and (bool in types or not isinstance(value, bool))


def watch(seen: Seen) -> Callable[[], None]:
    """See from now on all that our own code emits in this process; return what ends that.

    Events that a test emits itself, through a logger of ours, are the test's: only our modules' count.
    """
    undo = [
        _watch_events(seen),
        _watch_exports(seen),
        _watch_spans(seen),
        *(_watch_instruments(seen, n, k) for n, k in INSTRUMENTS.items()),
    ]
    return lambda: [each() for each in undo] and None


def _watch_events(seen: Seen) -> Callable[[], None]:
    original = FactLogger.emit

    def emit(self: FactLogger, *args: Any, **event: Any) -> None:
        caller = sys._getframe(1).f_globals.get("__name__", "")
        ours = (
            caller.startswith("papyra_otel.") and caller != FactExporter.__module__
        )  # that has others' events
        if ours and "event_name" in event and self._name == semconv.SCOPE_NAME:
            seen.event(str(event["event_name"]), event.get("severity_text"), event.get("attributes") or {})
        original(self, *args, **event)

    FactLogger.emit = emit
    return lambda: setattr(FactLogger, "emit", original)


def _watch_exports(seen: Seen) -> Callable[[], None]:
    original = Forwarder._record

    def record(self: Forwarder, fact: Any, context: Any) -> Any:
        made = original(self, fact, context)
        if self._scope.name == semconv.SCOPE_NAME and fact.name.startswith(("papyra.log.", "papyra.event.")):
            seen.event(
                fact.name, fact.severity, made.attributes
            )  # these nobody emits: they come from the log itself, or from forwarding
        return made

    Forwarder._record = record
    return lambda: setattr(Forwarder, "_record", original)


def _watch_spans(seen: Seen) -> Callable[[], None]:
    original = Span.end

    def end(self: Span, *args: Any, **options: Any) -> None:
        scope = self.instrumentation_scope
        if scope is not None and scope.name == semconv.SCOPE_NAME:
            seen.span(self.kind.name.lower(), self.attributes or {})
        original(self, *args, **options)

    Span.end = end
    return lambda: setattr(Span, "end", original)


def _watch_instruments(seen: Seen, method: str, kind: str) -> Callable[[], None]:
    original = getattr(Meter, method)

    def create(self: Meter, name: str, *args: Any, **options: Any) -> Any:
        if self._instrumentation_scope.name != semconv.SCOPE_NAME:
            return original(self, name, *args, **options)
        names = ("callbacks", "unit", "description") if "observable" in method else ("unit", "description")
        given = dict(zip(names, args, strict=False)) | options
        seen.instrument(name, kind, given.get("unit", ""))
        if "callbacks" in given:
            given["callbacks"] = [_seeing(seen, name, each) for each in given["callbacks"]]
        instrument = original(self, name, **given)
        for verb in ("add", "set", "record"):
            if hasattr(instrument, verb):
                setattr(instrument, verb, _recording(seen, name, getattr(instrument, verb)))
        return instrument

    setattr(Meter, method, create)
    return lambda: setattr(Meter, method, original)


def _seeing(
    seen: Seen, name: str, callback: Callable[[CallbackOptions], Iterable[Observation]]
) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observed(options: CallbackOptions) -> list[Observation]:
        observations = list(callback(options))
        for each in observations:
            seen.point(name, each.attributes or {})
        return observations

    return observed


def _recording(seen: Seen, name: str, verb: Callable[..., None]) -> Callable[..., None]:
    def recorded(
        amount: float, attributes: Mapping[str, Any] | None = None, *args: Any, **options: Any
    ) -> None:
        seen.point(name, attributes or {})
        verb(amount, attributes, *args, **options)

    return recorded
