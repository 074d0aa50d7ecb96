"""The trace of whoever sent a message is the trace of what becomes of it, and nobody sees how it travels."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from opentelemetry import context, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from papyra_otel import semconv as s
from papyra_otel.config import SpanMode
from papyra_otel.pipeline.counters import Counters
from papyra_otel.pipeline.guard import Guard
from papyra_otel.recorder import Recorder
from papyra_otel.runtimes.dramatiq import DramatiqAdapter

dramatiq = pytest.importorskip("dramatiq")

from dramatiq.middleware import AsyncIO, CurrentMessage, Middleware  # noqa: E402 - where there is a dramatiq

from runtimes.dramatiq_support import FAST, WAIT_SECONDS, Tape, drain, new_broker, working  # noqa: E402


class Traced(Tape):
    """Keeps with each fact the number of the trace that was current."""

    def emit(self, **fact: Any) -> None:
        fact["attributes"] = {**fact["attributes"], "trace": here()}
        super().emit(**fact)

    def traces(self, address: str) -> list[int]:
        told = [f["attributes"] for f in self.facts if f["attributes"].get(s.ACTOR_ADDRESS) == address]
        return [attributes["trace"] for attributes in told]


def here() -> int:
    """Return the number of the current trace, 0 for none."""
    return trace.get_current_span().get_span_context().trace_id


@contextmanager
def inside(number: int) -> Iterator[None]:
    """Be in the trace of that *number*."""
    span = NonRecordingSpan(SpanContext(number, 7, is_remote=False, trace_flags=TraceFlags(1)))
    token = context.attach(trace.set_span_in_context(span))
    try:
        yield
    finally:
        context.detach(token)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("dramatiq")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    yield
    logger.setLevel(level)


@pytest.fixture
def tape() -> Traced:
    return Traced()


@pytest.fixture
def adapter(tape: Traced) -> Iterator[DramatiqAdapter]:
    counters = Counters()
    adapter = DramatiqAdapter(Recorder(tape, counters), Guard(counters), "shop")
    adapter.install()
    yield adapter
    adapter.uninstall()
    assert counters.read(s.INSTRUMENTATION_ERRORS) == []


def test_every_fact_about_a_message_is_in_its_senders_trace_and_no_other(
    adapter: DramatiqAdapter, tape: Traced
) -> None:
    broker = new_broker()
    seen: list[tuple[int, int]] = []

    @dramatiq.actor(broker=broker, max_retries=1, **FAST)
    def doomed(n: int) -> None:
        seen.append((n, here()))
        raise ValueError(n)

    with working(broker) as worker:
        for n in (11, 0, 22):
            with inside(n):
                doomed.send_with_options(args=(n,), delay=1)
            drain(broker, worker)
    assert seen == [(11, 11), (11, 11), (0, 0), (0, 0), (22, 22), (22, 22)]
    assert (
        tape.traces("doomed") == [0] + [11] * 7 + [0] * 7 + [22] * 7
    )  # declared; two failures and a dead letter


def test_a_message_for_nobody_and_one_that_is_skipped_are_in_their_senders_trace(
    adapter: DramatiqAdapter, tape: Traced
) -> None:
    broker = new_broker()
    job = dramatiq.actor(lambda: None, broker=broker, actor_name="job", max_age=1000)
    with working(broker), inside(33):
        broker.enqueue(job.message().copy(actor_name="nobody"))
        broker.enqueue(job.message().copy(message_timestamp=1))
    assert tape.traces("nobody") == [33]
    assert tape.traces("job") == [0, 33]


def test_coroutines_are_in_the_trace_too(adapter: DramatiqAdapter) -> None:
    broker = new_broker(AsyncIO())
    seen: list[int] = []

    @dramatiq.actor(broker=broker)
    async def job() -> None:
        seen.append(here())

    with working(broker) as worker:
        for n in (44, 0):
            with inside(n):
                job.send()
            drain(broker, worker)
    assert seen == [44, 0]


def test_what_a_handler_sends_goes_on_in_the_trace(adapter: DramatiqAdapter, tape: Traced) -> None:
    broker = new_broker()
    last = dramatiq.actor(lambda *_: None, broker=broker, actor_name="last")
    second = dramatiq.actor(lambda *_: last.send() and None, broker=broker, actor_name="second")
    first = dramatiq.actor(lambda: None, broker=broker, actor_name="first")
    with working(broker), inside(55):
        dramatiq.pipeline([first.message(), second.message()], broker=broker).run()
    assert [tape.traces(name) for name in ("first", "second", "last")] == [[0, 55]] * 3


def test_only_the_broker_sees_how_a_trace_travels(adapter: DramatiqAdapter) -> None:
    seen: list[Any] = []

    class Looking(Middleware):
        def after_enqueue(self, broker: Any, message: Any, delay: Any) -> None:
            seen.append("papyra.trace" in message.options)

        def before_process_message(self, broker: Any, message: Any) -> None:
            seen.append(dict(message.options))

    broker = new_broker()
    broker.add_middleware(Looking())

    @dramatiq.actor(broker=broker)
    def job() -> None:
        seen.append(dict(CurrentMessage.get_current_message().options))

    with inside(66):
        sent = job.send()
    assert sent.options == {}
    stored = json.loads(broker.queues["default"].queue[0])
    assert stored["options"]["papyra.trace"]["traceparent"].split("-")[1] == f"{66:032x}"
    with working(broker):
        pass
    assert seen == [True, {}, {}]


def test_the_applications_own_traceparent_is_read_where_ours_is_missing_and_never_touched(
    adapter: DramatiqAdapter, tape: Traced
) -> None:
    broker = new_broker()
    seen: list[Any] = []

    @dramatiq.actor(broker=broker)
    def job() -> None:
        seen.append((here(), dict(CurrentMessage.get_current_message().options)))

    own = {"traceparent": f"00-{77:032x}-{7:016x}-01"}
    with working(broker) as worker:
        sent = job.send_with_options(**own)
        drain(broker, worker)
        with inside(88):
            job.send_with_options(**own)
            drain(broker, worker)
        job.send_with_options(traceparent=["nonsense"])
    assert sent.options == own
    assert seen == [(77, own), (88, own), (0, {"traceparent": ["nonsense"]})]


def test_uninstalling_while_a_handler_runs_leaves_no_trace_in_its_thread(
    adapter: DramatiqAdapter, tape: Traced
) -> None:
    broker = new_broker()
    gate, entered = threading.Event(), threading.Event()
    seen: list[int] = []

    @dramatiq.actor(broker=broker)
    def job() -> None:
        seen.append(here())
        entered.set()
        assert gate.wait(WAIT_SECONDS)

    with working(broker) as worker:
        with inside(99):
            job.send()
        assert entered.wait(WAIT_SECONDS)
        adapter.uninstall()
        gate.set()
        drain(broker, worker)
        job.send()
    assert seen == [99, 0]


def test_a_propagator_that_raises_costs_the_trace_and_nothing_else(
    tape: Traced, monkeypatch: pytest.MonkeyPatch
) -> None:
    counters = Counters()
    adapter = DramatiqAdapter(Recorder(tape, counters), Guard(counters), "shop")
    adapter.install()

    def boom(*_: Any, **__: Any) -> Any:
        raise RuntimeError

    monkeypatch.setattr("opentelemetry.propagate.inject", boom)
    monkeypatch.setattr("opentelemetry.propagate.extract", boom)
    broker = new_broker()
    job = dramatiq.actor(lambda: None, broker=broker, actor_name="job")
    with working(broker), inside(5):
        job.send()
    adapter.uninstall()
    assert tape.traces("job") == [0, 0]
    failed = {key[0] for key, _ in counters.read(s.INSTRUMENTATION_ERRORS)}
    assert failed == {"dramatiq.before_enqueue", "dramatiq.context"}


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """An application with an SDK, and the spans that ended."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    return exporter


