"""dramatiq's own program, unedited tasks and a real Redis broker: workers that fork and spawn, signals, audits."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from e2e.harness import INSTRUMENT, NO_EXPORT, clean_environment, eventually, segments, stored
from papyra_otel import semconv as s
from papyra_otel.pipeline.counters import Counters
from papyra_otel.pipeline.guard import Guard
from papyra_otel.recorder import Recorder
from papyra_otel.runtimes.adapter import Ability
from papyra_otel.runtimes.dramatiq import DramatiqAdapter
from redis_servers.lab import Lab
from redis_servers.server import Server

dramatiq = pytest.importorskip("dramatiq")

from dramatiq.brokers.redis import RedisBroker  # noqa: E402 - where there is a dramatiq

from runtimes.dramatiq_support import Tape, dead, declared, handled, raised, working  # noqa: E402

PROGRAMS = Path(__file__).parent / "programs"
DRAMATIQ = Path(sys.executable).parent / "dramatiq"
QUEUES = ("default", "default.DQ")


@pytest.fixture
def server(lab: Lab) -> Server:
    return lab.server()


@contextmanager
def serving(folder: Path, server: Server, *flags: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``opentelemetry-instrument dramatiq tasks`` with two worker processes; kill it if the test leaves early."""
    settings = {
        "OTEL_PYTHON_PAPYRA_LOG": f"file:{folder / 'facts'}",
        "OTEL_PYTHON_PAPYRA_SYSTEM": "shop",
        "SHOP_REDIS": server.url,
        "SHOP_NOTES": str(folder / "notes"),
        "dramatiq_worker_timeout": "20",
        **NO_EXPORT,
    }
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            [INSTRUMENT, str(DRAMATIQ), "--path", str(PROGRAMS), "-p", "2", "-t", "2", *flags, "tasks"],
            cwd=folder,
            env=clean_environment(settings),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def send(server: Server, *names: str, **changes: Any) -> None:
    """Enqueue one message for each of *names*, as a program that nobody instruments does."""
    broker = RedisBroker(url=server.url, middleware=[])
    for n, name in enumerate(names):
        message = dramatiq.Message(queue_name="default", actor_name=name, args=(n,), kwargs={}, options={})
        broker.enqueue(message.copy(**changes))
    broker.client.close()


def settled(server: Server) -> bool:
    with server.new_client() as client:
        return not any(client.hlen(f"dramatiq:{queue}.msgs") for queue in QUEUES)


def dead_letters(server: Server) -> int:
    with server.new_client() as client:
        return client.zcard("dramatiq:default.XQ")


def story(folder: Path) -> dict[str, Counter[tuple[str, ...]]]:
    """Return what is recorded, by actor, without the threads."""
    tape = Tape()
    for fact in stored(folder / "facts"):
        tape.emit(event_name=fact.name, attributes={**fact.attributes, s.ACTOR_ADDRESS: fact.actor})
    actors = {f["attributes"][s.ACTOR_ADDRESS] for f in tape.facts} - {None}
    return {actor: Counter(tape.story(actor)) for actor in actors if "/" not in actor}


def began(folder: Path) -> int:
    return len(stored(folder / "facts", name=s.SYSTEM_STARTED))


LIVES: dict[str, list[tuple[str, ...]]] = {
    "fine": handled(),
    "flaky": raised("ConnectionError", "retry policy retried 1") + handled(),
    "doomed": raised("ValueError", "retry policy retried 1")
    + raised("ValueError", "give_up policy retries_exhausted 1")
    + dead("retries_exhausted"),
    "strict": raised("KeyError", "reject policy rejected") + dead("rejected"),
    "stale": dead("expired"),
    "nobody": dead("no_such_actor"),
    "hang": [],
}


def expected(times: int, processes: int) -> dict[str, Counter[tuple[str, ...]]]:
    """Return what each actor's story is after *times* messages to it, in *processes* that declared it."""
    stories: dict[str, Counter[tuple[str, ...]]] = {}
    for name, life in LIVES.items():
        known = [] if name == "nobody" else declared() * processes
        stories[name] = Counter(known + life * times)
    return stories


def send_all(server: Server, times: int) -> None:
    send(server, *["fine", "flaky", "doomed", "strict", "nobody"] * times)
    send(server, *["stale"] * times, message_timestamp=1)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["fork", "spawn"])
def test_workers_of_dramatiqs_own_program_record_everything_and_seal(
    way: str, server: Server, tmp_path: Path
) -> None:
    send_all(server, 5)
    with serving(tmp_path, server, *(["--use-spawn"] if way == "spawn" else [])) as process:
        eventually(lambda: began(tmp_path) == 2)
        send_all(server, 5)
        eventually(lambda: settled(server))
        process.send_signal(signal.SIGTERM)
        assert process.wait(40) == 0
    assert story(tmp_path) == expected(10, processes=2)
    calls = Counter((tmp_path / "notes").read_text().splitlines())
    processed = Counter(
        f"{fact.actor} {fact.attributes.get(s.ERROR_TYPE, 'ok')}"
        for fact in stored(tmp_path / "facts", name=s.MESSAGE_PROCESSED)
    )
    assert processed == calls
    assert dead_letters(server) == 40
    facts = stored(tmp_path / "facts")
    threads = Counter((f.name, f.attributes[s.ACTOR_TYPE]) for f in facts if "/" in (f.actor or ""))
    kinds = ("dramatiq.WorkerThread", "dramatiq.ConsumerThread")
    assert threads == {(name, kind): 4 for name in (s.ACTOR_STARTED, s.ACTOR_STOPPED) for kind in kinds}
    assert len(stored(tmp_path / "facts", name=s.SYSTEM_STOPPED)) == 2
    assert all(segments(tmp_path / "facts").values())


