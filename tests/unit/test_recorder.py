"""Each verb makes one event with the documented name, severity and attributes."""

from __future__ import annotations

from itertools import pairwise

import pytest

from papyra_otel import Actor, Recorder
from papyra_otel import semconv as s
from papyra_otel.config import PayloadMode
from papyra_otel.pipeline.counters import Counters
from papyra_otel.recorder import AuditSnapshot, qualified_name

WORKER = Actor(system="orders", type="shop.Worker", address="orders/1", name="w", parent="orders/0")
ABOUT = {
    "papyra.system.id": "orders",
    "papyra.actor.type": "shop.Worker",
    "papyra.actor.address": "orders/1",
    "papyra.actor.name": "w",
    "papyra.actor.parent": "orders/0",
}


class Emitted(list):
    def emit(self, **event):
        self.append(event)


@pytest.fixture
def emitted():
    return Emitted()


@pytest.fixture
def recorder(emitted):
    return Recorder(emitted, Counters(), clock=lambda: 42)


def one(emitted):
    (event,) = emitted
    assert event["timestamp"] == 42
    return event["event_name"], event["severity_text"], event["attributes"]


def test_started(recorder, emitted):
    recorder.started(WORKER, incarnation=0)
    assert one(emitted) == ("papyra.actor.started", "INFO", {**ABOUT, "papyra.actor.incarnation": 0})


def test_declared(recorder, emitted):
    recorder.declared(WORKER, mailbox="default")
    assert one(emitted) == ("papyra.actor.declared", "INFO", {**ABOUT, "papyra.mailbox.name": "default"})


def test_what_is_not_known_is_left_out(recorder, emitted):
    recorder.started(Actor(system="orders", type="T", address="a"))
    assert one(emitted)[2] == {
        "papyra.system.id": "orders",
        "papyra.actor.type": "T",
        "papyra.actor.address": "a",
    }


@pytest.mark.parametrize(
    ("reason", "severity"), [("requested", "INFO"), ("restart_limit", "WARN"), ("start_failed", "WARN")]
)
def test_stopped(recorder, emitted, reason, severity):
    recorder.stopped(WORKER, reason=reason, lifetime_seconds=1.5)
    attributes = {**ABOUT, "papyra.actor.stop.reason": reason, "papyra.actor.lifetime": 1.5}
    assert one(emitted) == ("papyra.actor.stopped", severity, attributes)


def test_crashed(recorder, emitted):
    try:
        raise KeyError("password=hunter2")
    except KeyError as error:
        recorder.crashed(WORKER, error, phase="receive")
    name, severity, attributes = one(emitted)
    assert (name, severity) == ("papyra.actor.exception", "ERROR")
    assert attributes["error.type"] == attributes["exception.type"] == "KeyError"
    assert attributes["papyra.failure.phase"] == "receive"
    assert "test_crashed" in attributes["exception.stacktrace"]
    assert "hunter2" not in repr(attributes)


def test_restarted(recorder, emitted):
    recorder.restarted(WORKER, incarnation=2)
    assert one(emitted) == ("papyra.actor.restarted", "WARN", {**ABOUT, "papyra.actor.incarnation": 2})


@pytest.mark.parametrize(
    ("outcome", "severity"),
    [
        ("restarted", "WARN"),
        ("restart_limit_exceeded", "ERROR"),
        ("restart_failed", "ERROR"),
        ("stopped", "WARN"),
        ("retried", "WARN"),
        ("rejected", "WARN"),
        ("retries_exhausted", "ERROR"),
        ("retry_failed", "ERROR"),
        ("lost", "ERROR"),
    ],
)
def test_decided(recorder, emitted, outcome, severity):
    recorder.decided(
        WORKER,
        directive="restart",
        source="parent",
        outcome=outcome,
        restart_count=3,
        restart_limit=3,
        restart_window_seconds=60.0,
    )
    name, said, attributes = one(emitted)
    assert (name, said) == ("papyra.supervision.decided", severity)
    assert attributes == {
        **ABOUT,
        "papyra.supervision.directive": "restart",
        "papyra.supervision.source": "parent",
        "papyra.supervision.outcome": outcome,
        "papyra.supervision.restart.count": 3,
        "papyra.supervision.restart.limit": 3,
        "papyra.supervision.restart.window": 60.0,
    }


class Order:
    def __init__(self):
        self.password = "hunter2"


def test_processed(recorder, emitted):
    recorder.processed(
        WORKER, message=Order(), kind="ask", duration_seconds=0.5, wait_seconds=0.1, error=OSError()
    )
    name, severity, attributes = one(emitted)
    assert (name, severity) == ("papyra.message.processed", "DEBUG")
    assert attributes["papyra.message.type"] == qualified_name(Order)
    assert attributes["papyra.message.kind"] == "ask"
    assert (attributes["papyra.message.duration"], attributes["papyra.message.wait"]) == (0.5, 0.1)
    assert attributes["error.type"] == "OSError"
    assert "papyra.message.payload" not in attributes


