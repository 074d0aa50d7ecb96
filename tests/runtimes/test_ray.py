"""ray, on a real cluster that knows nothing of us: several jobs at once, and each is told exactly."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from importlib import util
from pathlib import Path

import pytest

from papyra_otel import open_log
from papyra_otel import semconv as s
from papyra_otel.runtimes._ray_state import NEEDS, NOTES
from runtimes.ray_support import ENVIRONMENT, PROGRAMS, running_cluster

pytestmark = [
    pytest.mark.skipif(util.find_spec("ray") is None, reason="ray is installed in nox -s ray only"),
    pytest.mark.slow,
    pytest.mark.timeout(300),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with running_cluster(tmp_path_factory.mktemp("cluster")) as address:
        yield address


class Job:
    """A driver that runs in a folder of its own, where its facts go by default."""

    def __init__(self, cluster: str, folder: Path, *command: str) -> None:
        self.folder = folder
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        environment = ENVIRONMENT | {"RAY_LIFE_CLUSTER": cluster}
        self.process = subprocess.Popen(command, env=environment, cwd=folder, text=True, **pipes)

    def end(self) -> None:
        out, self.errors = self.process.communicate(timeout=240)
        assert self.process.returncode == 0, self.errors
        self.told = json.loads(out.splitlines()[-1]) if out else None  # ray's own lines come before

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def facts(self):
        return [entry.fact for entry in open_log(f"file://{self.folder}/papyra-facts").read()]


@pytest.fixture(scope="module")
def jobs(cluster, tmp_path_factory):
    """The same program three times, side by side in one cluster: not recorded, recorded, and by a broken recorder."""
    started = {}
    for how in ("bare", "recorded", "broken"):
        folder = tmp_path_factory.mktemp(how)
        started[how] = Job(cluster, folder, sys.executable, str(PROGRAMS / "ray_life.py"), how, str(folder))
    try:
        for job in started.values():
            job.end()
    finally:
        for job in started.values():
            job.kill()
    return started


def test_a_program_sees_the_same_whether_it_is_recorded_or_not_or_by_a_broken_recorder(jobs):
    assert jobs["bare"].told["pool"] == [1, 2, 3, 4, 5, 6, 7, 8]  # it did run
    assert jobs["recorded"].told == jobs["bare"].told
    assert jobs["broken"].told == jobs["bare"].told
    assert [fact for fact in jobs["broken"].facts() if fact.name.startswith("papyra.actor")] == []


def test_the_programs_own_worker_hook_runs_as_ever(jobs):
    assert all(list(job.folder.glob("prepared-*")) for job in jobs.values())


ERROR = "ray.exceptions.ActorDiedError"
OK = ("message.processed", "ok")
WORKED = ("message.processed", "work")
INSIDE = {
    "Steady": [
        ("actor.started", 0),
        *[("message.processed", "add")] * 3,
        ("message.processed", "fail", "ValueError"),
        ("actor.exception", "receive", "ValueError", 0),
        ("message.processed", "count"),
    ],
    "Aio": [
        ("actor.started", 0),
        *[WORKED] * 5,
        ("message.processed", "boom", "KeyError"),
        ("actor.exception", "receive", "KeyError", 0),
        ("message.processed", "stream"),
    ],
    "Pool": [("actor.started", 0), *[WORKED] * 8],
    "Survivor": [("actor.started", 0), OK],
    "Phoenix": [("actor.started", 0), OK, ("actor.restarted", 1), OK],
    "Stubborn": [("actor.started", 0), ("actor.restarted", 1), ("message.processed", "once")],
    "Victim": [("actor.started", 0)],
    "Leaver": [("actor.started", 0), ("message.processed", "leave")],
    "Stillborn": [("actor.exception", "start", "RuntimeError", 0)],
    "Forgotten": [("actor.started", 0), ("message.processed", "pid")],
}
RESTARTED = ("supervision.decided", "restart", "policy", "restarted")
AT_THE_END = ("actor.stopped", "system_shutdown")
OUTSIDE = {
    **{name: [(*AT_THE_END, 0)] for name in ("Steady", "Aio", "Pool", "Survivor")},
    "Phoenix": [
        (*RESTARTED, 1, 1),
        ("actor.exception", "receive", ERROR, 1),
        ("supervision.decided", "restart", "policy", "restart_limit_exceeded", 1, 1),
        ("actor.stopped", "restart_limit", 1),
    ],
    "Stubborn": [(*RESTARTED, 1, 2), (*AT_THE_END, 1)],
    "Victim": [("ask.timed_out", "ray.ObjectRef"), ("actor.stopped", "requested", 0)],
    "Leaver": [("actor.stopped", "self", 0)],
    "Stillborn": [
        ("supervision.decided", "stop", "policy", "stopped", 0, 0),
        ("actor.stopped", "start_failed", 0),
    ],
    "Forgotten": [("actor.stopped", "out_of_scope", 0)],
}
DEAD_LETTERS = {
    ("Phoenix", "die", "unknown"): 1,
    ("Phoenix", "die", "undrained"): 1,
    ("Phoenix", "ok", "actor_stopped"): 2,
    ("Victim", "slow", "undrained"): 1,
    ("Victim", "ok", "undrained"): 1,
    ("Victim", "ok", "actor_stopped"): 1,
    ("Stillborn", "ok", "undrained"): 1,
}
GIST = (
    s.MESSAGE_TYPE,
    s.SUPERVISION_DIRECTIVE,
    s.SUPERVISION_SOURCE,
    s.SUPERVISION_OUTCOME,
    s.STOP_REASON,
    s.FAILURE_PHASE,
    s.ERROR_TYPE,
    s.ACTOR_INCARNATION,
    s.RESTART_COUNT,
    s.RESTART_LIMIT,
)


def gist(fact):
    details = (fact.attributes[name] for name in GIST if name in fact.attributes)
    return (fact.name.removeprefix("papyra."), *details)


def class_of(fact):
    return fact.attributes[s.ACTOR_TYPE].removeprefix("ray_life.")


def test_what_is_recorded_is_the_history_and_nothing_else(jobs):
    facts = jobs["recorded"].facts()
    (driver,) = {fact.writer for fact in facts if fact.name == s.SYSTEM_STARTED}
    told = [fact for fact in facts if s.ACTOR_TYPE in fact.attributes]
    letters = Counter(
        (class_of(fact), fact.attributes[s.MESSAGE_TYPE], fact.attributes[s.DEAD_LETTER_REASON])
        for fact in told
        if fact.name == s.DEAD_LETTER_CAPTURED
    )
    events = [fact for fact in told if fact.name != s.DEAD_LETTER_CAPTURED]
    inside = {
        name: [gist(f) for f in events if class_of(f) == name and f.writer != driver] for name in INSIDE
    }
    outside = {
        name: [gist(f) for f in events if class_of(f) == name and f.writer == driver] for name in OUTSIDE
    }
    assert inside == INSIDE
    assert outside == OUTSIDE
    assert letters == DEAD_LETTERS
    assert {class_of(fact) for fact in told} == set(INSIDE)


def test_one_actor_is_one_address_inside_and_outside(jobs):
    addresses: dict[str, set[str]] = {}
    for fact in jobs["recorded"].facts():
        if s.ACTOR_TYPE in fact.attributes:
            addresses.setdefault(class_of(fact), set()).add(fact.actor)
    assert {name: len(found) for name, found in addresses.items()} == dict.fromkeys(INSIDE, 1)


def test_the_job_is_the_system_and_is_told_once(jobs):
    facts = jobs["recorded"].facts()
    names = Counter(fact.name for fact in facts if s.ACTOR_TYPE not in fact.attributes)
    assert names[s.SYSTEM_STARTED] == names[s.SYSTEM_STOPPED] == 1
    assert {fact.system for fact in facts} == {"ray"}


def test_what_ray_says_of_a_dead_process_is_in_the_exception(jobs):
    (died,) = [f for f in jobs["recorded"].facts() if f.attributes.get(s.ERROR_TYPE) == ERROR]
    assert "Worker exit type: SYSTEM_ERROR" in died.attributes[s.EXCEPTION_MESSAGE]


def test_a_program_that_nobody_edited_is_recorded(cluster, tmp_path):
    instrument = str(Path(sys.executable).with_name("opentelemetry-instrument"))
    job = Job(cluster, tmp_path, instrument, sys.executable, str(PROGRAMS / "ray_small.py"))
    try:
        job.end()
    finally:
        job.kill()
    told = [gist(fact) for fact in job.facts() if s.ACTOR_TYPE in fact.attributes]
    assert sorted(told) == [
        ("actor.started", 0),
        ("actor.stopped", "system_shutdown", 0),
        ("message.processed", "say"),
    ]


NAMES = """
import json, logging, sys
logging.basicConfig(format="%(message)s", level="WARNING")
import ray
from ray._private import function_manager, worker
owners = [(function_manager.FunctionActorManager, "_make_actor_method_executor"), (worker, "connect"),
          (worker, "disconnect"), (worker.Worker, "get_objects")]
if sys.argv[1:]:
    delattr(function_manager.FunctionActorManager, owners.pop(0)[1])
before = [getattr(owner, name) for owner, name in owners]
import papyra_otel
recording = papyra_otel.enable("memory:", runtimes=["ray"])
(told,) = recording.capabilities()
wrapped = [getattr(owner, name) is not was for (owner, name), was in zip(owners, before)]
papyra_otel.disable()
restored = [getattr(owner, name) is was for (owner, name), was in zip(owners, before)]
print(json.dumps([told.unsupported(), all(wrapped), all(restored)]))
"""


@pytest.mark.parametrize("missing", [(), ("missing",)])
def test_every_private_name_is_there_is_put_back_and_may_be_missing(missing):
    done = subprocess.run(
        [sys.executable, "-c", NAMES, *missing], env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    unsupported, wrapped, restored = json.loads(done.stdout.splitlines()[-1])
    never = {ability.value for ability in NOTES}
    needing = {a.value for a, names in NEEDS.items() if missing and "FunctionActorManager" in str(names)}
    assert set(unsupported) == never | needing
    assert (wrapped, restored) == (True, True)
    assert done.stderr.count("this ray has no FunctionActorManager") == len(missing)
