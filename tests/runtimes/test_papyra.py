"""The papyra adapter on the real papyra: each test knows the true history and asks for its facts."""

# (tests say what they take by name)

from __future__ import annotations

import contextlib
import gc
import inspect
import logging
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import anyio
import pytest

pytest.importorskip("papyra")

from papyra import Actor, ActorSystem, hooks
from papyra._envelope import DeadLetter
from papyra.exceptions import ActorStopped, AskTimeout, MailboxClosed
from papyra.mailbox import Mailbox
from papyra.supervision import Strategy, SupervisionPolicy
from papyra.supervisor import SupervisorDecision
from papyra.system import DeadLetterMailbox

from papyra_otel import semconv as s
from papyra_otel.pipeline.counters import Counters
from papyra_otel.pipeline.guard import Guard
from papyra_otel.recorder import Recorder
from papyra_otel.runtimes import papyra as module
from papyra_otel.runtimes.adapter import AUDIT_MEMBERS, CAPABILITIES, Ability
from papyra_otel.runtimes.papyra import PapyraAdapter

PROGRAM = Path(__file__).parent / "programs" / "papyra_busy.py"
PATCHED = [
    *((ActorSystem, name) for name in ("start", "aclose", "stop", "audit", "_stop_runtime", "_run_actor")),
    *((ActorSystem, name) for name in ("_safe_on_start", "_safe_on_stop", "_handle_failure")),
    *((ActorSystem, name) for name in ("_apply_supervisor_decision", "_restart_actor")),
    *((ActorSystem, name) for name in ("_check_restart_limits", "_handle_actor_message")),
    (Mailbox, "put"),
    (Mailbox, "get"),
    (DeadLetterMailbox, "push"),
]
RESTART = SupervisionPolicy(strategy=Strategy.RESTART, max_restarts=2, within_seconds=60.0)
ESCALATE = SupervisionPolicy(strategy=Strategy.ESCALATE)


class Tape:
    """Keeps what is emitted."""

    def __init__(self):
        self.facts = []

    def emit(self, *, timestamp, severity_text, attributes, event_name):
        assert timestamp > 1_600_000_000 * 10**9, "facts carry wall time"
        self.facts.append((event_name, severity_text, attributes))

    def named(self, name, *keys):
        found = [attributes for event, _, attributes in self.facts if event == name]
        return (
            [tuple(f.get(k) for k in keys) if len(keys) > 1 else f.get(keys[0]) for f in found]
            if keys
            else found
        )

    def stories(self, address="local:1"):
        """The names of an actor's facts in order, without messages."""
        return [
            event.removeprefix("papyra.")
            for event, _, attributes in self.facts
            if attributes.get(s.ACTOR_ADDRESS) == address and event != s.MESSAGE_PROCESSED
        ]


@pytest.fixture(params=["asyncio", "trio"])
def run(request):
    if request.param == "trio":
        pytest.importorskip("trio")
    return lambda main: anyio.run(main, backend=request.param)


@pytest.fixture
def tape():
    return Tape()


@pytest.fixture
def counters():
    return Counters()


@pytest.fixture
def adapter(tape, counters):
    adapter = PapyraAdapter(Recorder(tape, counters), Guard(counters), None)
    adapter.install()
    yield adapter
    adapter.uninstall()
    assert counters.read(s.INSTRUMENTATION_ERRORS) == [], "nothing of ours failed on the way"
    assert (adapter._tracker.lives, adapter._tracker._mailboxes) == ({}, {}), "nothing is kept"


class Echo(Actor):
    """Answers; raises what it is sent; waits for events it is sent; calls what is callable."""

    async def receive(self, message):
        if isinstance(message, BaseException):
            raise message
        if isinstance(message, anyio.Event):
            await message.wait()
        if callable(message):
            return await message(self)
        return message

    def double(self, number):
        return 2 * number


class Broken(Echo):
    """Its ``on_start`` raises the errors listed, one per try, None for success."""

    errors = ()
    tries = None

    def __init__(self):
        self.tries = type(self).tries

    async def on_start(self):
        if error := next(self.tries, None):
            raise error


def broken(*errors):
    return type("Broken", (Broken,), {"tries": iter(errors)})


class Boss(Echo):
    """Spawns the children it is made for and decides as told."""

    def __init__(self, *children, decision=None, policy=None):
        self.factories, self.decision, self.policy = children, decision, policy
        self.children = []

    async def on_start(self):
        self.children = [self.context.spawn_child(child, policy=self.policy) for child in self.factories]

    async def on_child_failure(self, child_ref, exc):
        if isinstance(self.decision, BaseException):
            raise self.decision
        return self.decision


async def child_of(boss, number=0):
    async def first(self):
        return self.children[number]

    return await boss.ask(first)


async def fail(ref, error):
    with pytest.raises(type(error)) as caught:
        await ref.ask(error)
    assert caught.value is error


async def settle(system, count=1):
    """Wait until that many actors have stopped, by papyra's own account."""
    while sum(type(e).__name__ == "ActorStopped" for e in system.events()) < count:
        await anyio.lowlevel.checkpoint()


# --- the system and a quiet life -----------------------------------------------------------------


def test_a_quiet_life_is_told_from_start_to_end(run, tape, adapter):
    async def main():
        async with ActorSystem(system_id="shop") as system:
            await system.start()
            ref = system.spawn(Echo, name="echo")
            assert await ref.ask("hello") == "hello"
        await system.aclose()

    run(main)
    assert [event for event, _, _ in tape.facts] == [
        s.SYSTEM_STARTED,
        s.ACTOR_STARTED,
        s.MESSAGE_PROCESSED,
        s.ACTOR_STOPPED,
        s.SYSTEM_STOPPED,
    ]
    started = tape.named(s.SYSTEM_STARTED)[0]
    assert started[s.SYSTEM_ID] == "shop"
    assert started[s.RUNTIME_NAME] == "papyra"
    assert started[s.RUNTIME_VERSION] == module._version()
    stopped = tape.named(s.ACTOR_STOPPED)[0]
    assert stopped[s.ACTOR_TYPE] == f"{Echo.__module__}.Echo"
    assert (stopped[s.ACTOR_ADDRESS], stopped[s.ACTOR_NAME]) == ("shop:1", "echo")
    assert (stopped[s.STOP_REASON], stopped[s.ACTOR_INCARNATION]) == ("system_shutdown", 0)
    assert 0 <= stopped[s.ACTOR_LIFETIME] < 60


