"""Messages carry the trace of their sender, and no actor stays in the context of whoever spawned it."""

from __future__ import annotations

import anyio
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON

from papyra_otel import semconv as s
from papyra_otel.config import SpanMode
from papyra_otel.pipeline.counters import Counters
from papyra_otel.pipeline.guard import Guard
from papyra_otel.recorder import Recorder
from papyra_otel.runtimes.papyra import PapyraAdapter
from papyra_otel.runtimes.pykka import PykkaAdapter

papyra = pytest.importorskip("papyra")
pykka = pytest.importorskip("pykka")


class Tape:
    """Keeps what is emitted, and the ids of the span in which that was."""

    def __init__(self):
        self.facts = []

    def emit(self, **fact):
        span = trace.get_current_span().get_span_context()
        self.facts.append((fact["event_name"], fact["attributes"], span.trace_id, span.span_id))

    def ids(self, name):
        return [(trace_id, span_id) for event, _, trace_id, span_id in self.facts if event == name]


class Traces:
    """A tracer provider of the application's, and the spans that ended."""

    def __init__(self, monkeypatch, sampler=ALWAYS_ON):
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(sampler=sampler)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        monkeypatch.setattr(trace, "_TRACER_PROVIDER", self.provider)
        self.tracer = self.provider.get_tracer("application")

    def ours(self):
        return [span for span in self.exporter.get_finished_spans() if span.name.startswith("process ")]


@pytest.fixture
def tape():
    return Tape()


@pytest.fixture
def traces(monkeypatch):
    return Traces(monkeypatch)


@pytest.fixture
def counters():
    return Counters()


@pytest.fixture(params=["pykka", "papyra-asyncio", "papyra-trio"])
def play(request, tape, counters):
    """Run a scene on a runtime: ``scene(spawn, tell, ask, settled)``, all of them callables that block."""
    mode = getattr(request.module, "mode", SpanMode.SAMPLED)

    def run(scene, mode=mode):
        recorder = Recorder(tape, counters, spans=mode)
        adapter_class = PykkaAdapter if request.param == "pykka" else PapyraAdapter
        adapter = adapter_class(recorder, Guard(counters), "s")
        adapter.install()
        try:
            if request.param == "pykka":
                _on_pykka(scene)
            else:
                anyio.run(_on_papyra, scene, backend=request.param.removeprefix("papyra-"))
        finally:
            adapter.uninstall()

    return run


def _handle(message):
    if message == "fail":
        raise ValueError("as told")
    return message


class OnPykka(pykka.ThreadingActor):
    use_daemon_thread = True

    def on_receive(self, message):
        return _handle(message)


class OnPapyra(papyra.Actor):
    async def receive(self, message):
        return _handle(message)


def _on_pykka(scene):
    class Stage:
        async def spawn(self):
            return OnPykka.start()

        async def tell(self, ref, message):
            ref.tell(message)

        async def ask(self, ref, message):
            return ref.ask(message, timeout=20)

        async def ended(self, ref):
            assert ref.actor_stopped.wait(20)

    try:
        anyio.run(scene, Stage())
    finally:
        pykka.ActorRegistry.stop_all()


async def _on_papyra(scene):
    async with papyra.ActorSystem(system_id="s") as system:

        class Stage:
            async def spawn(self):
                return system.spawn(OnPapyra)

            async def tell(self, ref, message):
                await ref.tell(message)

            async def ask(self, ref, message):
                return await ref.ask(message)

            async def ended(self, ref):
                while ref.is_alive():
                    await anyio.lowlevel.checkpoint()

        await scene(Stage())


def test_an_ask_is_handled_in_a_child_of_the_senders_span(play, tape, traces):
    async def scene(stage):
        ref = await stage.spawn()
        with traces.tracer.start_as_current_span("sender") as sender:
            scene.sender = sender.get_span_context()
            assert await stage.ask(ref, "hello") == "hello"

    play(scene)
    (span,) = traces.ours()
    assert span.context.trace_id == scene.sender.trace_id
    assert span.parent.span_id == scene.sender.span_id
    assert span.links == ()
    assert span.kind is trace.SpanKind.CONSUMER
    assert span.attributes[s.MESSAGE_KIND] == "ask"
    assert span.attributes["messaging.operation.type"] == "process"
    assert tape.ids(s.MESSAGE_PROCESSED) == [(span.context.trace_id, span.context.span_id)]


