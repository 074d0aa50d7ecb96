"""The tools we give to others for their tests."""

from __future__ import annotations

import subprocess
import sys

import pytest

import papyra_otel
from papyra_otel import semconv
from papyra_otel.errors import ConfigError
from papyra_otel.facts import FactKind
from papyra_otel.pipeline.counters import Counters
from papyra_otel.recorder import Actor, Recorder
from papyra_otel.testing import CapturingEmitter, capture_facts, make_fact

WORKER = Actor(system="shop", type="shop.Worker", address="shop/worker-1")


def test_example_facts_are_always_the_same_and_in_order() -> None:
    facts = [make_fact(n) for n in range(20)]
    assert facts == [make_fact(n) for n in range(20)]
    assert {fact.kind for fact in facts} == set(FactKind)
    times = [fact.time_unix_nano for fact in facts]
    assert times == sorted(set(times))
    assert make_fact(3, actor="me", seq=1).actor == "me"
    assert make_fact(0, kind="audit").name == semconv.AUDIT_COMPLETED


def test_what_the_program_records_is_captured() -> None:
    with capture_facts(runtimes=()) as captured:
        recording = papyra_otel.enable()
        recording.recorder.started(WORKER)
        recording.recorder.crashed(WORKER, ValueError("no"), phase="receive")
        assert [fact.name for fact in captured.facts] == [semconv.ACTOR_STARTED, semconv.ACTOR_EXCEPTION]
    (crash,) = captured.named("papyra.actor.exception")
    assert crash.attributes[semconv.EXCEPTION_MESSAGE] == "no"
    assert papyra_otel.plugin.current() is None


def test_each_capture_begins_empty() -> None:
    for _ in range(2):
        with capture_facts(runtimes=()) as captured:
            assert captured.facts == []
            papyra_otel.enable().recorder.started(WORKER)
        assert len(captured.facts) == 1


def test_capturing_ends_with_the_block_whatever_happens_in_it() -> None:
    with pytest.raises(ZeroDivisionError), capture_facts(runtimes=()):
        raise ZeroDivisionError
    assert papyra_otel.plugin.current() is None


def test_capturing_while_recording_is_refused_and_the_recording_goes_on() -> None:
    with capture_facts(runtimes=()) as captured:
        with pytest.raises(ConfigError, match=r"papyra_otel\.disable\(\)"), capture_facts():
            pass
        papyra_otel.enable().recorder.started(WORKER)
        assert len(captured.facts) == 1


def test_wrong_settings_are_an_error_here(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="nonsense"), capture_facts(retention="nonsense"):
        pass
    assert papyra_otel.plugin.current() is None


def test_an_emitter_keeps_what_it_was_given() -> None:
    emitter = CapturingEmitter()
    recorder = Recorder(emitter, Counters())
    recorder.started(WORKER)
    recorder.started(WORKER)
    (first, second) = emitter.named(semconv.ACTOR_STARTED)
    assert first["attributes"][semconv.ACTOR_ADDRESS] == "shop/worker-1"
    assert emitter.events == [first, second]
    assert emitter.named("other") == []


def test_pytest_is_not_needed() -> None:
    program = "import sys; sys.modules['pytest'] = None; import papyra_otel.testing as t; t.make_fact(1)"
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=50)
