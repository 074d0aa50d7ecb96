"""``opentelemetry-instrument python app.py``: every fact is in the file, and the same record at the collector."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from e2e.harness import PROGRAMS, Received, Receiver, command, eventually, run, serving, stored
from papyra_otel import Fact, FactKind
from papyra_otel import semconv as s

pytestmark = pytest.mark.slow

NUMBERS = {"DEBUG": 5, "INFO": 9, "WARN": 13, "ERROR": 17}


class Recorded(NamedTuple):
    """One run of a program under ``opentelemetry-instrument``, and what came of it."""

    facts: list[Fact]
    records: list[Received]
    stdout: str
    stderr: str
    code: int

    def about(self, *names: str) -> Counter[tuple[Any, ...]]:
        """Count the facts by name and the attributes *names*."""
        return Counter((f.name, *(f.attributes.get(n) for n in names)) for f in self.facts)


def record(program: str, receiver: Receiver, folder: Path, *flags: str) -> Recorded:
    """Run *program* until it was audited while it served, then let it end."""
    root = folder / "facts"
    arguments = command(
        PROGRAMS / f"{program}.py",
        instrument=True,
        flags=(f"--papyra_log=file:{root}", "--papyra_audit_interval=50ms", *flags),
    )
    with serving(arguments, cwd=folder, env=receiver.environment) as process:
        assert process.stdout is not None
        head = []
        while not head or head[-1] not in {"serving\n", ""}:
            head.append(process.stdout.readline())

        def audits() -> int:  # of the program's own system, not of the runtime it does not use
            system = "shop" if program == "papyra_shop" else "shop-service"
            return sum(fact.system == system for fact in stored(root, kinds=FactKind.AUDIT))

        while_served = audits() + 2  # the next may have begun before
        eventually(lambda: audits() >= while_served)
        out, err = process.communicate(timeout=40)
        records = [each for each in receiver.records() if each.name not in {s.LOG_OPENED, s.LOG_SEALED}]
        return Recorded(stored(root), records, "".join(head) + out, err, process.returncode)


def as_it_should_arrive(fact: Fact) -> Received:
    attributes = {**fact.attributes, s.SYSTEM_ID: fact.system}
    attributes.pop(s.MESSAGE_PAYLOAD, None)
    if fact.actor is not None:
        attributes[s.ACTOR_ADDRESS] = fact.actor
    attributes[s.FACT_KIND] = fact.kind.value
    attributes[s.LOG_RECORD_UID] = f"{fact.writer}-{fact.kind.value}-{fact.seq}"
    return Received(
        scope="papyra_otel",
        name=fact.name,
        time_unix_nano=fact.time_unix_nano,
        severity_text=fact.severity,
        severity_number=NUMBERS[fact.severity],
        attributes=attributes,
        trace_id=fact.trace_id or "",
        span_id=fact.span_id or "",
        service="shop-service",
    )


def by_uid(records: list[Received]) -> dict[str, Received]:
    found = {record.attributes[s.LOG_RECORD_UID]: record for record in records}
    assert len(found) == len(records), "a record came twice"
    return found


def values(receiver: Receiver, metric: str, *names: str) -> dict[tuple[Any, ...], float]:
    return {
        tuple(point.attributes.get(name) for name in names): point.value for point in receiver.points(metric)
    }


def counted(run_of: Recorded, name: str, *attributes: str) -> dict[tuple[Any, ...], int]:
    return dict(
        Counter(
            tuple(f.actor if n == s.ACTOR_ADDRESS else f.attributes.get(n) for n in attributes)
            for f in run_of.facts
            if f.name == name
        )
    )


@pytest.mark.parametrize("program", ["pykka_shop", "papyra_shop"])
def test_the_same_records_with_the_same_ids_are_in_the_file_and_at_the_collector(
    program: str, receiver: Receiver, tmp_path: Path
) -> None:
    done = record(program, receiver, tmp_path)
    assert done.stderr == "closing\n"
    expected = [as_it_should_arrive(fact) for fact in done.facts if fact.name != s.MESSAGE_PROCESSED]
    assert by_uid(done.records) == by_uid(expected)
    assert {fact.name for fact in done.facts} >= {s.MESSAGE_PROCESSED}
    assert {fact.kind for fact in done.facts} == set(FactKind)
    assert receiver.traces == []


@pytest.mark.parametrize("program", ["pykka_shop", "papyra_shop"])
def test_the_program_prints_and_exits_as_it_would_alone(
    program: str, receiver: Receiver, tmp_path: Path
) -> None:
    alone = run(command(PROGRAMS / f"{program}.py"), cwd=tmp_path)
    done = record(program, receiver, tmp_path)
    assert alone.returncode == 3
    assert (done.stdout, done.stderr, done.code) == (alone.stdout, alone.stderr, alone.returncode)


def test_every_fact_of_the_pykka_program_is_there(receiver: Receiver, tmp_path: Path) -> None:
    done = record("pykka_shop", receiver, tmp_path)
    assert counted(done, s.ACTOR_STARTED, s.ACTOR_TYPE) == {("Till",): 1, ("Printer",): 2, ("Bell",): 1}
    assert counted(done, s.ACTOR_STOPPED, s.ACTOR_TYPE, s.STOP_REASON) == {
        ("Printer", "supervision"): 1,
        ("Printer", "self"): 1,
        ("Bell", "requested"): 1,
        ("Till", "requested"): 1,
    }
    assert counted(done, s.ACTOR_EXCEPTION, s.ACTOR_TYPE, s.FAILURE_PHASE, s.EXCEPTION_MESSAGE) == {
        ("Printer", "receive", "paper jam"): 1
    }
    assert counted(done, s.DEAD_LETTER_CAPTURED, s.ACTOR_TYPE, s.DEAD_LETTER_REASON, s.MESSAGE_KIND) == {
        ("Printer", "actor_stopped", "tell"): 1,
        ("Printer", "actor_stopped", "ask"): 1,
        ("Printer", "undrained", "tell"): 2,
        ("Bell", "unhandled", "tell"): 1,
        ("Till", "unhandled", "ask"): 1,
    }
    assert {fact.system for fact in done.facts} == {"shop-service"}
    last = [fact for fact in done.facts if fact.kind is FactKind.AUDIT][-1]
    assert (last.attributes[s.AUDIT_ACTORS_ALIVE], last.attributes[s.AUDIT_HEALTHY]) == (2, True)


def test_every_fact_of_the_papyra_program_is_there(receiver: Receiver, tmp_path: Path) -> None:
    done = record("papyra_shop", receiver, tmp_path)
    assert counted(done, s.ACTOR_STARTED, s.ACTOR_TYPE, s.ACTOR_NAME, s.ACTOR_PARENT) == {
        ("Worker", "worker", None): 1,
        ("Worker", "keeper", None): 1,
        ("Worker", None, "shop:2"): 1,
        ("Parent", "parent", None): 1,
        ("Slow", "slow", None): 1,
    }
    assert counted(done, s.ACTOR_STOPPED, s.ACTOR_ADDRESS, s.STOP_REASON) == {
        ("shop:1", "restart_limit"): 1,
        ("shop:2", "system_shutdown"): 1,
        ("shop:3", "self"): 1,
        ("shop:4", "requested"): 1,
        ("shop:5", "supervision"): 1,
    }
    assert counted(done, s.ACTOR_EXCEPTION, s.ACTOR_ADDRESS, s.EXCEPTION_MESSAGE) == {
        ("shop:1", "broken"): 2,
        ("shop:5", "broken"): 1,
    }
    assert counted(done, s.ACTOR_RESTARTED, s.ACTOR_ADDRESS, s.ACTOR_INCARNATION) == {("shop:1", 1): 1}
    decisions = (s.ACTOR_ADDRESS, s.SUPERVISION_DIRECTIVE, s.SUPERVISION_SOURCE, s.SUPERVISION_OUTCOME)
    assert counted(done, s.SUPERVISION_DECIDED, *decisions) == {
        ("shop:1", "restart", "policy", "restarted"): 1,
        ("shop:1", "restart", "policy", "restart_limit_exceeded"): 1,
        ("shop:5", "stop", "parent", "stopped"): 1,
    }
    assert counted(done, s.DEAD_LETTER_CAPTURED, s.ACTOR_ADDRESS, s.DEAD_LETTER_REASON, s.MESSAGE_KIND) == {
        ("shop:1", "actor_stopped", "ask"): 1,
        ("shop:1", "actor_stopped", "tell"): 1,
        ("shop:3", "undrained", "tell"): 1,
        ("shop:2", "system_stopping", "tell"): 1,
    }
    assert counted(done, s.SYSTEM_STARTED, s.RUNTIME_NAME) == {("papyra",): 1}
    assert counted(done, s.SYSTEM_STOPPED, s.RUNTIME_NAME) == {("papyra",): 1}
    audits = [fact for fact in done.facts if fact.kind is FactKind.AUDIT and fact.system == "shop"]
    assert 2 in {audit.attributes[s.AUDIT_ACTORS_ALIVE] for audit in audits}


def test_the_metrics_arrive_and_agree_with_the_facts(receiver: Receiver, tmp_path: Path) -> None:
    done = record("papyra_shop", receiver, tmp_path)
    assert receiver.metric_names() >= {
        s.ACTOR_COUNT,
        s.ACTOR_STARTS,
        s.AUDIT_AGE,
        s.PERSISTENCE_RECORDS,
        s.PERSISTENCE_BYTES,
        s.QUEUE_SIZE,
        s.QUEUE_CAPACITY,
    }
    by_type = (s.SYSTEM_ID, s.ACTOR_TYPE)
    assert values(receiver, s.ACTOR_STARTS, *by_type) == {
        ("shop", "Worker"): 3,
        ("shop", "Parent"): 1,
        ("shop", "Slow"): 1,
    }
    assert values(receiver, s.ACTOR_COUNT, s.ACTOR_TYPE, s.ACTOR_STATE) == {
        ("Worker", "alive"): 0,
        ("Parent", "alive"): 0,
        ("Slow", "alive"): 0,
    }
    assert values(receiver, s.ACTOR_RESTARTS, *by_type) == {
        ("shop", "Worker"): 1,
        ("shop", "Parent"): 0,
        ("shop", "Slow"): 0,
    }
    assert values(receiver, s.ACTOR_FAILURES, *by_type, s.ERROR_TYPE) == {("shop", "Worker", "ValueError"): 3}
    for metric, fact, names in (
        (s.ACTOR_STOPS, s.ACTOR_STOPPED, (s.ACTOR_TYPE, s.STOP_REASON)),
        (s.DEAD_LETTER_MESSAGES, s.DEAD_LETTER_CAPTURED, (s.DEAD_LETTER_REASON, s.MESSAGE_KIND)),
        (s.PROCESSED_MESSAGES, s.MESSAGE_PROCESSED, (s.ACTOR_TYPE, s.MESSAGE_KIND, s.ERROR_TYPE)),
    ):
        summed: Counter[tuple[Any, ...]] = Counter()
        for point in receiver.points(metric):
            if point.value:
                summed[tuple(point.attributes.get(name) for name in names)] += int(point.value)
        assert dict(summed) == counted(done, fact, *names)
    of_kinds = values(receiver, s.PERSISTENCE_RECORDS, s.SYSTEM_ID, s.FACT_KIND)
    records = {kind: value for (system, kind), value in of_kinds.items() if system == "shop"}
    assert records.keys() == {"event", "dead_letter", "audit"}
    assert records["event"] == len([f for f in done.facts if f.kind is FactKind.EVENT and f.system == "shop"])
    for metric in (s.PERSISTENCE_DROPPED, s.INSTRUMENTATION_ERRORS):
        assert {point.value for point in receiver.points(metric)} == {0}


def test_messages_and_payloads_are_forwarded_only_when_asked(receiver: Receiver, tmp_path: Path) -> None:
    done = record(
        "pykka_shop", receiver, tmp_path, "--papyra_forward_messages=true", "--papyra_forward_payload=true"
    )
    assert {uid: r.name for uid, r in by_uid(done.records).items()} == {
        fact.uid: fact.name for fact in done.facts
    }
    letters = {fact.uid: fact.attributes.get(s.MESSAGE_PAYLOAD) for fact in done.facts}
    assert any(letters.values())
    arrived = {uid: r.attributes.get(s.MESSAGE_PAYLOAD) for uid, r in by_uid(done.records).items()}
    assert arrived == letters
    assert "hunter2" not in repr(done)


def test_payloads_are_in_the_file_redacted_and_do_not_leave_the_machine(
    receiver: Receiver, tmp_path: Path
) -> None:
    done = record("papyra_shop", receiver, tmp_path)
    payloads = [
        fact.attributes[s.MESSAGE_PAYLOAD] for fact in done.facts if fact.kind is FactKind.DEAD_LETTER
    ]
    assert len(payloads) == 4
    assert any(re.search(r"order.{1,4}7", payload) for payload in payloads)
    assert "hunter2" not in repr(payloads)
    assert {s.MESSAGE_PAYLOAD} & {name for r in done.records for name in r.attributes} == set()
    assert s.MESSAGE_PROCESSED not in {r.name for r in done.records}


@pytest.mark.parametrize("program", ["pykka_shop", "papyra_shop"])
def test_the_programs_name_nothing_of_ours(program: str) -> None:
    code = (PROGRAMS / f"{program}.py").read_text("utf-8")
    assert "import papyra_otel" not in code
    assert "opentelemetry" not in code
