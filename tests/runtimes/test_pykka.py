from __future__ import annotations

import contextlib
import gc
import logging
import queue
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from papyra_otel import semconv as s
from papyra_otel.pipeline.counters import Counters
from papyra_otel.pipeline.guard import Guard
from papyra_otel.recorder import Recorder, qualified_name
from papyra_otel.runtimes import patches
from papyra_otel.runtimes._pykka_state import is_second
from papyra_otel.runtimes.adapter import Ability
from papyra_otel.runtimes.pykka import PykkaAdapter

pykka = pytest.importorskip("pykka")

PROGRAMS = sorted((Path(__file__).parent / "programs").glob("pykka_*.py"))
PRIVATE_ACTOR_NAMES = [
    "_actor_loop",
    "_actor_loop_setup",
    "_actor_loop_teardown",
    "_stop",
    "_handle_failure",
    "_handle_receive",
]
WAIT_SECONDS = 20


class Tape:
    """A capturing emitter, and questions about what it captured."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.facts: list[dict[str, Any]] = []

    def emit(self, **fact: Any) -> None:
        with self._lock:
            self.facts.append(fact)

    def of(self, event: str, address: str | None = None) -> list[dict[str, Any]]:
        with self._lock:
            return [
                fact["attributes"]
                for fact in self.facts
                if fact["event_name"] == event
                and (address is None or fact["attributes"].get(s.ACTOR_ADDRESS) == address)
            ]

    def names(self, address: str) -> list[str]:
        with self._lock:
            return [f["event_name"] for f in self.facts if f["attributes"].get(s.ACTOR_ADDRESS) == address]

    def one(self, event: str, address: str | None = None) -> dict[str, Any]:
        (found,) = self.of(event, address)
        return found

    def letters(self, address: str | None = None) -> list[tuple[str, str, str]]:
        return [
            (letter[s.DEAD_LETTER_REASON], letter[s.MESSAGE_KIND], letter[s.MESSAGE_TYPE])
            for letter in self.of(s.DEAD_LETTER_CAPTURED, address)
        ]

    def kinds(self, address: str) -> list[str]:
        return [fact[s.MESSAGE_KIND] for fact in self.of(s.MESSAGE_PROCESSED, address)]


OTHERS: set[threading.Thread] = set()  # threads that other tests of this process left, or need


def settle() -> None:
    """Wait until every thread has ended that was begun since the test began."""
    for thread in threading.enumerate():
        if thread not in OTHERS and not thread.name.startswith("redis-servers"):
            thread.join(WAIT_SECONDS)
            assert not thread.is_alive()


def patched_attributes() -> dict[str, Any]:
    names = {
        pykka.Actor: [*PRIVATE_ACTOR_NAMES, "on_receive"],
        pykka.ActorRef: ["tell", "ask"],
        pykka.ThreadingFuture: ["get"],
        pykka.ActorRegistry: ["stop_all"],
        sys.modules["pykka._ref"]: ["Envelope"],
    }
    return {f"{owner.__name__}.{name}": vars(owner)[name] for owner, held in names.items() for name in held}


@pytest.fixture(autouse=True)
def _quiet_and_clean() -> Iterator[None]:
    logger = logging.getLogger("pykka")
    OTHERS.clear()
    OTHERS.update(threading.enumerate())
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    before = patched_attributes()
    yield
    for ref in pykka.ActorRegistry.get_all():
        if ref.is_alive():
            ref.stop()
        pykka.ActorRegistry.unregister(ref)
    settle()
    logger.setLevel(level)
    after = patched_attributes()
    assert all(after[name] is before[name] for name in before)


@pytest.fixture
def tape() -> Tape:
    return Tape()


@pytest.fixture
def counters() -> Counters:
    return Counters()


@pytest.fixture
def adapter(tape: Tape, counters: Counters) -> Iterator[PykkaAdapter]:
    adapter = PykkaAdapter(Recorder(tape, counters), Guard(counters), "shop")
    adapter.install()
    yield adapter
    for ref in pykka.ActorRegistry.get_all():
        if ref.is_alive():
            ref.stop()
        pykka.ActorRegistry.unregister(ref)
    settle()
    assert adapter._states == {}
    assert adapter._asking == {}
    assert adapter._shutting == set()
    adapter.uninstall()
    assert counters.read(s.INSTRUMENTATION_ERRORS) == []


class Worker(pykka.ThreadingActor):
    """Does what its messages say."""

    def on_receive(self, message: Any) -> Any:
        if isinstance(message, BaseException):
            raise message
        return message() if callable(message) else message

    def double(self, value: int) -> int:
        return value * 2


class Gate:
    """A message that says when its handling has begun, and is handled until it is opened."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()

    def __call__(self) -> None:
        self.entered.set()
        assert self.opened.wait(WAIT_SECONDS)


# --- lifecycle ----------------------------------------------------------------------------------


def test_an_actor_is_started_once_on_start_succeeded_in_its_own_thread(
    adapter: PykkaAdapter, tape: Tape
) -> None:
    seen: list[Any] = []

    class Starting(Worker):
        def on_start(self) -> Any:
            seen.append(list(tape.of(s.ACTOR_STARTED)))

    class Threads(Tape):
        def emit(self, **fact: Any) -> None:
            seen.append((fact["event_name"], threading.current_thread().name))

    ref = Starting.start()
    ref.ask("hello")
    assert seen == [[]]
    assert tape.one(s.ACTOR_STARTED) == {
        s.SYSTEM_ID: "shop",
        s.ACTOR_TYPE: qualified_name(Starting),
        s.ACTOR_ADDRESS: ref.actor_urn,
    }
    adapter._recorder._emit = Threads().emit
    other = Starting.start()
    thread_name = other.ask(lambda: threading.current_thread().name)
    assert (s.ACTOR_STARTED, thread_name) in seen


def test_stop_is_recorded_as_requested_before_stop_returns(adapter: PykkaAdapter, tape: Tape) -> None:
    class Daemon(Worker):
        use_daemon_thread = True

    for _ in range(50):
        ref = Daemon.start()
        assert ref.stop() is True
        assert tape.one(s.ACTOR_STOPPED, ref.actor_urn)[s.STOP_REASON] == "requested"


def test_another_actor_that_stops_one_has_requested_it(adapter: PykkaAdapter, tape: Tape) -> None:
    ref, other = Worker.start(), Worker.start()
    other.ask(ref.stop)
    assert tape.one(s.ACTOR_STOPPED)[s.STOP_REASON] == "requested"


@pytest.mark.parametrize("how", ["Actor.stop", "ActorRef.stop", "on_start"])
def test_an_actor_that_stops_itself_is_recorded_so(adapter: PykkaAdapter, tape: Tape, how: str) -> None:
    class Leaving(Worker):
        def on_start(self) -> Any:
            if how == "on_start":
                self.stop()

        def on_receive(self, message: Any) -> Any:
            self.stop() if how == "Actor.stop" else self.actor_ref.stop(block=False)

    ref = Leaving.start()
    if how != "on_start":
        ref.tell("leave")
    settle()
    assert tape.one(s.ACTOR_STOPPED, ref.actor_urn)[s.STOP_REASON] == "self"


