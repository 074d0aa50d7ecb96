"""Recording into a real server that dies, hangs, refuses and comes back: nothing raised, nobody blocked, all told."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

import papyra_otel
from papyra_otel import Actor, open_log, semconv
from papyra_otel.errors import LogDamaged
from papyra_otel.log.redis.redislog import RedisLog
from papyra_otel.plugin import Recording
from papyra_otel.reports import Check
from redis_servers.lab import Lab
from redis_servers.server import Server
from redis_servers.waiting import until

ACTOR = Actor(system="s", type="T", address="s/1")
SECRET = "sesam-42"  # what must be shown nowhere


@pytest.fixture(autouse=True)
def no_recording() -> Iterator[None]:
    yield
    papyra_otel.disable()


@pytest.fixture
def server(lab: Lab) -> Server:
    return lab.server(options={"appendonly": True, "appendfsync": "always"})


def enable(url: str, **settings: object) -> Recording:
    return papyra_otel.enable(url, runtimes=(), system="s", **settings)


def record(recording: Recording, count: int = 1) -> float:
    """Record, and return how long the slowest took, in seconds."""
    longest = 0.0
    for _ in range(count):
        begun = time.perf_counter()
        recording.recorder.started(ACTOR)
        longest = max(longest, time.perf_counter() - begun)
    return longest


def seqs(url: str) -> list[int]:
    """Return the numbers of the stored events of actors."""
    with open_log(url) as log:
        return [entry.fact.seq for entry in log.read(name=semconv.ACTOR_STARTED)]


def dropped(recording: Recording) -> dict[str, int]:
    found: dict[str, int] = {}
    for (_, _, error_type, _), count in recording._counters.read(semconv.PERSISTENCE_DROPPED):
        found[error_type] = found.get(error_type, 0) + count
    return {error_type: count for error_type, count in found.items() if count}  # 0 is told of every one


def is_drained(recording: Recording) -> bool:
    return recording._writer.waiting()[0] == 0 and recording._writer._trouble is None


def test_facts_are_queued_whatever_was_chosen(server, capsys):
    recording = enable(server.url, write="through")
    record(recording)
    recording.flush()
    assert seqs(server.url) == [0]
    assert recording._writer._queued
    (line,) = capsys.readouterr().err.splitlines()
    assert "write=through" in line
    assert "queued all the same" in line


def test_what_was_flushed_is_read(server):
    recording = enable(server.url)
    for n in range(20):
        record(recording)
        recording.flush()
        assert seqs(server.url) == list(range(n + 1))


OUTAGES = {
    "killed": (lambda server, _: server.kill(), lambda server, _: server.start()),
    "paused": (lambda server, _: server.pause(), lambda server, _: server.resume()),
    "refused": (lambda _, proxy: (proxy.cut(), proxy.refuse()), lambda *_: None),
    "swallowed": (lambda _, proxy: proxy.swallow(), lambda *_: None),
    "oom": (
        lambda server, _: server.client().config_set("maxmemory", "1"),
        lambda server, _: server.client().config_set("maxmemory", "0"),
    ),
    "readonly": (
        lambda server, _: server.client().replicaof("127.0.0.1", 1),
        lambda server, _: server.client().replicaof("NO", "ONE"),
    ),
}


@pytest.mark.parametrize("outage", OUTAGES)
def test_an_outage_is_ridden_out(server, lab, outage):
    proxy = lab.proxy(server)
    url = f"redis://127.0.0.1:{proxy.port}?timeout=300ms&connect_timeout=300ms&wait_timeout=100ms"
    recording = enable(url)
    record(recording, 50)
    recording.flush()
    begin, end = OUTAGES[outage]
    begin(server, proxy)
    assert record(recording, 500) < 500 * 0.3, "who waited for a server would wait 0.3 s for each"
    until(lambda: recording._writer._trouble, "the outage is noticed")
    assert record(recording, 500) < 500 * 0.3
    end(server, proxy)
    proxy.heal()
    until(lambda: is_drained(recording), "what waited is stored")
    assert seqs(server.url) == list(range(1050))
    assert dropped(recording) == {}


def test_what_does_not_fit_is_counted_and_explained(server):
    recording = enable(f"{server.url}?timeout=300ms&wait_timeout=100ms")
    record(recording)
    recording.flush()
    server.kill()
    record(recording, 12_000)
    until(lambda: recording._writer._trouble, "the outage is noticed")
    server.start()
    until(lambda: is_drained(recording), "what waited is stored")
    recording.flush()
    (count,) = {sum(dropped(recording).values())}
    assert count > 0
    with open_log(server.url) as log:
        told = [entry.fact for entry in log.read(name=semconv.FACT_DROPPED)]
    assert sum(fact.attributes[semconv.DROPPED_COUNT] for fact in told) == count
    assert len(seqs(server.url)) + count == 12_001


def test_what_the_server_acknowledged_and_lost_is_counted_and_told(server):
    recording = enable(server.url)
    recording._log._log._appending._recent_facts_max = 100
    for _ in range(10):
        record(recording, 100)
        recording.flush()
    server.client().flushall()
    record(recording)
    recording.flush()
    recording.flush()
    assert dropped(recording) == {"rollback": 900}
    with open_log(server.url) as log:
        (told,) = [entry.fact for entry in log.read(name=semconv.FACT_DROPPED)]
    assert told.attributes[semconv.DROPPED_COUNT] == 900
    assert told.attributes[semconv.DROPPED_RANGES] == [f"{told.writer}-event-0..899"]
    assert told.attributes[semconv.ERROR_TYPE] == "rollback"
    assert seqs(server.url) == list(range(900, 1001))


# --- the end ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["paused", "swallowed"])
@pytest.mark.parametrize("noticed", [True, False])
def test_the_end_waits_for_one_timeout_at_most(server, lab, fault, noticed, capsys):
    proxy = lab.proxy(server)
    recording = enable(f"redis://127.0.0.1:{proxy.port}?timeout=1s&connect_timeout=1s&wait_timeout=100ms")
    record(recording)
    recording.flush()
    if fault == "paused":
        server.pause()
    else:
        proxy.swallow()
    record(recording, 3000)
    if noticed:
        until(lambda: recording._writer._trouble, "the outage is noticed")
    begun = time.monotonic()
    recording.at_exit()
    recording.at_exit()
    papyra_otel.disable()
    assert time.monotonic() - begun < 3.0, "one connection, one answer, and a busy machine"
    lines = [line for line in capsys.readouterr().err.splitlines() if "are lost" in line]
    assert lines[-1].startswith("papyra-otel: 3000 facts could not be written to redis://")
    assert sum(dropped(recording).values()) == 3000
    server.resume()


def test_what_is_recorded_after_the_end_began_is_stored(server):
    recording = enable(server.url)
    record(recording)
    recording.at_exit()
    recording._writer._worker.stop()  # as the interpreter does to daemon threads
    record(recording, 3)
    assert seqs(server.url) == [0, 1, 2, 3]
    recording.at_exit()


# --- the spill -------------------------------------------------------------------------------------------


def test_an_outage_with_a_spill_loses_nothing(server, tmp_path):
    recording = enable(f"{server.url}?timeout=300ms&wait_timeout=100ms", spill=f"{tmp_path}/spill")
    record(recording, 10)
    recording.flush()
    server.kill()
    for _ in range(30):
        assert record(recording, 1000) < 5  # a thousand of them, on a machine that does more
        until(lambda: recording._writer.waiting()[0] < 5000, "the ring is relieved")
    server.start()
    until(lambda: is_drained(recording) and not recording._spill.active, "everything is stored", seconds=40)
    assert seqs(server.url) == list(range(30_010))
    assert dropped(recording) == {}
    assert list((tmp_path / "spill").rglob("*.ndjson")) == []
    assert recording._counters.total(semconv.PERSISTENCE_SPILLED) > 10_000


def test_what_waits_at_the_end_is_spilled_and_stored_by_the_next(server, tmp_path, capsys):
    url = f"{server.url}?timeout=300ms&connect_timeout=300ms&wait_timeout=100ms"
    recording = enable(url, spill=f"{tmp_path}/spill")
    record(recording)
    recording.flush()
    server.pause()
    record(recording, 50)
    papyra_otel.disable()
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if f"50 facts for {recording.log_url}" in line] != []
    assert not any("are lost" in line for line in lines)
    server.resume()
    recording = enable(url, spill=f"{tmp_path}/spill")
    until(lambda: len(seqs(server.url)) == 51, "the next process stores it")
    with open_log(server.url) as log:
        assert len({entry.fact.writer for entry in log.read(name=semconv.ACTOR_STARTED)}) == 1
    until(lambda: not list((tmp_path / "spill").rglob("*.ndjson")), "and removes it")


# --- the start -------------------------------------------------------------------------------------------


def test_a_server_that_is_not_there_yet_keeps_nobody_from_recording(server, capsys):
    server.kill()
    recording = enable(server.url)
    (line,) = capsys.readouterr().err.splitlines()
    assert "Recording begins all the same: facts wait in memory until it is there." in line
    assert recording.active
    record(recording, 5)
    server.start()
    until(lambda: is_drained(recording), "what waited is stored")
    assert seqs(server.url) == [0, 1, 2, 3, 4]


def test_fail_refuses_a_server_that_is_not_there(server):
    server.kill()
    with pytest.raises(LogDamaged, match="see whether the server runs"):
        enable(server.url, startup="fail")


def test_a_wrong_password_is_said_and_may_be_corrected_on_the_server(lab, capsys):
    server = lab.server(password="right")
    recording = enable(f"redis://:{SECRET}@127.0.0.1:{server.port}")
    (line,) = capsys.readouterr().err.splitlines()
    assert "correct user and password" in line
    assert "Recording begins all the same" in line
    record(recording)
    server.client().config_set("requirepass", SECRET)
    until(lambda: is_drained(recording), "what waited is stored")
    shown = capsys.readouterr().err + repr(recording.settings) + repr(recording._log) + str(recording.log_url)
    assert SECRET not in line + shown
    papyra_otel.disable()
    with pytest.raises(LogDamaged, match="correct user and password"):
        enable(f"redis://:wrong{SECRET}@127.0.0.1:{server.port}", startup="fail")


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        (f"redis://u:{SECRET}@host:99999", "is not host or host:port"),
        (f"rediss+foo://u:{SECRET}@host", "no backend for 'rediss+foo'"),
        (f"redis://u:{SECRET}@host?durablity=aof", "is not an option"),
        (f"redis://u:{SECRET}@host?password={SECRET}&timeout=0", "timeout"),
    ],
)
def test_a_wrong_url_is_said_without_its_secrets(url, wanted, capsys):
    recording = enable(url)
    assert not recording.active
    (line,) = capsys.readouterr().err.splitlines()
    assert "not recording" in line
    assert wanted in line
    assert SECRET not in line + str(recording.error)


RISKS = (
    Check(name="eviction", ok=False, detail="maxmemory-policy is allkeys-lru", remedy="set noeviction"),
    Check(name="version", ok=True, detail="fine"),
    Check(name="memory", ok=False, severity="WARN", detail="no maxmemory"),
)


def test_risks_are_said_and_recorded(server, capsys, monkeypatch):
    monkeypatch.setattr(RedisLog, "risks", lambda self: RISKS)
    recording = enable(server.url)
    recording.flush()
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition("0: ")[2] for line in lines] == [
        "eviction: maxmemory-policy is allkeys-lru. Remedy: set noeviction.",
        "memory: no maxmemory.",
    ]
    with open_log(server.url) as log:
        facts = [entry.fact for entry in log.read(name=semconv.LOG_RISK)]
    assert [(fact.attributes[semconv.RISK_NAME], fact.severity) for fact in facts] == [
        ("eviction", "ERROR"),
        ("memory", "WARN"),
    ]


def test_a_real_risk_refuses_a_strict_start(lab):
    server = lab.server(options={"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"})
    with pytest.raises(LogDamaged, match=r"could lose facts without a word.*noeviction"):
        enable(server.url, startup="fail")
    papyra_otel.disable()
    assert enable(server.url).active


def test_a_severe_risk_refuses_a_strict_start(server, monkeypatch):
    monkeypatch.setattr(RedisLog, "risks", lambda self: RISKS)
    with pytest.raises(LogDamaged) as refused:
        enable(server.url, startup="fail")
    assert "eviction: maxmemory-policy is allkeys-lru. Remedy: set noeviction." in str(refused.value)
    assert "no maxmemory" not in str(refused.value)
    monkeypatch.setattr(RedisLog, "risks", lambda self: RISKS[1:])
    papyra_otel.disable()
    assert enable(server.url, startup="fail").active


# --- signs of life ---------------------------------------------------------------------------------------


def seen(server: Server, tag: str = "s") -> dict[str, tuple[str, int]]:
    fence = server.client().hgetall(f"papyra:{{{tag}}}:fence")
    return {
        name.decode(): (value.split()[6].decode(), int(value.split()[7])) for name, value in fence.items()
    }


def test_an_idle_process_shows_that_it_lives_and_an_ended_one_that_it_ended(server):
    recording = enable(server.url)
    record(recording)
    recording.flush()
    ((sealed, before),) = seen(server).values()
    assert sealed == "0"
    recording._writer._worker._chore_due = 0.0
    recording._writer._worker.wake()
    until(lambda: next(iter(seen(server).values()))[1] > before, "it is seen")
    recording.at_exit()
    ((sealed, ended),) = seen(server).values()
    assert sealed == "1"
    recording._beat()
    assert [*seen(server).values()] == [("1", ended)], "who ended does not come back to life"
    record(recording)
    recording.at_exit()
    assert [each for each, _ in seen(server).values()] == ["1"]


def test_a_beat_without_a_server_is_no_trouble(server):
    recording = enable(f"{server.url}?timeout=300ms&connect_timeout=300ms&wait_timeout=100ms")
    record(recording)
    recording.flush()
    server.kill()
    recording._beat()
