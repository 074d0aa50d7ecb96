"""What the Redis log costs, beside bare pipelined XADD of the same bytes and papyra's own backend, in one run.

The targets are the project's own; a figure that misses its target is printed as MISSED, and only a gross
regression (with room for a shared machine) fails the run.
"""

from __future__ import annotations

import asyncio
import time
from itertools import islice

import pytest
from papyra.persistence.backends.redis import RedisStreamsConfig, RedisStreamsPersistence
from papyra.persistence.models import PersistedEvent
from ratios import best_seconds
from test_bench_scan import processed

from papyra_otel import FactKind, open_log
from papyra_otel.log.codec import encode
from papyra_otel.testing import make_fact
from redis_servers.fixtures import require
from redis_servers.flavours import Flavour

pytestmark = [pytest.mark.bench, pytest.mark.timeout(900)]

BATCH = 500
FACTS = 20_000
MANY = 1_000_000
MIB = 1 << 20


@pytest.fixture(params=[Flavour.VALKEY, Flavour.REDIS], ids=lambda flavour: flavour.value)
def server(request, lab):
    return lab.server(require(request.param))


def batches(items):
    iterator = iter(items)
    while batch := list(islice(iterator, BATCH)):
        yield batch


def test_append_beside_bare_xadd_and_papyra(server, report):
    client = server.client()
    facts = list(batches(processed(n) for n in range(FACTS)))
    lines = [[encode(fact.identified("0" * 16, n)) for n, fact in enumerate(batch)] for batch in facts]
    events = [
        PersistedEvent(
            system_id="orders",
            actor_address="orders://1",
            event_type="processed",
            payload={"n": n},
            timestamp=1.0,
        )
        for n in range(FACTS // 20)
    ]

    def bare():
        for batch in lines:
            pipe = client.pipeline(transaction=False)
            for line in batch:
                pipe.xadd("bare", {"data": line})
            pipe.execute()

    def papyra():
        async def record():
            backend = RedisStreamsPersistence(RedisStreamsConfig(url=server.url))
            for event in events:
                await backend.record_event(event)
            await backend._redis.aclose()

        asyncio.run(record())

    with open_log(server.url) as log:
        best = best_seconds(
            {"ours": lambda: [log.append(batch) for batch in facts], "bare": bare, "papyra": papyra},
            rounds=5,
            clock=time.perf_counter,
        )
    name = server.flavour.value
    percent = best["bare"] / best["ours"] * 100
    report(
        f"append to {name} : bare pipelined XADD of the same bytes", percent, ">= 80 %", percent >= 80, "%"
    )
    ratio = best["papyra"] * 20 / best["ours"]
    report(f"append to {name} : papyra 0.3 Redis, per record", ratio, ">= 12 x", ratio >= 12)
    report(f"facts appended to {name}", FACTS / best["ours"], "(not a ratio)", True, "/s")
    assert percent > 30
    assert ratio > 4


def test_a_long_log(server, report):
    client, name = server.client(), server.flavour.value
    client.ping()
    before = client.info("memory")["used_memory"]
    letters = [
        make_fact(n, kind=FactKind.DEAD_LETTER, time_unix_nano=processed(n * 100_000).time_unix_nano)
        for n in range(10)
    ]
    with open_log(server.url) as log:
        for at, batch in enumerate(batches(processed(n) for n in range(MANY))):
            log.append(batch)
            if at % (MANY // BATCH // 10) == 0:
                log.append([letters[at // (MANY // BATCH // 10)]])
        stored = client.info("memory")["used_memory"] - before
        size_bytes = sum(stream.bytes for stream in log.stats().streams.values())
        report(
            f"memory of {name} per fact", stored / MANY, f"(lines of {size_bytes / MANY:.0f})", True, "bytes"
        )

        def newest(kind):
            return lambda: list(log.read(kinds=kind, newest_first=True, limit=10))

        best = best_seconds(
            {"letters": newest(FactKind.DEAD_LETTER), "events": newest(FactKind.EVENT)},
            rounds=20,
            clock=time.perf_counter,
        )
        for what, seconds in best.items():
            report(
                f"newest 10 {what} of 1 million, {name}", seconds * 1000, "<= 5 ms", seconds <= 0.005, "ms"
            )
            assert seconds < 0.1

        begun = time.perf_counter()
        found = log.scan()
        seconds = time.perf_counter() - begun
        assert found.healthy
        report(f"full scan of 1 million, {name}", size_bytes / MIB / seconds, "(not a ratio)", True, "MB/s")
        report(f"full scan of 1 million, {name}", seconds, "(not a ratio)", True, "s")

        begun = time.perf_counter()
        removed = log.compact(f"events={MANY // 10}").records_removed
        seconds = time.perf_counter() - begun
        assert removed >= MANY * 9 // 10
        report(f"compaction of 1 million to 100,000, {name}", seconds, "(not a ratio)", True, "s")
