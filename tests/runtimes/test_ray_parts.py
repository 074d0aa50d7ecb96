"""The parts of the ray adapter that need no ray: what looks tell, workers' hooks, calls of every kind."""

from __future__ import annotations

import asyncio
import builtins
import contextvars
import inspect
import sys
from dataclasses import replace
from types import FunctionType, SimpleNamespace
from typing import Any

import pytest

from papyra_otel import semconv as s
from papyra_otel.config import Settings
from papyra_otel.pipeline.counters import Counters
from papyra_otel.pipeline.guard import Guard
from papyra_otel.recorder import Recorder
from papyra_otel.runtimes._ray_calls import Calls
from papyra_otel.runtimes._ray_gcs import Losses
from papyra_otel.runtimes._ray_history import History
from papyra_otel.runtimes._ray_state import ActorSeen, Death, LostTask
from papyra_otel.runtimes.ray_processes import belongs_to_ray, with_hook


class Tape:
    def __init__(self) -> None:
        self.facts: list[dict[str, Any]] = []

    def emit(self, **fact: Any) -> None:
        self.facts.append(fact)

    def told(self, *names: str) -> list[tuple[Any, ...]]:
        """Return each fact as its name and those of its attributes that are *names*."""
        return [
            (
                fact["event_name"].removeprefix("papyra."),
                *(fact["attributes"][name] for name in names if name in fact["attributes"]),
            )
            for fact in self.facts
        ]


@pytest.fixture
def tape():
    return Tape()


@pytest.fixture
def recorder(tape):
    return Recorder(tape, Counters())


@pytest.fixture
def guard():
    class Strict(Guard):
        def failed(self, what):
            raise AssertionError(what) from sys.exc_info()[1]

    return Strict(Counters())


# --- looks ------------------------------------------------------------------------------------------


@pytest.fixture
def history(recorder, guard):
    return History(recorder, guard, "shop")


ALIVE = ActorSeen(
    id="a1",
    type="shop.Worker",
    name=None,
    state="ALIVE",
    restarts=0,
    max_restarts=3,
    detached=False,
    start_ms=1000,
    end_ms=0,
)


def dead(cause: str, text: str = "", **details: Any) -> ActorSeen:
    return replace(ALIVE, state="DEAD", end_ms=3500, death=Death(cause=cause, text=text), **details)


def outcomes(tape: Tape) -> list[tuple[Any, ...]]:
    return tape.told(s.SUPERVISION_OUTCOME, s.STOP_REASON, s.FAILURE_PHASE, s.RESTART_COUNT)


def test_restarts_between_two_looks_are_all_told_once(history, tape):
    for seen in (ALIVE, replace(ALIVE, restarts=3), replace(ALIVE, restarts=3)):
        history.look([seen])
    assert outcomes(tape) == [("supervision.decided", "restarted", n) for n in (1, 2, 3)]


def test_a_restart_is_told_when_its_outcome_shows(history, tape):
    history.look([replace(ALIVE, state="RESTARTING", restarts=1)])
    assert tape.facts == []
    history.look([replace(ALIVE, state="RESTARTING", restarts=2)])
    assert outcomes(tape) == [("supervision.decided", "restarted", 1)]
    history.look([dead("creation_task_failure_context", restarts=2)])
    assert outcomes(tape)[1:] == [
        ("supervision.decided", "restart_failed", 2),
        ("supervision.decided", "stopped", 2),
        ("actor.stopped", "start_failed"),
    ]


def test_what_is_said_of_an_actor_that_no_look_has_shown_waits_for_one_and_comes_before_what_that_shows(
    history, tape, recorder
):
    asked = contextvars.ContextVar("asked", default="elsewhere")
    asked.set("here")
    said: list[tuple[str, Any]] = []

    def tell(actor):
        said.append((asked.get(), actor))
        recorder.ask_timed_out(actor, message_type="ray.ObjectRef", timeout_seconds=1.0)

    history.when_known("a1", tell)
    history.look([])  # begun before there was the actor
    assert said == []
    contextvars.Context().run(history.look, [dead("RAY_KILL")])
    assert said == [("here", history.who("a1"))]
    assert tape.told(s.ACTOR_TYPE) == [("ask.timed_out", "shop.Worker"), ("actor.stopped", "shop.Worker")]
    history.when_known("a1", said.append)
    assert said[1:] == [history.who("a1")]


