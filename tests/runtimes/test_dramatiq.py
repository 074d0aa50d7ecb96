from __future__ import annotations

import gc
import json
import logging
import os
import random
import subprocess
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from papyra_otel import semconv as s
from papyra_otel.pipeline.counters import Counters
from papyra_otel.pipeline.guard import Guard
from papyra_otel.recorder import Recorder
from papyra_otel.runtimes._dramatiq_state import NEEDS
from papyra_otel.runtimes.adapter import Ability
from papyra_otel.runtimes.dramatiq import DramatiqAdapter

dramatiq = pytest.importorskip("dramatiq")

from dramatiq.broker import Broker  # noqa: E402 - where there is a dramatiq
from dramatiq.brokers.stub import StubBroker  # noqa: E402
from dramatiq.middleware import (  # noqa: E402
    AgeLimit,
    CurrentMessage,
    Middleware,
    MiddlewareError,
    Retries,
    Shutdown,
    ShutdownNotifications,
    SkipMessage,
    TimeLimit,
    TimeLimitExceeded,
)

from runtimes.dramatiq_support import (  # noqa: E402
    FAST,
    WAIT_SECONDS,
    Tape,
    dead,
    declared,
    drain,
    handled,
    minding,
    new_broker,
    raised,
    stock_middleware,
    working,
)

PROGRAMS = sorted((Path(__file__).parent / "programs").glob("dramatiq_*.py"))
LIMIT_ERROR = f"{TimeLimitExceeded.__module__}.TimeLimitExceeded"


@pytest.fixture(autouse=True)
def _quiet_and_clean() -> Iterator[None]:
    logger = logging.getLogger("dramatiq")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    before = (vars(Broker)["emit_before"], vars(Broker)["emit_after"])
    yield
    logger.setLevel(level)
    assert (vars(Broker)["emit_before"], vars(Broker)["emit_after"]) == before


@pytest.fixture
def tape() -> Tape:
    return Tape()


@pytest.fixture
def counters() -> Counters:
    return Counters()


@pytest.fixture
def adapter(tape: Tape, counters: Counters) -> Iterator[DramatiqAdapter]:
    adapter = DramatiqAdapter(Recorder(tape, counters), Guard(counters), "shop")
    adapter.install()
    yield adapter
    gc.collect()
    assert adapter._handlings == {}
    assert adapter._deciding == {}
    adapter.uninstall()
    assert counters.read(s.INSTRUMENTATION_ERRORS) == []


# --- messages -------------------------------------------------------------------------------------


def test_successes_and_failures_are_recorded_in_order_for_each_actor(
    adapter: DramatiqAdapter, tape: Tape
) -> None:
    broker = new_broker()

    @dramatiq.actor(broker=broker)
    def fine(n: int) -> None: ...

    @dramatiq.actor(broker=broker, max_retries=3, **FAST)
    def flaky() -> None:
        if CurrentMessage.get_current_message().options.get("retries", 0) < 2:
            raise ConnectionResetError("not yet")

    @dramatiq.actor(broker=broker, max_retries=3)
    def polite() -> None:
        if "retries" not in CurrentMessage.get_current_message().options:
            raise dramatiq.Retry("later", delay=1)

    @dramatiq.actor(broker=broker, max_retries=3)
    def limited() -> None:
        if "retries" not in CurrentMessage.get_current_message().options:
            raise dramatiq.RateLimitExceeded("too many")

    limited.options.update(FAST)
    with working(broker):
        for send in (flaky.send, polite.send, limited.send):
            send()
        fine.send(1)
        fine.send_with_options(args=(2,), delay=1)
    assert tape.story("fine") == declared() + handled() * 2
    error = "ConnectionResetError"
    assert tape.story("flaky") == (
        declared()
        + raised(error, "retry policy retried 1")
        + raised(error, "retry policy retried 2")
        + handled()
    )
    for name, error in (("polite", "Retry"), ("limited", "RateLimitExceeded")):
        asked = raised(f"dramatiq.errors.{error}", "retry policy retried 1", crash=False)
        assert tape.story(name) == declared() + asked + handled()


def test_every_dead_letter_has_its_reason_and_the_decision_that_led_to_it(
    adapter: DramatiqAdapter, tape: Tape
) -> None:
    broker = new_broker()

    @dramatiq.actor(broker=broker, max_retries=1, **FAST)
    def doomed() -> None:
        raise ValueError("never")

    @dramatiq.actor(broker=broker, throws=(KeyError,))
    def strict() -> None:
        raise KeyError("expected")

    @dramatiq.actor(broker=broker, max_age=1000)
    def stale() -> None: ...

    @dramatiq.actor(broker=broker, retry_when=lambda retries, _: retries < 1, **FAST)
    def choosy() -> None:
        raise OSError("again")

    @dramatiq.actor(broker=broker, queue_name="other")
    def selfish() -> None:
        CurrentMessage.get_current_message().fail()

    with working(broker):
        for actor in (doomed, strict, choosy, selfish):
            actor.send()
        broker.enqueue(stale.message().copy(message_timestamp=1))
        broker.enqueue(stale.message().copy(actor_name="nobody"))
    for name, error in (("doomed", "ValueError"), ("choosy", "OSError")):
        assert tape.story(name) == (
            declared()
            + raised(error, "retry policy retried 1")
            + raised(error, "give_up policy retries_exhausted 1")
            + dead("retries_exhausted")
        )
    rejected = raised("KeyError", "reject policy rejected") + dead("rejected")
    assert tape.story("strict") == declared() + rejected
    assert tape.story("stale") == declared() + dead("expired")
    assert tape.story("selfish") == declared("other") + handled() + dead("rejected")
    assert tape.story("nobody") == dead("no_such_actor")
    assert len(broker.dead_letters) == len(tape.of(s.DEAD_LETTER_CAPTURED)) == 6