@pytest.mark.parametrize("block", [True, False])
def test_stop_all_is_a_system_shutdown(adapter: PykkaAdapter, tape: Tape, block: bool) -> None:
    refs = [Worker.start() for _ in range(3)]
    pykka.ActorRegistry.stop_all(block=block)
    settle()
    for ref in refs:
        assert tape.one(s.ACTOR_STOPPED, ref.actor_urn)[s.STOP_REASON] == "system_shutdown"
    ref = Worker.start()
    ref.stop()
    assert tape.one(s.ACTOR_STOPPED, ref.actor_urn)[s.STOP_REASON] == "requested"


def test_a_failed_start_is_a_crash_and_a_stop_but_no_start(
    adapter: PykkaAdapter, tape: Tape, counters: Counters
) -> None:
    class Stillborn(Worker):
        def on_start(self) -> Any:
            raise ValueError("no")

    ref = Stillborn.start()
    settle()
    assert tape.names(ref.actor_urn) == [s.ACTOR_EXCEPTION, s.ACTOR_STOPPED]
    crash = tape.one(s.ACTOR_EXCEPTION)
    assert (crash[s.FAILURE_PHASE], crash[s.ERROR_TYPE]) == ("start", "ValueError")
    assert tape.one(s.ACTOR_STOPPED)[s.STOP_REASON] == "start_failed"
    assert counters.total(s.ACTOR_COUNT) == 0


def test_a_failed_tell_is_a_crash_and_stops_the_actor_by_pykkas_policy(
    adapter: PykkaAdapter, tape: Tape
) -> None:
    ref = Worker.start()
    ref.tell(KeyError("no"))
    settle()
    assert tape.names(ref.actor_urn) == [
        s.ACTOR_STARTED,
        s.MESSAGE_PROCESSED,
        s.ACTOR_EXCEPTION,
        s.ACTOR_STOPPED,
    ]
    crash = tape.one(s.ACTOR_EXCEPTION)
    assert (crash[s.FAILURE_PHASE], crash[s.ERROR_TYPE]) == ("receive", "KeyError")
    assert tape.one(s.ACTOR_STOPPED)[s.STOP_REASON] == "supervision"


def test_a_failure_is_on_record_before_anybody_can_see_that_the_actor_is_dead(
    adapter: PykkaAdapter, tape: Tape
) -> None:
    class Daemon(Worker):
        use_daemon_thread = True

    for _ in range(50):
        ref = Daemon.start()
        ref.tell(KeyError("no"))
        assert ref.actor_stopped.wait(WAIT_SECONDS)
        assert tape.of(s.ACTOR_STOPPED, ref.actor_urn)


def test_a_failing_on_failure_hook_is_its_own_failure(adapter: PykkaAdapter, tape: Tape) -> None:
    class Worse(Worker):
        def on_failure(self, *details: Any) -> Any:
            raise LookupError("worse")

    ref = Worse.start()
    ref.tell(KeyError("no"))
    settle()
    crashes = [(c[s.FAILURE_PHASE], c[s.ERROR_TYPE]) for c in tape.of(s.ACTOR_EXCEPTION)]
    assert crashes == [("receive", "KeyError"), ("stop", "LookupError")]
    assert tape.one(s.ACTOR_STOPPED)[s.STOP_REASON] == "supervision"


def test_a_failing_on_stop_hook_is_a_failure_and_the_reason_stays_true(
    adapter: PykkaAdapter, tape: Tape
) -> None:
    class Reluctant(Worker):
        def on_stop(self) -> Any:
            raise LookupError("no")

    ref = Reluctant.start()
    assert ref.stop() is True
    assert tape.names(ref.actor_urn) == [s.ACTOR_STARTED, s.ACTOR_EXCEPTION, s.ACTOR_STOPPED]
    assert tape.one(s.ACTOR_EXCEPTION)[s.FAILURE_PHASE] == "stop"
    assert tape.one(s.ACTOR_STOPPED)[s.STOP_REASON] == "requested"


@pytest.mark.parametrize("send", ["tell", "ask"])
def test_what_is_no_exception_stops_its_actor_and_shuts_the_others_down(
    adapter: PykkaAdapter, tape: Tape, send: str
) -> None:
    bystander, ref = Worker.start(), Worker.start()
    ref.tell(SystemExit(1)) if send == "tell" else ref.ask(SystemExit(1), block=False)
    settle()
    crash = tape.one(s.ACTOR_EXCEPTION)
    assert (crash[s.ACTOR_ADDRESS], crash[s.FAILURE_PHASE]) == (ref.actor_urn, "receive")
    assert tape.one(s.ACTOR_STOPPED, ref.actor_urn)[s.STOP_REASON] == "supervision"
    assert tape.one(s.ACTOR_STOPPED, bystander.actor_urn)[s.STOP_REASON] == "system_shutdown"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_start_that_ends_the_thread_leaves_a_dead_actor_that_audits_and_letters_tell_of(
    adapter: PykkaAdapter, tape: Tape
) -> None:
    class NeverBorn(Worker):
        def on_start(self) -> Any:
            raise SystemExit

    ref, healthy = NeverBorn.start(), Worker.start()
    for thread in threading.enumerate():
        if thread.name.startswith("NeverBorn"):
            thread.join(WAIT_SECONDS)
    assert tape.names(ref.actor_urn) == [s.ACTOR_EXCEPTION, s.ACTOR_STOPPED]
    assert tape.one(s.ACTOR_EXCEPTION)[s.FAILURE_PHASE] == "start"
    assert tape.one(s.ACTOR_STOPPED)[s.STOP_REASON] == "start_failed"
    ref.tell("nobody is there")
    healthy.tell("somebody is there")
    assert tape.letters() == [("undrained", "tell", "str")]
    (snapshot,) = adapter.audits()
    assert (snapshot.actors_total, snapshot.actors_alive) == (2, 1)
    assert list(snapshot.registry_dead) == [ref.actor_urn]
    assert list(snapshot.reasons) == ["registry holds 1 dead actor"]
    pykka.ActorRegistry.unregister(ref)


