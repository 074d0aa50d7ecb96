"""Random lives of a log in Redis with retention: what is shown is what the rule says, compacted or not."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from papyra_otel.errors import LogUnavailable
from papyra_otel.facts import Fact, FactKind
from papyra_otel.log.codec import encode
from papyra_otel.log.redis import RedisLog, stretch
from papyra_otel.log.redis.address import parse_address
from papyra_otel.log.redis.keys import Tag
from papyra_otel.log.retention import KindRetention, parse_retention
from papyra_otel.testing import make_fact
from redis_servers.server import Server
from redislog.test_redis_compact import Stopping

SECOND = 1_000_000_000
KINDS = (FactKind.AUDIT, FactKind.DEAD_LETTER)
LIMITS = (
    "audits=6;dead_letters=5,1000B",
    "audits=1500B;dead_letters=60s",
    "audits=40s,9;dead_letters=600B,3",
)


def rule_says(facts: list[Fact], limits: KindRetention, now: int) -> list[str]:
    """Return the uids that are shown, as docs/decisions/0020 puts it, in no order. *facts* are as stored."""
    oldest = limits.oldest_unix_nano(now)
    ranked: list[tuple[int, str, int, Fact]] = []
    for writer in {fact.writer for fact in facts}:
        own = sorted((fact for fact in facts if fact.writer == writer), key=lambda fact: -(fact.seq or 0))
        key = None
        for fact in own:
            key = fact.time_unix_nano if key is None else min(key, fact.time_unix_nano)
            if oldest is None or fact.time_unix_nano >= oldest:
                ranked.append((-key, str(writer), -(fact.seq or 0), fact))
    shown: list[str] = []
    size_bytes = 0
    for _, _, _, fact in sorted(ranked, key=lambda each: (each[0], _descending(each[1]), each[2])):
        if limits.max_records is not None and len(shown) >= limits.max_records:
            break
        if limits.max_bytes is not None and size_bytes >= limits.max_bytes:
            break
        shown.append(str(fact.uid))
        size_bytes += len(encode(fact))
    return shown


def _descending(text: str) -> list[int]:
    return [-ord(each) for each in text]


class Life(RuleBasedStateMachine):
    def __init__(self, server: Server) -> None:
        super().__init__()
        self.server = server
        self.client = server.client()
        self.client.flushall()
        self.now = 1_000_000 * SECOND
        self.ids = (f"{n * 0x9E3779B1 % 2**32:08x}{n:08x}" for n in count(1))
        self.logs: list[RedisLog] = []
        self.stored: list[Fact] = []  # what nobody compacted

    def _opened(self, shards: int, retention: str = "") -> RedisLog:
        log = RedisLog(
            parse_address(f"{self.server.url}?shards={shards}"),
            retention=parse_retention(retention),
            clock=lambda: self.now,
            new_writer=lambda: next(self.ids),
        )
        self.logs.append(log)
        return log

    @initialize(shards=st.sampled_from([1, 2, 5]))
    def begin(self, shards: int) -> None:
        self.writers = [self._opened(shards), self._opened(1)]
        self.readers = [self._opened(1, limits) for limits in LIMITS]

    @rule(shards=st.sampled_from([1, 3]))
    def another_writer(self, shards: int) -> None:
        if len(self.writers) < 5:
            self.writers.append(self._opened(shards))

    @rule(
        writer=st.integers(0, 4),
        kind=st.sampled_from(KINDS),
        step=st.sampled_from([0, 1, 1, 2, 10, -5, -30]),
        number=st.integers(1, 3),
        text=st.integers(0, 200),
    )
    def append(self, writer: int, kind: FactKind, step: int, number: int, text: int) -> None:
        self.now += max(step, 0) * SECOND
        moment = self.now + min(step, 0) * SECOND
        log = self.writers[writer % len(self.writers)]
        facts = [
            make_fact(n, kind=kind, time_unix_nano=moment, attributes={"text": "x" * text}).identified(
                *log.reserve("shop", kind)
            )
            for n in range(number)
        ]
        log.append(facts)
        self.stored += facts

    @rule(at=st.integers(0, 2), cut=st.sampled_from([None, None, 3, 7, 12, 16, 20, 25]))
    def compact(self, at: int, cut: int | None) -> None:
        log = self.readers[at]
        before = self._shown(at)
        wire = log._wire
        log._wire = log._appending._wire = Stopping(wire, -1 if cut is None else cut)
        report = None
        try:
            report = log.compact(force=True)
        except LogUnavailable:
            assert cut is not None
        finally:
            log._wire = log._appending._wire = wire
        for shard in range(5):
            self.client.hdel(Tag.new("papyra", "shop", shard).meta, "upkeep")
        assert self._shown(at) == before
        left = {entry.fact.uid for entry in self.writers[0].read(kinds=KINDS)}
        if report is not None:
            assert report.records_removed >= len(self.stored) - len(left)
            again = log.compact(force=True)
            assert (again.records_removed, again.recorded) == (0, ())
        scan = self.writers[0].scan()  # whatever was done until the cut, a scan understands
        assert scan.healthy, scan.anomalies
        for fact in self.stored:  # of each writer a beginning went, and nothing that is shown
            if fact.uid not in left:
                assert all(
                    other.uid not in left
                    for other in self.stored
                    if (other.writer, other.kind) == (fact.writer, fact.kind)
                    and (other.seq or 0) < (fact.seq or 0)
                )
        self.stored = [fact for fact in self.stored if fact.uid in left]

    def _shown(self, at: int) -> list[Fact]:
        return [entry.fact for entry in self.readers[at].read(kinds=KINDS)]

    @invariant()
    def readers_see_what_the_rule_says(self) -> None:
        for at, limits in enumerate(LIMITS if self.logs else ()):
            entries = self._shown(at)
            newest_first = [entry.fact for entry in self.readers[at].read(kinds=KINDS, newest_first=True)]
            assert {fact.uid for fact in newest_first} == {fact.uid for fact in entries}
            expected = [
                uid
                for kind in KINDS
                for uid in rule_says(
                    [fact for fact in self.stored if fact.kind is kind],
                    parse_retention(limits).of(kind),
                    self.now,
                )
            ]
            assert sorted(str(fact.uid) for fact in entries) == sorted(expected)

    @invariant()
    def accounts_are_right(self) -> None:
        if self.logs:
            streams = self.writers[0].stats().streams
            for kind in KINDS:
                own = [fact for fact in self.stored if fact.kind is kind]
                assert streams[kind].records == len(own)
                assert streams[kind].bytes == sum(map(len, map(encode, own)))

    def teardown(self) -> None:
        for log in self.logs:
            log.close()


@pytest.fixture
def short_stretches(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(stretch, "_FIRST_COUNT", 3)
    monkeypatch.setattr(stretch, "STRETCH_ENTRIES_MAX", 3)
    return iter(())


@pytest.mark.usefixtures("short_stretches")
def test_a_few_random_lives(redis_server: Server) -> None:
    few = settings(max_examples=12, stateful_step_count=25, deadline=None)
    run_state_machine_as_test(lambda: Life(redis_server), settings=few)


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("short_stretches")
def test_random_lives(redis_server: Server) -> None:
    many = settings(max_examples=150, stateful_step_count=50, deadline=None)
    run_state_machine_as_test(lambda: Life(redis_server), settings=many)
