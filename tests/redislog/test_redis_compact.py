"""Compacting a log on real servers: what is shown stays, whatever happens in between."""

from __future__ import annotations

import dataclasses
import itertools
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import pytest

from papyra_otel import semconv
from papyra_otel.errors import LogBusy, LogUnavailable
from papyra_otel.facts import Fact, FactKind
from papyra_otel.log import LogOptions
from papyra_otel.log.codec import encode
from papyra_otel.log.contract import Lost
from papyra_otel.log.redis import removal, stretch
from papyra_otel.log.redis.address import parse_address
from papyra_otel.log.redis.keys import Tag
from papyra_otel.log.redis.redislog import RedisLog
from papyra_otel.log.redis.wire import Command, Node, Reply, Wire
from papyra_otel.log.retention import parse_retention
from papyra_otel.testing import make_fact
from redis_servers.fixtures import require
from redis_servers.flavours import FLAVOURS, Flavour
from redis_servers.lab import Lab
from redis_servers.server import Server

DAY_MS = 86_400_000


def opened(url: str, retention: str = "", **more: Any) -> RedisLog:
    return RedisLog(parse_address(url), retention=parse_retention(retention), **more)


def shown(log: RedisLog, **query: Any) -> list[Fact]:
    return [entry.fact for entry in log.read(**query) if entry.fact.name != semconv.LOG_COMPACTED]


def audit(n: int, **changes: Any) -> Fact:
    return make_fact(n, kind=FactKind.AUDIT, **changes)


class Stopping:
    """A way to the servers that is cut after some messages."""

    def __init__(self, wire: Wire, left: int) -> None:
        self._wire = wire
        self.left = left

    def send(self, key: str, commands: Sequence[Command]) -> list[Reply]:
        if self.left == 0:
            raise LogUnavailable("cut", error_type="connection")
        self.left -= 1
        return self._wire.send(key, commands)

    def nodes(self) -> list[Node]:
        return self._wire.nodes()

    def close(self) -> None:
        self._wire.close()


@pytest.fixture
def short_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stretch, "_FIRST_COUNT", 3)
    monkeypatch.setattr(stretch, "STRETCH_ENTRIES_MAX", 3)


# --- every state in between reads the same ------------------------------------------------------------