@pytest.mark.parametrize("place", ["on_failure", "on_stop"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_hook_that_ends_the_thread_is_recorded_once_per_failure(
    adapter: PykkaAdapter, tape: Tape, place: str
) -> None:
    class Breaking(Worker):
        pass

    def leave(*details: Any) -> Any:
        raise KeyboardInterrupt

    setattr(Breaking, place, leave)
    ref = Breaking.start()
    ref.tell(KeyError("no")) if place == "on_failure" else ref.stop(block=False)
    settle()
    crashes = [(c[s.FAILURE_PHASE], c[s.ERROR_TYPE]) for c in tape.of(s.ACTOR_EXCEPTION)]
    if place == "on_failure":
        assert crashes == [("receive", "KeyError"), ("stop", "KeyboardInterrupt")]
    else:  # pykka calls on_stop again when it was interrupted
        assert crashes == [("stop", "KeyboardInterrupt")] * 2
    assert len(tape.of(s.ACTOR_STOPPED, ref.actor_urn)) == 1


def test_a_stop_flag_set_from_outside_is_an_end_for_unknown_reasons(
    adapter: PykkaAdapter, tape: Tape
) -> None:
    ref, gate = Worker.start(), Gate()
    ref.tell(gate)
    assert gate.entered.wait(WAIT_SECONDS)
    ref.actor_stopped.set()
    (snapshot,) = adapter.audits()
    assert list(snapshot.reasons) == ["registry holds 1 dead actor"]
    gate.opened.set()
    settle()
    assert tape.one(s.ACTOR_STOPPED)[s.STOP_REASON] == "unknown"


def test_lifetimes_durations_and_waits_come_from_the_monotonic_clock(tape: Tape, counters: Counters) -> None:
    now = [100.0]
    adapter = PykkaAdapter(Recorder(tape, counters), Guard(counters), "shop", clock=lambda: now[0])
    adapter.install()
    try:
        ref, gate = Worker.start(), Gate()

        def later() -> None:
            now[0] += 7.0

        ref.tell(gate)
        assert gate.entered.wait(WAIT_SECONDS)
        answer = ref.ask(later, block=False)
        now[0] += 2.0
        gate.opened.set()
        answer.get(timeout=WAIT_SECONDS)
        ref.stop()
    finally:
        adapter.uninstall()
    first, second = tape.of(s.MESSAGE_PROCESSED)
    assert (first[s.MESSAGE_WAIT], first[s.MESSAGE_DURATION]) == (0.0, 2.0)
    assert (second[s.MESSAGE_WAIT], second[s.MESSAGE_DURATION]) == (2.0, 7.0)
    assert tape.one(s.ACTOR_STOPPED)[s.ACTOR_LIFETIME] == 9.0


@pytest.mark.parametrize("calls_super", [True, False])
def test_users_hooks_may_or_may_not_call_super(adapter: PykkaAdapter, tape: Tape, calls_super: bool) -> None:
    ran = []

    class Hooked(Worker):
        def on_start(self) -> Any:
            ran.append("start")
            if calls_super:
                super().on_start()

        def on_stop(self) -> Any:
            ran.append("stop")
            if calls_super:
                super().on_stop()

    ref = Hooked.start()
    ref.stop()
    assert ran == ["start", "stop"]
    assert tape.names(ref.actor_urn) == [s.ACTOR_STARTED, s.ACTOR_STOPPED]


# --- messages -----------------------------------------------------------------------------------


def test_each_message_is_processed_once_with_its_kind_and_stops_are_not(
    adapter: PykkaAdapter, tape: Tape
) -> None:
    ref = Worker.start()
    proxy = ref.proxy()
    ref.tell("a")
    ref.ask(2)
    ref.ask(3.0, block=False).get()
    proxy.double(2).get()
    proxy.double.defer(2)
    assert proxy.actor_urn.get() == ref.actor_urn
    proxy.mark = 1
    ref.stop()
    facts = tape.of(s.MESSAGE_PROCESSED)
    assert [(f[s.MESSAGE_KIND], f[s.MESSAGE_TYPE]) for f in facts] == [
        ("tell", "str"),
        ("ask", "int"),
        ("ask", "float"),
        ("proxy", "pykka.messages.ProxyCall"),
        ("proxy", "pykka.messages.ProxyCall"),
        ("proxy", "pykka.messages.ProxyGetAttr"),
        ("proxy", "pykka.messages.ProxySetAttr"),
    ]
    assert all(f[s.MESSAGE_DURATION] >= 0 and f[s.MESSAGE_WAIT] >= 0 for f in facts)


def test_a_failed_ask_goes_to_its_caller_and_is_no_crash(adapter: PykkaAdapter, tape: Tape) -> None:
    ref, error = Worker.start(), LookupError("mine")
    with pytest.raises(LookupError) as caught:
        ref.ask(error)
    assert caught.value is error
    assert tape.one(s.MESSAGE_PROCESSED)[s.ERROR_TYPE] == "LookupError"
    assert tape.of(s.ACTOR_EXCEPTION) == []
    assert ref.is_alive()


def test_the_same_message_object_told_and_asked_keeps_its_kinds(adapter: PykkaAdapter, tape: Tape) -> None:
    ref = Worker.start()
    for send in (ref.tell, ref.ask, ref.tell, ref.ask):
        send("ping")
    assert tape.kinds(ref.actor_urn) == ["tell", "ask", "tell", "ask"]


class Slotted:
    """An inbox of somebody's own that takes no attributes."""

    __slots__ = ("_queue",)

    def __init__(self) -> None:
        self._queue: queue.Queue[Any] = queue.Queue()

    def put(self, envelope: Any, /) -> Any:
        self._queue.put(envelope)

    def get(self) -> Any:
        return self._queue.get()

    def empty(self) -> Any:
        return self._queue.empty()


class Stubborn(queue.Queue):
    """An inbox that objects to being changed."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "get":
            raise RuntimeError("hands off")
        super().__setattr__(name, value)


@pytest.mark.parametrize("inbox", [queue.SimpleQueue, Slotted, Stubborn])
def test_an_inbox_that_refuses_a_hook_works_and_its_messages_are_known_all_the_same(
    adapter: PykkaAdapter, tape: Tape, caplog: pytest.LogCaptureFixture, inbox: Any
) -> None:
    class Own(Worker):
        @staticmethod
        def _create_actor_inbox() -> Any:
            return inbox()

    refs = [Own.start(), Own.start()]
    for ref in refs:
        for send in (ref.tell, ref.ask, ref.tell):
            send("ping")
        ref.proxy().double(1).get()
        ref.stop()
        assert tape.kinds(ref.actor_urn) == ["tell", "ask", "tell", "proxy"]
        assert tape.one(s.ACTOR_STOPPED, ref.actor_urn)[s.STOP_REASON] == "requested"
    warnings = [r.getMessage() for r in caplog.records if r.name == "papyra_otel"]
    assert len(warnings) == 1
    assert inbox.__qualname__ in warnings[0]


def test_an_inbox_with_a_get_of_its_own_on_the_instance_gets_it_back(
    adapter: PykkaAdapter, tape: Tape
) -> None:
    taken: list[int] = []
    owns: list[Any] = []

    class Own(Worker):
        @staticmethod
        def _create_actor_inbox() -> Any:
            inbox = queue.Queue()
            inbox.get = own = lambda: taken.append(1) or queue.Queue.get(inbox)
            owns.append(own)
            return inbox

    ref = Own.start()
    ref.ask("hello")
    ref.stop()
    settle()
    assert tape.kinds(ref.actor_urn) == ["ask"]
    assert len(taken) == 2
    assert vars(ref.actor_inbox)["get"] is owns[0]


def test_a_handler_that_takes_from_its_own_inbox_is_no_dead_letter(adapter: PykkaAdapter, tape: Tape) -> None:
    class Greedy(Worker):
        def on_receive(self, message: Any) -> Any:
            if message == "drain":
                return self.actor_inbox.get().message
            return super().on_receive(message)

    ref, gate = Greedy.start(), Gate()
    ref.tell(gate)
    assert gate.entered.wait(WAIT_SECONDS)
    answer = ref.ask("drain", block=False)
    ref.tell("taken")
    gate.opened.set()
    assert answer.get(timeout=WAIT_SECONDS) == "taken"
    ref.tell("after")
    ref.stop()
    assert tape.kinds(ref.actor_urn) == ["tell", "ask", "tell"]
    assert tape.letters() == []


# --- dead letters -------------------------------------------------------------------------------


def test_messages_to_a_dead_actor_are_dead_letters_and_stops_are_not(
    adapter: PykkaAdapter, tape: Tape
) -> None:
    ref = Worker.start()
    proxy = ref.proxy()
    ref.stop()
    settle()
    for send in (
        lambda: ref.tell("told"),
        lambda: ref.ask(1),
        lambda: ref.ask(2.0, block=False).get(),
        lambda: proxy.double(1).get(),
        lambda: proxy.double.defer(1),
    ):
        with pytest.raises(pykka.ActorDeadError):
            send()
    assert ref.stop() is False
    assert tape.letters(ref.actor_urn) == [
        ("actor_stopped", "tell", "str"),
        ("actor_stopped", "ask", "int"),
        ("actor_stopped", "ask", "float"),
        ("actor_stopped", "proxy", "pykka.messages.ProxyCall"),
        ("actor_stopped", "proxy", "pykka.messages.ProxyCall"),
    ]
    assert tape.of(s.DEAD_LETTER_CAPTURED)[0][s.ACTOR_TYPE] == qualified_name(Worker)


@pytest.mark.parametrize("send", ["tell", "ask"])
def test_the_error_of_a_dead_target_is_the_very_same_object(
    adapter: PykkaAdapter, tape: Tape, monkeypatch: pytest.MonkeyPatch, send: str
) -> None:
    ref, error = Worker.start(), pykka.ActorDeadError("this one")
    ref.stop()

    def is_alive(self: Any) -> Any:
        raise error

    monkeypatch.setattr(pykka.ActorRef, "is_alive", is_alive)
    with pytest.raises(pykka.ActorDeadError) as caught:
        getattr(ref, send)("hello")
    monkeypatch.undo()
    assert caught.value is error
    assert tape.letters() == [("actor_stopped", send, "str")]


def test_an_error_about_another_actor_that_a_handler_passes_on_counts_once(
    adapter: PykkaAdapter, tape: Tape
) -> None:
    ref, dead = Worker.start(), Worker.start()
    dead.stop()
    for _ in range(2):
        with pytest.raises(pykka.ActorDeadError):
            ref.ask(lambda: dead.ask("hello"))
    with pytest.raises(pykka.ActorDeadError):
        ref.ask(lambda: dead.ask("hello", block=False).get(), block=False).get()
    assert tape.letters() == [("actor_stopped", "ask", "str")] * 3
    assert tape.letters(dead.actor_urn) == tape.letters()


def test_an_actor_that_dies_while_it_is_asked_counts_as_undrained_only(
    adapter: PykkaAdapter, tape: Tape
) -> None:
    ref, gate = Worker.start(), Gate()
    ref.tell(gate)
    assert gate.entered.wait(WAIT_SECONDS)
    ref.stop(block=False)

    def ask() -> None:
        with pytest.raises(pykka.ActorDeadError):
            ref.ask(1)

    asked = threading.Thread(target=ask)
    asked.start()
    while ref.actor_inbox.qsize() < 2:
        assert asked.is_alive()
    gate.opened.set()
    settle()
    assert tape.letters() == [("undrained", "ask", "int")]


def test_every_message_left_behind_is_a_dead_letter_and_left_stops_are_not(
    adapter: PykkaAdapter, tape: Tape
) -> None:
    ref, gate = Worker.start(), Gate()
    proxy = ref.proxy()
    ref.tell(gate)
    assert gate.entered.wait(WAIT_SECONDS)
    stop = ref.stop(block=False)
    ref.tell("told")
    asked = ref.ask(1, block=False)
    second_stop = ref.stop(block=False)
    called = proxy.double(1)
    proxy.double.defer(1)
    gate.opened.set()
    assert stop.get() is True
    assert second_stop.get() is True
    for answer in (asked, called):
        with pytest.raises(pykka.ActorDeadError):
            answer.get()
    settle()
    assert tape.letters(ref.actor_urn) == [
        ("undrained", "tell", "str"),
        ("undrained", "ask", "int"),
        ("undrained", "proxy", "pykka.messages.ProxyCall"),
        ("undrained", "proxy", "pykka.messages.ProxyCall"),
    ]
    assert {fact["severity_text"] for fact in tape.facts if fact["event_name"] == s.DEAD_LETTER_CAPTURED} == {
        "WARN"
    }


def test_what_a_shutdown_leaves_behind_is_less_alarming(adapter: PykkaAdapter, tape: Tape) -> None:
    ref, gate = Worker.start(), Gate()
    ref.tell(gate)
    assert gate.entered.wait(WAIT_SECONDS)
    pykka.ActorRegistry.stop_all(block=False)
    ref.tell("told")
    gate.opened.set()
    settle()
    (fact,) = [f for f in tape.facts if f["event_name"] == s.DEAD_LETTER_CAPTURED]
    assert fact["severity_text"] == "DEBUG"


@pytest.mark.parametrize("send", ["tell", "ask"])
def test_a_message_put_after_its_actor_ended_is_undrained_once(
    adapter: PykkaAdapter, tape: Tape, send: str
) -> None:
    class SlowDoor(queue.Queue):
        def put(self, envelope: Any, *args: Any, **kwargs: Any) -> Any:
            if envelope.message == "late":
                checked.release()
                assert ended.wait(WAIT_SECONDS)
            super().put(envelope, *args, **kwargs)

    class Late(Worker):
        @staticmethod
        def _create_actor_inbox() -> Any:
            return SlowDoor()

    checked, ended = threading.Semaphore(0), threading.Event()
    ref = Late.start()
    sending = {"tell": lambda: ref.tell("late"), "ask": lambda: ref.ask("late", block=False)}[send]
    senders = [threading.Thread(target=sending) for _ in range(3)]
    for thread in senders:
        thread.start()
    assert all(checked.acquire(timeout=WAIT_SECONDS) for _ in senders)
    ref.stop()
    for thread in threading.enumerate():
        if thread.name.startswith("Late"):
            thread.join(WAIT_SECONDS)
    assert tape.letters() == []
    ended.set()
    settle()
    assert tape.letters() == [("undrained", send, "str")] * 3


@pytest.mark.parametrize("send", ["tell", "ask"])
def test_a_message_without_handler_is_unhandled(adapter: PykkaAdapter, tape: Tape, send: str) -> None:
    class Deaf(pykka.ThreadingActor):
        pass

    class HardOfHearing(pykka.ThreadingActor):
        def on_receive(self, message: Any) -> Any:
            return "heard" if message == "loud" else super().on_receive(message)

    for kind in (Deaf, HardOfHearing):
        ref = kind.start()
        getattr(ref, send)("quiet")
        ref.stop()
        assert tape.letters(ref.actor_urn) == [("unhandled", send, "str")]
    ref = HardOfHearing.start()
    assert ref.ask("loud") == "heard"
    assert tape.letters(ref.actor_urn) == []


# --- audits and capabilities --------------------------------------------------------------------


def test_an_audit_counts_the_registry_and_the_mailboxes(adapter: PykkaAdapter, tape: Tape) -> None:
    ref, gate, idle = Worker.start(), Gate(), Worker.start()
    ref.tell(gate)
    assert gate.entered.wait(WAIT_SECONDS)
    for n in range(3):
        ref.tell(n)
    (snapshot,) = adapter.audits()
    assert snapshot.system == "shop"
    assert (snapshot.actors_total, snapshot.actors_alive, snapshot.registry_size) == (2, 2, 2)
    assert snapshot.mailbox_depths == {ref.actor_urn: 3, idle.actor_urn: 0}
    assert list(snapshot.reasons) == []
    assert list(snapshot.unsupported) == list(adapter.capabilities().unsupported())
    adapter._recorder.audit(snapshot)
    assert tape.one(s.AUDIT_COMPLETED)[s.AUDIT_HEALTHY] is True
    gate.opened.set()


def test_dead_actors_in_the_registry_are_unhealthy(adapter: PykkaAdapter, tape: Tape) -> None:
    refs = [Worker.start(), Worker.start()]
    for ref in refs:
        ref.stop()
        pykka.ActorRegistry.register(ref)
    (snapshot,) = adapter.audits()
    adapter._recorder.audit(snapshot)
    audit = tape.one(s.AUDIT_COMPLETED)
    assert audit[s.AUDIT_REASONS] == ["registry holds 2 dead actors"]
    assert audit[s.AUDIT_REGISTRY_DEAD] == sorted(ref.actor_urn for ref in refs)
    assert (audit[s.AUDIT_ACTORS_TOTAL], audit[s.AUDIT_ACTORS_ALIVE]) == (2, 0)


def test_an_audit_waits_for_no_lock_and_survives_odd_inboxes(
    adapter: PykkaAdapter, counters: Counters
) -> None:
    class Odd(queue.Queue):
        def qsize(self) -> Any:
            raise OSError("who knows")

    class Own(Worker):
        @staticmethod
        def _create_actor_inbox() -> Any:
            return Odd()

    Own.start()
    done: list[Any] = []
    with pykka.ActorRegistry._actor_refs_lock:
        thread = threading.Thread(target=lambda: done.extend(adapter.audits()), name="audit")
        thread.start()
        thread.join(WAIT_SECONDS)
        assert len(done) == 1
    assert done[0].actors_total == 1
    assert done[0].mailbox_depths == {}
    assert counters.total(s.INSTRUMENTATION_ERRORS) == 1
    counters.reset()


def test_an_adapter_that_was_never_installed_has_nothing_to_audit(tape: Tape, counters: Counters) -> None:
    adapter = PykkaAdapter(Recorder(tape, counters), Guard(counters), "shop")
    assert list(adapter.audits()) == []


def test_capabilities_say_what_pykka_cannot_tell(adapter: PykkaAdapter) -> None:
    capabilities = adapter.capabilities()
    assert capabilities.runtime == "pykka"
    assert set(capabilities.unsupported()) == {
        Ability.SYSTEM.value,
        Ability.RESTARTED.value,
        Ability.DECIDED.value,
        Ability.GIVEN_UP.value,
        Ability.STOPPING.value,
        Ability.RESTARTING.value,
        Ability.ORPHANS.value,
        Ability.LETTERS_KEPT.value,
        Ability.BLOCKED_SENDERS.value,
    }
    for ability in set(Ability) - capabilities.able:
        assert capabilities.notes[ability]


# --- broadcasts ---------------------------------------------------------------------------------


class Deaf(pykka.ThreadingActor):
    def on_receive(self, message: Any) -> Any:
        return message


@pytest.mark.parametrize(
    ("target", "told"),
    [
        (None, qualified_name(pykka.Actor)),
        (pykka.Actor, qualified_name(pykka.Actor)),
        (Deaf, f"{__name__}.Deaf"),
        ("Deaf", "Deaf"),
    ],
)
def test_a_broadcast_that_finds_no_actor_is_a_dead_letter(
    adapter: PykkaAdapter, tape: Tape, target: Any, told: str
) -> None:
    if target is None:
        pykka.ActorRegistry.broadcast({"n": 1})
    else:
        pykka.ActorRegistry.broadcast(message={"n": 1}, target_class=target)
    (letter,) = tape.of(s.DEAD_LETTER_CAPTURED)
    assert (letter[s.ACTOR_TYPE], letter[s.ACTOR_ADDRESS]) == (told, told)
    assert (letter[s.DEAD_LETTER_REASON], letter[s.MESSAGE_KIND]) == ("no_subscriber", "tell")
    assert letter[s.MESSAGE_TYPE] == "dict"


def test_a_broadcast_that_finds_actors_is_none_even_if_they_are_dead(
    adapter: PykkaAdapter, tape: Tape, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs = [Deaf.start() for _ in range(2)]
    pykka.ActorRegistry.broadcast("hello", Deaf)
    for ref in refs:
        ref.stop()
    assert [f[s.MESSAGE_KIND] for f in tape.of(s.MESSAGE_PROCESSED)] == ["tell", "tell"]
    assert tape.of(s.DEAD_LETTER_CAPTURED) == []
    monkeypatch.setattr(pykka.ActorRegistry, "get_all", lambda: refs)
    with pytest.raises(pykka.ActorDeadError):
        pykka.ActorRegistry.broadcast("again")
    (letter,) = tape.of(s.DEAD_LETTER_CAPTURED)
    assert letter[s.DEAD_LETTER_REASON] == "actor_stopped"
    with pytest.raises(TypeError):
        pykka.ActorRegistry.broadcast()
    assert len(tape.of(s.DEAD_LETTER_CAPTURED)) == 1


def test_threads_that_broadcast_at_once_are_told_apart(adapter: PykkaAdapter, tape: Tape) -> None:
    ref = Deaf.start()
    barrier = threading.Barrier(8)

    def broadcast(target: str) -> None:
        barrier.wait(WAIT_SECONDS)
        for _ in range(50):
            pykka.ActorRegistry.broadcast("hello", target)

    threads = [threading.Thread(target=broadcast, args=(name,)) for name in ("Deaf", "Nobody") * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_SECONDS)
    ref.stop()
    assert {f[s.ACTOR_TYPE] for f in tape.of(s.DEAD_LETTER_CAPTURED)} == {"Nobody"}
    assert len(tape.of(s.DEAD_LETTER_CAPTURED)) == len(tape.of(s.MESSAGE_PROCESSED)) == 200


# --- installing ---------------------------------------------------------------------------------


def test_every_private_name_we_need_exists_in_this_pykka() -> None:
    assert [name for name in PRIVATE_ACTOR_NAMES if name not in vars(pykka.Actor)] == []
    assert isinstance(pykka.messages._ActorStop, type)
    assert isinstance(pykka.ActorRegistry._actor_refs, list)
    assert sys.modules[pykka.ActorRef.__module__].Envelope(1, reply_to=None).message == 1


def test_installing_twice_is_once_and_uninstalling_leaves_no_trace(tape: Tape, counters: Counters) -> None:
    before = patched_attributes()
    adapter = PykkaAdapter(Recorder(tape, counters), Guard(counters), "shop")
    adapter.install()
    during = patched_attributes()
    assert all(during[name] is not before[name] for name in before)
    adapter.install()
    assert all(patched_attributes()[name] is during[name] for name in before)
    ref = Worker.start()
    ref.ask("hello")
    ref.stop()
    assert len(tape.of(s.MESSAGE_PROCESSED)) == 1
    adapter.uninstall()
    adapter.uninstall()
    assert all(patched_attributes()[name] is before[name] for name in before)
    adapter.install()
    ref = Worker.start()
    ref.stop()
    assert tape.names(ref.actor_urn) == [s.ACTOR_STARTED, s.ACTOR_STOPPED]
    adapter.uninstall()


def test_uninstalling_reaches_actors_that_run(adapter: PykkaAdapter, tape: Tape) -> None:
    ref, gate = Worker.start(), Gate()
    ref.tell(gate)
    assert gate.entered.wait(WAIT_SECONDS)
    adapter.uninstall()
    count = len(tape.facts)
    assert adapter._states == {}
    assert "get" not in vars(ref.actor_inbox)
    gate.opened.set()
    assert ref.ask("hello") == "hello"
    ref.tell(KeyError("no"))
    settle()
    with pytest.raises(pykka.ActorDeadError):
        ref.tell("too late")
    assert len(tape.facts) == count


def test_actors_that_run_already_are_adopted_at_their_next_message(tape: Tape, counters: Counters) -> None:
    ref, gate, busy = Worker.start(), Gate(), Worker.start()
    ref.ask("before")
    busy.tell(gate)
    assert gate.entered.wait(WAIT_SECONDS)
    adapter = PykkaAdapter(Recorder(tape, counters), Guard(counters), "shop")
    adapter.install()
    try:
        gate.opened.set()
        for send in (ref.ask, ref.tell, ref.ask):
            assert send("ping") in {"ping", None}
        ref.stop()
        busy.tell(KeyError("no"))
        settle()
        assert tape.kinds(ref.actor_urn) == ["ask", "tell", "ask"]
        stopped = tape.one(s.ACTOR_STOPPED, ref.actor_urn)
        assert stopped[s.STOP_REASON] == "requested"
        assert s.ACTOR_LIFETIME not in stopped
        assert tape.names(busy.actor_urn) == [s.MESSAGE_PROCESSED, s.ACTOR_EXCEPTION, s.ACTOR_STOPPED]
        assert counters.total(s.ACTOR_COUNT) == 0
        assert adapter._states == {}
        assert "get" not in vars(ref.actor_inbox)
    finally:
        adapter.uninstall()
    assert counters.read(s.INSTRUMENTATION_ERRORS) == []


def test_a_pykka_without_a_name_loses_an_ability_with_one_warning_and_works(
    tape: Tape, counters: Counters, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr(pykka.ActorRegistry, "stop_all")
    monkeypatch.delattr(sys.modules["pykka._ref"], "Envelope")
    adapter = PykkaAdapter(Recorder(tape, counters), Guard(counters), "shop")
    adapter.install()
    warnings = [r.getMessage() for r in caplog.records if r.name == "papyra_otel"]
    assert len(warnings) == 1
    assert "ActorRegistry.stop_all" in warnings[0]
    assert "pykka._ref.Envelope" in warnings[0]
    capabilities = adapter.capabilities()
    assert Ability.LIFECYCLE not in capabilities.able
    assert Ability.DEAD_TARGET not in capabilities.able
    assert Ability.PROCESSED in capabilities.able
    assert "stop_all" in capabilities.notes[Ability.LIFECYCLE]
    monkeypatch.undo()
    ref = Worker.start()
    assert ref.ask("hello") == "hello"
    ref.stop()
    settle()
    assert tape.names(ref.actor_urn) == [s.MESSAGE_PROCESSED]
    adapter.uninstall()
    assert counters.read(s.INSTRUMENTATION_ERRORS) == []


@pytest.mark.parametrize("name", [*PRIVATE_ACTOR_NAMES, "on_receive"])
def test_each_missing_name_is_survived(
    tape: Tape,
    counters: Counters,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    name: str,
) -> None:
    monkeypatch.delattr(pykka.Actor, name)
    adapter = PykkaAdapter(Recorder(tape, counters), Guard(counters), "shop")
    adapter.install()
    assert any(f"Actor.{name}" in note for note in adapter.capabilities().notes.values())
    assert len([r for r in caplog.records if r.name == "papyra_otel"]) == 1
    adapter.uninstall()


def test_missing_private_data_is_survived_too(
    tape: Tape, counters: Counters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(pykka.messages, "_ActorStop")
    monkeypatch.delattr(pykka.ActorRegistry, "_actor_refs")
    adapter = PykkaAdapter(Recorder(tape, counters), Guard(counters), "shop")
    adapter.install()
    able = adapter.capabilities().able
    assert able.isdisjoint({Ability.AUDIT, Ability.MAILBOX_DEPTH, Ability.PROCESSED, Ability.LIFECYCLE})
    assert list(adapter.audits()) == []
    adapter.uninstall()


def test_a_pykka_that_is_not_there_is_said_by_install(
    tape: Tape, counters: Counters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pykka", None)
    adapter = PykkaAdapter(Recorder(tape, counters), Guard(counters), "shop")
    with pytest.raises(ModuleNotFoundError):
        adapter.install()
    adapter.uninstall()


def test_nothing_is_added_to_the_users_actors(adapter: PykkaAdapter) -> None:
    fresh = set(vars(Worker()))

    class Seen(Worker):
        def on_receive(self, message: Any) -> Any:
            return set(vars(self))

    ref = Seen.start()
    assert ref.ask("look") == fresh
    assert ref.ask("look again") == fresh


def test_nothing_of_an_ended_actor_is_kept(adapter: PykkaAdapter) -> None:
    refs: list[Any] = []
    watched: list[weakref.ref[Any]] = []

    class Watched(Worker):
        def __init__(self) -> None:
            super().__init__()
            watched.append(weakref.ref(self))
            watched.append(weakref.ref(self.actor_inbox))
            watched.append(weakref.ref(self.actor_stopped))

    for n in range(20):
        ref = Watched.start()
        ref.ask("hello")
        ref.tell(KeyError("no")) if n % 2 else ref.stop()
        refs.append(ref)
    settle()
    for ref in refs:
        with pytest.raises(pykka.ActorDeadError):
            ref.ask("dead")
    del ref
    refs.clear()
    sys.last_value = sys.last_traceback = None
    gc.collect()
    assert adapter._states == {}
    assert len(adapter._finished) == 0
    assert adapter._asking == {}
    assert [watch for watch in watched if watch() is not None] == []


def test_a_state_ends_with_its_actor_at_the_latest(adapter: PykkaAdapter) -> None:
    actor = Worker()
    adapter._begin(actor)
    assert len(adapter._states) == 1
    pykka.ActorRegistry.unregister(actor.actor_ref)
    del actor
    gc.collect()
    assert adapter._states == {}


# --- never interfere ----------------------------------------------------------------------------


def everything_happens() -> list[str]:
    """Run an actor through every wrapper; return what its user sees."""
    said: list[str] = []

    class Busy(Worker):
        def on_start(self) -> Any:
            said.append("start")

        def on_stop(self) -> Any:
            said.append("stop")

        def on_failure(self, *details: Any) -> Any:
            said.append(repr(details[1]))

        def on_receive(self, message: Any) -> Any:
            return pykka.Actor.on_receive(self, message) if message == "what" else super().on_receive(message)

    def attempt(call: Any) -> None:
        try:
            said.append(repr(call()))
        except BaseException as error:
            said.append(type(error).__name__)

    ref, failing = Busy.start(), Busy.start()
    attempt(lambda: ref.ask("hello"))
    attempt(lambda: ref.ask("what"))
    attempt(lambda: ref.ask(ValueError("asked")))
    attempt(lambda: ref.proxy().double(3).get())
    gate = Gate()
    failing.tell(gate)
    assert gate.entered.wait(WAIT_SECONDS)
    failing.tell(KeyError("told"))
    failing.tell("left")
    late = failing.ask("left", block=False)
    gate.opened.set()
    attempt(lambda: late.get(timeout=WAIT_SECONDS))
    attempt(lambda: failing.tell("dead"))
    attempt(lambda: failing.ask("dead"))
    attempt(lambda: pykka.ActorRegistry.broadcast("anybody", "Nobody"))
    attempt(ref.stop)
    attempt(ref.stop)
    other = Busy.start()
    other.ask("hello")
    attempt(pykka.ActorRegistry.stop_all)
    attempt(other.is_alive)
    settle()
    return said


@pytest.mark.parametrize(
    ("broken", "what"),
    [
        ("recorder.started", {"pykka.started"}),
        ("recorder.stopped", {"pykka.stopped"}),
        ("recorder.crashed", {"pykka.crashed"}),
        ("recorder.processed", {"pykka.processed"}),
        (
            "recorder.dead_letter",
            {"pykka.dead_letter", "pykka.undrained", "pykka.unhandled", "pykka.no_subscriber"},
        ),
        ("adapter._begin", {"pykka.setup", "pykka.receive", "pykka.failure"}),
        ("adapter._who", {"pykka.dead_letter"}),
        ("adapter._sweep", {"pykka.finish"}),
        (
            "adapter._kind_of",
            {"pykka.receive", "pykka.undrained", "pykka.unhandled"},
        ),
        ("adapter._finished", {"pykka.finish", "pykka.undrained"}),
        ("adapter._clock", {"pykka.setup", "pykka.envelope", "pykka.receive"}),
    ],
)
def test_whatever_of_ours_raises_the_actors_notice_nothing(
    tape: Tape, counters: Counters, monkeypatch: pytest.MonkeyPatch, broken: str, what: set[str]
) -> None:
    expected = everything_happens()

    def boom(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError(broken)

    recorder = Recorder(tape, counters)
    owner, name = broken.split(".")
    if owner == "recorder":
        monkeypatch.setattr(recorder, name, boom)
    adapter = PykkaAdapter(recorder, Guard(counters), "shop", **({"clock": boom} if name == "_clock" else {}))
    if owner == "adapter" and name not in {"_clock", "_finished"}:
        monkeypatch.setattr(adapter, name, boom)
    if name == "_finished":

        class Broken(weakref.WeakSet):  # type: ignore[type-arg]
            add = __contains__ = boom

        adapter._finished = Broken()
    adapter.install()
    try:
        assert everything_happens() == expected
    finally:
        adapter.uninstall()
    failed = {key[0] for key, _ in counters.read(s.INSTRUMENTATION_ERRORS)}
    assert failed - {"pykka.undrained"} == what - {"pykka.undrained"}
    assert failed <= what


@pytest.mark.parametrize("send", ["tell", "ask"])
def test_looking_after_a_message_may_raise_and_its_sender_notices_nothing(
    tape: Tape, counters: Counters, send: str
) -> None:
    adapter = PykkaAdapter(Recorder(tape, counters), Guard(counters), "shop")
    adapter._finished = adapter._zombies = True  # type: ignore[assignment]  # True is no set to look in
    adapter.install()
    ref = Worker.start()
    assert getattr(ref, send)("hello") in {"hello", None}
    adapter._finished = weakref.WeakSet()
    ref.stop()
    adapter.uninstall()
    assert counters.read(s.INSTRUMENTATION_ERRORS) == [(("pykka.undrained",), 1)]


def test_what_raises_in_one_verb_keeps_the_others_recording(
    tape: Tape, counters: Counters, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(tape, counters)
    monkeypatch.delattr(Recorder, "crashed")
    adapter = PykkaAdapter(recorder, Guard(counters), "shop")
    adapter.install()
    ref = Worker.start()
    ref.tell(KeyError("no"))
    settle()
    adapter.uninstall()
    assert tape.names(ref.actor_urn) == [s.ACTOR_STARTED, s.MESSAGE_PROCESSED, s.ACTOR_STOPPED]


HARNESS = """
import logging, runpy, sys
mode, program = sys.argv[1:]
if mode != "bare":
    from papyra_otel.pipeline.counters import Counters
    from papyra_otel.recorder import Recorder
    from papyra_otel.pipeline.guard import Guard
    from papyra_otel.runtimes.pykka import PykkaAdapter
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
        for name in ("started", "stopped", "crashed", "processed", "dead_letter", "audit"):
            setattr(Broken, name, boom)
    counters = Counters() if mode in ("watched", "emitter") else Raising()
    PykkaAdapter(Broken(Emitter(), counters), Guard(counters), "shop").install()
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


@pytest.mark.parametrize("attempt", range(3))
def test_64_threads_are_counted_exactly(adapter: PykkaAdapter, tape: Tape, attempt: int) -> None:
    target = Worker.start()

    def work(sender: int) -> None:
        own = Worker.start()
        for number in range(10):
            target.tell(number)
            own.ask(number)
        own.stop()
        with pytest.raises(pykka.ActorDeadError):
            own.tell("dead")

    threads = [threading.Thread(target=work, args=(n,)) for n in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_SECONDS)
    target.stop()
    assert tape.kinds(target.actor_urn) == ["tell"] * 640
    assert len(tape.of(s.MESSAGE_PROCESSED)) == 1280
    assert len(tape.of(s.ACTOR_STARTED)) == len(tape.of(s.ACTOR_STOPPED)) == 65
    assert tape.letters() == [("actor_stopped", "tell", "str")] * 64


@pytest.mark.parametrize("attempt", range(5))
def test_every_message_sent_while_an_actor_stops_is_handled_or_a_dead_letter(
    adapter: PykkaAdapter, tape: Tape, attempt: int
) -> None:
    target, begin = Worker.start(), threading.Barrier(9)

    def work() -> None:
        begin.wait(WAIT_SECONDS)
        for number in range(50):
            with contextlib.suppress(pykka.ActorDeadError):
                target.tell(number)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    begin.wait(WAIT_SECONDS)
    target.ask("some")
    target.stop()
    settle()
    assert len(tape.kinds(target.actor_urn)) - 1 + len(tape.letters()) == 400


# --- who gives up, and what shows at any moment -----------------------------------------------------


class Gated(pykka.ThreadingActor):
    """Answers when it is let go; what is callable, it calls."""

    gate = threading.Event()
    busy = threading.Event()

    def on_receive(self, message: Any) -> Any:
        if callable(message):
            return message()
        self.busy.set()
        assert self.gate.wait(WAIT_SECONDS)
        return message

    def slow(self) -> str:
        return str(self.on_receive("slow"))


@pytest.fixture
def gated(adapter: PykkaAdapter) -> Iterator[Any]:
    Gated.gate, Gated.busy = threading.Event(), threading.Event()
    yield Gated.start()
    Gated.gate.set()


def timeouts(tape: Tape, address: str) -> list[tuple[str, float]]:
    return [(f[s.MESSAGE_TYPE], f[s.MESSAGE_DURATION]) for f in tape.of(s.ASK_TIMED_OUT, address)]


def test_an_ask_that_is_given_up_is_told_wherever_that_happens(tape: Tape, gated: Any) -> None:
    with pytest.raises(pykka.Timeout):
        gated.ask("within", timeout=0.01)
    future = gated.ask(7, block=False)
    with pytest.raises(pykka.Timeout):
        future.get(timeout=0.02)
    with pytest.raises(pykka.Timeout):
        future.map(str).get(timeout=0.03)
    with pytest.raises(pykka.Timeout):
        gated.proxy().slow().get(timeout=0.04)
    Gated.gate.set()
    assert future.get(timeout=WAIT_SECONDS) == 7
    told = timeouts(tape, gated.actor_urn)
    assert [name for name, _ in told] == ["str", "int", "int", "pykka.messages.ProxyCall"]
    assert told[0][1] == 0.01


def test_a_timeout_that_an_answer_brings_is_told_of_the_one_who_waited(tape: Tape, gated: Any) -> None:
    asker = Gated.start()

    def asks_and_gives_up() -> None:
        gated.ask("never", timeout=0.01)

    with pytest.raises(pykka.Timeout):
        asker.ask(asks_and_gives_up, timeout=WAIT_SECONDS)
    assert timeouts(tape, gated.actor_urn) == [("str", 0.01)]
    assert timeouts(tape, asker.actor_urn) == []


def test_a_future_that_is_no_ask_may_time_out_unnoticed(tape: Tape, adapter: PykkaAdapter) -> None:
    with pytest.raises(pykka.Timeout):
        pykka.ThreadingFuture[int]().get(timeout=0.001)
    assert tape.of(s.ASK_TIMED_OUT) == []


def late_replies(tape: Tape) -> list[tuple[Any, ...]]:
    keys = s.ACTOR_ADDRESS, s.MESSAGE_KIND, s.MESSAGE_TYPE, s.MESSAGE_PAYLOAD
    letters = [f for f in tape.of(s.DEAD_LETTER_CAPTURED) if f[s.DEAD_LETTER_REASON] == "late_reply"]
    return [tuple(letter[key] for key in keys) for letter in letters]


def test_an_answer_to_an_ask_that_was_given_up_is_a_late_reply(tape: Tape, gated: Any) -> None:
    with pytest.raises(pykka.Timeout):
        gated.ask("too slow", timeout=0.01)
    assert late_replies(tape) == [], "it may still never come"
    Gated.gate.set()
    assert gated.ask("in time", timeout=WAIT_SECONDS) == "in time"
    assert late_replies(tape) == [(gated.actor_urn, "ask", "str", '"too slow"')]


def test_an_asker_that_gives_up_between_answer_and_delivery_tells_of_it_itself(
    tape: Tape, gated: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered, gave_up = threading.Event(), threading.Event()
    deliver = pykka.ThreadingFuture.set

    def slow_set(future: Any, value: Any = None) -> None:
        if value == "slow":
            answered.set()
            assert gave_up.wait(WAIT_SECONDS)
        deliver(future, value)

    monkeypatch.setattr(pykka.ThreadingFuture, "set", slow_set)

    def ask() -> None:
        with pytest.raises(pykka.Timeout):
            gated.ask("slow", timeout=0.3)

    asking = threading.Thread(target=ask)
    asking.start()
    Gated.gate.set()
    assert answered.wait(WAIT_SECONDS)
    asking.join(WAIT_SECONDS)
    assert late_replies(tape) == [(gated.actor_urn, "ask", "str", '"slow"')]
    gave_up.set()
    assert gated.ask("next", timeout=WAIT_SECONDS) == "next"
    assert len(late_replies(tape)) == 1


def test_an_ask_inside_an_ask_takes_nothing_from_it(tape: Tape, gated: Any) -> None:
    other, dead = Worker.start(), Worker.start()
    dead.stop()

    class Curious(float):
        """A time-out that asks others when it is looked at: in the middle of an ask that is sent already."""

        def __radd__(self, now: float) -> float:
            assert other.ask("aside") == "aside"
            with pytest.raises(pykka.ActorDeadError):
                dead.ask("too late")
            return now + float(self)

    with pytest.raises(pykka.Timeout):
        gated.ask("too slow", timeout=Curious(0.01))
    assert [fact[s.ACTOR_ADDRESS] for fact in tape.of(s.ASK_TIMED_OUT)] == [gated.actor_urn]
    Gated.gate.set()
    assert gated.ask("in time", timeout=WAIT_SECONDS) == "in time"
    assert late_replies(tape) == [(gated.actor_urn, "ask", "str", '"too slow"')]
    assert len(tape.of(s.DEAD_LETTER_CAPTURED, dead.actor_urn)) == 1


def test_an_answer_that_can_still_be_fetched_and_a_failure_are_no_late_replies(
    adapter: PykkaAdapter, tape: Tape, gated: Any
) -> None:
    future = gated.ask("patience", block=False)
    with pytest.raises(pykka.Timeout):
        future.get(timeout=0.01)

    def fails() -> None:
        assert Gated.gate.wait(WAIT_SECONDS)
        raise LookupError

    with pytest.raises(pykka.Timeout):
        gated.ask(fails, timeout=0.01)
    assert list(adapter._asked) == [future], "nothing grows while somebody looks again and again"
    Gated.gate.set()
    assert future.get(timeout=WAIT_SECONDS) == "patience"
    assert gated.ask("last", timeout=WAIT_SECONDS) == "last"
    assert late_replies(tape) == []


def test_of_two_that_come_at_the_same_time_one_is_the_second() -> None:
    class Crowded(list[str]):
        def append(self, party: str) -> None:
            super().append(party)
            if len(self) == 1:
                super().append("actor")  # the other thread, before this one looks

    met = Crowded()
    assert [is_second(met, "asker"), is_second(met, "actor")] == [False, True]


@pytest.mark.parametrize("attempt", range(3))
def test_whoever_comes_second_tells_of_a_late_reply_once(
    adapter: PykkaAdapter, tape: Tape, attempt: int
) -> None:
    """Askers whose patience ends about when the answer comes: each gets it or it is late, never both or neither."""
    target, got, given_up = Worker.start(), [0] * 16, [0] * 16

    def work(number: int) -> None:
        for _ in range(60):
            try:
                target.ask("x", timeout=0.0002)
                got[number] += 1
            except pykka.Timeout:
                given_up[number] += 1

    threads = [threading.Thread(target=work, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_SECONDS)
    target.ask("flush", timeout=WAIT_SECONDS)
    assert sum(got) + sum(given_up) == 960
    assert len(late_replies(tape)) == len(tape.of(s.ASK_TIMED_OUT)) == sum(given_up)


def test_asks_keep_neither_messages_nor_futures_alive(adapter: PykkaAdapter) -> None:
    ref = Worker.start()

    class Message:
        pass

    message = Message()
    watch = weakref.ref(message)
    future = ref.ask(message, block=False)
    with contextlib.suppress(Exception):
        future.get(timeout=WAIT_SECONDS)
    del message, future
    ref.ask("flush")  # the actor's loop lets go of its last envelope
    gc.collect()
    assert watch() is None
    assert len(adapter._asked) <= 1  # the last one is still in the hands of its actor


def test_gauges_tell_what_waits_and_what_runs(adapter: PykkaAdapter, gated: Any) -> None:
    gated.tell("in hand")
    assert Gated.busy.wait(WAIT_SECONDS)
    for _ in range(3):
        gated.tell("waits")
    idle = Worker.start()
    (shown,) = adapter.gauges()
    name, other = qualified_name(Gated), qualified_name(Worker)
    assert shown.mailbox_depths == {name: [3], other: [0]}
    assert shown.longest_active_seconds[name] > 0
    assert shown.longest_active_seconds[other] == 0
    assert shown.registry_entries == {"ok": 2, "dead": 0}
    assert idle.is_alive()


def test_gauges_show_nothing_of_what_cannot_be_told(
    tape: Tape, counters: Counters, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = patches.own
    gone = {"_handle_receive"}
    monkeypatch.setattr(patches, "own", lambda owner, name: None if name in gone else found(owner, name))
    adapter = PykkaAdapter(Recorder(tape, counters), Guard(counters), "shop")
    adapter.install()
    try:
        ref = Worker.start()
        (ageless,) = adapter.gauges()
        monkeypatch.setattr(adapter, "_registry", object())
        (shown,) = adapter.gauges()
        ref.stop()
        settle()
    finally:
        adapter.uninstall()
    assert (ageless.longest_active_seconds, ageless.mailbox_depths) == ({}, {qualified_name(Worker): [0]})
    assert (shown.registry_entries, shown.mailbox_depths) == ({}, {})
