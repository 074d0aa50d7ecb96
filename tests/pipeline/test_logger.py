"""An emitted event is a fact, whatever is in it; nothing is raised."""

from __future__ import annotations

import threading

import pytest
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context, use_span

from papyra_otel import FactKind, semconv

SPAN = NonRecordingSpan(SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=TraceFlags(1)))


def test_an_event_becomes_a_fact_with_its_system_actor_and_time(pipeline):
    pipeline.emit(7)
    (fact,) = pipeline.log.facts()
    assert (fact.kind, fact.name, fact.system, fact.actor) == (
        FactKind.EVENT,
        "papyra.actor.started",
        "orders",
        "orders/7",
    )
    assert fact.time_unix_nano == 1_700_000_000_000_000_007
    assert fact.attributes == {"n": 7}
    assert fact.seq == 0


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("papyra.dead_letter.captured", FactKind.DEAD_LETTER),
        ("papyra.audit.completed", FactKind.AUDIT),
        ("papyra.actor.stopped", FactKind.EVENT),
        ("somebody.elses.event", FactKind.EVENT),
    ],
)
def test_the_name_decides_the_kind(pipeline, name, kind):
    pipeline.emit(name=name)
    assert [fact.kind for fact in pipeline.log.facts()] == [kind]


def test_the_ids_are_those_of_the_current_span(pipeline):
    with use_span(SPAN):
        pipeline.emit()
    assert [(f.trace_id, f.span_id) for f in pipeline.log.facts()] == [(f"{0xABC:032x}", f"{0xDEF:016x}")]


def test_a_given_context_wins_over_the_current_span(pipeline):
    with use_span(SPAN):
        pipeline.logger.emit(context=Context(), event_name="e")
    pipeline.logger.emit(context=set_span_in_context(SPAN, Context()), event_name="e", timestamp=2**62)
    assert [f.trace_id for f in pipeline.log.facts()][-1] == f"{0xABC:032x}"


def test_a_whole_record_is_taken_like_its_parts(pipeline):
    record = LogRecord(
        timestamp=5,
        context=Context(),
        severity_number=SeverityNumber.ERROR,
        body={"amount": 3, "password": "hunter2"},
        attributes={"papyra.system.id": "stock", "a": 1},
        event_name="shop.refund.failed",
    )
    pipeline.logger.emit(record)
    (fact,) = pipeline.log.facts()
    assert (fact.name, fact.system, fact.severity, fact.time_unix_nano) == (
        "shop.refund.failed",
        "stock",
        "ERROR",
        5,
    )
    assert fact.attributes["a"] == 1
    assert fact.attributes[semconv.EVENT_BODY]["amount"] == 3
    assert "hunter2" not in repr(fact)


def test_an_exception_becomes_attributes(pipeline):
    pipeline.logger.emit(event_name="e", exception=ValueError("no stock"))
    (fact,) = pipeline.log.facts()
    assert fact.attributes["exception.type"] == "ValueError"
    assert fact.attributes["exception.message"] == "no stock"


def test_what_names_no_system_goes_to_the_default_one(pipeline):
    pipeline.logger.emit(event_name="e")
    assert [fact.system for fact in pipeline.log.facts()] == ["orders"]


def test_the_callers_attributes_are_left_alone(pipeline):
    given = {"papyra.system.id": "orders", "papyra.actor.address": "a", "x": 1}
    pipeline.logger.emit(event_name="e", attributes=given)
    assert given == {"papyra.system.id": "orders", "papyra.actor.address": "a", "x": 1}


@pytest.mark.parametrize("odd", [{}, {"system": 17, "actor": 4.5, "severity": 9}], ids=["usual", "odd"])
def test_what_is_known_by_its_parts_is_the_same_fact(pipeline, odd):
    parts = {"system": "orders", "actor": "orders/7", "severity": "DEBUG", **odd}
    attributes = {semconv.SYSTEM_ID: parts["system"], semconv.ACTOR_ADDRESS: parts["actor"], "n": 7}
    with use_span(SPAN):
        pipeline.logger.emit(
            event_name="e", timestamp=5, severity_text=parts["severity"], attributes=attributes
        )
        pipeline.logger.emit_fact("e", 5, attributes={"n": 7}, **parts)
    first, second = pipeline.log.facts()
    assert first.trace_id is not None
    assert second == first.identified(second.writer, second.seq)


def test_parts_that_make_no_fact_are_counted_and_not_raised(pipeline):
    pipeline.logger.emit_fact("e", 5, "DEBUG", Hostile(), "a", {})
    assert pipeline.log.facts() == []
    assert pipeline.counters.total(semconv.INSTRUMENTATION_ERRORS) == 1


class Hostile:
    def __str__(self) -> str:
        raise RuntimeError("no text for you")

    __repr__ = __str__


@pytest.mark.parametrize(
    "odd",
    [
        {"attributes": {"papyra.system.id": Hostile()}},
        {"attributes": {"papyra.actor.address": Hostile()}},
        {"attributes": {"x": Hostile()}},
        {"attributes": Hostile()},
        {"timestamp": "noon"},
        {"timestamp": -5},
        {"severity_text": "\ud800"},
        {"event_name": "\ud800"},
        {"event_name": 17},
        {"body": Hostile()},
        {"exception": Hostile()},
        {"context": Hostile()},
    ],
    ids=lambda odd: next(iter(odd)),
)
def test_nothing_odd_is_raised_and_the_next_fact_is_stored(pipeline, odd):
    pipeline.logger.emit(**{"event_name": "e", **odd})
    pipeline.emit(1)
    stored = pipeline.log.facts()
    assert stored[-1].attributes == {"n": 1} or stored[0].attributes == {"n": 1}
    lost = pipeline.counters.total(semconv.PERSISTENCE_DROPPED)
    failed = pipeline.counters.total(semconv.INSTRUMENTATION_ERRORS)
    assert len(stored) + lost + failed >= 2, "neither stored nor counted"


def test_many_threads_emit_without_a_hole(pipeline):
    def work(base: int) -> None:
        for n in range(200):
            pipeline.emit(base + n)

    threads = [threading.Thread(target=work, args=(1000 * t,)) for t in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(fact.seq for fact in pipeline.log.facts()) == list(range(1600))


def test_every_event_is_wanted(pipeline):
    assert pipeline.logger.enabled(event_name="x") is True