def test_a_given_system_id_overrides_papyras(run, tape):
    adapter = PapyraAdapter(Recorder(tape, Counters()), Guard(Counters()), "orders")
    adapter.install()

    async def main():
        async with ActorSystem() as system:
            ref = system.spawn(Echo)
            await system.stop(ref)
            await settle(system)
            with pytest.raises(ActorStopped):
                await ref.tell(1)
            assert [a.system for a in adapter.audits()] == ["orders"]

    run(main)
    adapter.uninstall()
    assert {attributes[s.SYSTEM_ID] for _, _, attributes in tape.facts} == {"orders"}


def test_a_system_that_fails_to_start_has_not_started(run, tape, adapter):
    class Bad(ActorSystem):
        async def _run_persistence_startup(self):
            raise OSError("disk")

    async def main():
        with pytest.raises(OSError, match="disk"):
            await Bad().start()

    run(main)
    assert tape.facts == []


# --- why actors stop -----------------------------------------------------------------------------


def reasons(tape):
    return dict(tape.named(s.ACTOR_STOPPED, s.ACTOR_ADDRESS, s.STOP_REASON))


def test_a_stop_from_outside_was_requested_and_its_children_follow_the_parent(run, tape, adapter):
    async def main():
        async with ActorSystem() as system:
            boss = system.spawn(lambda: Boss(lambda: Boss(Echo)))
            await child_of(await child_of(boss))
            await system.stop(boss)
            await settle(system, 3)

    run(main)
    assert reasons(tape) == {"local:1": "requested", "local:2": "parent", "local:3": "parent"}
    assert tape.named(s.ACTOR_STOPPED, s.ACTOR_PARENT)[::-1] != [None] * 3


@pytest.mark.parametrize("how", ["stop_self", "stop", "helper"])
def test_an_actor_that_stops_itself(run, tape, adapter, how):
    async def main():
        async def stop(self):
            if how == "stop_self":
                await self.context.stop_self()
            elif how == "stop":
                await self.context.stop(self.context.self_ref)
            else:
                async with anyio.create_task_group() as group:
                    group.start_soon(self.context.stop_self)

        async with ActorSystem() as system:
            await system.spawn(Echo).ask(stop)
            await settle(system)

    run(main)
    assert reasons(tape) == {"local:1": "self"}


def test_a_parent_that_stops_its_child_requested_it(run, tape, adapter):
    async def main():
        async def stop_child(self):
            await self.context.stop(self.children[0])

        async with ActorSystem() as system:
            await system.spawn(lambda: Boss(Echo)).ask(stop_child)
            await settle(system)
            await system.stop_all()

    run(main)
    assert reasons(tape) == {"local:2": "requested", "local:1": "requested"}


def test_a_parent_that_stops_its_failing_child_while_asked_is_not_the_child_itself(run, tape, adapter):
    class Strict(Boss):
        async def on_child_failure(self, child_ref, exc):
            await self.context.stop(child_ref)

    async def main():
        async with ActorSystem() as system:
            await fail(await child_of(system.spawn(lambda: Strict(Echo))), ValueError())
            await settle(system)

    run(main)
    assert reasons(tape)["local:2"] == "requested"


def test_stopping_a_full_actor_is_told_with_its_reason_though_the_stop_signal_never_fits(run, tape, adapter):
    async def main():
        async with ActorSystem() as system, anyio.create_task_group() as group:
            ref = system.spawn(Echo, mailbox_capacity=1)
            gate = anyio.Event()
            await ref.tell(gate)
            await anyio.wait_all_tasks_blocked()
            await ref.tell(1)
            group.start_soon(system.stop, ref)
            await anyio.wait_all_tasks_blocked()
            gate.set()

    run(main)
    assert reasons(tape) == {"local:1": "requested"}


def test_a_stop_that_was_cut_short_is_no_reason(run, tape, adapter):
    async def main():
        async with ActorSystem() as system:
            gate = anyio.Event()
            boss = system.spawn(lambda: Boss(Boss), policy=RESTART)
            child = await child_of(boss)
            await child.tell(gate)
            await anyio.wait_all_tasks_blocked()
            for _ in range(1024):  # its mailbox is full: whoever stops it waits
                await child.tell(None)
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as group:
                    group.start_soon(system.stop, boss)
                    await anyio.wait_all_tasks_blocked()
                    scope.cancel()
            assert boss.is_alive()
            gate.set()
            await settle(system)

    run(main)
    assert reasons(tape) == {"local:2": "parent", "local:1": "system_shutdown"}


# --- failures ------------------------------------------------------------------------------------


def decisions(tape, *more):
    keys = (s.ACTOR_ADDRESS, s.SUPERVISION_DIRECTIVE, s.SUPERVISION_SOURCE, s.SUPERVISION_OUTCOME)
    return tape.named(s.SUPERVISION_DECIDED, *keys, *more)


def crashes(tape):
    return tape.named(
        s.ACTOR_EXCEPTION, s.ACTOR_ADDRESS, s.FAILURE_PHASE, s.EXCEPTION_TYPE, s.ACTOR_INCARNATION
    )


def test_a_failure_that_the_policy_stops(run, tape, adapter):
    async def main():
        async with ActorSystem() as system:
            await fail(system.spawn(Echo), ValueError("no"))

    run(main)
    assert tape.stories() == ["actor.started", "actor.exception", "supervision.decided", "actor.stopped"]
    assert crashes(tape) == [("local:1", "receive", "ValueError", 0)]
    assert tape.named(s.ACTOR_EXCEPTION, s.EXCEPTION_MESSAGE) == ["no"]
    assert decisions(tape) == [("local:1", "stop", "policy", "stopped")]
    assert reasons(tape) == {"local:1": "supervision"}


