"""``forward=outbox`` in programs of their own: outages, kills at the worst moment, forks, and how soon they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from delivery.receivers import RECEIVERS, Answer, Receiver, records_in, value_of
from e2e.harness import (
    NO_EXPORT,
    PROGRAMS,
    clean_environment,
    command,
    eventually,
    run,
    run_code,
    stored,
)
from papyra_otel import open_log

pytestmark = pytest.mark.slow

BEGIN = """
import os, signal, sys, threading, time
import papyra_otel
from papyra_otel import Actor

root = sys.argv[1]

def note(who, first, last):
    recorder = papyra_otel.plugin.current().recorder
    for n in range(first, last):
        recorder.started(Actor(system="s", type="T", address=f"{who}/{n}"), incarnation=n)

recording = papyra_otel.enable(f"file:{root}", runtimes=(), forward="outbox")
assert recording.active, recording.error
"""


def environ(receiver: Receiver, **more: str) -> dict[str, str]:
    return {"OTEL_SERVICE_NAME": "shop", **receiver.environ(), **more}


def uids(root: Path) -> list[str]:
    return [fact.uid for fact in stored(root)]


def actors(receiver: Receiver) -> Counter[str]:
    return Counter(
        value_of(record, "papyra.actor.address")
        for request in list(receiver.taken)
        for record in records_in(request)
    )


def test_a_program_delivers_what_it_records_before_it_ends(tmp_path, receiver):
    root = tmp_path / "facts"
    done = run_code(BEGIN + "note('a', 0, 700)\n", root, cwd=tmp_path, env=environ(receiver))
    assert done.stderr == ""
    assert sorted(receiver.uids) == sorted(uids(root))
    assert len(receiver.uids) == 700
    assert "shop" in str(receiver.taken[0].resource_logs[0].resource)


def test_it_delivers_while_it_runs(tmp_path, receiver):
    root = tmp_path / "facts"
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            BEGIN + "note('a', 0, 5); print('ok', flush=True); sys.stdin.read()",
            str(root),
        ],
        env=clean_environment(environ(receiver)),
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout.readline() == "ok\n"
        eventually(lambda: len(receiver.uids) == 5)
        process.stdin.close()
    assert process.returncode == 0


@pytest.mark.parametrize("kind", RECEIVERS)
def test_a_receiver_that_is_away_for_the_whole_run_costs_nothing_but_a_line(tmp_path, kind):
    root = tmp_path / "facts"
    away = RECEIVERS[kind]()
    away.close()
    done = run_code(BEGIN + "note('a', 0, 10)\n", root, cwd=tmp_path, env=environ(away))
    assert "cannot be delivered" in done.stderr
    assert "Traceback" not in done.stderr
    back = RECEIVERS[kind](away.port)
    try:
        run_code(BEGIN + "note('b', 0, 1)\n", root, cwd=tmp_path, env=environ(back))
        assert sorted(back.uids) == sorted(uids(root))
        assert sum(uid.endswith("-event-9") for uid in back.uids) == 1
    finally:
        back.close()


def test_a_receiver_that_hangs_does_not_keep_a_program_from_ending(tmp_path, receiver):
    """The receiver answers when the program is gone, and the timeout of a request is ten minutes."""
    root = tmp_path / "facts"
    receiver.behave = lambda request: Answer(hang=True)
    more = {"OTEL_EXPORTER_OTLP_TIMEOUT": "600", "OTEL_PYTHON_PAPYRA_EXIT_TIMEOUT": "300ms"}
    code = BEGIN + "note('a', 0, 10)\nos.write(1, b'end')\n"
    done = run_code(code, root, cwd=tmp_path, env=environ(receiver, **more))
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert receiver.asked.is_set()
    assert not receiver.released.is_set()
    receiver.behave = lambda request: Answer()
    run_code(BEGIN, root, cwd=tmp_path, env=environ(receiver))
    assert sorted(receiver.uids) == sorted(uids(root))


@pytest.mark.parametrize("killed_at", [1, 2, 3])
def test_killed_between_export_and_checkpoint_it_loses_nothing(tmp_path, receiver, killed_at):
    """The receiver takes a request and kills whoever sent it before it answers."""
    root = tmp_path / "facts"
    process = subprocess.Popen(
        [sys.executable, "-c", BEGIN + "note('a', 0, 1600); signal.pause()", str(root)],
        env=clean_environment(environ(receiver)), cwd=tmp_path, stdin=subprocess.DEVNULL,
    )  # fmt: skip

    def behave(request):
        if len(receiver.requests) == killed_at:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            return Answer(reset=True, taken=True)
        return Answer()

    receiver.behave = behave
    process.wait(60)
    assert process.returncode == -signal.SIGKILL
    before = Counter(receiver.uids)
    receiver.behave = lambda request: Answer()
    run_code(BEGIN, root, cwd=tmp_path, env=environ(receiver))
    after = Counter(receiver.uids)
    assert set(after) == set(uids(root))
    twice = {uid for uid, times in after.items() if times > 1}
    assert twice
    assert twice <= set(before)


def test_killed_again_and_again_it_loses_nothing(tmp_path, receiver):
    root = tmp_path / "facts"
    for n in range(6):
        receiver.asked.clear()
        process = subprocess.Popen(
            [sys.executable, "-c", BEGIN + f"note('p{n}', 0, 2000); signal.pause()", str(root)],
            env=clean_environment(environ(receiver)), cwd=tmp_path, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert receiver.asked.wait(30)
        process.kill()
        process.wait()
    run_code(BEGIN, root, cwd=tmp_path, env=environ(receiver, OTEL_PYTHON_PAPYRA_EXIT_TIMEOUT="60s"))
    assert set(receiver.uids) == set(uids(root))


def test_forked_children_record_and_take_over_when_the_parent_is_gone(tmp_path, receiver):
    """The parent has a connection when it forks, and the child makes its own."""
    root = tmp_path / "facts"
    code = BEGIN + (
        "note('parent', 0, 5)\n"
        "while not os.path.exists(f'{root}/.delivery/otlp.json'): time.sleep(0.01)\n"
        "parent = os.getpid()\n"
        "if os.fork() == 0:\n"
        "    while os.getppid() == parent: time.sleep(0.01)\n"
        "    note('child', 0, 5)\n"
        "    sys.exit(0)\n"
    )
    run_code(code, root, cwd=tmp_path, env=environ(receiver))
    eventually(lambda: len(set(receiver.uids)) == 10)
    assert actors(receiver) == {f"{who}/{n}": 1 for who in ("parent", "child") for n in range(5)}


def test_many_processes_deliver_one_log_once(tmp_path, receiver):
    root = tmp_path / "facts"
    code = BEGIN + (
        "children = []\n"
        "for i in range(4):\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        note(f'child{i}', 0, 200); sys.exit(0)\n"
        "    children.append(child)\n"
        "assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4\n"
        "note('parent', 0, 200)\n"
    )
    run_code(code, root, cwd=tmp_path, env=environ(receiver, OTEL_PYTHON_PAPYRA_EXIT_TIMEOUT="60s"))
    assert Counter(receiver.uids) == Counter(uids(root))
    assert len(receiver.uids) == 1000


def test_settings_that_are_wrong_are_said_and_facts_are_recorded(tmp_path, receiver):
    root = tmp_path / "facts"
    env = environ(receiver, OTEL_EXPORTER_OTLP_PROTOCOL="http/json")
    done = run_code(BEGIN + "note('a', 0, 3)\n", root, cwd=tmp_path, env=env)
    assert "OTEL_EXPORTER_OTLP_PROTOCOL='http/json' is not supported" in done.stderr
    assert len(uids(root)) == 3


def test_a_log_that_cannot_be_delivered_from_is_said(tmp_path, receiver):
    code = BEGIN.replace('f"file:{root}"', '"memory:"') + "note('a', 0, 3)\n"
    done = run_code(code, tmp_path, cwd=tmp_path, env=environ(receiver))
    assert "the memory log cannot deliver facts" in done.stderr


@pytest.mark.parametrize("shop", ["pykka_shop", "papyra_shop"])
def test_a_program_that_nobody_edited_delivers_from_its_log(tmp_path, receiver, shop):
    program = command(
        PROGRAMS / f"{shop}.py",
        instrument=True,
        flags=("--papyra_forward", "outbox", "--papyra_startup", "ignore"),
    )
    done = run(program, cwd=tmp_path, env=NO_EXPORT | environ(receiver))
    assert "papyra-otel" not in done.stderr
    facts = stored(tmp_path / "papyra-facts")
    assert len(facts) > 5
    leaving = [fact for fact in facts if fact.name != "papyra.message.processed"]
    assert Counter(receiver.uids) == Counter(fact.uid for fact in leaving)
    by_uid = {
        value_of(record, "log.record.uid"): record
        for request in receiver.taken
        for record in records_in(request)
    }
    for fact in leaving:
        record = by_uid[fact.uid]
        assert (record.event_name, record.time_unix_nano) == (fact.name, fact.time_unix_nano)
        assert record.severity_text == fact.severity
        assert record.trace_id.hex() == (fact.trace_id or "")


def test_over_redis_a_program_delivers_before_it_ends(tmp_path, receiver, redis_server):
    code = BEGIN.replace('f"file:{root}"', "root") + "note('a', 0, 300)\n"
    done = run_code(code, redis_server.url, cwd=tmp_path, env=environ(receiver))
    assert "Traceback" not in done.stderr
    with open_log(redis_server.url) as log:
        recorded = [entry.fact.uid for entry in log.read()]
    assert len(recorded) >= 300
    assert Counter(receiver.uids) == Counter(recorded)
    assert "shop" in str(receiver.taken[0].resource_logs[0].resource)
