"""Nothing is in the registry that nobody emits, and a fault in what is emitted is found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider

from papyra_otel import open_log, recording, semconv
from papyra_otel.pipeline import forward
from papyra_otel.pipeline.metrics import Metrics
from redis_servers.lab import Lab
from redis_servers.waiting import until
from registry.definitions import registry
from registry.everything import emit_everything
from registry.live import Seen, watch
from registry.plugin import SEEN


class Kept:
    """An exporter that keeps what it is given."""

    def __init__(self) -> None:
        self.records: list[Any] = []

    def export(self, batch: Sequence[Any]) -> None:
        self.records += [each.log_record for each in batch]

    def shutdown(self) -> None:
        """Nothing to end."""


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Kept:
    """What reaches an SDK of this test's own."""
    kept = Kept()
    provider = LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(SimpleLogRecordProcessor(kept))
    monkeypatch.setattr(forward, "current_provider", lambda: provider)
    monkeypatch.setattr(trace, "get_tracer", TracerProvider(shutdown_on_exit=False).get_tracer)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")  # the outbox's; nobody is there
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    return kept


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> InMemoryMetricReader:
    """What reads the metrics of this test's own."""
    made = InMemoryMetricReader()
    monkeypatch.setattr(recording, "process_metrics", Metrics(MeterProvider([made], shutdown_on_exit=False)))
    return made


def test_everything_in_the_registry_is_emitted(
    lab: Lab, exported: Kept, reader: InMemoryMetricReader, tmp_path: Path
) -> None:
    url = lab.server().url
    seen = Seen()
    unwatch = watch(seen)
    try:
        recordings = emit_everything(tmp_path, url)
        until(lambda: recordings[-1]._outbox.backlog() is not None)
        reader.get_metrics_data()
        for recording in recordings:
            recording.close()
    finally:
        unwatch()
    for place in (f"file:{tmp_path}/facts", url):
        with open_log(place, system="orders") as log:
            for entry in log.read():
                seen.stored(entry.fact)
    for record in exported.records:
        if record.event_name:
            seen.event(record.event_name, record.severity_text, record.attributes)
    assert seen.problems == []
    never = seen.never_emitted()
    assert never == [], never


@pytest.mark.parametrize(
    ("name", "severity", "attributes", "problem"),
    [
        ("papyra.actor.exploded", "INFO", {}, "the event papyra.actor.exploded is not in"),
        (semconv.SYSTEM_STOPPED, "FATAL", {}, "papyra.system.stopped has the severity FATAL"),
        (semconv.SYSTEM_STOPPED, "INFO", {"papyra.actor.type": "T"}, "no attribute papyra.actor.type on"),
        (semconv.SYSTEM_STOPPED, "INFO", {semconv.RUNTIME_NAME: 7}, "papyra.runtime.name on .* is 7"),
        (semconv.SYSTEM_STOPPED, "INFO", {semconv.SYSTEM_ID: "s"}, "has no papyra.runtime.name"),
        (semconv.ACTOR_STOPPED, "INFO", {semconv.STOP_REASON: "bored"}, "stop.reason on .* is 'bored'"),
        (semconv.ACTOR_STARTED, "INFO", {semconv.ACTOR_INCARNATION: True}, "incarnation on .* is True"),
        (semconv.AUDIT_COMPLETED, "INFO", {semconv.AUDIT_REASONS: "one"}, "reasons on .* is 'one'"),
        (semconv.AUDIT_COMPLETED, "INFO", {semconv.AUDIT_HEALTHY: 1}, "healthy on .* is 1"),
    ],
)
def test_an_event_that_is_not_as_registered_is_found(name, severity, attributes, problem):
    import re

    seen = Seen()
    seen.event(name, severity, attributes)
    assert any(re.search(problem, each) for each in seen.problems)


def test_an_instrument_that_is_not_as_registered_is_found():
    seen = Seen()
    unwatch = watch(seen)
    try:
        reader = InMemoryMetricReader()
        meter = MeterProvider([reader], shutdown_on_exit=False).get_meter(semconv.SCOPE_NAME)
        meter.create_counter("papyra.actor.explosions", "{explosion}")
        meter.create_gauge(semconv.AUDIT_AGE, "ms").set(1, {semconv.SYSTEM_ID: "s"})
        meter.create_observable_gauge(semconv.SCAN_AGE, lambda_of({"mood": "bad"}), "s")
        reader.get_metrics_data()
    finally:
        unwatch()
    SEEN.problems.clear()  # every other test would fail for these
    assert seen.problems == [
        "the metric papyra.actor.explosions is not in registry/metrics.yaml",
        "papyra.audit.age is a gauge in ms; the registry says gauge in s",
        "the registry has no attribute mood on papyra.persistence.scan.age",
        "papyra.persistence.scan.age has no papyra.backend.type, which the registry requires",
    ]


def lambda_of(attributes):
    from opentelemetry.metrics import Observation

    return [lambda _: [Observation(1, attributes)]]


def test_what_nobody_emitted_is_found():
    seen = Seen()
    seen.event(semconv.SYSTEM_STOPPED, "INFO", {semconv.SYSTEM_ID: "s"})
    never = seen.never_emitted()
    assert "the event papyra.system.started" in never
    assert "the event papyra.system.stopped" not in never
    assert "papyra.runtime.name on the event papyra.system.stopped" in never
    assert len(never) >= len(registry().events) + len(registry().metrics) - 1