def test_a_tell_is_handled_in_a_trace_of_its_own_that_is_linked(play, tape, traces):
    async def scene(stage):
        ref = await stage.spawn()
        with traces.tracer.start_as_current_span("sender") as sender:
            scene.sender = sender.get_span_context()
            await stage.tell(ref, "hello")
        assert await stage.ask(ref, "later") == "later"

    play(scene)
    (span,) = traces.ours()  # the ask was outside of any trace
    assert span.parent is None
    assert span.context.trace_id != scene.sender.trace_id
    assert [link.context.span_id for link in span.links] == [scene.sender.span_id]
    assert tape.ids(s.MESSAGE_PROCESSED) == [(span.context.trace_id, span.context.span_id), (0, 0)]


def test_an_actor_does_not_stay_in_the_context_of_its_spawner(play, tape, traces):
    async def scene(stage):
        with traces.tracer.start_as_current_span("spawner"):
            ref = await stage.spawn()
            assert await stage.ask(ref, "first") == "first"
        assert await stage.ask(ref, "second") == "second"
        await stage.tell(ref, "fail")
        await stage.ended(ref)

    play(scene)
    assert [bool(trace_id) for trace_id, _ in tape.ids(s.MESSAGE_PROCESSED)] == [True, False, False]
    assert tape.ids(s.ACTOR_EXCEPTION) == [(0, 0)]
    assert tape.ids(s.ACTOR_STOPPED) == [(0, 0)]


def test_what_comes_of_a_failed_message_is_told_in_its_trace(play, tape, traces):
    async def scene(stage):
        ref = await stage.spawn()
        with traces.tracer.start_as_current_span("sender"):
            await stage.tell(ref, "fail")
        await stage.ended(ref)

    play(scene)
    (span,) = traces.ours()
    ids = (span.context.trace_id, span.context.span_id)
    assert not span.status.is_ok
    assert span.attributes["error.type"] == "ValueError"
    assert tape.ids(s.MESSAGE_PROCESSED) == tape.ids(s.ACTOR_EXCEPTION) == [ids]


def test_without_sampling_there_is_no_span_but_facts_know_the_trace(play, tape, monkeypatch):
    traces = Traces(monkeypatch, ALWAYS_OFF)

    async def scene(stage):
        ref = await stage.spawn()
        with traces.tracer.start_as_current_span("sender") as sender:
            scene.sender = sender.get_span_context()
            await stage.tell(ref, "one")
            assert await stage.ask(ref, "two") == "two"

    play(scene)
    assert traces.ours() == []
    assert tape.ids(s.MESSAGE_PROCESSED) == [(scene.sender.trace_id, scene.sender.span_id)] * 2


@pytest.mark.parametrize(("mode", "spans"), [(SpanMode.OFF, 0), (SpanMode.ALWAYS, 2)])
def test_spans_can_be_had_never_or_always(play, traces, mode, spans):
    async def scene(stage):
        ref = await stage.spawn()
        assert await stage.ask(ref, "one") == "one"
        with traces.tracer.start_as_current_span("sender"):
            assert await stage.ask(ref, "two") == "two"

    play(scene, mode)
    assert len(traces.ours()) == spans


def test_a_tracer_that_raises_changes_nothing(play, tape, traces, counters, monkeypatch):
    def raising(*args, **kwargs):
        raise RuntimeError("broken SDK")

    async def scene(stage):
        ref = await stage.spawn()
        with traces.tracer.start_as_current_span("sender"):
            monkeypatch.setattr(trace, "get_tracer", raising)
            assert await stage.ask(ref, "hello") == "hello"

    play(scene)
    assert len(tape.ids(s.MESSAGE_PROCESSED)) == 1
    assert counters.total(s.INSTRUMENTATION_ERRORS) == 1


def test_a_thread_of_the_application_keeps_its_own_context(play, traces):
    async def scene(stage):
        ref = await stage.spawn()
        with traces.tracer.start_as_current_span("sender") as sender:
            for message in ("one", "two"):
                await stage.ask(ref, message)
                assert trace.get_current_span() is sender
        assert not trace.get_current_span().get_span_context().is_valid

    play(scene)