def test_what_is_neither_retried_nor_rejected_is_acknowledged_and_lost(
    adapter: DramatiqAdapter, tape: Tape
) -> None:
    broker = new_broker(without=Retries)

    @dramatiq.actor(broker=broker)
    def careless() -> None:
        raise ValueError("gone")

    with working(broker):
        careless.send()
    assert tape.story("careless") == (declared() + raised("ValueError", "ignore runtime lost") + dead("lost"))
    assert broker.dead_letters == []


def test_a_retry_that_cannot_be_enqueued_is_lost(adapter: DramatiqAdapter, tape: Tape) -> None:
    class Full(Middleware):
        def before_enqueue(self, broker: Any, message: Any, delay: Any) -> None:
            if delay is not None:
                raise MiddlewareError("no room")

    broker = new_broker(Full())

    @dramatiq.actor(broker=broker, max_retries=2, **FAST)
    def unlucky() -> None:
        raise ValueError("once")

    with working(broker):
        unlucky.send()
    assert tape.story("unlucky") == (
        declared() + raised("ValueError", "retry policy retry_failed 0") + dead("lost")
    )


def test_a_message_that_middleware_skips_is_told_apart(adapter: DramatiqAdapter, tape: Tape) -> None:
    class Picky(Middleware):
        def before_process_message(self, broker: Any, message: Any) -> None:
            if "refuse" in message.args:
                message.fail()
            if message.args:
                raise SkipMessage("not today")

    broker = new_broker(Picky())

    @dramatiq.actor(broker=broker, max_age=60_000)
    def job(*_: str) -> None: ...

    with working(broker) as worker:
        for args in ((), ("refuse",), ("drop",)):
            job.send(*args)
            drain(broker, worker)  # dramatiq 1 handles what waits in any order
    assert tape.story("job") == declared() + handled() + dead("rejected") + dead("lost")


def test_middleware_that_fails_before_the_handler_is_a_failure_of_the_message(
    adapter: DramatiqAdapter, tape: Tape
) -> None:
    class Broken(Middleware):
        def before_process_message(self, broker: Any, message: Any) -> None:
            raise MiddlewareError("broken")

    broker = new_broker(Broken())

    @dramatiq.actor(broker=broker, max_retries=0)
    def job() -> None: ...

    with working(broker):
        job.send()
    error = f"{MiddlewareError.__module__}.MiddlewareError"
    assert tape.story("job") == (
        declared() + raised(error, "give_up policy retries_exhausted 0") + dead("retries_exhausted")
    )


def test_a_message_somebody_else_sends_again_is_retried_by_the_runtime(
    adapter: DramatiqAdapter, tape: Tape
) -> None:
    class Again(Middleware):
        def after_process_message(
            self, broker: Any, message: Any, *, result: Any = None, exception: Any = None
        ):
            if exception is not None:
                broker.enqueue(message.copy(options={"again": True}))

    broker = new_broker(Again(), without=Retries)

    @dramatiq.actor(broker=broker)
    def job() -> None:
        message = CurrentMessage.get_current_message()
        if "again" not in message.options:
            broker.enqueue(message.copy(options={"again": False}))  # before it fails: not a decision about it
            raise ValueError("once")

    with working(broker):
        job.send()
    assert tape.story("job") == declared() + raised("ValueError", "retry runtime retried") + handled() * 2