@pytest.mark.parametrize(
    ("decision", "outcome", "reason"),
    [
        (SupervisorDecision.STOP, "stopped", "supervision"),
        (SupervisorDecision.IGNORE, "ignored", "supervision"),
        (SupervisorDecision.RESTART, "restarted", "system_shutdown"),
    ],
)
def test_a_parent_decides_and_its_decision_is_counted_once(run, tape, adapter, decision, outcome, reason):
    async def main():
        async with ActorSystem() as system:
            await fail(await child_of(system.spawn(lambda: Boss(Echo, decision=decision))), ValueError())

    run(main)
    assert crashes(tape) == [("local:2", "receive", "ValueError", 0)]
    assert decisions(tape) == [("local:2", decision.value, "parent", outcome)]
    assert reasons(tape)["local:2"] == reason


def test_a_parent_that_raises_leaves_the_decision_to_the_policy(run, tape, adapter):
    async def main():
        async with ActorSystem() as system:
            boss = system.spawn(lambda: Boss(Echo, decision=KeyError(), policy=RESTART))
            await fail(await child_of(boss), ValueError())

    run(main)
    assert decisions(tape) == [("local:2", "restart", "policy", "restarted")]


@pytest.mark.parametrize("by", ["policy", "parent"])
def test_an_escalated_failure_happened_once_and_is_decided_at_each_level(run, tape, adapter, by):
    async def main():
        decision = SupervisorDecision.ESCALATE if by == "parent" else None
        async with ActorSystem() as system:
            boss = system.spawn(
                lambda: Boss(Echo, Echo, decision=decision, policy=ESCALATE), policy=RESTART, name="boss"
            )
            await child_of(boss)
            await fail(await child_of(boss), ValueError())
            await settle(system, 2)

    run(main)
    assert crashes(tape) == [("local:2", "receive", "ValueError", 0)]
    assert sorted(decisions(tape)) == [
        ("local:1", "restart", "policy", "restarted"),
        ("local:2", "escalate", by, "escalated"),
    ]
    ends = reasons(tape)
    assert (ends["local:2"], ends["local:3"]) == ("supervision", "parent")
    assert tape.named(s.ACTOR_RESTARTED, s.ACTOR_ADDRESS, s.ACTOR_INCARNATION) == [("local:1", 1)]


def test_a_root_that_escalates_is_stopped(run, tape, adapter):
    async def main():
        async with ActorSystem() as system:
            await fail(system.spawn(Echo, policy=ESCALATE), ValueError())

    run(main)
    assert decisions(tape) == [("local:1", "escalate", "policy", "stopped")]
    assert reasons(tape) == {"local:1": "supervision"}


def test_an_asker_that_fails_with_its_childs_error_has_failed_itself(run, tape, adapter):
    async def main():
        async def ask_child(self):
            await self.children[0].ask(error)

        error = ValueError("shared")
        async with ActorSystem() as system:
            with pytest.raises(ValueError, match="shared"):
                await system.spawn(lambda: Boss(Echo)).ask(ask_child)

    run(main)
    assert crashes(tape) == [("local:2", "receive", "ValueError", 0), ("local:1", "receive", "ValueError", 0)]


def test_restarts_count_up_until_the_limit_refuses_one(run, tape, adapter):
    async def main():
        async with ActorSystem() as system:
            ref = system.spawn(Echo, policy=RESTART)
            for _ in range(3):
                await fail(ref, ValueError())

    run(main)
    assert tape.named(s.ACTOR_RESTARTED, s.ACTOR_INCARNATION) == [1, 2]
    keys = (s.RESTART_COUNT, s.RESTART_LIMIT, s.RESTART_WINDOW)
    assert decisions(tape, *keys) == [
        ("local:1", "restart", "policy", "restarted", 1, 2, 60.0),
        ("local:1", "restart", "policy", "restarted", 2, 2, 60.0),
        ("local:1", "restart", "policy", "restart_limit_exceeded", 2, 2, 60.0),
    ]
    assert [c[3] for c in crashes(tape)] == [0, 1, 2]
    assert reasons(tape) == {"local:1": "restart_limit"}
    assert tape.named(s.ACTOR_STOPPED, s.ACTOR_INCARNATION) == [2]
    severities = [severity for event, severity, _ in tape.facts if event == s.SUPERVISION_DECIDED]
    assert severities == ["WARN", "WARN", "ERROR"]


def test_an_actor_whose_start_fails_never_started_and_the_real_cause_is_told(run, tape, adapter, counters):
    async def main():
        async with ActorSystem() as system:
            system.spawn(broken(LookupError("no database")))
            await settle(system)
            assert [type(e).__name__ for e in system.events()] == [
                "ActorCrashed",
                "ActorStarted",
                "ActorStopped",
            ]

    run(main)
    assert tape.stories() == ["actor.exception", "supervision.decided", "actor.stopped"]
    assert crashes(tape) == [("local:1", "start", "LookupError", 0)]
    assert tape.named(s.ACTOR_EXCEPTION, s.EXCEPTION_MESSAGE) == ["no database"]
    assert decisions(tape) == [("local:1", "stop", "policy", "stopped")]
    assert reasons(tape) == {"local:1": "start_failed"}
    assert counters.total(s.ACTOR_COUNT) == 0


def test_an_actor_that_starts_at_the_second_try_has_started(run, tape, adapter, counters):
    async def main():
        async with ActorSystem() as system:
            ref = system.spawn(broken(LookupError()), policy=RESTART)
            assert await ref.ask(1) == 1
            assert counters.total(s.ACTOR_COUNT) == 1

    run(main)
    assert tape.stories() == [
        "actor.exception",
        "actor.restarted",
        "supervision.decided",
        "actor.started",
        "actor.stopped",
    ]
    assert tape.named(s.ACTOR_STARTED, s.ACTOR_INCARNATION) == [1]
    assert counters.total(s.ACTOR_COUNT) == 0


