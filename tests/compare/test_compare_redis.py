"""Both in Redis: what happens when it is away, forgets, is damaged or outgrown. Valkey stands in for it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import pytest
from papyra.persistence.backends.redis import RedisStreamsConfig, RedisStreamsPersistence
from papyra.persistence.backends.retention import RetentionPolicy

from compare.sides import SYSTEM, finish, our_fact, papyra_event, run, start
from papyra_otel import Fact, open_log
from papyra_otel.log import FactLog
from redis_servers.lab import Lab
from redis_servers.server import Server

pytestmark = [pytest.mark.compare, pytest.mark.timeout(300)]

THEIR_KEY = f"papyra:{SYSTEM}:events"
OUR_KEY = f"papyra:{{{SYSTEM}}}:events"
BATCH = 500


@pytest.fixture
def server(lab: Lab) -> Server:
    return lab.server()


def with_papyra(
    url: str, use: Callable[[RedisStreamsPersistence], Coroutine[Any, Any, Any]], **more: Any
) -> Any:
    """Open papyra's backend, *use* it, close it."""

    async def program() -> Any:
        backend = RedisStreamsPersistence(RedisStreamsConfig(url=url, system_id=SYSTEM), **more)
        try:
            return await use(backend)
        finally:
            await backend._redis.aclose()

    return run(program())


def write_papyra(url: str, numbers: Iterable[int]) -> None:
    async def record(backend: RedisStreamsPersistence) -> None:
        for n in numbers:
            await backend.record_event(papyra_event(n))

    with_papyra(url, record)


def append_in_batches(log: FactLog, facts: list[Fact]) -> None:
    for begin in range(0, len(facts), BATCH):
        log.append(facts[begin : begin + BATCH])


def read_papyra(url: str) -> list[int]:
    events = with_papyra(url, lambda backend: backend.list_events())
    return [event.payload["n"] for event in events]


def read_ours(url: str, **query: Any) -> list[int]:
    with open_log(url) as log:
        return [entry.fact.attributes["n"] for entry in log.read(name="shop.processed", **query)]


def test_a_redis_that_is_not_there(told, lab):
    url = lab.server().url
    lab.close()
    done = {
        who: int(finish(start("actors.py", who, url, "ask", 20)).split()[0]) for who in ("papyra", "ours")
    }
    assert done["ours"] == 20
    assert done["papyra"] < 20
    told("redis_away", papyra=done["papyra"], ours=done["ours"])


def test_a_redis_that_is_flushed(told, server):
    write_papyra(server.url, range(500))
    with open_log(server.url) as log:
        append_in_batches(log, [our_fact(n) for n in range(500)])
        server.client().flushall()
        append_in_batches(log, [our_fact(n) for n in range(500, 1000)])
    write_papyra(server.url, range(500, 1000))
    theirs, ours = read_papyra(server.url), read_ours(server.url)
    assert ours == list(range(1000))
    assert theirs == list(range(500, 1000))
    told("redis_flushed", papyra=f"{len(theirs)} of 1,000", ours=f"{len(ours):,} of 1,000")


def test_the_newest_of_many(told, server):
    """papyra reads the oldest 50,000 entries and takes the last of those for the newest."""
    many, newest = 60_000, list(range(59_990, 60_000))
    pipe = server.client().pipeline(transaction=False)
    for n in range(many):
        event = papyra_event(n)
        pipe.xadd(THEIR_KEY, {"data": json.dumps({"kind": "event", **_members(event)})})
        if n % 1000 == 999:
            pipe.execute()
    with open_log(server.url) as log:
        append_in_batches(log, [our_fact(n) for n in range(many)])
    events = with_papyra(server.url, lambda backend: backend.list_events(limit=10))
    theirs = [event.payload["n"] for event in events]
    ours = read_ours(server.url, newest_first=True, limit=10)[::-1]
    assert ours == newest
    assert theirs != newest
    told("redis_newest", papyra=f"no, those up to number {theirs[-1]:,}", ours="yes")


def test_a_damaged_entry_far_back(told, server):
    client = server.client()
    client.xadd(THEIR_KEY, {"data": "no JSON"}, id="1-1")
    write_papyra(server.url, range(5000))
    with open_log(server.url) as log:
        log.append([our_fact(0)])
        ((entry_id, fields),) = client.xrange(OUR_KEY)
        client.delete(OUR_KEY)
        client.xadd(OUR_KEY, {"data": fields[b"data"].replace(b"shop", b"shoq", 1)}, id=entry_id)
        append_in_batches(log, [our_fact(n) for n in range(1, 5000)])
        ours = not log.scan().healthy
    theirs = with_papyra(server.url, lambda backend: backend.scan()).has_anomalies
    assert ours
    assert not theirs
    told("redis_scan", papyra="no", ours="yes")


def test_compaction_by_age(told, server):
    day = 86_400
    yesterday = time.time_ns() - day * 1_000_000_000

    async def record(backend: RedisStreamsPersistence) -> None:
        for n in range(100):
            event = papyra_event(n)
            object.__setattr__(event, "timestamp", time.time() - day)
            await backend.record_event(event)
        await backend.compact()

    with_papyra(server.url, record, retention_policy=RetentionPolicy(max_age_seconds=3600))
    theirs = server.client().xlen(THEIR_KEY)
    with open_log(server.url, retention="1h") as log:
        facts = [our_fact(n) for n in range(100)]
        log.append([_at(fact, yesterday) for fact in facts])
        log.compact(force=True)  # all of it is old: that looks like a wrong clock
    ours = len(read_ours(server.url))
    assert (theirs, ours) == (100, 0)
    told("redis_age", papyra="100 of 100", ours="0 of 100")


def test_compaction_beside_a_consumer_group(told, server):
    client = server.client()
    write_papyra(server.url, range(1000))
    client.xgroup_create(THEIR_KEY, "shipping", id="0")

    async def compact(backend: RedisStreamsPersistence) -> None:
        await backend.compact()

    with_papyra(server.url, compact, retention_policy=RetentionPolicy(max_records=100))
    lost = 1000 - client.xlen(THEIR_KEY)
    with open_log(server.url, retention="100") as log:
        append_in_batches(log, [our_fact(n) for n in range(1000)])
        client.xgroup_create(OUR_KEY, "shipping", id="0")
        log.compact()
    ours = 1000 - len([n for n in read_ours(server.url) if n < 1000])
    assert ours == 0
    assert lost > 0
    told("redis_groups", papyra=lost, ours=ours)


def test_append_to_redis(told, server):
    facts = [our_fact(n) for n in range(20_000)]
    begun = time.perf_counter()
    with open_log(server.url) as log:
        append_in_batches(log, facts)
    ours = len(facts) / (time.perf_counter() - begun)
    begun = time.perf_counter()
    write_papyra(server.url, range(2000))
    theirs = 2000 / (time.perf_counter() - begun)
    assert ours > 3 * theirs
    told("redis_append", papyra="1", ours=f"{ours / theirs:.0f} times as many")


def _members(event: Any) -> dict[str, Any]:
    return {name: getattr(event, name) for name in event.__dataclass_fields__}


def _at(fact: Fact, time_unix_nano: int) -> Fact:
    return Fact(
        kind=fact.kind,
        name=fact.name,
        time_unix_nano=time_unix_nano,
        system=fact.system,
        actor=fact.actor,
        attributes=fact.attributes,
    )
