"""Events that reach the application's SDK become facts; our own do not come back twice."""

from __future__ import annotations

import logging

import pytest
from opentelemetry import _logs
from opentelemetry._logs import _internal as api
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import (
    BatchLogRecordProcessor,
    LogRecordExportResult,
    SimpleLogRecordProcessor,
)
from opentelemetry.trace import NonRecordingSpan, SpanContext, use_span
from opentelemetry.util._once import Once

from papyra_otel.pipeline.exporter import FactExporter


@pytest.fixture(params=[SimpleLogRecordProcessor, BatchLogRecordProcessor])
def sdk(request, pipeline, monkeypatch):
    monkeypatch.setattr(api, "_LOGGER_PROVIDER", None)
    monkeypatch.setattr(api, "_LOGGER_PROVIDER_SET_ONCE", Once())
    provider = LoggerProvider(shutdown_on_exit=False)
    store = pipeline.logger.without_forwarding()
    provider.add_log_record_processor(request.param(FactExporter(lambda: store)))
    _logs.set_logger_provider(provider)
    yield provider
    provider.shutdown()


def test_somebody_elses_event_is_stored_with_its_trace(pipeline, sdk):
    span = NonRecordingSpan(SpanContext(0x123, 0x456, is_remote=False))
    with use_span(span):
        sdk.get_logger("shop").emit(event_name="shop.paid", attributes={"amount": 3}, timestamp=7)
    sdk.force_flush()
    (fact,) = pipeline.log.facts()
    assert (fact.name, fact.attributes, fact.time_unix_nano) == ("shop.paid", {"amount": 3}, 7)
    assert (fact.trace_id, fact.span_id) == (f"{0x123:032x}", f"{0x456:016x}")


def test_an_event_without_a_trace_has_none(pipeline, sdk):
    sdk.get_logger("shop").emit(event_name="shop.paid")
    sdk.force_flush()
    assert [fact.trace_id for fact in pipeline.log.facts()] == [None]


def test_our_own_facts_do_not_come_back(pipeline, sdk):
    pipeline.emit()
    sdk.force_flush()
    assert len(pipeline.log.facts()) == 1


def test_log_lines_are_no_facts_which_is_said_once(pipeline, sdk, caplog):
    with caplog.at_level(logging.WARNING, logger="papyra_otel"):
        for _ in range(3):
            sdk.get_logger("shop").emit(body="just a line")
        sdk.force_flush()
    assert pipeline.log.facts() == []
    assert len([record for record in caplog.records if record.name == "papyra_otel"]) == 1


def test_without_a_recording_the_export_fails_visibly():
    assert FactExporter(lambda: None).export([]) is LogRecordExportResult.FAILURE