def test_a_restart_whose_start_fails_has_failed_though_papyra_says_restarted(run, tape, adapter):
    async def main():
        async with ActorSystem() as system:
            ref = system.spawn(broken(None, LookupError()), policy=RESTART)
            await fail(ref, ValueError())
            assert sum(type(e).__name__ == "ActorRestarted" for e in system.events()) == 2
            assert await ref.ask(1) == 1

    run(main)
    assert crashes(tape) == [("local:1", "receive", "ValueError", 0), ("local:1", "start", "LookupError", 1)]
    assert [d[3] for d in decisions(tape)] == ["restarted", "restart_failed"]
    assert tape.named(s.ACTOR_RESTARTED, s.ACTOR_INCARNATION) == [2]


def test_starts_that_fail_until_the_limit(run, tape, adapter):
    async def main():
        async with ActorSystem() as system:
            system.spawn(broken(*[LookupError()] * 9), policy=RESTART)
            await settle(system)

    run(main)
    assert [d[3] for d in decisions(tape)] == ["restart_limit_exceeded", "restart_failed", "restart_failed"]
    assert [c[1:] for c in crashes(tape)] == [("start", "LookupError", n) for n in (0, 1, 2)]
    assert reasons(tape) == {"local:1": "restart_limit"}
    assert tape.named(s.ACTOR_STARTED) == tape.named(s.ACTOR_RESTARTED) == []


def test_a_factory_that_fails_at_a_restart_takes_the_system_down_and_is_told(run, tape, adapter):
    made = []

    def factory():
        made.append(1)
        if len(made) > 1:
            raise KeyError("no second one")
        return Echo()

    async def main():
        async with ActorSystem() as system:
            ref = system.spawn(factory, policy=RESTART)
            system.spawn(Echo)
            gate = anyio.Event()
            for message in (gate, ValueError(), "left behind"):
                await ref.tell(message)
            await anyio.wait_all_tasks_blocked()
            gate.set()
            await anyio.sleep_forever()

    with pytest.raises(BaseException) as caught:  # noqa: PT011 - a group, or on asyncio a cancellation
        run(main)
    assert not isinstance(caught.value, AssertionError)
    assert crashes(tape) == [("local:1", "receive", "ValueError", 0), ("local:1", "start", "KeyError", 0)]
    assert [d[3] for d in decisions(tape)] == ["restart_failed"]
    assert reasons(tape) == {"local:1": "start_failed", "local:2": "system_shutdown"}
    assert tape.named(s.DEAD_LETTER_CAPTURED, s.DEAD_LETTER_REASON, s.MESSAGE_TYPE) == [("undrained", "str")]


def test_a_late_reply_crashes_the_callee_in_phase_reply_and_the_caller_gave_up(run, tape, adapter):
    async def main():
        async with ActorSystem() as system:
            gate = anyio.Event()
            ref = system.spawn(Echo)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(AskTimeout):
                await ref.ask(gate, timeout=0.01)
            gate.set()
            await settle(system)

    run(main)
    ((address, phase, error_type, incarnation),) = crashes(tape)
    assert (address, phase, incarnation) == ("local:1", "reply", 0)
    assert (
        error_type.rpartition(".")[2] == "ClosedResourceError"
    )  # its module: private until somebody asks anyio for it
    assert tape.named(s.MESSAGE_PROCESSED, s.ERROR_TYPE) == [None]
    assert tape.named(s.ASK_TIMED_OUT, s.ACTOR_ADDRESS, s.MESSAGE_DURATION) == [("local:1", 0.01)]
    letter = s.ACTOR_ADDRESS, s.DEAD_LETTER_REASON, s.MESSAGE_KIND, s.MESSAGE_TYPE
    ((address, reason, kind, message_type),) = tape.named(s.DEAD_LETTER_CAPTURED, *letter)
    assert (address, reason, kind) == ("local:1", "late_reply", "ask")
    assert message_type.endswith(".Event"), "the message is the answer"


def test_a_late_reply_of_a_proxy_and_one_that_nobody_waited_for_any_more_because_it_was_cancelled(
    run, tape, adapter
):
    class Slow(Actor):
        async def count(self, gate):
            await gate.wait()
            return 7

        async def receive(self, gate):
            await gate.wait()
            return "done"

    async def main():
        async with ActorSystem() as system:
            for begin in (lambda ref, gate: ref.proxy().count(gate), lambda ref, gate: ref.ask(gate)):
                gate = anyio.Event()
                ref = system.spawn(Slow)
                async with anyio.create_task_group() as group:
                    group.start_soon(begin, ref, gate)
                    await anyio.wait_all_tasks_blocked()
                    group.cancel_scope.cancel()
                gate.set()
                await anyio.wait_all_tasks_blocked()

    run(main)
    letters = tape.named(
        s.DEAD_LETTER_CAPTURED, s.DEAD_LETTER_REASON, s.MESSAGE_KIND, s.MESSAGE_TYPE, s.MESSAGE_PAYLOAD
    )
    assert letters == [("late_reply", "proxy", "int", "7"), ("late_reply", "ask", "str", '"done"')]
    assert tape.named(s.ASK_TIMED_OUT) == []


def test_an_answer_in_time_and_a_failure_that_nobody_waits_for_are_no_late_replies(run, tape, adapter):
    async def main():
        async with ActorSystem() as system:
            gate = anyio.Event()
            ref = system.spawn(Echo)
            assert await ref.ask("in time", timeout=5) == "in time"

            async def fails(self):
                await gate.wait()
                raise LookupError

            with pytest.raises(AskTimeout):
                await ref.ask(fails, timeout=0.01)
            gate.set()
            await settle(system)

    run(main)
    assert [(p, e) for _, p, e, _ in crashes(tape)] == [("receive", "LookupError")]
    assert tape.named(s.DEAD_LETTER_CAPTURED) == []


def test_a_timeout_that_an_answer_brings_is_not_this_asks(run, tape, adapter):
    async def main():
        gate = anyio.Event()

        async def impatient(self):
            await self.children[0].ask(gate, timeout=0.01)

        async with ActorSystem() as system:
            with pytest.raises(AskTimeout):
                await system.spawn(lambda: Boss(Echo)).ask(impatient, timeout=5)
            gate.set()

    run(main)
    assert tape.named(s.ASK_TIMED_OUT, s.ACTOR_ADDRESS) == ["local:2"]


