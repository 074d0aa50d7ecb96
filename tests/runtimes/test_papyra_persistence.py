"""``ActorSystem(persistence=PapyraPersistence(url))`` on the real papyra: each test knows the true history."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

pytest.importorskip("papyra")

from papyra import Actor, ActorSystem
from papyra._envelope import DeadLetter
from papyra.address import ActorAddress
from papyra.events import ActorStarted
from papyra.exceptions import ActorStopped
from papyra.mailbox import Mailbox
from papyra.persistence.backends.retention import RetentionPolicy
from papyra.persistence.contract import PersistenceBackendContract, backend_capabilities
from papyra.persistence.models import (
    PersistedAudit,
    PersistedDeadLetter,
    PersistedEvent,
    PersistenceAnomalyType,
    PersistenceRecoveryConfig,
    PersistenceRecoveryMode,
)
from papyra.persistence.startup import PersistenceStartupConfig, PersistenceStartupMode
from papyra.supervision import Strategy, SupervisionPolicy

import papyra_otel
from papyra_otel import FactKind, LogError, PapyraPersistence, open_log, plugin
from papyra_otel import semconv as s
from papyra_otel.errors import ConfigError
from papyra_otel.log.file.fs import OsFileSystem
from papyra_otel.log.redis.redislog import RedisLog
from papyra_otel.persistence import watching
from redis_servers.processes import free_port

PROGRAM = Path(__file__).parent / "programs" / "papyra_persisting.py"
RESTART = SupervisionPolicy(strategy=Strategy.RESTART, max_restarts=5, within_seconds=60.0)
NAMES = {
    s.ACTOR_STARTED: "ActorStarted",
    s.ACTOR_STOPPED: "ActorStopped",
    s.ACTOR_EXCEPTION: "ActorCrashed",
    s.ACTOR_RESTARTED: "ActorRestarted",
}


class Worker(Actor):
    async def receive(self, message):
        if isinstance(message, Exception):
            raise message
        return message


@pytest.fixture(params=["asyncio", "trio"])
def run(request):
    return lambda main: anyio.run(main, backend=request.param)


@pytest.fixture(params=["memory", "file"])
def url(request, tmp_path):
    name = f"memory:{tmp_path.name}-{os.urandom(4).hex()}"
    return name if request.param == "memory" else f"file:{tmp_path / 'facts'}"


@pytest.fixture
def make():
    """Makes backends that are closed in the end; nothing of ours may have failed on the way."""
    made = []

    def make(url, **settings):
        backend = PapyraPersistence(url, **({"forward": "off"} | settings))
        made.append(backend)
        return backend

    yield make
    papyra_otel.disable()
    for backend in made:
        anyio.run(backend.aclose)
    assert plugin._leased == [], "what was opened is closed"


def history(system):
    """What happened, as papyra itself remembers it: event types in order, per actor."""
    told = {}
    for event in system.events():
        told.setdefault(f"{event.address['system']}:{event.address['actor_id']}", []).append(
            type(event).__name__
        )
    return told


def stored(url):
    """What the log holds, by actor."""
    told = {}
    with open_log(url) as log:
        for entry in log.read(kinds=FactKind.EVENT):
            if entry.fact.name in NAMES:
                told.setdefault(entry.fact.actor, []).append(NAMES[entry.fact.name])
    return told


def facts(url, name):
    with open_log(url) as log:
        return [entry.fact for entry in log.read(name=name)]


async def crash(ref):
    with contextlib.suppress(Exception):
        await ref.ask(ValueError("no"))


# --- nothing is lost ------------------------------------------------------------------------------


def test_every_event_is_stored_in_order_with_wall_time_and_those_of_closing_systems_too(run, make, url):
    backend = make(url)

    async def main():
        before = time.time()
        async with ActorSystem(persistence=backend) as system:
            refs = [system.spawn(Worker, policy=RESTART) for _ in range(50)]
            for ref in refs[:10]:
                await crash(ref)
            await system.stop(refs[0])
        assert Counter(event for events in history(system).values() for event in events) == {
            "ActorStarted": 50,
            "ActorCrashed": 10,
            "ActorRestarted": 10,
            "ActorStopped": 50,
        }
        assert stored(url) == history(system)
        events = await backend.list_events()
        assert [(e.actor_address, e.event_type) for e in events] == [
            (f"{e.address['system']}:{e.address['actor_id']}", type(e).__name__) for e in system.events()
        ]
        assert [e.payload for e in events] == [e.payload for e in system.events()]
        assert all(before <= e.timestamp <= time.time() for e in events), (
            "papyra stamps with the loop's clock"
        )

    run(main)


def test_dead_letters_of_a_closed_system_are_stored(run, make, url):
    backend = make(url)

    async def main():
        async with ActorSystem(persistence=backend) as system:
            ref = system.spawn(Worker)
            await system.stop(ref)
            with pytest.raises(ActorStopped):
                await ref.tell("during")
        with pytest.raises(ActorStopped):
            await ref.tell({"order": 7})
        with pytest.raises(ActorStopped):
            await ref.ask("asked")
        letters = await backend.list_dead_letters()
        assert [(x.target, x.message_type, x.payload) for x in letters] == [
            ("local:1", "str", "during"),
            ("local:1", "dict", {"order": 7}),
            ("local:1", "str", "asked"),
        ]
        told = [fact.attributes for fact in facts(url, s.DEAD_LETTER_CAPTURED)]
        assert [(x[s.DEAD_LETTER_REASON], x[s.MESSAGE_KIND]) for x in told] == [
            ("actor_stopped", "tell"),
            ("system_stopping", "tell"),
            ("system_stopping", "ask"),
        ]

    run(main)


def test_audits_are_stored_as_papyra_made_them(run, make, url):
    backend = make(url)

    async def main():
        async with ActorSystem(persistence=backend) as system:
            for n in range(3):
                system.spawn(Worker, name=f"n{n}")
            await anyio.lowlevel.checkpoint()
            made = [system.audit(), system.audit(include_actor_details=False)]
            system._registry |= {f"lost{n:02}": ActorAddress("local", 100 + n) for n in range(25)}
            made.append(system.audit())
        made.append(system.audit())
        audits = await backend.list_audits()
        fields = [name for name in PersistedAudit.__dataclass_fields__ if name != "timestamp"]
        assert [{n: getattr(x, n) for n in fields} for x in audits] == [
            {n: getattr(x, n) for n in fields} for x in made
        ]
        told = [fact.attributes for fact in facts(url, s.AUDIT_COMPLETED)]
        assert [attributes[s.AUDIT_HEALTHY] for attributes in told][:3] == [True, True, False]
        assert len(audits[2].registry_orphans) == 25, "more names than the attribute holds"
        assert len(told[2][s.AUDIT_REGISTRY_ORPHANS]) == 20

    run(main)


def test_a_burst_survives_sigkill(tmp_path):
    url = f"file:{tmp_path / 'facts'}"
    program = subprocess.Popen([sys.executable, PROGRAM, url], stdout=subprocess.PIPE, text=True)
    assert program.stdout is not None
    emitted = int(program.stdout.readline())  # said after the last one, without giving the loop a turn
    program.send_signal(signal.SIGKILL)
    program.wait()
    program.stdout.close()
    assert emitted == 3000
    assert len(facts(url, s.DEAD_LETTER_CAPTURED)) == emitted


def test_a_system_that_another_one_closed_the_backend_of_goes_on_being_recorded(run, make, url):
    backend = make(url)

    async def main():
        async with ActorSystem(system_id="a", persistence=backend) as lasting:
            async with ActorSystem(system_id="b", persistence=backend) as passing:
                passing.spawn(Worker)
                await anyio.lowlevel.checkpoint()
            assert backend.closed
            await crash(lasting.spawn(Worker))
        assert stored(url) == history(lasting) | history(passing)

    run(main)


# --- nothing is raised ----------------------------------------------------------------------------


class Hostile:
    def __getattribute__(self, name):
        raise RuntimeError("hands off")

    def __repr__(self):
        raise RuntimeError("hands off")


def circle():
    made = {}
    made["self"] = made
    return made


ODD = [b"\xff\x00", math.nan, "\ud800", circle(), object(), 10**400, {1: {2: 3}}, lambda: 0, Hostile()]


def test_odd_payloads_are_stored_and_stop_nothing(run, make, url):
    backend = make(url)

    async def main():
        async with ActorSystem(persistence=backend) as system:
            ref = system.spawn(Worker)
            alive = system.spawn(Worker)
            await system.stop(ref)
            for odd in ODD:
                with pytest.raises(ActorStopped):
                    await ref.tell(odd)
            assert await alive.ask("still there") == "still there"
        letters = await backend.list_dead_letters()
        assert len(letters) == len(ODD)
        assert backend.metrics.snapshot()["write_errors"] == 0

    run(main)


ANY = {
    "nothing": lambda: None,
    "number": lambda: 7,
    "text": lambda: "text",
    "empty": dict,
    "list": list,
    "hostile": Hostile,
    "odd fields": lambda: {"timestamp": "x", "system_id": 3, "payload": circle(), "registry_dead": 7},
}


@pytest.mark.parametrize("odd", ANY)
def test_any_object_is_recorded_and_counted(run, make, url, odd):
    backend = make(url)
    odd = ANY[odd]()

    async def main():
        await backend.record_event(odd)
        await backend.record_audit(odd)
        await backend.record_dead_letter(odd)
        lists = (backend.list_events, backend.list_audits, backend.list_dead_letters)
        assert [len(await listed()) for listed in lists] == [1, 1, 1]
        assert backend.metrics.snapshot()["records_written"] == 3

    run(main)


def test_secrets_in_payloads_are_not_stored(run, make, url):
    backend = make(url)

    async def main():
        await backend.record_dead_letter(
            PersistedDeadLetter("local", "local:1", "dict", {"password": "sesam-42"}, 1.0)
        )
        await backend.record_event(PersistedEvent("local", "local:1", "Mine", {"password": "sesam-42"}, 1.0))
        assert "sesam-42" not in repr([*await backend.list_dead_letters(), *await backend.list_events()])

    run(main)


def test_a_full_disk_stops_nothing_and_what_waited_is_stored_when_there_is_room(
    run, make, tmp_path, monkeypatch
):
    url = f"file:{tmp_path / 'facts'}"
    backend = make(url)
    write = OsFileSystem.write

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async def main():
        async with ActorSystem(persistence=backend) as system:
            ref = system.spawn(Worker, policy=RESTART)
            assert await ref.ask(1) == 1
            monkeypatch.setattr(OsFileSystem, "write", full)
            await crash(ref)
            assert await ref.ask(2) == 2, "the system runs on"
            system.spawn(Worker)
            await anyio.lowlevel.checkpoint()
            monkeypatch.setattr(OsFileSystem, "write", write)
        assert stored(url) == history(system)

    run(main)


def test_a_server_that_is_not_there_stops_nothing_but_what_asks_for_a_sound_log(run, make, capsys):
    url = f"redis://127.0.0.1:{free_port()}"
    backend = make(url)

    async def main():
        ignoring = PersistenceStartupConfig(mode=PersistenceStartupMode.IGNORE)
        async with ActorSystem(persistence=backend, persistence_startup=ignoring) as system:
            ref = system.spawn(Worker)
            assert await ref.ask(1) == 1
            assert not await _healthy(backend)
            with pytest.raises(LogError):
                await backend.list_events()
            assert (await backend.recover()).scan.has_anomalies
            assert await backend.compact() is None
        failing = PersistenceStartupConfig(mode=PersistenceStartupMode.FAIL_ON_ANOMALY)
        with pytest.raises(RuntimeError, match="anomalies"):
            await ActorSystem(persistence=backend, persistence_startup=failing).start()
        snapshot = backend.metrics.snapshot()
        assert (snapshot["recovery_errors"], snapshot["compaction_errors"]) == (1, 1)
        assert snapshot["scan_errors"] == 3

    run(main)
    assert "Recording begins all the same" in capsys.readouterr().err


async def _healthy(backend):
    return not (await backend.scan()).has_anomalies


def test_a_folder_that_cannot_be_written_is_said_and_stops_nothing(run, make, tmp_path, capsys):
    (tmp_path / "facts").write_text("a file is in the way")
    backend = make(f"file:{tmp_path / 'facts'}")

    async def main():
        async with ActorSystem(persistence=backend) as system:
            assert await system.spawn(Worker).ask(1) == 1
            assert not await _healthy(backend)
        assert backend.metrics.snapshot()["write_errors"] == 2

    run(main)
    assert "not recording" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong", [{"log": "nowhere"}, {"log": "gopher:x"}, {"log": "memory:", "fsync": "perhaps"}]
)
def test_a_wrong_url_or_setting_is_refused_when_the_backend_is_made(wrong):
    with pytest.raises(ConfigError):
        PapyraPersistence(**wrong)


# --- with the instrumentor ------------------------------------------------------------------------


def test_with_the_instrumentor_on_each_fact_is_there_once_and_the_richer_one(run, make, url):
    recording = papyra_otel.enable(url, runtimes=["papyra"], forward="off")
    backend = make(url)
    assert backend._held is recording, "one writer, one queue"

    async def main():
        async with ActorSystem(persistence=backend) as system:
            refs = [system.spawn(Worker, policy=RESTART) for _ in range(3)]
            await crash(refs[0])
            await system.stop(refs[0])
            with pytest.raises(ActorStopped):
                await refs[0].tell("late")
            system.audit()
        assert stored(url) == history(system)
        assert [e.event_type for e in await backend.list_events()].count("ActorStopped") == 3
        assert [x.payload for x in await backend.list_dead_letters()] == ["late"]
        assert len(await backend.list_audits()) == 1
        assert len(facts(url, s.DEAD_LETTER_CAPTURED)) == 1
        reasons = [fact.attributes[s.STOP_REASON] for fact in facts(url, s.ACTOR_STOPPED)]
        assert sorted(reasons) == ["requested", "system_shutdown", "system_shutdown"]
        assert facts(url, s.MESSAGE_PROCESSED), "the instrumentor's other facts are there"

    run(main)


def test_into_another_log_both_record(run, make, tmp_path):
    theirs, ours = f"file:{tmp_path / 'theirs'}", f"file:{tmp_path / 'ours'}"
    papyra_otel.enable(theirs, runtimes=["papyra"], forward="off")
    backend = make(ours)

    async def main():
        async with ActorSystem(persistence=backend) as system:
            await crash(system.spawn(Worker))
        assert stored(ours) == stored(theirs) == history(system)

    run(main)


@pytest.mark.parametrize("backend_first", [True, False])
@pytest.mark.parametrize("turned", ["on", "off"])
def test_turned_on_or_off_midway_each_fact_is_there_once(run, make, url, turned, backend_first):
    def enable():
        papyra_otel.enable(url, runtimes=["papyra"], forward="off")

    if not backend_first and turned == "off":
        enable()
    backend = make(url)
    if backend_first and turned == "off":
        enable()

    async def main():
        async with ActorSystem(persistence=backend) as system:
            old = [system.spawn(Worker, policy=RESTART) for _ in range(2)]
            await crash(old[0])
            enable() if turned == "on" else papyra_otel.disable()
            await crash(old[1])
            young = system.spawn(Worker, policy=RESTART)
            await crash(young)
            await system.stop(old[0])
            for ref in (old[0],):
                with pytest.raises(ActorStopped):
                    await ref.tell("late")
        assert stored(url) == history(system)
        assert len(facts(url, s.DEAD_LETTER_CAPTURED)) == 1

    run(main)


def test_turned_off_while_an_actor_ends_its_end_is_there_once(run, make, url, monkeypatch):
    papyra_otel.enable(url, runtimes=["papyra"], forward="off")
    backend = make(url)
    aclose = Mailbox.aclose

    async def turning_off(self, **how):
        if how.get("receive"):  # between papyra's last event of an actor and the end of its task
            papyra_otel.disable()
        return await aclose(self, **how)

    async def main():
        async with ActorSystem(persistence=backend) as system:
            ref = system.spawn(Worker)
            assert await ref.ask(1) == 1
            monkeypatch.setattr(Mailbox, "aclose", turning_off)
        assert stored(url) == history(system) == {"local:1": ["ActorStarted", "ActorStopped"]}

    run(main)


def test_what_a_program_records_itself_is_not_taken_for_the_instrumentors(run, make, url):
    papyra_otel.enable(url, runtimes=["papyra"], forward="off")
    backend = make(url)

    async def main():
        async with ActorSystem(persistence=backend) as system:
            assert await system.spawn(Worker).ask(1) == 1
            await backend.record_event(PersistedEvent("local", "local:1", "ActorStarted", {}, time.time()))
            await backend.record_event(ActorStarted(address={"system": "local", "actor_id": 1}))
        assert [e.event_type for e in await backend.list_events()].count("ActorStarted") == 3

    run(main)


def test_a_users_hooks_may_record_while_papyra_speaks(run, make, url):
    backend = make(url)

    class Hooks:
        def on_event(self, event):
            backend.record_event({"event_type": "Mine"}).close()

    async def main():
        async with ActorSystem(persistence=backend, hooks=Hooks()) as system:
            assert await system.spawn(Worker).ask(1) == 1
        assert Counter(e.event_type for e in await backend.list_events()) == {
            "Mine": 2,
            "ActorStarted": 1,
            "ActorStopped": 1,
        }
        assert all(e.timestamp > 1_600_000_000 for e in await backend.list_events())

    run(main)


def test_other_backends_are_left_alone(run, make):
    make("memory:")  # papyra is wrapped now

    async def main():
        async with ActorSystem() as system:
            await crash(system.spawn(Worker))
            system.audit()
        system.dead_letters.push(DeadLetter(target=None, message="m", expects_reply=False))
        assert type(system.persistence).__name__ == "InMemoryPersistence"
        assert getattr(watching._local, "hand", None) is None

    run(main)


# --- looking after the log ------------------------------------------------------------------------


def damaged(tmp_path, make):
    """Return the URL of a log of three facts, one of them damaged."""
    url = f"file:{tmp_path / 'facts'}"
    backend = make(url)
    for n in range(3):
        backend.record_event(PersistedEvent("local", f"local:{n}", "ActorStarted", {}, time.time())).close()
    anyio.run(backend.aclose)
    (segment,) = (tmp_path / "facts").glob("*/events/*.ndjson")
    lines = segment.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b"actor.started", b"actor.stopped")
    segment.write_bytes(b"".join(lines))
    return url


@pytest.mark.parametrize("mode", list(PersistenceStartupMode))
@pytest.mark.parametrize(
    "recovery",
    [None, PersistenceRecoveryConfig(), *map(PersistenceRecoveryConfig, PersistenceRecoveryMode)],
)
def test_papyras_startup_modes_do_with_a_damaged_log_what_they_say(run, make, tmp_path, mode, recovery):
    url = damaged(tmp_path, make)
    backend = make(url)
    looks_only = recovery is not None and recovery.mode is PersistenceRecoveryMode.IGNORE

    async def main():
        startup = PersistenceStartupConfig(mode=mode, recovery=recovery)
        system = ActorSystem(persistence=backend, persistence_startup=startup)
        refuses = mode is PersistenceStartupMode.FAIL_ON_ANOMALY
        if refuses or (mode is PersistenceStartupMode.RECOVER and looks_only):
            with pytest.raises(RuntimeError, match="nomalies"):
                await system.start()
            return
        async with system:
            await system.spawn(Worker).ask(1)
        events = await backend.list_events()
        assert [e.actor_address for e in events] == ["local:0", "local:2", "local:1", "local:1"]
        assert await _healthy(backend) is (mode is PersistenceStartupMode.RECOVER)

    run(main)


def test_a_scan_names_what_it_found_and_changes_nothing(run, make, tmp_path):
    url = damaged(tmp_path, make)
    backend = make(url)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.ndjson")}

    async def main():
        report = await backend.scan()
        assert [anomaly.type for anomaly in report.anomalies][:1] == [PersistenceAnomalyType.CORRUPTED_LINE]
        assert all(anomaly.path.startswith("local/events/") for anomaly in report.anomalies)
        assert backend.metrics.snapshot()["anomalies_detected"] == len(report.anomalies)
        recovered = await backend.recover(PersistenceRecoveryConfig(PersistenceRecoveryMode.QUARANTINE))
        assert recovered.scan == report
        assert recovered.repaired_files
        assert recovered.quarantined_files
        assert not (await backend.scan()).has_anomalies

    before_main = before.copy()
    anyio.run(backend.scan)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.ndjson")} == before_main
    backend.metrics.reset()
    run(main)


def test_a_killed_process_is_no_reason_to_refuse_a_start(run, make, tmp_path):
    url = f"file:{tmp_path / 'facts'}"
    with subprocess.Popen([sys.executable, PROGRAM, url], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        program.stdout.readline()
        program.kill()
    backend = make(url)

    async def main():
        startup = PersistenceStartupConfig(mode=PersistenceStartupMode.FAIL_ON_ANOMALY)
        async with ActorSystem(persistence=backend, persistence_startup=startup) as system:
            assert await system.spawn(Worker).ask(1) == 1

    run(main)


def test_retention_holds_for_each_kind_by_itself_and_compaction_removes_what_it_hides(run, make, tmp_path):
    backend = make(f"file:{tmp_path / 'facts'}", retention_policy=RetentionPolicy(max_records=5))

    async def main():
        await backend.record_dead_letter(PersistedDeadLetter("local", "local:1", "str", "old", time.time()))
        for n in range(20):
            await backend.record_event(PersistedEvent("local", f"local:{n}", "ActorStarted", {}, 1.0))
        assert [e.actor_address for e in await backend.list_events()] == [f"local:{n}" for n in range(15, 20)]
        assert len(await backend.list_dead_letters()) == 1, "events push out no dead letters"
        await backend.aclose()  # what is still being written stays whole
        report = await backend.compact()
        assert (report.backend, report.before_records, report.removed_records) == ("file", 21, 16)
        assert report["after_records"] == 5
        assert report.reclaimed_bytes > 0
        assert len(await backend.list_events()) == 4, "that it was compacted is the fifth event"

    run(main)


def test_the_loops_clock_does_not_make_facts_old(run, make, url):
    backend = make(url, retention_policy=RetentionPolicy(max_age_seconds=3600))

    async def main():
        async with ActorSystem(persistence=backend) as system:
            await system.spawn(Worker).ask(1)
        await backend.compact()
        assert len(await backend.list_events()) == 2

    run(main)


def test_lists_keep_the_newest_and_take_their_own_clock_for_since(run, make, url):
    backend = make(url)
    now = time.time()

    async def main():
        for at in (10.0, 20.0, 30.0, now - 60, now):
            await backend.record_event(
                PersistedEvent("local", {"system": "x", "actor_id": 1}, "Mine", {}, at)
            )
        listed = backend.list_events
        assert {e.timestamp for e in await listed()} == {10.0, 20.0, 30.0, now - 60, now}
        assert {e.timestamp for e in await listed(since=25.0)} == {30.0, now - 60, now}
        assert [e.timestamp for e in await listed(since=now - 30)] == [now]
        assert len(await listed(limit=2)) == 2
        assert await listed(limit=0) == ()
        assert (await listed(limit=1))[0].actor_address == {"system": "x", "actor_id": 1}

    run(main)


def test_it_is_what_papyra_expects(make):
    backend = make("memory:")
    assert backend
    assert isinstance(backend, PersistenceBackendContract)
    able = backend_capabilities(backend)
    assert able.supports_scan
    assert able.supports_recover
    assert able.supports_compact
    assert able.supports_metrics
    assert backend.retention == RetentionPolicy()


# --- a server -------------------------------------------------------------------------------------


def test_a_server_that_goes_and_comes_back_has_every_event(run, make, lab, tmp_path):
    server = lab.server()
    url = f"{server.url}?timeout=1"
    backend = make(url)

    async def main():
        async with ActorSystem(persistence=backend) as system:
            ref = system.spawn(Worker, policy=RESTART)
            await ref.ask(1)
            assert await until_stored(1)
            server.stop()
            await crash(ref)
            assert await ref.ask(2) == 2, "the system runs on"
            server.start()
        told = Counter(e.event_type for e in await backend.list_events())
        assert told["ActorCrashed"] == told["ActorRestarted"] == told["ActorStopped"] == 1

    async def until_stored(count):
        return len(await backend.list_events()) >= count

    run(main)


def test_what_comes_after_the_end_waits_for_no_server(run, make, redis_server, monkeypatch):
    backend = make(redis_server.url)

    def connect(_):
        raise AssertionError("an actor is waiting")

    async def main():
        async with ActorSystem(persistence=backend) as system:
            ref = system.spawn(Worker)
            await ref.ask(1)
        monkeypatch.setattr(RedisLog, "prepare", connect)
        with pytest.raises(ActorStopped):
            await ref.tell("late")
        await backend.aclose()
        assert [x.payload for x in await backend.list_dead_letters()] == ["late"]
        assert backend.metrics.snapshot()["write_errors"] == 0

    run(main)


def test_recording_and_backend_share_the_queue_to_a_server(run, make, redis_server):
    url = redis_server.url
    recording = papyra_otel.enable(url, runtimes=["papyra"], forward="off")
    backend = make(url)
    assert backend._held is recording

    async def main():
        async with ActorSystem(persistence=backend) as system:
            await crash(system.spawn(Worker, policy=RESTART))
        listed = await backend.list_events()
        assert [e.event_type for e in listed] == [type(e).__name__ for e in system.events()]
        assert stored(url) == history(system)
        assert not (await backend.scan()).has_anomalies
        assert (await backend.compact()).backend == "redis"

    run(main)