def test_each_delivery_of_a_sampled_message_is_a_span_linked_to_who_sent_it(
    adapter: DramatiqAdapter, tape: Traced, exporter: InMemorySpanExporter
) -> None:
    broker = new_broker()
    seen: list[int] = []

    @dramatiq.actor(broker=broker, max_retries=1, **FAST)
    def doomed() -> None:
        seen.append(trace.get_current_span().get_span_context().span_id)
        raise ValueError

    with working(broker):
        with inside(11):
            doomed.send()
        broker.enqueue(doomed.message().copy(actor_name="nobody"))  # nobody handles it
    first, second = exporter.get_finished_spans()
    assert [span.name for span in (first, second)] == ["process doomed"] * 2
    assert [span.parent for span in (first, second)] == [None, None]
    assert [[link.context.trace_id for link in span.links] for span in (first, second)] == [
        [11],
        [first.context.trace_id],
    ]
    assert [link.context.span_id for link in second.links] == [first.context.span_id]
    assert first.attributes is not None
    assert first.attributes[s.ERROR_TYPE] == "ValueError"
    assert (first.attributes[s.MESSAGE_KIND], first.attributes[s.MESSAGING_SYSTEM]) == ("task", "dramatiq")
    assert seen == [first.context.span_id, second.context.span_id]
    assert tape.traces("doomed") == [0] + [first.context.trace_id] * 3 + [second.context.trace_id] * 4
    assert tape.traces("nobody") == [0]
    assert adapter._spans == {}


def test_spans_of_messages_that_are_skipped_or_succeed_end_without_an_error(
    exporter: InMemorySpanExporter, tape: Traced
) -> None:
    counters = Counters()
    recorder = Recorder(tape, counters, spans=SpanMode.ALWAYS)
    adapter = DramatiqAdapter(recorder, Guard(counters), "shop")
    adapter.install()
    broker = new_broker()
    job = dramatiq.actor(lambda: None, broker=broker, actor_name="job", max_age=1000)
    with working(broker):
        job.send()
        broker.enqueue(job.message().copy(message_timestamp=1))
    adapter.uninstall()
    spans = exporter.get_finished_spans()
    assert len(spans) == 2
    assert [s.ERROR_TYPE in (span.attributes or {}) for span in spans] == [False, False]
    assert {span.context.trace_id for span in spans} == set(tape.traces("job")[1:])
    assert adapter._spans == {}
    assert counters.read(s.INSTRUMENTATION_ERRORS) == []