def test_what_on_stop_raises_is_told_and_swallowed_as_ever(run, tape, adapter):
    class Sticky(Echo):
        async def on_stop(self):
            raise OSError("cannot close")

    async def main():
        async with ActorSystem() as system:
            await fail(system.spawn(Sticky, policy=RESTART), ValueError())

    run(main)
    assert crashes(tape) == [
        ("local:1", "receive", "ValueError", 0),
        ("local:1", "stop", "OSError", 0),
        ("local:1", "stop", "OSError", 1),
    ]
    assert decisions(tape) == [("local:1", "restart", "policy", "restarted")]


def test_a_failure_while_stopping_is_told_though_papyra_hides_it(run, tape, adapter):
    async def main():
        async def stop_and_fail(self):
            await self.context.stop_self()
            raise ValueError("at the last moment")

        async with ActorSystem() as system:
            with pytest.raises(ValueError, match="last moment"):
                await system.spawn(Echo).ask(stop_and_fail)
            await settle(system)
            assert "ActorCrashed" not in {type(e).__name__ for e in system.events()}

    run(main)
    assert tape.stories() == ["actor.started", "actor.exception", "actor.stopped"]
    assert reasons(tape) == {"local:1": "self"}


def test_being_cancelled_is_no_failure(run, tape, adapter):
    async def main():
        with anyio.CancelScope() as scope:
            async with ActorSystem() as system:
                await system.spawn(Echo).tell(anyio.Event())
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
                await anyio.sleep_forever()

    with contextlib.suppress(BaseException):  # papyra's aclose does not survive cancellation everywhere
        run(main)
    gc.collect()
    assert crashes(tape) == decisions(tape) == []
    assert reasons(tape) == {"local:1": "system_shutdown"}


# --- messages ------------------------------------------------------------------------------------


def test_every_message_is_told_with_its_kind_and_outcome(run, tape, adapter):
    async def main():
        async with ActorSystem() as system:
            watched = system.spawn(Echo)
            watcher = system.spawn(Echo)
            await anyio.wait_all_tasks_blocked()

            async def watch(self):
                await self.context.watch(watched)

            await watcher.ask(watch)
            await watcher.tell("told")
            assert await watcher.proxy().double(4) == 8
            await watcher.proxy().note.set(1)
            assert await watcher.proxy().note == 1
            await system.stop(watched)
            await settle(system)
            await fail(watcher, ValueError())

    run(main)
    facts = tape.named(s.MESSAGE_PROCESSED, s.MESSAGE_KIND, s.MESSAGE_TYPE, s.ERROR_TYPE)
    assert facts == [
        ("ask", "function", None),
        ("tell", "str", None),
        ("proxy", "papyra.messages.ProxyCall", None),
        ("proxy", "papyra.messages.ProxySetAttr", None),
        ("proxy", "papyra.messages.ProxyGetAttr", None),
        ("system", "papyra._envelope.ActorTerminated", None),
        ("ask", "ValueError", "ValueError"),
    ]
    assert all(0 <= seconds < 60 for seconds in tape.named(s.MESSAGE_PROCESSED, s.MESSAGE_DURATION))
    assert all(0 <= seconds < 60 for seconds in tape.named(s.MESSAGE_PROCESSED, s.MESSAGE_WAIT))


def test_waiting_is_counted_from_the_senders_put(run, tape, adapter, monkeypatch):
    async def main():
        async with ActorSystem() as system:
            ref = system.spawn(Echo)
            await anyio.wait_all_tasks_blocked()
            gate = anyio.Event()
            await ref.tell(gate)
            await ref.tell("waits")
            await anyio.wait_all_tasks_blocked()
            now[0] += 7.0
            gate.set()
            await ref.ask("last")

    from papyra_otel.runtimes import _papyra_messages

    now = [100.0]
    monkeypatch.setattr(_papyra_messages, "perf_counter", lambda: now[0])
    run(main)
    assert tape.named(s.MESSAGE_PROCESSED, s.MESSAGE_WAIT) == [0.0, 7.0, 0.0]


# --- dead letters --------------------------------------------------------------------------------


def letters(tape):
    keys = (s.ACTOR_ADDRESS, s.DEAD_LETTER_REASON, s.MESSAGE_KIND, s.MESSAGE_TYPE)
    return tape.named(s.DEAD_LETTER_CAPTURED, *keys)


def test_what_is_sent_to_a_stopped_actor_is_told_once_each(run, tape, adapter):
    async def main():
        async with ActorSystem() as system:
            ref = system.spawn(Echo, name="gone")
            proxy = ref.proxy()
            await anyio.lowlevel.checkpoint()
            await system.stop(ref)
            await settle(system)
            for attempt in (lambda: ref.tell(1), lambda: ref.ask(2.0), lambda: proxy.double(3)):
                with pytest.raises(ActorStopped):
                    await attempt()
            with pytest.raises(ActorStopped):
                ref.proxy()
        with pytest.raises(ActorStopped):
            await ref.tell("late")
        assert len(system.dead_letters.messages) == 5

    run(main)
    assert letters(tape) == [
        ("local:1", "actor_stopped", "tell", "int"),
        ("local:1", "actor_stopped", "ask", "float"),
        ("local:1", "actor_stopped", "proxy", "papyra.messages.ProxyCall"),
        ("local:1", "actor_stopped", "proxy", "str"),
        ("local:1", "system_stopping", "tell", "str"),
    ]
    assert tape.named(s.DEAD_LETTER_CAPTURED, s.ACTOR_NAME)[0] == "gone"
    severities = [severity for event, severity, _ in tape.facts if event == s.DEAD_LETTER_CAPTURED]
    assert severities == ["WARN"] * 4 + ["DEBUG"]


