"""Durable first, then forwarded: nothing the application's provider is or does loses a fact or raises."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator

import pytest
from opentelemetry import _logs
from opentelemetry._logs import _internal as api
from opentelemetry.sdk._logs import LoggerProvider, LogRecordProcessor
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.util._once import Once

from papyra_otel import semconv


@pytest.fixture(autouse=True)
def no_provider_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "_LOGGER_PROVIDER", None)
    monkeypatch.setattr(api, "_LOGGER_PROVIDER_SET_ONCE", Once())


@pytest.fixture
def exporter() -> InMemoryLogRecordExporter:
    return InMemoryLogRecordExporter()


@pytest.fixture
def sdk(exporter) -> Iterator[LoggerProvider]:
    provider = LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    yield provider
    provider.shutdown()


def forwarded(exporter: InMemoryLogRecordExporter) -> list:
    return [readable.log_record for readable in exporter.get_finished_logs()]


class Raising(LogRecordProcessor):
    def on_emit(self, log_record):
        raise RuntimeError("neighbour is ill")

    def shutdown(self):
        pass

    def force_flush(self, timeout_millis=30000):
        return True


def test_the_same_record_arrives_with_the_same_id(pipeline, sdk, exporter):
    _logs.set_logger_provider(sdk)
    pipeline.emit(3)
    (fact,) = pipeline.log.facts()
    (record,) = forwarded(exporter)
    assert record.event_name == fact.name
    assert record.timestamp == fact.time_unix_nano
    assert record.severity_text == "INFO"
    assert record.severity_number.value == 9
    assert dict(record.attributes) == {
        "n": 3,
        "papyra.system.id": "orders",
        "papyra.actor.address": "orders/3",
        "papyra.fact.kind": "event",
        "log.record.uid": fact.uid,
    }


def test_without_a_provider_facts_are_stored(pipeline):
    pipeline.emit()
    assert len(pipeline.log.facts()) == 1


def test_a_provider_that_comes_late_gets_what_comes_after(pipeline, sdk, exporter):
    pipeline.emit(0)
    _logs.set_logger_provider(sdk)
    pipeline.emit(1)
    assert len(pipeline.log.facts()) == 2
    assert [record.attributes["n"] for record in forwarded(exporter)] == [1]


def test_a_replaced_provider_gets_what_comes_after(pipeline, sdk, exporter, monkeypatch):
    _logs.set_logger_provider(LoggerProvider(shutdown_on_exit=False))
    pipeline.emit(0)
    monkeypatch.setattr(api, "_LOGGER_PROVIDER", sdk)
    pipeline.emit(1)
    assert len(pipeline.log.facts()) == 2
    assert [record.attributes["n"] for record in forwarded(exporter)] == [1]


def test_a_disabled_sdk_loses_nothing(pipeline, exporter, monkeypatch):
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    provider = LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    _logs.set_logger_provider(provider)
    pipeline.emit()
    assert len(pipeline.log.facts()) == 1
    assert forwarded(exporter) == []


def test_a_provider_that_was_shut_down_loses_nothing(pipeline, sdk, caplog):
    _logs.set_logger_provider(sdk)
    sdk.shutdown()
    with caplog.at_level(logging.CRITICAL):
        pipeline.emit()
    assert len(pipeline.log.facts()) == 1


def test_a_raising_processor_costs_a_count_and_nothing_else(pipeline, sdk, caplog):
    sdk.add_log_record_processor(Raising())
    _logs.set_logger_provider(sdk)
    pipeline.emit(0)
    pipeline.emit(1)
    assert len(pipeline.log.facts()) == 2
    assert pipeline.counters.read(semconv.INSTRUMENTATION_ERRORS) == [(("forward",), 2)]
    assert len([r for r in caplog.records if "forward" in r.getMessage()]) == 1, (
        "a lasting fault is told once"
    )


def test_a_provider_that_cannot_even_give_a_logger_costs_a_count(pipeline, monkeypatch, caplog):
    class Broken(LoggerProvider):
        def get_logger(self, *args, **kwargs):
            raise RuntimeError("no logger today")

    monkeypatch.setattr(api, "_LOGGER_PROVIDER", Broken(shutdown_on_exit=False))
    pipeline.emit()
    assert len(pipeline.log.facts()) == 1
    assert pipeline.counters.total(semconv.INSTRUMENTATION_ERRORS) == 1


@pytest.mark.parametrize("action", ["ignore", "error"])  # the SDK warns of what it cuts
def test_attribute_limits_cut_the_forwarded_record_and_not_the_fact(pipeline, exporter, monkeypatch, action):
    monkeypatch.setenv("OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT", "1")
    monkeypatch.setenv("OTEL_ATTRIBUTE_COUNT_LIMIT", "1")  # what SDK 1.39 reads
    provider = LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    _logs.set_logger_provider(provider)
    with warnings.catch_warnings():
        warnings.simplefilter(action)
        pipeline.emit()
    (fact,) = pipeline.log.facts()
    assert (fact.attributes, fact.actor) == ({"n": 0}, "orders/0")
    assert all(len(record.attributes) == 1 for record in forwarded(exporter))
    assert len(forwarded(exporter)) == (1 if action == "ignore" else 0)


def test_a_processor_that_makes_facts_goes_in_no_circle(pipeline, sdk):
    class Echo(LogRecordProcessor):
        def on_emit(self, log_record):
            pipeline.emit(99, name="papyra.dead_letter.captured")

        def shutdown(self):
            pass

        def force_flush(self, timeout_millis=30000):
            return True

    sdk.add_log_record_processor(Echo())
    _logs.set_logger_provider(sdk)
    pipeline.emit(1)
    assert len(pipeline.log.facts()) == 2
    assert pipeline.counters.read(semconv.EVENT_SUPPRESSED) == [(("reentrant",), 1)]


def test_our_own_provider_as_the_global_one_is_not_forwarded_to(pipeline):
    _logs.set_logger_provider(pipeline.provider)
    _logs.get_logger("somebody").emit(event_name="somebody.did", attributes={"a": 1})
    assert [fact.name for fact in pipeline.log.facts()] == ["somebody.did"]


def test_bulky_and_private_things_stay_unless_asked_for(pipeline, sdk, exporter):
    _logs.set_logger_provider(sdk)
    attributes = {"papyra.message.payload": "secret order", "papyra.message.type": "Order"}
    pipeline.logger.emit(event_name="papyra.dead_letter.captured", attributes=attributes)
    pipeline.logger.emit(event_name="papyra.message.processed", attributes=attributes)
    assert [record.event_name for record in forwarded(exporter)] == ["papyra.dead_letter.captured"]
    assert "papyra.message.payload" not in forwarded(exporter)[0].attributes
    assert all(fact.attributes["papyra.message.payload"] for fact in pipeline.log.facts())


def test_bulky_and_private_things_go_when_asked_for(pipeline, sdk, exporter):
    _logs.set_logger_provider(sdk)
    logger = pipeline.new_provider(forward_messages=True, forward_payload=True).get_logger("x")
    logger.emit(event_name="papyra.message.processed", attributes={"papyra.message.payload": "p"})
    assert forwarded(exporter)[0].attributes["papyra.message.payload"] == "p"


def test_forwarding_can_be_off(pipeline, sdk, exporter):
    _logs.set_logger_provider(sdk)
    pipeline.new_provider(forward=False).get_logger("x").emit(event_name="e")
    pipeline.logger.without_forwarding().emit(event_name="e")
    assert forwarded(exporter) == []
    assert len(pipeline.log.facts()) == 2


def test_a_value_that_would_spoil_a_whole_otlp_batch_is_replaced(pipeline, sdk, exporter):
    from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs

    _logs.set_logger_provider(sdk)
    odd = {"surrogate": "\ud800", "list": ["\ud800"], "huge": 10**40, "set": {1}, "ok": "é"}
    pipeline.logger.emit(event_name="e", attributes=odd)
    encoded = encode_logs(exporter.get_finished_logs())
    assert b"\xc3\xa9" in encoded.SerializeToString()


def test_a_fact_waiting_for_its_log_is_forwarded_with_the_id_it_will_have(pipeline, sdk, exporter):
    _logs.set_logger_provider(sdk)
    pipeline.log.away = "ENOSPC"
    pipeline.emit()
    (record,) = forwarded(exporter)
    pipeline.log.away = None
    pipeline.writer.drain()
    assert [fact.uid for fact in pipeline.log.facts()] == [record.attributes["log.record.uid"]]