def test_what_is_said_of_an_actor_that_no_look_shows_is_told_all_the_same(history):
    said: list[Any] = []
    history.when_known("a1", said.append)
    for _ in range(2):
        history.look([])
    assert said == [None]
    history.when_known("a2", said.append)
    history.tell_waiting()
    assert said == [None, None]
    for n in range(1001):
        history.when_known(f"b{n}", said.append)
    assert len(said) == 3, "no more than a thousand wait"


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        (dead("RAY_KILL"), [("actor.stopped", "requested")]),
        (dead("OUT_OF_SCOPE"), [("actor.stopped", "out_of_scope")]),
        (dead("REF_DELETED"), [("actor.stopped", "out_of_scope")]),
        (dead("OWNER_DIED"), [("actor.stopped", "parent")]),
        (dead("WORKER_DIED", "Worker exit type: INTENDED_USER_EXIT"), [("actor.stopped", "self")]),
        (dead("WORKER_DIED", "Worker exit type: INTENDED_SYSTEM_EXIT"), [("actor.stopped", "unknown")]),
        (dead("something new"), [("actor.stopped", "unknown")]),
        (
            dead("WORKER_DIED", "SYSTEM_ERROR", max_restarts=0),
            [
                ("actor.exception", "receive"),
                ("supervision.decided", "stopped", 0),
                ("actor.stopped", "supervision"),
            ],
        ),
        (
            dead("NODE_DIED", max_restarts=1, restarts=1),
            [
                ("supervision.decided", "restarted", 1),
                ("actor.exception", "receive"),
                ("supervision.decided", "restart_limit_exceeded", 1),
                ("actor.stopped", "restart_limit"),
            ],
        ),
        (
            dead("actor_unschedulable_context", "no such node"),
            [
                ("actor.exception", "start"),
                ("supervision.decided", "stopped", 0),
                ("actor.stopped", "start_failed"),
            ],
        ),
    ],
)
def test_a_death_is_told_once_with_its_reason(history, tape, seen, told):
    history.look([seen])
    history.look([seen])
    history.end()
    assert outcomes(tape) == told
    assert tape.facts[-1]["attributes"][s.ACTOR_LIFETIME] == 2.5


def test_the_end_of_a_job_ends_who_lives_and_is_not_detached(history, tape):
    history.look([ALIVE, replace(ALIVE, id="a2", detached=True)])
    history.end()
    history.end()
    assert tape.told(s.ACTOR_ADDRESS, s.STOP_REASON) == [("actor.stopped", "a1", "system_shutdown")]


LOST = LostTask(id="t1", attempt=0, actor="a1", method="pay", error="ACTOR_DIED", sent=False)


def test_a_lost_call_is_told_one_round_later_and_once(history, tape):
    history.look([dead("RAY_KILL")])
    assert history.candidates(Losses([LOST], 0)) == ([LOST], [])
    assert history.candidates(Losses([LOST], 0)) == ([], [LOST])
    history.settle(LOST, 0)
    assert history.candidates(Losses([LOST], 0)) == ([], [])
    assert tape.told(s.MESSAGE_TYPE, s.DEAD_LETTER_REASON)[1:] == [
        ("dead_letter.captured", "pay", "actor_stopped")
    ]


def test_a_call_that_was_tried_again_is_no_dead_letter(history, tape):
    history.settle(LOST, 1)
    assert tape.facts == []


@pytest.mark.parametrize(
    ("lost", "reason"),
    [
        (replace(LOST, sent=True), "undrained"),
        (replace(LOST, sent=True, error="ACTOR_UNAVAILABLE"), "unknown"),
    ],
)
def test_the_reason_says_how_far_a_call_came(history, tape, lost, reason):
    history.settle(lost, 0)
    assert tape.told(s.DEAD_LETTER_REASON) == [("dead_letter.captured", reason)]
    assert s.MESSAGE_PAYLOAD not in tape.facts[0]["attributes"]


def test_an_audit_has_what_the_last_look_showed_and_what_ray_lost(history):
    history.look([ALIVE, replace(ALIVE, id="a2", state="RESTARTING", name="x"), dead("RAY_KILL", id="a3")])
    assert history.audit(()).reasons == []
    history.candidates(Losses([], 7))
    history.silence = "RpcError"
    audit = history.audit(("mailbox depth",))
    assert (audit.actors_total, audit.actors_alive, audit.actors_restarting, audit.registry_size) == (
        2,
        1,
        1,
        1,
    )
    assert len(audit.reasons) == 2
    assert audit.unsupported == ("mailbox depth",)