@pytest.mark.slow
def test_a_hangup_begins_anew_and_goes_on_recording(server: Server, tmp_path: Path) -> None:
    with serving(tmp_path, server) as process:
        for generation in (1, 2):
            eventually(lambda wanted=2 * generation: began(tmp_path) == wanted)
            send_all(server, 2)
            eventually(lambda: settled(server))
            process.send_signal(signal.SIGHUP if generation == 1 else signal.SIGTERM)
        assert process.wait(40) == 0
    assert story(tmp_path) == expected(4, processes=4)
    assert all(segments(tmp_path / "facts").values())


@pytest.mark.slow
def test_a_message_that_dies_with_its_worker_is_no_dead_letter_and_nothing_is_invented(
    server: Server, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    with serving(tmp_path, server) as process:
        eventually(lambda: began(tmp_path) == 2)
        send(server, "fine")
        eventually(lambda: settled(server))
        send(server, "hang")
        eventually(lambda: "hang begins" in notes.read_text())
        threads = stored(tmp_path / "facts", name=s.ACTOR_STARTED)
        for worker in {str(thread.attributes[s.ACTOR_PARENT]) for thread in threads}:
            os.kill(int(worker.rpartition("/")[2]), signal.SIGKILL)
        process.wait(40)
    known = Counter(declared() * 2)
    assert story(tmp_path) == {
        name: known + Counter(handled() if name == "fine" else []) for name in LIVES if name != "nobody"
    }
    assert dead_letters(server) == 0
    assert not settled(server)


# --- audits -----------------------------------------------------------------------------------------------


@pytest.fixture
def adapter() -> Iterator[DramatiqAdapter]:
    counters = Counters()
    adapter = DramatiqAdapter(Recorder(Tape(), counters), Guard(counters), "shop")
    adapter.install()
    yield adapter
    adapter.uninstall()
    assert counters.read(s.INSTRUMENTATION_ERRORS) == []


def test_an_audit_reads_the_queues_and_leaves_no_trace_in_the_server(
    adapter: DramatiqAdapter, server: Server
) -> None:
    pool = redis.ConnectionPool.from_url(server.url, max_connections=1)
    broker = RedisBroker(client=redis.Redis(connection_pool=pool), middleware=[])

    @dramatiq.actor(broker=broker)
    def job(n: int) -> None: ...

    for n in range(3):
        job.send(n)
    job.send_with_options(args=(3,), delay=60_000)
    with server.new_client() as client:
        client.zadd("dramatiq:default.XQ", {"one": 1, "two": 2})
        before = {key: client.dump(key) for key in client.scan_iter()}
        connection = pool.get_connection()  # the only one the application may have
        (audit,) = adapter.audits()
        assert audit.mailbox_depths == {"default": 3, "default.DQ": 1}
        assert (audit.dead_letters, list(audit.reasons)) == (2, [])
        assert {key: client.dump(key) for key in client.scan_iter()} == before
        pool.release(connection)
        pool.disconnect()
        eventually(lambda: len(client.client_list()) == 1)  # this one: none is left of an audit


def test_an_audit_of_a_broker_that_is_away_says_so_in_time_and_recovers(
    adapter: DramatiqAdapter, lab: Lab
) -> None:
    server = lab.server()
    broker = RedisBroker(url=server.url, middleware=[])
    dramatiq.actor(lambda: None, broker=broker, actor_name="job")
    (audit,) = adapter.audits()
    assert audit.mailbox_depths == {"default": 0, "default.DQ": 0}
    server.stop()
    (audit,) = adapter.audits()
    assert audit.mailbox_depths is None
    assert [reason.startswith("the broker's queues cannot be read: ") for reason in audit.reasons] == [True]
    server.start()
    (audit,) = adapter.audits()
    assert (audit.mailbox_depths, list(audit.reasons)) == ({"default": 0, "default.DQ": 0}, [])
    broker.client.close()


def test_what_an_audit_may_not_read_is_not_supported(adapter: DramatiqAdapter, lab: Lab) -> None:
    server = lab.server(options={"user": ["default on nopass ~* &* +@all -hlen"]})
    broker = RedisBroker(url=server.url, middleware=[])
    dramatiq.actor(lambda: None, broker=broker, actor_name="job")
    for _ in range(2):
        (audit,) = adapter.audits()
        assert audit.mailbox_depths is None
        assert list(audit.reasons) == []
        assert Ability.MAILBOX_DEPTH.value in audit.unsupported
    broker.client.close()


def test_a_client_of_somebodys_own_making_is_not_supported_and_not_unhealthy(
    adapter: DramatiqAdapter, server: Server
) -> None:
    class Strange:
        def register_script(self, script: object) -> None: ...

    broker = RedisBroker(client=Strange(), middleware=[])
    dramatiq.actor(lambda: None, broker=broker, actor_name="job")
    (audit,) = adapter.audits()
    assert (audit.mailbox_depths, list(audit.reasons)) == (None, [])
    assert Ability.MAILBOX_DEPTH.value in audit.unsupported


def test_messages_over_redis_are_recorded_by_workers_in_the_same_process(
    adapter: DramatiqAdapter, server: Server
) -> None:
    tape = adapter._recorder._emit.__self__  # type: ignore[attr-defined]
    broker = RedisBroker(url=server.url, middleware=[])

    @dramatiq.actor(broker=broker)
    def job(n: int) -> None:
        if n == 2:
            raise ValueError(n)

    with working(broker, threads=4):
        for n in range(4):
            job.send(n)
    assert Counter(tape.story("job")) == Counter(
        declared() + handled() * 3 + raised("ValueError", "ignore runtime lost") + dead("lost")
    )
    broker.client.close()
    gc.collect()
