"""Reading one writer's facts out of a stream that many share: every entry once, in order, in bounded pieces."""

from __future__ import annotations

import random
from bisect import bisect_left

import pytest

from papyra_otel.facts import Fact, FactKind
from papyra_otel.log.codec import encode
from papyra_otel.log.redis import pages as pages_module
from papyra_otel.log.redis.address import parse_address
from papyra_otel.log.redis.fence import Fence
from papyra_otel.log.redis.keys import EntryId
from papyra_otel.log.redis.pages import Pages
from papyra_otel.log.redis.source import RedisSource
from papyra_otel.log.redis.wire import Command, Reply, Wire, connect
from papyra_otel.testing import make_fact
from redis_servers.server import Server

KEY = "papyra:{shop}:events"
WRITERS = ("a" * 16, "b" * 16, "c" * 16)


class Counting:
    """Passes on what is sent, and counts."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.commands: list[Command] = []
        self.largest_reply = 0

    def send(self, key: str, commands: list[Command]) -> list[Reply]:
        self.commands += commands
        replies = self.wire.send(key, commands)
        self.largest_reply = max(self.largest_reply, *(len(reply) for reply in replies))
        return replies


def fact_of(writer: str, seq: int, **changes: object) -> Fact:
    return make_fact(seq, kind=FactKind.EVENT, writer=writer, seq=seq, **changes)


def stream(
    server: Server, rng: random.Random, count: int
) -> tuple[dict[str, list[tuple[EntryId, Fact]]], list]:
    """Fill the stream; return each writer's facts, and those lines that are to be restored."""
    client = server.client()
    facts: dict[str, list[tuple[EntryId, Fact]]] = {writer: [] for writer in WRITERS}
    restored: list[tuple[EntryId, bytes]] = []
    entry_id = EntryId(1, 0)
    for _ in range(count):
        entry_id = EntryId(entry_id.milliseconds + rng.choice((0, 1, 7)), entry_id.number + 1)
        writer = rng.choice(WRITERS)
        fact = fact_of(writer, len(facts[writer]))
        what = rng.random()
        if what < 0.1:  # damaged, and restored by a repair
            client.xadd(KEY, {"data": b"gone"}, id=str(entry_id))
            client.xdel(KEY, str(entry_id))
            restored.append((entry_id, encode(fact)))
        elif what < 0.15:  # somebody else's
            client.xadd(KEY, {"other": "x", "data": "y"}, id=str(entry_id))
            continue
        elif what < 0.2:
            client.xadd(KEY, {"data": encode(fact)[:-20]}, id=str(entry_id))
            continue
        else:
            client.xadd(KEY, {"data": encode(fact)}, id=str(entry_id))
        facts[writer].append((entry_id, fact))
    return facts, restored


def source_of(pages: Pages, writer: str, facts: list[tuple[EntryId, Fact]]) -> RedisSource:
    ids = [entry_id for entry_id, _ in facts] or [EntryId(0, 0)]
    size = sum(len(encode(fact)) for _, fact in facts)
    fence = Fence(writer, FactKind.EVENT, len(facts) - 1, len(facts), size, ids[0], ids[-1], 0, False, 0)
    return RedisSource("shop", fence, pages)


@pytest.mark.parametrize("seed", range(40))
def test_every_fact_is_read_once_in_both_directions_from_anywhere(
    redis_server: Server, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    monkeypatch.setattr(pages_module, "_FIRST_COUNT", rng.choice((1, 2, 5, 32)))
    monkeypatch.setattr(pages_module, "_COUNT_MAX", rng.choice((2, 7, 256)))
    monkeypatch.setattr(pages_module, "_KEPT_BYTES_MAX", rng.choice((1, 2000, 1 << 20)))
    facts, restored = stream(redis_server, rng, rng.choice((0, 1, 5, 60)))
    wire = connect(parse_address(redis_server.url))
    pages = Pages(wire, KEY, "test", restored)
    for writer in WRITERS:
        source, own = source_of(pages, writer, facts[writer]), facts[writer]
        expected = [fact for _, fact in own]
        ids = [entry_id for entry_id, _ in own]
        assert [stored.fact for stored in source.forward(None)] == expected
        assert [stored.fact for stored in source.backward(None)] == expected[::-1]
        for place in [EntryId(0, 0), *ids, *(entry_id.next() for entry_id in ids), EntryId(10**12, 3)]:
            after = [stored.fact for stored in source.forward(tuple(place))]
            assert after == [fact for entry_id, fact in own if entry_id > place]
            before = [stored.fact for stored in source.backward(tuple(place))]
            assert before == [fact for entry_id, fact in own if entry_id < place][::-1]
        for stored in source.backward(None):
            turned = next(source.forward(source.turned(stored.position)))
            assert turned.fact == stored.fact
    wire.close()


def test_readers_side_by_side_fetch_the_stream_once(redis_server: Server) -> None:
    client = redis_server.client()
    facts: dict[str, list[tuple[EntryId, Fact]]] = {writer: [] for writer in WRITERS}
    for n in range(3000):
        writer = WRITERS[n % 3]
        facts[writer].append((EntryId(1 + n, 0), fact_of(writer, n // 3)))
        client.xadd(KEY, {"data": encode(facts[writer][-1][1])}, id=f"{1 + n}-0")
    wire = connect(parse_address(redis_server.url))
    counting = Counting(wire)
    pages = Pages(counting, KEY, "test")
    readings = [source_of(pages, writer, facts[writer]).forward(None) for writer in WRITERS]
    assert sum(1 for row in zip(*readings, strict=True) for _ in row) == 3000
    assert len(counting.commands) < 3000 / 256 + 8
    wire.close()


def test_pages_get_short_where_lines_are_long(redis_server: Server) -> None:
    client = redis_server.client()
    writer = WRITERS[0]
    facts = [(EntryId(1 + n, 0), fact_of(writer, n, attributes={"long": "x" * 300_000})) for n in range(40)]
    for entry_id, fact in facts:
        client.xadd(KEY, {"data": encode(fact)}, id=str(entry_id))
    wire = connect(parse_address(redis_server.url))
    counting = Counting(wire)
    pages = Pages(counting, KEY, "test")
    assert sum(1 for _ in source_of(pages, writer, facts).forward(None)) == 40
    counts = [command[-1] for command in counting.commands]
    assert counts[-1] <= 4, counts
    assert bisect_left(sorted(counts), 33) == len(counts)
    wire.close()