def test_what_is_left_in_a_mailbox_and_what_still_waits_outside_it_are_told_once(run, tape, adapter):
    async def main():
        async def send(method, message):
            with pytest.raises((ActorStopped, MailboxClosed)):
                await method(message)

        async with ActorSystem() as system, anyio.create_task_group() as group:
            never = SupervisionPolicy(strategy=Strategy.RESTART, max_restarts=0)
            ref = system.spawn(Echo, mailbox_capacity=3, policy=never)
            await anyio.wait_all_tasks_blocked()
            gate = anyio.Event()

            async def wait_and_fail(self):
                await gate.wait()
                raise ValueError

            await ref.tell(wait_and_fail)
            await ref.tell("left")
            await ref.proxy().double.defer(1)
            group.start_soon(ask_for_ever, ref)
            await anyio.wait_all_tasks_blocked()
            group.start_soon(send, ref.tell, b"blocked")
            await anyio.wait_all_tasks_blocked()
            group.start_soon(send, ref.ask, 1.5)
            await anyio.wait_all_tasks_blocked()
            gate.set()
            await settle(system)
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()

    async def ask_for_ever(ref):
        await ref.ask({"still": "there"})

    run(main)
    assert letters(tape)[:3] == [
        ("local:1", "undrained", "tell", "str"),
        ("local:1", "undrained", "proxy", "papyra.messages.ProxyCall"),
        ("local:1", "undrained", "ask", "dict"),
    ]
    assert sorted(letters(tape)[3:]) == [
        ("local:1", "mailbox_closed", "ask", "float"),
        ("local:1", "mailbox_closed", "tell", "bytes"),
    ]


def test_a_system_that_closes_tells_what_it_leaves_behind_but_not_its_own_signals(run, tape, adapter):
    async def main():
        async def open_gate():
            await anyio.wait_all_tasks_blocked()
            gate.set()

        async with anyio.create_task_group() as group, ActorSystem() as system:
            await fill(system)
            group.start_soon(open_gate)  # while it closes
        return [type(envelope.message).__name__ for envelope in system._actors[0].mailbox._recv._state.buffer]

    async def fill(system):
        ref, watched = system.spawn(Echo), system.spawn(Echo)
        await anyio.wait_all_tasks_blocked()

        async def watch(self):
            await self.context.watch(watched)

        await ref.ask(watch)
        for message in (gate, "left"):
            await ref.tell(message)
            await anyio.wait_all_tasks_blocked()
        await ref.proxy().double.defer(1)
        await system.stop(watched)
        await settle(system)

    gate = anyio.Event()
    assert run(main) == ["str", "ProxyCall", "ActorTerminated", "_Stop"]
    assert letters(tape) == [
        ("local:1", "undrained", "tell", "str"),
        ("local:1", "undrained", "proxy", "papyra.messages.ProxyCall"),
    ]
    assert {severity for event, severity, _ in tape.facts if event == s.DEAD_LETTER_CAPTURED} == {"DEBUG"}


def test_messages_to_an_actor_that_never_ran_are_told_at_the_end(run, tape, adapter):
    async def main():
        async with ActorSystem() as system:
            system.spawn(Echo)
            rt = system._actors[-1]
            rt.mailbox._recv._state.buffer.append(envelope)
            await anyio.wait_all_tasks_blocked()
            sleeping = Mailbox(capacity=4)
            await sleeping.put(envelope)
            rt.mailbox, used = sleeping, rt.mailbox
            adapter._tracker.lives.clear()
            await used.aclose()
            await anyio.wait_all_tasks_blocked()
            await sleeping.aclose(receive=True)
            adapter._tracker._mailboxes.clear()

    from papyra._envelope import Envelope

    envelope = Envelope(message="never read")
    run(main)
    assert letters(tape) == [("local:1", "undrained", "tell", "str")]


def test_a_dead_letter_that_a_user_pushes_is_told_with_what_is_known(tape, adapter):
    mailbox = DeadLetterMailbox()
    mailbox.push(DeadLetter(target="somebody", message=1, expects_reply=False))
    assert letters(tape) == [("somebody", "actor_stopped", "tell", "int")]
    assert len(mailbox.messages) == 1


# --- audits --------------------------------------------------------------------------------------


def test_an_audit_of_the_users_is_told_once_from_its_report(run, tape, adapter):
    async def main():
        async with ActorSystem() as system:
            ref = system.spawn(Echo, name="dead")
            await anyio.wait_all_tasks_blocked()
            system._by_id[ref._rid].alive = False
            report = system.audit(include_actor_details=False)
            assert report.registry_dead == ("dead",)
            system._by_id[ref._rid].alive = True

    run(main)
    (audit,) = tape.named(s.AUDIT_COMPLETED)
    assert (audit[s.AUDIT_ACTORS_TOTAL], audit[s.AUDIT_ACTORS_ALIVE]) == (1, 0)
    assert audit[s.AUDIT_REGISTRY_DEAD] == ["dead"]
    assert audit[s.AUDIT_HEALTHY] is False
    assert audit[s.AUDIT_REASONS] == ["1 dead registry entry"]
    assert audit[s.AUDIT_UNSUPPORTED] == [
        Ability.UNHANDLED.value,
        Ability.GIVEN_UP.value,
        Ability.NO_SUBSCRIBER.value,
    ]


def test_audits_are_read_from_another_thread_without_papyras_audit(run, tape, adapter):
    calls = []

    class Hooks(hooks.DefaultHooks):
        def on_audit(self, report):
            calls.append(report)

    async def main():
        async with ActorSystem(system_id="shop", hooks=Hooks()) as system:
            ref = system.spawn(Echo, mailbox_capacity=2, name="a")
            ended = system.spawn(Echo)
            await anyio.wait_all_tasks_blocked()
            await system.stop(ended)
            await settle(system)
            gate = anyio.Event()
            for message in (gate, 1, 2):
                await ref.tell(message)
                await anyio.wait_all_tasks_blocked()
            system._registry["nobody"] = type(ref.address)(system="shop", actor_id=99)
            seen = await anyio.to_thread.run_sync(lambda: list(adapter.audits()))
            system._registry.pop("nobody")
            gate.set()
            return seen, system.audit()

    (audit,), report = run(main)
    assert calls == [report]
    assert (audit.system, audit.actors_total, audit.actors_alive) == ("shop", 2, 1)
    assert (audit.actors_stopping, audit.actors_restarting) == (report.stopping_actors, 0)
    assert (audit.registry_size, list(audit.registry_orphans), list(audit.registry_dead)) == (
        2,
        ["nobody"],
        [],
    )
    assert audit.mailbox_depths == {"shop:1": 2}
    assert list(audit.reasons) == ["1 registry orphan", "mailbox of shop:1 is full"]
    assert list(adapter.audits()) == []  # it is closed