# --- workers ----------------------------------------------------------------------------------------


class JobConfig:
    def __init__(self, runtime_env=None):
        self.runtime_env = runtime_env

    def set_runtime_env(self, runtime_env):
        self.runtime_env = runtime_env


def hook_of(config: JobConfig) -> Any:
    return config.runtime_env["worker_process_setup_hook"]


@pytest.fixture
def joined(monkeypatch):
    seen: list[Any] = []
    monkeypatch.setattr("papyra_otel.plugin.join", lambda *what: seen.append(what))
    return seen


def test_a_job_gets_our_hook_and_the_programs_own_configuration_stays(joined):
    theirs = JobConfig({"env_vars": {"A": "1"}})
    chosen = with_hook(theirs, {"log": "file:///x"})
    assert theirs.runtime_env == {"env_vars": {"A": "1"}}
    chosen.runtime_env["env_vars"]["B"] = "2"  # as ray does
    assert theirs.runtime_env == {"env_vars": {"A": "1"}}
    hook_of(chosen)()
    assert joined == [("ray", {"log": "file:///x"})]


def test_the_programs_own_hook_runs_first_and_its_errors_are_its_own(joined):
    ran: list[str] = []
    hook_of(with_hook(JobConfig({"worker_process_setup_hook": lambda: ran.append("theirs")}), {}))()
    assert (ran, joined) == (["theirs"], [("ray", {})])

    def fails():
        raise KeyError("theirs")

    hook = hook_of(with_hook(JobConfig({"worker_process_setup_hook": fails}), {}))
    assert hook.__name__ == "fails"
    with pytest.raises(KeyError, match="theirs"):
        hook()


def test_a_hook_given_by_name_is_found_when_it_runs(joined):
    hook_of(with_hook(JobConfig({"worker_process_setup_hook": "gc.collect"}), {}))()
    assert len(joined) == 1


def test_a_worker_without_us_works_and_says_so(monkeypatch, capsys):
    hook = hook_of(with_hook(JobConfig(), {}))
    monkeypatch.setitem(sys.modules, "papyra_otel.plugin", None)
    hook()
    assert "this ray worker is not recorded: ModuleNotFoundError" in capsys.readouterr().err


def test_our_hook_needs_nothing_of_ours_to_be_unpickled(joined):
    hook = hook_of(with_hook(JobConfig(), {"log": "x"}))
    assert "<locals>" in hook.__qualname__  # so cloudpickle takes it by value
    bare = FunctionType(hook.__code__, {"__builtins__": builtins}, closure=hook.__closure__)
    bare()
    assert joined == [("ray", {"log": "x"})]


def test_a_hook_set_from_outside_is_left_alone():
    assert with_hook(JobConfig({"env_vars": {"__RAY_WORKER_PROCESS_SETUP_HOOK_ENV_VAR": "x"}}), {}) is None


@pytest.mark.parametrize(
    ("script", "rays"),
    [
        ("/v/site-packages/ray/_private/workers/default_worker.py", True),
        ("/v/site-packages/ray/dashboard/agent.py", True),
        ("/home/me/ray/app.py", False),
        ("app.py", False),
    ],
)
def test_rays_own_processes_are_told_from_the_programs(script, rays):
    assert belongs_to_ray(["python", "-u", script, "--node-ip-address=1.2.3.4"]) is rays
    assert not belongs_to_ray()


def test_what_is_handed_down_makes_the_same_settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ours = Settings.load({"messages": "sampled:7", "group": "a*=a", "forward_payload": True}, {})
    theirs = Settings.load(ours.handed_down(), {})
    assert theirs.log == f"file://{tmp_path}/papyra-facts"
    assert theirs.startup.value == "ignore"
    assert replace(theirs, log=ours.log, startup=ours.startup) == ours


# --- calls ------------------------------------------------------------------------------------------


class Worker:
    def __init__(self):
        self.done = []

    def plain(self, number):
        return 10 / number

    async def slow(self, number):
        await asyncio.sleep(0)
        return 10 / number

    def many(self, number):
        got = yield number
        yield got

    async def stream(self, number):
        try:
            yield number
            yield 10 / number
        finally:
            self.done.append(number)

    def leave(self):
        raise SystemExit(0)