@pytest.mark.usefixtures("short_stretches")
@pytest.mark.parametrize("shards", [1, 3])
def test_a_compaction_that_is_cut_anywhere_changes_nothing_shown(redis_server: Server, shards: int) -> None:
    url = f"{redis_server.url}?shards={shards}"
    limits = "audits=7;dead_letters=900B;events=100d"
    writers = iter(f"{n * 0x10000001:016x}" for n in itertools.count(1))
    for cut in itertools.count():
        with redis_server.new_client() as client:
            client.flushall()
        with ExitStack() as stack:
            logs = [
                stack.enter_context(opened(url, limits, new_writer=lambda: next(writers))) for _ in range(3)
            ]
            for n in range(45):
                logs[n % 3].append([make_fact(n, kind=list(FactKind)[n // 3 % 3])])
            before = {kind: shown(logs[0], kinds=kind) for kind in FactKind}
            compactor = stack.enter_context(opened(url, limits))
            wire = compactor._wire
            stopping = compactor._wire = compactor._appending._wire = Stopping(wire, cut)
            try:
                report = compactor.compact(force=True)
            except LogUnavailable:
                report = None
            assert {kind: shown(logs[1], kinds=kind) for kind in FactKind} == before
            stopping.left = -1
            with redis_server.new_client() as client:  # as if the time of the lock were over
                for shard in range(shards):
                    client.hdel(Tag.new("papyra", "shop", shard).meta, "upkeep")
            again = compactor.compact(force=True)
            assert {kind: shown(logs[1], kinds=kind) for kind in FactKind} == before
            stats = logs[2].stats().streams
            for kind in (FactKind.AUDIT, FactKind.DEAD_LETTER):
                assert stats[kind].records == len(before[kind])
                assert stats[kind].bytes == sum(map(len, map(encode, before[kind])))
            third = compactor.compact(force=True)
            assert (third.records_removed, third.recorded) == (0, ())
            if report is not None:
                assert report.records_removed == 45 - sum(map(len, before.values()))
                assert again.records_removed == 0
                assert cut > 20
                return


def test_facts_appended_meanwhile_are_neither_lost_nor_held_up(redis_server: Server) -> None:
    with opened(redis_server.url) as log, opened(redis_server.url, "audits=20") as compactor:
        stop = threading.Event()
        appended: list[Fact] = []

        def work() -> None:
            for n in itertools.count():
                log.append([audit(n)])
                appended.append(audit(n))
                if stop.is_set():
                    return

        thread = threading.Thread(target=work)
        thread.start()
        removed = 0
        while removed < 500:
            removed += compactor.compact().records_removed
        stop.set()
        thread.join()
        left = [entry.fact for entry in log.read(kinds=FactKind.AUDIT)]
        assert len(left) == len(appended) - removed == log.stats().streams[FactKind.AUDIT].records
        assert [fact.seq for fact in left] == list(range(removed, len(appended)))
        assert list(shown(compactor, kinds=FactKind.AUDIT)) == left[-20:]


def test_a_fact_hidden_before_one_that_is_shown_stays_until_that_goes(redis_server: Server) -> None:
    times = [
        100,
        5,
        200,
    ]  # the clock stepped back: of the first two the second is older, but was written later
    with opened(redis_server.url, "audits=2", clock=lambda: 300) as log:
        log.append([audit(n, time_unix_nano=moment) for n, moment in enumerate(times)])
        before = shown(log)
        log.compact()
        assert shown(log) == before


# --- damage -------------------------------------------------------------------------------------------


def test_damaged_entries_that_go_are_kept_whole(redis_server: Server) -> None:
    client = redis_server.client()
    key = "papyra:{shop}:audits"
    with opened(redis_server.url) as log, opened(redis_server.url, "audits=2") as limited:
        log.append([audit(0)])
        line = client.xrange(key)[0][1][b"data"]
        strange = {
            client.xadd(
                key, {"data": line.replace(b'"v":1', b'"v":1', 1)[:-9] + b'000000"}\n'}
            ): "crc_mismatch",
            client.xadd(key, {"field": b"\x00value", "more": b"1"}): "corrupt_line",
            client.xadd(key, {"data": b"nothing of ours\n"}): "corrupt_line",
            client.xadd(key, {"data": line}): None,  # the same fact again
        }
        contents = dict(client.xrange(key))
        log.append([audit(1), audit(2)])
        behind = client.xadd(key, {"data": b"neither\n"})
        log.append([audit(3), audit(4)])
        report = limited.compact()
        assert report.kept_in == ("papyra:{shop}:quarantine",)
        assert report.records_removed == 3
        kept = {fields[b"id"]: fields for _, fields in client.xrange("papyra:{shop}:quarantine")}
        assert {entry_id: fields[b"anomaly"].decode() for entry_id, fields in kept.items()} == {
            **{entry_id: anomaly for entry_id, anomaly in strange.items() if anomaly is not None},
            behind: "corrupt_line",
        }
        for entry_id, fields in kept.items():
            assert fields[b"key"] == key.encode()
            if entry_id != behind:
                assert contents[entry_id].items() <= fields.items()
        assert [fact.seq for fact in shown(log)] == [3, 4]
        assert client.xlen(key) == log.stats().streams[FactKind.AUDIT].records == 2
        assert limited.compact().records_removed == 0


def test_what_was_restored_goes_like_any_other_fact(redis_server: Server) -> None:
    client = redis_server.client()
    key, meta = "papyra:{shop}:audits", "papyra:{shop}:meta"
    with opened(redis_server.url) as log, opened(redis_server.url, "audits=2") as limited:
        log.append([audit(n) for n in range(5)])
        entries = client.xrange(key)
        for at in (1, 4):
            client.hset(meta, b"restored:audit:" + entries[at][0], entries[at][1][b"data"])
            client.xdel(key, entries[at][0])
        client.hset(meta, "verified:audit", "{}")
        assert [fact.seq for fact in shown(log)] == [0, 1, 2, 3, 4]
        assert limited.compact().records_removed == 3
        assert [fact.seq for fact in shown(log)] == [3, 4]
        assert b"restored:audit:" + entries[1][0] not in client.hgetall(meta)
        assert b"restored:audit:" + entries[4][0] in client.hgetall(meta)
        assert b"verified:audit" not in client.hgetall(meta)
        assert log.stats().streams[FactKind.AUDIT].records == 2


def test_holes_that_a_removed_fact_explained_are_remembered_while_they_matter(redis_server: Server) -> None:
    client = redis_server.client()
    with opened(redis_server.url, "events=1;audits=2") as log:
        log.append([audit(0)])
        writer, seq = log.reserve("shop", FactKind.AUDIT)
        ranges = {semconv.DROPPED_RANGES: [f"{writer}-audit-{seq}..{seq}"]}
        log.append([make_fact(0, kind=FactKind.EVENT, name=semconv.FACT_DROPPED, attributes=ranges)])
        log.append([audit(2), make_fact(1, kind=FactKind.EVENT), make_fact(2, kind=FactKind.EVENT)])
        log.compact()
        hole = f"hole:{writer}-audit-{seq}..{seq}".encode()
        assert hole in client.hgetall("papyra:{shop}:meta")
        log.append([audit(3), audit(4)])
        log.compact()
        assert hole not in client.hgetall("papyra:{shop}:meta"), (
            "below the low mark nothing has to be explained"
        )


# --- consumer groups ----------------------------------------------------------------------------------


def test_what_a_group_still_needs_stays_unless_forced(redis_server: Server) -> None:
    client = redis_server.client()
    key = "papyra:{shop}:audits"
    with opened(redis_server.url, "audits=2") as log:
        log.append([audit(n) for n in range(10)])
        client.xgroup_create(key, "all", "0")
        client.xgroup_create(key, "none", "$")
        client.xgroup_create(key, "some", "0")
        entries = [entry for entry, _ in client.xrange(key)]
        client.xreadgroup("some", "me", {key: ">"}, count=6)
        client.xack(key, "some", *entries[:3])
        client.xack(key, "some", entries[4])

        tried, report = log.compact(dry_run=True), log.compact()
        assert report.groups == tried.groups
        held = {hold.group: (hold.unread, hold.pending, hold.lost) for hold in report.groups}
        assert held == {"all": (8, 0, False), "some": (2, 2, False)}
        assert (report.records_removed, client.xlen(key)) == (0, 10)

        client.xgroup_setid(key, "all", entries[5])
        report = log.compact()
        held = {hold.group: (hold.unread, hold.pending) for hold in report.groups}
        assert held == {"all": (2, 0), "some": (2, 2)}
        assert (report.records_removed, client.xlen(key)) == (3, 7)
        with opened(redis_server.url) as unlimited:
            assert [fact.seq for fact in shown(unlimited)] == list(range(3, 10)), "held back, so still there"

        report = log.compact(force=True)
        held = {hold.group: (hold.unread, hold.pending, hold.lost) for hold in report.groups}
        assert held == {"all": (2, 0, True), "some": (2, 2, True)}
        assert (report.records_removed, client.xlen(key)) == (5, 2)
        assert log.compact().groups == ()


def test_a_group_that_comes_while_compacting_loses_nothing(
    redis_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = redis_server.client()
    key = "papyra:{shop}:audits"
    with opened(redis_server.url, "audits=2") as log:
        log.append([audit(n) for n in range(10)])
        record = log._record

        def late(*args: Any) -> tuple[Fact, ...]:
            client.xgroup_create(key, "late", "0")
            return record(*args)

        monkeypatch.setattr(log, "_record", late)
        report = log.compact()
        assert (report.records_removed, client.xlen(key)) == (0, 10)
        assert ["late" in skipped.reason for skipped in report.skipped] == [True]


# --- who may ------------------------------------------------------------------------------------------


def test_only_one_compacts_and_who_lost_the_right_removes_no_more(
    redis_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = redis_server.client()
    with opened(redis_server.url, "audits=2") as log:
        log.append([audit(n) for n in range(10)])
        client.hset("papyra:{shop}:meta", "upkeep", "somebody 99999999999999")
        with pytest.raises(LogBusy):
            log.compact()
        assert log.compact(dry_run=True).records_removed == 8
        client.hdel("papyra:{shop}:meta", "upkeep")
        record = log._record

        def slow(*args: Any) -> tuple[Fact, ...]:
            client.hset("papyra:{shop}:meta", "upkeep", "somebody 99999999999999")
            return record(*args)

        monkeypatch.setattr(log, "_record", slow)
        with pytest.raises(LogBusy):
            log.compact()
        assert client.xlen("papyra:{shop}:audits") == 10


# --- writers of which nothing is left -----------------------------------------------------------------


def _silent_for(server: Server, days: int) -> None:
    client = server.client()
    for field, value in client.hgetall("papyra:{shop}:fence").items():
        *rest, seen = value.split()
        client.hset("papyra:{shop}:fence", field, b" ".join([*rest, b"%d" % (int(seen) - days * DAY_MS)]))


def test_a_writer_that_was_forgotten_goes_on_where_it_was(redis_server: Server) -> None:
    client = redis_server.client()
    lost: list[Lost] = []
    far = 10**18 * 3
    with (
        opened(redis_server.url, options=LogOptions(on_lost=lost.append)) as log,
        opened(redis_server.url, "audits=1d;events=1d", clock=lambda: far) as compactor,
    ):
        log.append([audit(0), audit(1), make_fact(2, kind=FactKind.EVENT)])
        _silent_for(redis_server, 6)
        assert compactor.compact(force=True).records_removed == 3
        assert len(client.hgetall("papyra:{shop}:fence")) == 3, "six days are not enough"
        _silent_for(redis_server, 2)
        client.hset(
            "papyra:{shop}:meta", f"hole:{log.reserve('shop', FactKind.DEAD_LETTER)[0]}-audit-9..9", "1"
        )
        compactor.compact(force=True)
        (own,) = client.hgetall("papyra:{shop}:fence")
        assert own.startswith(compactor._identities.writer("shop").encode())
        assert not [name for name in client.hgetall("papyra:{shop}:meta") if name.startswith(b"hole:")]
        log.append([audit(3)])
        log.append([make_fact(4, kind=FactKind.EVENT), audit(5)])
        log.append([make_fact(6, kind=FactKind.EVENT)])
        assert lost == []
        found = {
            (entry.fact.kind, entry.fact.seq)
            for entry in log.read()
            if entry.fact.name != semconv.LOG_COMPACTED
        }
        assert found == {(FactKind.AUDIT, 2), (FactKind.AUDIT, 3), (FactKind.EVENT, 1), (FactKind.EVENT, 2)}
        fences = {
            field.partition(b"-")[2]: value.split()
            for field, value in client.hgetall("papyra:{shop}:fence").items()
            if not field.startswith(own[:16])
        }
        assert {kind: int(value[5]) for kind, value in fences.items()} == {b"audit": 2, b"event": 1}


def test_who_has_facts_of_another_kind_left_is_not_forgotten(redis_server: Server) -> None:
    client = redis_server.client()
    with (
        opened(redis_server.url) as log,
        opened(redis_server.url, "audits=1d", clock=lambda: 3 * 10**18) as compactor,
    ):
        log.append([audit(0), make_fact(2, kind=FactKind.EVENT)])
        _silent_for(redis_server, 8)
        compactor.compact(force=True)
        assert len(client.hgetall("papyra:{shop}:fence")) == 3
        assert b"forgotten" not in client.hgetall("papyra:{shop}:meta")


def test_who_came_back_meanwhile_is_not_forgotten(redis_server: Server) -> None:
    client = redis_server.client()
    with opened(redis_server.url, "audits=1d", clock=lambda: 3 * 10**18) as log:
        log.append([audit(0)])
        assert log.compact(force=True).records_removed == 1
        (tag,) = log._survey.tags("shop")
        before = log._survey.site(tag)
        stale = dataclasses.replace(before, fence=tuple(each._replace(records=0) for each in before.fence))
        log.append([audit(1)])
        _silent_for(redis_server, 8)
        removal.forget_writers(removal.Headway(log._wire, "", None, time.monotonic, 1), stale)
        assert len(client.hgetall("papyra:{shop}:fence")) == 2, "audits and the fact about the compaction"


def test_what_was_lost_is_told_to_who_was_not_forgotten(redis_server: Server) -> None:
    client = redis_server.client()
    lost: list[Lost] = []
    with opened(redis_server.url, options=LogOptions(on_lost=lost.append)) as log:
        log._appending._recent_facts_max = 1
        for n in range(3):
            log.append([audit(n)])
        client.hset("papyra:{shop}:meta", "forgotten", log._appending._writers["shop"].seen_ms - 1)
        client.delete("papyra:{shop}:fence", "papyra:{shop}:audits")
        log.append([audit(3)])
        assert [(each.first, each.last) for each in lost] == [(0, 1)]


# --- no memory ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_compacting_frees_memory_when_there_is_none_left(lab: Lab, flavour: Flavour) -> None:
    server = lab.server(require(flavour), {"maxmemory-policy": "noeviction"})
    client = server.client()
    with opened(server.url) as log, opened(server.url, "audits=100") as compactor:
        log.append([audit(n, attributes={"n": n, "text": "x" * 2000}) for n in range(2000)])
        client.xadd("papyra:{shop}:audits", {"data": b"strange\n"})
        log.append([audit(n) for n in range(2000, 2150)])
        client.config_set("maxmemory", client.info("memory")["used_memory"] - 500_000)
        with pytest.raises(LogUnavailable):
            log.append([audit(2150)])
        before = shown(compactor)
        report = compactor.compact()
        assert report.records_removed == 2050
        assert [fact.name for fact in report.recorded] == [semconv.LOG_COMPACTED]
        assert any("no memory" in skipped.reason for skipped in report.skipped)
        assert client.xlen("papyra:{shop}:quarantine") == 1
        assert shown(compactor) == before
        log.append([audit(2150)])
        assert compactor.compact().skipped == ()


def test_where_memory_is_short_even_then_everything_is_removed_and_it_is_said(lab: Lab) -> None:
    server = lab.server(Flavour.VALKEY, {"maxmemory-policy": "noeviction"})
    client = server.client()
    with opened(server.url) as log, opened(server.url, "audits=100") as compactor:
        log.append([audit(n) for n in range(500)])
        client.config_set("maxmemory", 1)
        report = compactor.compact()
        assert (report.records_removed, report.recorded) == (400, ())
        assert [skipped.place for skipped in report.skipped] == ["events/shop"]
        client.config_set("maxmemory", 0)
        assert compactor.reserve("shop", FactKind.EVENT)[1] == 0, "the fact left no hole"
        assert [fact.seq for fact in shown(log)] == list(range(400, 500))


def test_progress_is_told_and_may_end_it(redis_server: Server) -> None:
    with opened(redis_server.url, "audits=2") as log:
        log.append([audit(n) for n in range(10)])
        told: list[int] = []
        log.compact(dry_run=True, progress=lambda progress: told.append(progress.done_bytes))
        assert told == sorted(told)
        assert told[-1] > 0
        with pytest.raises(KeyboardInterrupt):
            log.compact(progress=_interrupt)
        assert len(shown(log)) == 2
        assert log.compact().records_removed == 8


def _interrupt(_: object) -> None:
    raise KeyboardInterrupt


def test_facts_are_forgotten_after_a_week() -> None:
    assert removal.FORGET_SECONDS == 7 * 24 * 3600