def test_audits_bear_with_systems_that_change_meanwhile(run, adapter, counters):
    stop = threading.Event()
    seen = []

    def audit():
        while not stop.is_set():
            seen.extend(adapter.audits())

    async def main():
        async with ActorSystem() as system:
            thread = threading.Thread(target=audit)
            thread.start()
            for number in range(200):
                ref = system.spawn(Echo, name=f"echo-{number}")
                await ref.ask(number)
                await system.stop(ref)
            while len(seen) < 20:
                await anyio.lowlevel.checkpoint()
            stop.set()
            thread.join()

    run(main)
    assert counters.read(s.INSTRUMENTATION_ERRORS) == []
    assert len(seen) >= 20


def test_a_collected_system_disappears_and_nothing_keeps_it(run, adapter):
    async def main():
        system = ActorSystem()
        await system.start()
        ref = system.spawn(Echo, policy=RESTART)
        await fail(ref, ValueError())
        await system.aclose()
        with pytest.raises(ActorStopped):
            await ref.tell(1)
        return weakref.ref(system)

    gone = run(main)
    gc.collect()
    assert gone() is None
    assert adapter._tracker._systems == {}


def test_nothing_grows_with_messages_and_actors(run, adapter):
    async def main():
        async with ActorSystem() as system:
            ref = system.spawn(Echo, policy=RESTART)
            await anyio.wait_all_tasks_blocked()
            for number in range(200):
                await ref.ask(number)
                await system.stop(system.spawn(Echo))
            await settle(system, 200)
            await fail(ref, ValueError())
            tracker = adapter._tracker
            (life,) = tracker.lives.values()
            assert len(tracker._mailboxes) == 1
            assert life.put_at == {}
            assert life.failures == life.restarts == life.starts == []
            assert life.raised is None
            assert [state.left_over for state in tracker._systems.values()] == [{}]

    run(main)


# --- putting in and taking out -------------------------------------------------------------------


def test_uninstall_restores_every_attribute_and_twice_is_once(tape):
    before = [vars(owner)[name] for owner, name in PATCHED]
    adapter = PapyraAdapter(Recorder(tape, Counters()), Guard(Counters()), None)
    adapter.install()
    adapter.install()
    now = [vars(owner)[name] for owner, name in PATCHED]
    assert all(a is not b for a, b in zip(before, now, strict=True))
    assert [a.__qualname__ for a in before] == [b.__qualname__ for b in now]
    assert [inspect.iscoroutinefunction(a) for a in before] == [inspect.iscoroutinefunction(b) for b in now]
    assert [inspect.signature(a) for a in before] == [inspect.signature(b) for b in now]
    adapter.uninstall()
    adapter.uninstall()
    assert all(vars(owner)[name] is a for (owner, name), a in zip(PATCHED, before, strict=True))


def test_uninstalling_reaches_actors_that_run_and_installing_again_is_whole(run, tape, adapter):
    async def main():
        async with ActorSystem() as system:
            ref = system.spawn(Echo, policy=RESTART)
            await ref.ask(1)
            adapter.uninstall()
            told = len(tape.facts)
            await ref.ask(2)
            await fail(ref, ValueError())
            assert list(adapter.audits()) == []
            system.audit()
            assert len(tape.facts) == told
            adapter.install()
            await ref.ask(3)
            await system.spawn(Echo).ask(4)

    run(main)
    assert len(tape.named(s.MESSAGE_PROCESSED)) == 3
    assert len(tape.named(s.ACTOR_STOPPED)) == 2
    assert len(tape.named(s.SYSTEM_STOPPED)) == 1


def test_actors_that_ran_before_are_left_alone(run, tape, counters):
    adapter = PapyraAdapter(Recorder(tape, counters), Guard(counters), None)

    async def main():
        async with ActorSystem() as system:
            ref = system.spawn(lambda: Boss(Echo, decision=SupervisorDecision.ESCALATE), policy=RESTART)
            child = await child_of(ref)
            adapter.install()
            assert await ref.ask(1) == 1
            await fail(child, ValueError())
            assert len(list(adapter.audits())) <= 1
        adapter.uninstall()

    run(main)
    assert counters.read(s.INSTRUMENTATION_ERRORS) == []
    assert crashes(tape) == []


@pytest.mark.parametrize(
    ("gone", "lost"),
    [
        (
            "_handle_failure",
            {Ability.LATE_REPLY, Ability.LIFECYCLE, Ability.CRASHED, Ability.RESTARTED, Ability.DECIDED},
        ),
        ("audit", {Ability.AUDIT, *AUDIT_MEMBERS} - {Ability.MAILBOX_DEPTH}),
    ],
)
def test_a_missing_private_name_is_told_once_and_costs_only_what_needs_it(
    run, tape, caplog, monkeypatch, gone, lost
):
    own = {
        name: value
        for name, value in vars(ActorSystem).items()
        if name not in {gone, "__dict__", "__weakref__"}
    }
    Later = type("ActorSystem", (ActorSystem,), own)  # noqa: N806 - what some later papyra may have
    monkeypatch.setattr("papyra.system.ActorSystem", Later)
    counters = Counters()
    adapter = PapyraAdapter(Recorder(tape, counters), Guard(counters), None)
    with caplog.at_level(logging.WARNING, "papyra_otel"):
        adapter.install()

    async def main():
        async with Later() as system:
            assert await system.spawn(Echo).ask(1) == 1

    run(main)
    capabilities = adapter.capabilities()
    adapter.uninstall()
    assert set(CAPABILITIES) - capabilities.able == {
        *lost,
        Ability.UNHANDLED,
        Ability.GIVEN_UP,
        Ability.NO_SUBSCRIBER,
    }
    assert len(caplog.records) == 1
    assert f"(no ActorSystem.{gone})" in caplog.messages[0]
    assert counters.read(s.INSTRUMENTATION_ERRORS) == []
    assert len(tape.named(s.MESSAGE_PROCESSED)) == 1
    assert bool(tape.named(s.ACTOR_STARTED)) is (Ability.LIFECYCLE not in lost)