@pytest.mark.parametrize(("stopping", "severity"), [(False, "WARN"), (True, "DEBUG")])
def test_dead_letter(recorder, emitted, stopping, severity):
    message = {"order": 7, "password": "hunter2"}
    recorder.dead_letter(WORKER, message=message, reason="undrained", kind="tell", stopping=stopping)
    name, said, attributes = one(emitted)
    assert (name, said) == ("papyra.dead_letter.captured", severity)
    assert attributes["papyra.dead_letter.reason"] == "undrained"
    assert '"order":7' in attributes["papyra.message.payload"].replace(" ", "")
    assert "hunter2" not in attributes["papyra.message.payload"]


def test_a_payload_is_not_kept_when_none_is_wanted(emitted):
    Recorder(emitted, Counters(), payload=PayloadMode.NONE).dead_letter(
        WORKER, message="x", reason="unhandled", kind="tell"
    )
    assert "papyra.message.payload" not in emitted[0]["attributes"]


def test_a_healthy_audit(recorder, emitted):
    recorder.audit(
        AuditSnapshot(system="orders", actors_total=2, actors_alive=2, mailbox_depths={"a": 3, "b": 0})
    )
    name, severity, attributes = one(emitted)
    assert (name, severity) == ("papyra.audit.completed", "INFO")
    assert attributes == {
        "papyra.system.id": "orders",
        "papyra.audit.actors.total": 2,
        "papyra.audit.actors.alive": 2,
        "papyra.audit.mailbox.total": 3,
        "papyra.audit.mailbox.top": ["a=3"],
        "papyra.audit.healthy": True,
    }


def test_an_unhealthy_audit_says_why_and_is_bounded(recorder, emitted):
    depths = {f"a{n}": n for n in range(30)}
    names = [f"n{n:02}" for n in range(50)]
    recorder.audit(
        AuditSnapshot(system="orders", registry_dead=names, mailbox_depths=depths, reasons=["50 dead names"])
    )
    _, severity, attributes = one(emitted)
    assert severity == "WARN"
    assert attributes["papyra.audit.healthy"] is False
    assert attributes["papyra.audit.reasons"] == ["50 dead names"]
    assert len(attributes["papyra.audit.registry.dead"]) == 20
    assert attributes["papyra.audit.mailbox.top"][:2] == ["a29=29", "a28=28"]
    assert len(attributes["papyra.audit.mailbox.top"]) == 10


def test_the_runtime_coming_and_going(recorder, emitted):
    recorder.system_started("orders", runtime="papyra", version="0.3.0")
    recorder.system_stopped("orders", runtime="papyra")
    assert [event["event_name"] for event in emitted] == ["papyra.system.started", "papyra.system.stopped"]


# --- how long messages took, and who is counted as one ------------------------------------------------------


def test_every_duration_up_to_the_rate_is_recorded_and_evenly_chosen_ones_above():
    from papyra_otel.pipeline.durations import DurationSampler

    now, recorded = [0.0], []
    sampler = DurationSampler(lambda seconds, key: recorded.append(seconds), 100, lambda: now[0])
    for second in range(5):
        for n in range(80):
            sampler(n, ("calm",))
        now[0] = second + 1.0
    assert len(recorded) == 5 * 80
    recorded.clear()
    per_second = []
    for second in range(5, 15):
        for n in range(10_000):
            sampler(n, ("busy",))
        now[0] = second + 1.0
        per_second.append(len(recorded))
        last = recorded.copy()
        recorded.clear()
    assert max(per_second) <= 100 + 50 * 8  # the first second finds its stride
    assert max(per_second[1:]) <= 100
    steps = {b - a for a, b in pairwise(last)}
    assert steps == {100}


def test_each_kind_of_message_has_a_rate_of_its_own():
    from papyra_otel.pipeline.durations import DurationSampler

    recorded = []
    sampler = DurationSampler(lambda seconds, key: recorded.append(key), 10, lambda: 0.0)
    for _ in range(1000):
        sampler(1.0, ("many",))
    sampler(1.0, ("few",))
    assert recorded.count(("few",)) == 1


def test_types_are_counted_under_the_name_of_their_group():
    from papyra_otel.config import Grouping

    counters, emitted = Counters(), Emitted()
    group = Grouping("shop.Worker*=shop.Worker; *.Task-?=task")
    recorder = Recorder(emitted, counters, group=group)
    for n in range(3000):
        recorder.started(Actor(system="s", type=f"shop.Worker{n}", address=str(n)))
    recorder.started(Actor(system="s", type="x.Task-7", address="t"))
    assert dict(counters.read(s.ACTOR_STARTS)) == {("s", "shop.Worker"): 3000, ("s", "task"): 1}
    assert counters.total(s.ATTRIBUTE_OVERFLOW) == 0
    assert emitted[-1]["attributes"][s.ACTOR_TYPE] == "x.Task-7"  # facts stay exact


@pytest.mark.parametrize("text", ["shop.*", "=x", "a=", "a=b;;c"])
def test_a_wrong_group_is_told(text):
    from papyra_otel.config import Grouping
    from papyra_otel.errors import ConfigError

    with pytest.raises(ConfigError, match="is not pattern=name"):
        Grouping(text)