@pytest.fixture
def watched(recorder, guard, monkeypatch):
    """A maker of executors as ray makes them, watched."""
    core = SimpleNamespace(get_actor_name=lambda: b"w", get_current_task_attempt_number=lambda: 2)
    worker = SimpleNamespace(actor_id=bytes.fromhex("0a"), core_worker=core)
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(__version__="2.60.0"))
    monkeypatch.setitem(sys.modules, "ray._private.worker", SimpleNamespace(global_worker=worker))
    calls = Calls(recorder, guard, "shop")
    calls.on = True

    def make(name):
        method = getattr(Worker, name)

        def executor(actor, *args, **kwargs):
            return method(actor, *args, **kwargs)

        executor.name, executor.method = name, method
        return executor

    return calls.around_factory(make), calls


def test_a_restarted_actor_says_so_itself(watched, tape):
    watched[0]("__init__")(Worker())
    assert tape.told(s.ACTOR_ADDRESS, s.ACTOR_NAME, s.ACTOR_INCARNATION) == [
        ("actor.restarted", "0a", "w", 2)
    ]


def test_results_and_errors_of_every_kind_of_method_pass_unchanged(watched, tape):
    make, calls = watched
    actor = Worker()
    assert make("plain").method is Worker.plain
    assert make("plain")(actor, 5) == 2
    with pytest.raises(ZeroDivisionError):
        make("plain")(actor, 0)
    assert asyncio.run(make("slow")(actor, 5)) == 2
    with pytest.raises(ZeroDivisionError):
        asyncio.run(make("slow")(actor, 0))
    generator = make("many")(actor, 3)
    assert inspect.isgenerator(generator)
    assert (next(generator), generator.send("x"), list(generator)) == (3, "x", [])
    with pytest.raises(SystemExit):
        make("leave")(actor)
    ok, failed = "message.processed", ("actor.exception", "ZeroDivisionError")
    assert tape.told(s.MESSAGE_TYPE, s.ERROR_TYPE) == [
        (ok, "plain"),
        (ok, "plain", "ZeroDivisionError"),
        failed,
        (ok, "slow"),
        (ok, "slow", "ZeroDivisionError"),
        failed,
        (ok, "many"),
        (ok, "leave"),
    ]
    assert calls.longest_seconds() == {f"{__name__}.Worker": 0.0}


def test_an_asynchronous_generator_lasts_until_it_ends(watched, tape):
    make, calls = watched

    async def read(number, most):
        actor = Worker()
        stream = make("stream")(actor, number)
        assert inspect.isasyncgen(stream)
        read = []
        async for each in stream:
            read.append(each)
            assert len(calls._under_way) == 1
            if len(read) == most:
                break
        await stream.aclose()
        assert actor.done == [number]  # closed with ours, not left to the garbage collector
        return read

    assert asyncio.run(read(5, 9)) == [5, 2]
    assert asyncio.run(read(5, 1)) == [5]
    with pytest.raises(ZeroDivisionError):
        asyncio.run(read(0, 9))
    assert [name for name, *_ in tape.told()] == [*["message.processed"] * 3, "actor.exception"]
    assert calls._under_way == {}


def test_rays_own_methods_and_private_ones_are_not_told(watched, tape):
    make, _ = watched
    Worker.__ray_ready__ = Worker._private = lambda self: 1
    assert make("__ray_ready__")(Worker()) == make("_private")(Worker()) == 1
    assert tape.facts == []


def test_what_is_switched_off_is_silent_and_works(watched, tape):
    make, calls = watched
    executor = make("plain")
    calls.on = False
    assert executor(Worker(), 5) == 2
    assert tape.facts == []


@pytest.mark.parametrize("verb", ["processed", "crashed", "started", "restarted"])
def test_a_broken_recorder_changes_no_result(watched, recorder, guard, monkeypatch, verb):
    failures = []
    monkeypatch.setattr(type(guard), "failed", lambda self, what: failures.append(what))
    monkeypatch.setattr(recorder, verb, lambda *_, **__: 1 / 0)
    make, _ = watched
    make("__init__")(Worker())
    assert make("plain")(Worker(), 5) == 2
    with pytest.raises(ZeroDivisionError):
        make("plain")(Worker(), 0)
    assert asyncio.run(make("slow")(Worker(), 5)) == 2
    assert bool(failures) is (verb != "started")