def test_time_limits_and_shutdowns_interrupt_a_handler_and_never_us(
    tape: Tape, counters: Counters, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit, notices = TimeLimit(time_limit=20), ShutdownNotifications(notify_shutdown=True)
    others = [each for each in stock_middleware() if not isinstance(each, (TimeLimit, ShutdownNotifications))]
    broker = StubBroker(middleware=[limit, notices, *others])
    armed: list[str] = []

    class Watching(Tape):
        def emit(self, **fact: Any) -> None:
            thread = threading.get_ident()
            if limit.manager.deadlines.get(thread) is not None or thread in notices.manager.notifications:
                armed.append(fact["event_name"])
            super().emit(**fact)

    tape = Watching()
    adapter = DramatiqAdapter(Recorder(tape, counters), Guard(counters), "shop")
    adapter.install()
    began, caught = threading.Event(), []

    @dramatiq.actor(broker=broker, max_retries=0)
    def slow() -> None:
        while True:
            time.sleep(0.001)

    @dramatiq.actor(broker=broker, max_retries=0, time_limit=60_000)
    def patient() -> None:
        began.set()
        try:
            while True:
                time.sleep(0.001)
        except Shutdown:
            caught.append("shutdown")
            raise

    with minding(limit), working(broker, threads=2) as worker:
        slow.send()
        drain(broker, worker)
        patient.send()
        assert began.wait(WAIT_SECONDS)
        worker.stop()
    adapter.uninstall()
    end = "give_up policy retries_exhausted 0"
    assert tape.story("slow") == declared() + raised(LIMIT_ERROR, end) + dead("retries_exhausted")
    shutdown = f"{Shutdown.__module__}.Shutdown"
    assert tape.story("patient") == declared() + raised(shutdown, end) + dead("retries_exhausted")
    assert caught == ["shutdown"]
    assert armed == []
    assert counters.read(s.INSTRUMENTATION_ERRORS) == []


def test_a_success_that_is_interrupted_in_somebodys_hook_is_one_failure_as_dramatiq_takes_it(
    adapter: DramatiqAdapter, tape: Tape
) -> None:
    interrupts = [Shutdown()]

    class Late(Middleware):
        def after_process_message(self, *_: Any, **__: Any) -> None:
            if interrupts:
                raise interrupts.pop()

    broker = new_broker(Late())

    @dramatiq.actor(broker=broker, max_retries=1, **FAST)
    def job() -> None: ...

    with working(broker):
        job.send()
    error = f"{Shutdown.__module__}.Shutdown"
    assert tape.story("job") == declared() + raised(error, "retry policy retried 1") + handled()


def test_a_dead_letter_shows_its_message_without_secrets_and_traceback(
    adapter: DramatiqAdapter, tape: Tape
) -> None:
    broker = new_broker()

    @dramatiq.actor(broker=broker, max_retries=1, **FAST)
    def pay(order: int, *, password: str) -> None:
        raise ValueError(order)

    with working(broker):
        sent = pay.send(7, password="swordfish")
    letter = tape.one(s.DEAD_LETTER_CAPTURED)
    payload = letter[s.MESSAGE_PAYLOAD]
    assert letter[s.MESSAGE_TYPE] == "dramatiq.message.Message"
    assert letter[s.MESSAGE_KIND] == "task"
    assert '"args":[7]' in payload
    assert sent.message_id in payload
    assert '"retries":2' in payload
    assert "swordfish" not in payload
    assert "Traceback" not in payload
    assert "Traceback" in broker.dead_letters[0].options["traceback"]  # the broker's own has it


def test_a_handler_is_timed_alone_and_its_message_waited_since_it_was_first_enqueued(
    tape: Tape, counters: Counters
) -> None:
    now = [100.0]

    class Slow(Middleware):
        def before_process_message(self, *_: Any) -> None:
            now[0] += 1000

        def after_process_message(self, *_: Any, **__: Any) -> None:
            now[0] += 5000

    adapter = DramatiqAdapter(
        Recorder(tape, counters), Guard(counters), "shop", clock=lambda: now[0], wall_clock=lambda: now[0]
    )
    adapter.install()
    broker = new_broker(Slow())

    @dramatiq.actor(broker=broker)
    def job() -> None:
        now[0] += 2.5

    with working(broker) as worker:
        for timestamp in (60_000, 10_000_000_000):  # the second comes from a host whose clock is ahead
            broker.enqueue(job.message().copy(message_timestamp=timestamp))
            drain(broker, worker)
    adapter.uninstall()
    facts = tape.of(s.MESSAGE_PROCESSED)
    assert [(fact[s.MESSAGE_DURATION], fact[s.MESSAGE_WAIT]) for fact in facts] == [(2.5, 40.0), (2.5, 0.0)]
    assert facts[0][s.ACTOR_TYPE] == facts[0][s.ACTOR_ADDRESS] == "job"


def test_names_that_messages_make_up_are_not_actor_types(
    adapter: DramatiqAdapter, tape: Tape, counters: Counters
) -> None:
    broker = new_broker()

    @dramatiq.actor(broker=broker)
    def known() -> None: ...

    with working(broker):
        for n in range(300):
            broker.enqueue(known.message().copy(actor_name=f"made-up-{n}"))
        known.send()
    assert len(tape.of(s.DEAD_LETTER_CAPTURED)) == 300
    key = ("shop", s.OTHER, "dramatiq.message.Message", "task", "no_such_actor")
    assert counters.read(s.DEAD_LETTER_MESSAGES) == [(key, 300)]
    assert counters.read(s.ATTRIBUTE_OVERFLOW) == []
    assert counters.read(s.PROCESSED_MESSAGES) == [(("shop", "known", "task", ""), 1)]


def test_limits_of_retries_are_told_where_they_are_known(adapter: DramatiqAdapter, tape: Tape) -> None:
    broker = new_broker()

    @dramatiq.actor(broker=broker, max_retries=1, **FAST)
    def limited() -> None:
        raise ValueError

    @dramatiq.actor(broker=broker, **FAST)
    def by_default() -> None:
        CurrentMessage.get_current_message().options["max_retries"] = 0
        raise ValueError

    @dramatiq.actor(broker=broker, retry_when=lambda *_: False)
    def by_predicate() -> None:
        raise ValueError

    with working(broker) as worker:
        for send in (limited.send, by_predicate.send):
            send()
            drain(broker, worker)
        limited.send_with_options(max_retries=2)
    told = tape.of(s.SUPERVISION_DECIDED)
    assert [(fact[s.RESTART_COUNT], fact.get(s.RESTART_LIMIT)) for fact in told] == [
        (1, 1),
        (1, 1),
        (0, None),
        (1, 2),
        (2, 2),
        (2, 2),
    ]


# --- random lives -----------------------------------------------------------------------------------


def expected_life(script: list[str], max_retries: int) -> list[tuple[str, ...]]:
    """Return what dramatiq's documentation says of a message whose handler does what *script* says, call by call."""
    life: list[tuple[str, ...]] = []
    for retries, deed in enumerate(script):
        if deed == "ok":
            return [*life, *handled()]
        if deed == "expected":
            count = f" {retries}" if retries else ""
            return [*life, *raised("KeyError", f"reject policy rejected{count}"), *dead("rejected")]
        error, crash = ("dramatiq.errors.Retry", False) if deed == "retry" else ("ValueError", True)
        if retries == max_retries:
            end = f"give_up policy retries_exhausted {retries}"
            return [*life, *raised(error, end, crash=crash), *dead("retries_exhausted")]
        life += raised(error, f"retry policy retried {retries + 1}", crash=crash)
    raise AssertionError(script)


@pytest.mark.parametrize(("seed", "threads"), [(1, 1), (2, 1), (3, 4)])
def test_random_lives_of_messages_are_recorded_exactly(
    adapter: DramatiqAdapter, tape: Tape, counters: Counters, seed: int, threads: int
) -> None:
    dice = random.Random(seed)
    broker = new_broker()
    calls: Counter[str] = Counter()
    expected: dict[str, list[tuple[str, ...]]] = {}

    def perform(script: list[str]) -> None:
        message = CurrentMessage.get_current_message()
        deed = script[calls[message.actor_name]]
        calls[message.actor_name] += 1
        if deed == "retry":
            raise dramatiq.Retry(delay=1)
        if deed != "ok":
            raise (KeyError if deed == "expected" else ValueError)(deed)

    with working(broker, threads=threads):
        for n in range(60):
            script = dice.choices(["ok", "fail", "retry", "expected"], [3, 4, 1, 1], k=5)
            limit = dice.randrange(4)
            actor = dramatiq.actor(
                perform,
                broker=broker,
                actor_name=f"actor-{n}",
                queue_name=dice.choice(["default", "other"]),
                max_retries=limit,
                throws=KeyError,
                **FAST,
            )
            expected[actor.actor_name] = declared(actor.queue_name) + expected_life(script, limit)
            actor.send(script)
    for name, life in expected.items():
        if threads == 1:
            assert tape.story(name) == life, name
        else:  # another thread may handle a retry before the first has recorded its own
            assert Counter(tape.story(name)) == Counter(life), name
    facts = sum(len(life) for life in expected.values())
    others = {s.SYSTEM_STARTED, s.SYSTEM_STOPPED, s.ACTOR_STARTED, s.ACTOR_STOPPED}
    assert len([fact for fact in tape.facts if fact["event_name"] not in others]) == facts
    for metric, event in (
        (s.PROCESSED_MESSAGES, s.MESSAGE_PROCESSED),
        (s.ACTOR_FAILURES, s.ACTOR_EXCEPTION),
        (s.SUPERVISION_DECISIONS, s.SUPERVISION_DECIDED),
        (s.DEAD_LETTER_MESSAGES, s.DEAD_LETTER_CAPTURED),
    ):
        assert counters.total(metric) == len(tape.of(event)), metric


# --- workers, threads, audits ---------------------------------------------------------------------------


def test_a_worker_and_its_threads_begin_and_end(
    adapter: DramatiqAdapter, tape: Tape, counters: Counters
) -> None:
    broker = new_broker()
    dramatiq.actor(lambda: None, broker=broker, actor_name="job")
    for _ in range(2):
        with working(broker, threads=3):
            pass
        broker.middleware.pop()  # the worker's own, which would go on to start consumers
    version = tape.of(s.SYSTEM_STARTED)[0][s.RUNTIME_VERSION]
    assert (
        tape.of(s.SYSTEM_STARTED)
        == [{s.SYSTEM_ID: "shop", s.RUNTIME_NAME: "dramatiq", s.RUNTIME_VERSION: version}] * 2
    )
    assert len(tape.of(s.SYSTEM_STOPPED)) == 2
    started, stopped = tape.of(s.ACTOR_STARTED), tape.of(s.ACTOR_STOPPED)
    assert Counter((fact[s.ACTOR_TYPE], fact.get(s.ACTOR_NAME)) for fact in started) == {
        ("dramatiq.WorkerThread", None): 6,
        ("dramatiq.ConsumerThread", "default"): 2,
        ("dramatiq.ConsumerThread", "default.DQ"): 2,
    }
    addresses = [fact[s.ACTOR_ADDRESS] for fact in started]
    assert len(set(addresses)) == 10
    assert sorted(fact[s.ACTOR_ADDRESS] for fact in stopped) == sorted(addresses)
    assert {fact[s.STOP_REASON] for fact in stopped} == {"system_shutdown"}
    assert all(fact[s.ACTOR_LIFETIME] >= 0 for fact in stopped)
    assert counters.total(s.ACTOR_COUNT) == 0
    for address in addresses:
        assert [each[0] for each in tape.story(address)] == ["actor.started", "actor.stopped"]


def test_an_audit_tells_threads_actors_queues_and_dead_letters(adapter: DramatiqAdapter) -> None:
    assert list(adapter.audits()) == []
    broker = new_broker()
    gate, entered = threading.Event(), threading.Event()

    @dramatiq.actor(broker=broker, throws=ValueError)
    def job(n: int) -> None:
        entered.set()
        assert gate.wait(WAIT_SECONDS)
        if n == 2:
            raise ValueError

    dramatiq.actor(lambda: None, broker=broker, actor_name="idle", queue_name="quiet")
    for n in range(3):
        job.send(n)
    job.send_with_options(args=(3,), delay=1)
    (before,) = adapter.audits()
    assert (before.actors_total, before.registry_size, before.dead_letters) == (0, 2, 0)
    assert before.mailbox_depths == {"default": 3, "default.DQ": 1, "quiet": 0, "quiet.DQ": 0}
    with working(broker):
        assert entered.wait(WAIT_SECONDS)
        (during,) = adapter.audits()
        assert (during.actors_total, during.actors_alive, during.registry_dead) == (5, 5, [])
        assert during.mailbox_depths is not None
        assert during.mailbox_depths["default"] >= 3
        gate.set()
    (after,) = adapter.audits()
    assert (after.actors_total, after.dead_letters, after.reasons) == (0, 1, [])
    assert after.mailbox_depths == {"default": 0, "default.DQ": 0, "quiet": 0, "quiet.DQ": 0}
    assert list(after.unsupported) == list(adapter.capabilities().unsupported())


def test_gauges_show_the_longest_handler_now_and_the_declared_actors(tape: Tape, counters: Counters) -> None:
    now = [100.0]
    adapter = DramatiqAdapter(Recorder(tape, counters), Guard(counters), "shop", clock=lambda: now[0])
    adapter.install()
    assert list(adapter.gauges()) == []
    broker = new_broker()
    gates = {name: (threading.Event(), threading.Event()) for name in ("long", "short")}

    @dramatiq.actor(broker=broker)
    def job(name: str) -> None:
        entered, opened = gates[name]
        entered.set()
        assert opened.wait(WAIT_SECONDS)

    dramatiq.actor(lambda: None, broker=broker, actor_name="idle")
    (before,) = adapter.gauges()
    assert (before.longest_active_seconds, before.registry_entries) == ({}, {"ok": 2})
    with working(broker, threads=2) as worker:
        for name in gates:
            job.send(name)
            assert gates[name][0].wait(WAIT_SECONDS)
            now[0] += 10
        (during,) = adapter.gauges()
        assert during.longest_active_seconds == {"job": 20.0, "idle": 0.0}
        with pytest.MonkeyPatch.context() as forked:  # a child has none of these threads, and began nothing
            forked.setattr(os, "getpid", lambda: 1)
            (found,) = adapter.gauges()
            assert found.longest_active_seconds == {}
        for _, opened in gates.values():
            opened.set()
        drain(broker, worker)
        (after,) = adapter.gauges()
        assert after.longest_active_seconds == {"job": 0.0, "idle": 0.0}
    adapter.uninstall()
    assert counters.read(s.INSTRUMENTATION_ERRORS) == []


def test_a_thread_that_dies_without_a_word_makes_an_audit_unhealthy(
    adapter: DramatiqAdapter, tape: Tape, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    broker = new_broker()
    with working(broker) as worker:
        (thread,) = worker.workers
        monkeypatch.setattr(thread, "process_message", lambda _: (_ for _ in ()).throw(SystemExit))
        worker.work_queue.put(_work(broker))
        thread.join(WAIT_SECONDS)
        worker.work_queue.task_done()
        (audit,) = adapter.audits()
    (address,) = [
        f[s.ACTOR_ADDRESS] for f in tape.of(s.ACTOR_STARTED) if f[s.ACTOR_TYPE].endswith("WorkerThread")
    ]
    assert audit.registry_dead == [address]
    assert audit.reasons == ["1 thread ended without a word"]
    assert [each[0] for each in tape.story(address)] == ["actor.started"]


def _work(broker: Any) -> Any:
    """Return something that a worker's queue takes, whichever version it is."""
    item = getattr(sys.modules["dramatiq.worker"], "_WorkQueueItem", None)
    return (0, None) if item is None else item(0, None)


def test_a_broker_nobody_can_look_into_has_no_mailbox_depth(adapter: DramatiqAdapter) -> None:
    class Strange(Broker):
        def declare_queue(self, queue_name: str) -> None: ...

    dramatiq.actor(lambda: None, broker=(broker := Strange()), actor_name="job")
    (audit,) = adapter.audits()
    assert audit.mailbox_depths is None
    assert audit.dead_letters is None
    assert {Ability.LETTERS_KEPT.value, Ability.MAILBOX_DEPTH.value} <= set(audit.unsupported)
    del broker
    gc.collect()
    assert list(adapter.audits()) == []


# --- hooking ------------------------------------------------------------------------------------------


def test_installing_twice_is_once_and_uninstalling_leaves_no_trace(tape: Tape, counters: Counters) -> None:
    before = vars(Broker)["emit_after"]
    adapter = DramatiqAdapter(Recorder(tape, counters), Guard(counters), "shop")
    adapter.install()
    during = vars(Broker)["emit_after"]
    adapter.install()
    assert vars(Broker)["emit_after"] is during is not before
    broker = new_broker()
    job = dramatiq.actor(lambda: None, broker=broker, actor_name="job")
    with working(broker) as worker:
        job.send()
        drain(broker, worker)
        while len(tape.of(s.ACTOR_STARTED)) < 3:  # its threads
            time.sleep(0.001)
        adapter.uninstall()
        adapter.uninstall()
        assert vars(Broker)["emit_after"] is before
        told = len(tape.facts)
        job.send()
    assert len(tape.facts) == told
    adapter.install()
    with working(broker):
        job.send()
    assert len(tape.of(s.SYSTEM_STOPPED)) == 1
    adapter.uninstall()
    assert counters.read(s.INSTRUMENTATION_ERRORS) == []


def test_uninstalling_reaches_handlers_that_run(adapter: DramatiqAdapter, tape: Tape) -> None:
    broker = new_broker()
    gate, entered = threading.Event(), threading.Event()

    @dramatiq.actor(broker=broker)
    def job() -> None:
        entered.set()
        assert gate.wait(WAIT_SECONDS)

    with working(broker):
        job.send()
        assert entered.wait(WAIT_SECONDS)
        adapter.uninstall()
        told = len(tape.facts)
        gate.set()
    assert len(tape.facts) == told


def test_a_message_under_way_at_the_start_is_left_out(tape: Tape, counters: Counters) -> None:
    broker = new_broker()
    gate, entered = threading.Event(), threading.Event()

    @dramatiq.actor(broker=broker, throws=ValueError)
    def job() -> None:
        if not gate.is_set():
            entered.set()
            assert gate.wait(WAIT_SECONDS)
        else:
            raise ValueError

    adapter = DramatiqAdapter(Recorder(tape, counters), Guard(counters), "shop")
    with working(broker):
        job.send()
        assert entered.wait(WAIT_SECONDS)
        adapter.install()
        gate.set()
        job.send()
    adapter.uninstall()
    assert tape.story("job") == raised("ValueError", "reject policy rejected") + dead("rejected")
    assert counters.read(s.INSTRUMENTATION_ERRORS) == []


def test_a_message_under_way_at_the_start_that_is_rejected_is_a_dead_letter_for_unknown_reasons(
    tape: Tape, counters: Counters
) -> None:
    broker = new_broker()
    gate, entered = threading.Event(), threading.Event()

    @dramatiq.actor(broker=broker, throws=ValueError)
    def job() -> None:
        entered.set()
        assert gate.wait(WAIT_SECONDS)
        raise ValueError

    adapter = DramatiqAdapter(Recorder(tape, counters), Guard(counters), "shop")
    with working(broker):
        job.send()
        assert entered.wait(WAIT_SECONDS)
        adapter.install()
        gate.set()
    adapter.uninstall()
    assert len(broker.dead_letters) == 1
    assert tape.story("job") == dead("unknown")
    assert counters.read(s.INSTRUMENTATION_ERRORS) == []


def test_nothing_of_ours_is_in_a_brokers_middleware_or_messages(adapter: DramatiqAdapter) -> None:
    class First(Middleware):
        pass

    class Second(Middleware):
        pass

    stock = stock_middleware()
    broker = StubBroker(middleware=stock)
    assert broker.middleware == stock
    first, second = First(), Second()
    broker.add_middleware(first, before=Middleware)
    broker.add_middleware(second, after=Middleware)
    assert broker.middleware == [first, second, *stock]
    seen: list[Any] = []

    @dramatiq.actor(broker=broker)
    def job() -> None:
        message = CurrentMessage.get_current_message()
        seen.append((dict(message.options), sorted(vars(message))))

    with working(broker):
        sent = job.send()
    assert sent.options == {}
    assert seen == [({}, ["_exception", "_message", "failed"])]


def test_our_hooks_are_first_before_and_last_after_also_of_what_is_put_first(
    adapter: DramatiqAdapter, tape: Tape
) -> None:
    known: list[tuple[str, int]] = []

    class Looking(Middleware):
        def before_process_message(self, *_: Any) -> None:
            known.append(("before", len(adapter._handlings)))

        def after_process_message(self, *_: Any, **__: Any) -> None:
            known.append(("after", len(tape.of(s.MESSAGE_PROCESSED))))

        def after_nack(self, *_: Any) -> None:
            known.append(("nack", len(tape.of(s.DEAD_LETTER_CAPTURED))))

    broker = new_broker()
    broker.add_middleware(Looking(), before=AgeLimit)

    @dramatiq.actor(broker=broker, max_retries=0)
    def job() -> None:
        raise ValueError

    with working(broker):
        job.send()
    assert known == [("before", 1), ("after", 0), ("nack", 0)]
    assert len(tape.of(s.DEAD_LETTER_CAPTURED)) == 1


@pytest.mark.parametrize("name", sorted(set().union(*NEEDS.values())))
def test_each_name_exists_and_its_lack_costs_an_ability_and_one_warning(
    tape: Tape,
    counters: Counters,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    name: str,
) -> None:
    worker = sys.modules["dramatiq.worker"]
    thread = getattr(worker, "WorkerThread", None) or worker._WorkerThread
    owner = {"Broker": Broker, "Middleware": Middleware, "WorkerThread": thread}[name.partition(".")[0]]
    monkeypatch.delattr(owner, name.partition(".")[2])
    adapter = DramatiqAdapter(Recorder(tape, counters), Guard(counters), "shop")
    full = adapter.capabilities()
    adapter.install()
    (warning,) = [r.getMessage() for r in caplog.records if r.name == "papyra_otel"]
    assert name in warning
    reduced = adapter.capabilities()
    lost = full.able - reduced.able
    assert lost
    assert all(name in reduced.notes[ability] for ability in lost)
    adapter.uninstall()


def test_a_dramatiq_that_is_not_there_is_said_by_install(
    tape: Tape, counters: Counters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "dramatiq.broker")
    monkeypatch.setitem(sys.modules, "dramatiq", None)
    adapter = DramatiqAdapter(Recorder(tape, counters), Guard(counters), "shop")
    with pytest.raises(ModuleNotFoundError):
        adapter.install()
    adapter.uninstall()


IMPORT_LATE = """
import json, os, sys
import papyra_otel
log = f"file:{sys.argv[1]}"
recording = papyra_otel.enable(log, runtimes=["dramatiq"], system="shop")
assert recording.has("dramatiq")
assert not any(name.partition(".")[0] == "dramatiq" for name in sys.modules), "imported too early"
os.environ["dramatiq_queue_prefetch"] = "7"  # what a program sets before it imports dramatiq
import dramatiq, dramatiq.worker
from dramatiq.brokers.stub import StubBroker
assert dramatiq.worker.QUEUE_PREFETCH == 7
broker = StubBroker()
dramatiq.actor(lambda: None, broker=broker, actor_name="job")
recording.audit()
papyra_otel.disable()
assert "papyra_otel" not in dramatiq.Broker.emit_after.__code__.co_filename
recording = papyra_otel.enable(log, runtimes=["dramatiq"], system="shop")
dramatiq.actor(lambda: None, broker=broker, actor_name="other")
facts = [entry.fact for entry in papyra_otel.open_log(log).read()]
print(json.dumps([(fact.name, fact.actor) for fact in facts if not fact.name.startswith("papyra.log.")]))
"""


def test_dramatiq_is_hooked_when_the_program_imports_it_and_never_before(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_LATE, str(tmp_path / "facts")],
        check=False,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [
        [s.ACTOR_DECLARED, "job"],
        [s.AUDIT_COMPLETED, None],
        [s.ACTOR_DECLARED, "other"],
    ]


def test_the_global_broker_that_is_there_already_is_audited(tape: Tape, counters: Counters) -> None:
    broker = new_broker()
    dramatiq.actor(lambda: None, broker=broker, actor_name="job")
    module = sys.modules["dramatiq.broker"]
    before, module.global_broker = module.global_broker, broker
    try:
        adapter = DramatiqAdapter(Recorder(tape, counters), Guard(counters), "shop")
        adapter.install()
        (audit,) = adapter.audits()
        assert audit.registry_size == 1
        adapter.uninstall()
    finally:
        module.global_broker = before
    assert tape.facts == []


def test_nothing_of_a_message_or_broker_is_kept(adapter: DramatiqAdapter) -> None:
    watched: list[weakref.ref[Any]] = []

    class Watching(Middleware):
        def before_process_message(self, broker: Any, message: Any) -> None:
            watched.append(weakref.ref(message))

    broker = new_broker(Watching())

    @dramatiq.actor(broker=broker, throws=ValueError)
    def job(n: int) -> None:
        if n % 2:
            raise ValueError

    with working(broker, threads=2) as worker:
        for n in range(20):
            job.send(n)
    assert len(watched) == 20
    watched.append(weakref.ref(broker))
    del broker, worker, job
    sys.last_value = sys.last_traceback = None
    gc.collect()
    assert [watch for watch in watched if watch() is not None] == []
    assert len(adapter._brokers) == 0


def test_a_message_whose_end_cannot_be_told_to_the_broker_is_forgotten_with_it(
    adapter: DramatiqAdapter, tape: Tape
) -> None:
    broker = new_broker(without=Retries)

    @dramatiq.actor(broker=broker)
    def job() -> None:
        raise ValueError

    with working(broker) as worker:
        consumer = worker.consumers["default"]
        told = threading.Event()

        def refuse(message: Any) -> None:
            type(consumer.consumer).ack(consumer.consumer, message)
            told.set()
            raise OSError("the broker's answer was lost")

        job.send()
        drain(broker, worker)
        consumer.consumer.ack = refuse
        job.send()
        assert told.wait(WAIT_SECONDS)
    assert tape.story("job") == declared() + (
        raised("ValueError", "ignore runtime lost")
        + dead("lost")
        + raised("ValueError", "ignore runtime lost")
    )


# --- never interfere ----------------------------------------------------------------------------------


def everything_happens() -> list[Any]:
    """Run messages through every wrapper; return what their sender and handlers see."""
    said: list[Any] = []
    broker = new_broker()

    @dramatiq.actor(broker=broker, throws=KeyError, max_retries=1, max_age=60_000, **FAST)
    def job(deed: str) -> None:
        message = CurrentMessage.get_current_message()
        said.append((deed, sorted(set(message.options) - {"traceback", "requeue_timestamp"})))
        if deed != "ok":
            raise (KeyError if deed == "expected" else ValueError)(deed)

    with working(broker) as worker:
        for deed in ("ok", "expected", "fail"):
            said.append(job.send(deed).options)
            drain(broker, worker)
        broker.enqueue(job.message("stale").copy(message_timestamp=1))
        drain(broker, worker)
        broker.enqueue(job.message("unknown").copy(actor_name="nobody"))
        drain(broker, worker)
    said.append([(letter.actor_name, letter.args) for letter in broker.dead_letters])
    said.append([type(each).__name__ for each in broker.middleware])
    return said


BREAKS = {
    "recorder.declared": {"dramatiq.after_declare_actor"},
    "recorder.system_started": {"dramatiq.after_worker_boot"},
    "recorder.system_stopped": {"dramatiq.after_worker_shutdown"},
    "recorder.started": {"dramatiq.after_worker_thread_boot", "dramatiq.after_consumer_thread_boot"},
    "recorder.stopped": {
        "dramatiq.before_worker_thread_shutdown",
        "dramatiq.before_consumer_thread_shutdown",
    },
    "recorder.processed": {"dramatiq.processed"},
    "recorder.crashed": {"dramatiq.crashed"},
    "recorder.decided": {"dramatiq.decided"},
    "recorder.dead_letter": {"dramatiq.after_nack"},
    "adapter._decision_on": {"dramatiq.decision"},
    "adapter._who": {
        "dramatiq.context",
        "dramatiq.after_declare_actor",
        "dramatiq.before_process_message",
        "dramatiq.after_nack",
    },
    "brokers.add": {
        "dramatiq.global_broker",
        "dramatiq.after_declare_actor",
        "dramatiq.after_worker_boot",
    },
    "adapter._clock": {
        "dramatiq.before_process_message",
        "dramatiq.after_worker_thread_boot",
        "dramatiq.after_consumer_thread_boot",
    },
    "adapter._handlings": {
        f"dramatiq.{signal}"
        for signal in (
            "before_process_message",
            "after_process_message",
            "after_skip_message",
            "after_ack",
            "after_nack",
        )
    },
}


@pytest.mark.parametrize("broken", BREAKS)
def test_whatever_of_ours_raises_messages_and_middleware_notice_nothing(
    tape: Tape, counters: Counters, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    expected = everything_happens()

    def boom(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError(broken)

    class Broken(dict[Any, Any]):
        get = pop = __setitem__ = boom

    recorder = Recorder(tape, counters)
    owner, name = broken.split(".")
    if owner == "recorder":
        monkeypatch.setattr(recorder, name, boom)
    adapter = DramatiqAdapter(recorder, Guard(counters), "shop")
    if owner == "brokers":
        monkeypatch.setattr(adapter._brokers, name, boom)
    if owner == "adapter":
        monkeypatch.setattr(adapter, name, Broken() if name == "_handlings" else boom)
        if name == "_clock":
            monkeypatch.setattr(adapter._roster, name, boom)
    adapter.install()
    try:
        assert everything_happens() == expected
    finally:
        adapter.uninstall()
    assert {key[0] for key, _ in counters.read(s.INSTRUMENTATION_ERRORS)} == BREAKS[broken]


def test_a_recorder_that_blocks_delays_messages_and_changes_nothing(counters: Counters) -> None:
    expected = everything_happens()
    opened, blocked = threading.Event(), threading.Event()

    class Stuck(Tape):
        def emit(self, **fact: Any) -> None:
            if fact["event_name"] in {s.MESSAGE_PROCESSED, s.DEAD_LETTER_CAPTURED}:
                blocked.set()
                assert opened.wait(WAIT_SECONDS)
            super().emit(**fact)

    stuck = Stuck()
    adapter = DramatiqAdapter(Recorder(stuck, counters), Guard(counters), "shop")
    adapter.install()
    threading.Thread(target=lambda: (blocked.wait(WAIT_SECONDS), opened.set())).start()
    try:
        assert everything_happens() == expected
    finally:
        adapter.uninstall()
    assert len(stuck.of(s.MESSAGE_PROCESSED)) == 4
    assert counters.read(s.INSTRUMENTATION_ERRORS) == []


HARNESS = """
import logging, runpy, sys
mode, program = sys.argv[1:]
if mode != "bare":
    from papyra_otel.pipeline.counters import Counters
    from papyra_otel.recorder import Recorder
    from papyra_otel.pipeline.guard import Guard
    from papyra_otel.runtimes.dramatiq import DramatiqAdapter
    logging.getLogger("papyra_otel").setLevel(100)
    class Emitter:
        def emit(self, **fact):
            if mode == "emitter":
                raise RuntimeError("emitter")
    class Raising(Counters):
        def add(self, *args, **kwargs):
            raise RuntimeError("counters")
    class Broken(Recorder):
        pass
    if mode == "verbs":
        def boom(self, *args, **kwargs):
            raise RuntimeError("verb")
        for name in vars(Recorder):
            if not name.startswith("_"):
                setattr(Broken, name, boom)
    counters = Counters() if mode in ("watched", "emitter") else Raising()
    DramatiqAdapter(Broken(Emitter(), counters), Guard(counters), "shop").install()
sys.argv = [program]
runpy.run_path(program, run_name="__main__")
"""


def outcome(mode: str, program: Path) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", HARNESS, mode, str(program)],
        check=False,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.stdout, done.stderr
    return done.returncode, done.stdout


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_a_program_cannot_tell_whether_it_is_watched(program: Path) -> None:
    bare = outcome("bare", program)
    for mode in ("watched", "verbs", "counters", "emitter"):
        assert outcome(mode, program) == bare, mode