def test_this_papyra_has_every_private_name_that_is_needed(adapter):
    assert adapter.capabilities().able == frozenset(CAPABILITIES) - {
        Ability.UNHANDLED,
        Ability.GIVEN_UP,
        Ability.NO_SUBSCRIBER,
    }
    assert adapter._missing == ()
    for owner, name in PATCHED:
        assert name in vars(owner)
    assert adapter._tracker.version
    code = inspect.unwrap(ActorSystem._safe_on_stop).__code__
    assert set(code.co_names) <= {"actor", "on_stop", "Exception"}
    assert inspect.unwrap(ActorSystem._run_actor).__code__.co_name == "_run_actor"


def test_a_message_that_mailboxes_forget_is_still_in_the_buffer(run):
    async def main():
        mailbox = Mailbox(capacity=2)
        await mailbox.put("x")
        await mailbox.aclose(receive=True)
        return list(mailbox._recv._state.buffer)

    assert run(main) == ["x"]


# --- never interfering ---------------------------------------------------------------------------


def played(way, backend, *hook):
    if backend == "trio":
        pytest.importorskip("trio")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(PROGRAM), way, backend, *hook],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert "papyra_otel" not in done.stderr, done.stderr
    return done.returncode, done.stdout


@pytest.fixture(scope="module")
def bare():
    known = {}

    def of(backend):
        if backend not in known:
            known[backend] = played("bare", backend)
        return known[backend]

    return of


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("way", ["watched", "broken"])
def test_a_program_cannot_tell_whether_it_is_recorded(bare, way, backend):
    assert "event ActorCrashed" in bare(backend)[1]
    histories = {bare(backend)}
    for _ in range(
        4
    ):  # on a busy machine the program, also when nobody looks, has more than one order of ends
        if (seen := played(way, backend)) in histories:
            return
        histories.add(played("bare", backend))
    assert seen in histories


HOOKS = [
    *("start_begins", "start_ends", "aclose_begins", "aclose_ends", "run_begins", "run_ends"),
    *("on_start_begins", "on_start_ends", "on_stop_raised", "stop_begins", "stop_self_begins"),
    *("stop_runtime_begins", "stop_ends", "failure_begins", "failure_ends", "decision_begins"),
    *("restart_begins", "restart_ends", "limits_begins", "limits_ends", "put_begins", "put_failed"),
    *("get_begins", "got", "message_begins", "processed", "pushed", "push_ends", "ask_failed", "audited"),
    "_state",
]


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_of_ours_that_raises_changes_nothing(bare, hook):
    histories = {bare("asyncio")}
    for _ in range(4):
        if (seen := played("broken", "asyncio", hook)) in histories:
            return
        histories.add(played("bare", "asyncio"))
    assert seen in histories


def test_every_hook_is_among_those_that_were_made_to_raise():
    from papyra_otel.runtimes._papyra_state import Tracker

    public = {name for cls in Tracker.__mro__[:-1] for name in vars(cls) if not name.startswith("_")} - {
        "snapshots",
        "gauges",
        "follows",
        "told",
    }
    assert public <= set(HOOKS)


# --- what shows at any moment ---------------------------------------------------------------------


def test_gauges_show_nothing_of_what_cannot_be_told(run, tape, counters):
    adapter = PapyraAdapter(Recorder(tape, counters), Guard(counters), None)

    async def main():
        async with ActorSystem(system_id="shop") as system:
            await system.spawn(Echo, name="known").ask(1)
            tracker.able = able - {Ability.ACTIVE_AGE}
            (ageless,) = adapter.gauges()
            tracker.able = able - {Ability.AUDIT, Ability.MAILBOX_DEPTH}
            (other,) = adapter.gauges()
            tracker.able = frozenset({Ability.CRASHED})
            assert list(adapter.gauges()) == []
        return ageless, other

    adapter.install()
    tracker = adapter._tracker
    able = tracker.able
    try:
        ageless, other = run(main)
    finally:
        adapter.uninstall()
    assert (ageless.longest_active_seconds, ageless.registry_entries["ok"]) == ({}, 1)
    assert (other.registry_entries, other.mailbox_depths, other.blocked_senders) == ({}, {}, {})
    assert len(other.longest_active_seconds) == 1
    assert counters.read(s.INSTRUMENTATION_ERRORS) == []


def test_gauges_tell_what_waits_runs_and_is_blocked(run, adapter):
    class Slow(Actor):
        async def receive(self, message):
            await message.wait()

    async def main():
        async with ActorSystem(system_id="shop") as system:
            ref = system.spawn(Slow, name="slow", mailbox_capacity=2)
            await anyio.wait_all_tasks_blocked()
            gate = anyio.Event()
            async with anyio.create_task_group() as senders:
                for _ in range(5):  # one in hand, two in the mailbox, two that wait for room
                    senders.start_soon(ref.tell, gate)
                await anyio.wait_all_tasks_blocked()
                (shown,) = adapter.gauges()
                gate.set()
            await anyio.wait_all_tasks_blocked()
            (calm,) = adapter.gauges()
        return shown, calm

    shown, calm = run(main)
    (name,) = shown.mailbox_depths
    assert name.endswith("Slow")
    assert (shown.system, list(shown.mailbox_depths[name])) == ("shop", [2])
    assert shown.blocked_senders == {name: 2}
    assert shown.longest_active_seconds[name] > 0
    assert shown.registry_entries == {"ok": 1, "orphan": 0, "dead": 0}
    assert (calm.mailbox_depths, calm.blocked_senders) == ({name: [0]}, {name: 0})
    assert calm.longest_active_seconds == {name: 0.0}
    assert list(adapter.gauges()) == []
