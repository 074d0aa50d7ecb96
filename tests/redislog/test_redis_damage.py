"""Damage by the hundred: no good fact is lost to readers, nothing damaged is believed, everything is accounted for."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from papyra_otel.facts import FactKind
from papyra_otel.log.redis.fence import field_of
from redislog.workshop import Fields, Workshop, event, flipped, kept, reassembled

FACTS = 400
DAMAGES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "a bit": lambda line, dice: flipped(line, dice.randrange(len(line)), 1 << dice.randrange(8)),
    "two bits": lambda line, dice: flipped(
        flipped(line, dice.randrange(len(line) // 2)), dice.randrange(len(line) // 2, len(line))
    ),
    "a byte": lambda line, dice: _put(line, dice.randrange(len(line)), dice.randbytes(1)),
    "some bytes": lambda line, dice: _put(line, dice.randrange(len(line) - 9), dice.randbytes(9)),
    "a byte lost": lambda line, dice: line[: (at := dice.randrange(len(line) - 1))] + line[at + 1 :],
    "a byte more": lambda line, dice: (
        line[: (at := dice.randrange(len(line)))] + dice.randbytes(1) + line[at:]
    ),
    "cut": lambda line, dice: line[: dice.randrange(len(line) - 1)],
    "noise": lambda _, dice: dice.randbytes(dice.randrange(300)),
    "nothing but zeros": lambda line, _: b"\0" * len(line),
}


def _put(line: bytes, at: int, new: bytes) -> bytes:
    return line[:at] + new + line[at + len(new) :]


@pytest.mark.parametrize("mode", ["quarantine", "repair"])
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_hundreds_of_damaged_entries(
    shop: Workshop, damage: Callable[[bytes, random.Random], bytes], mode: str
) -> None:
    dice = random.Random(11)
    shop.write(FACTS, attributes={"n": 0})
    lines = [fields[b"data"] for _, fields in shop.entries()]
    hit = set(dice.sample(range(FACTS), FACTS // 2))

    def change(entries: list[tuple[bytes, Fields]]) -> None:
        for n in hit:
            entries[n] = entries[n][0], {b"data": damage(lines[n], dice)}

    shop.rebuild(change)
    entries = shop.entries()
    stored = [fields[b"data"] for _, fields in entries]
    with shop.open() as log:
        # a line that is what it was, or has only lost its end, is good
        good = {n for n in range(FACTS) if stored[n].removesuffix(b"\n") == lines[n].removesuffix(b"\n")}
        assert {entry.fact.seq for entry in log.read()} == good
        report = log.scan()
        scan = report.streams[FactKind.EVENT]
        assert (scan.records, scan.size_bytes) == (len(good), sum(map(len, stored)))
        assert scan.damaged_bytes == sum(len(stored[n]) for n in range(FACTS) if n not in good)
        assert scan.size_bytes == scan.good_bytes + scan.damaged_bytes
        done = log.recover(mode)
        assert done.remaining.healthy
        facts = {entry.fact.seq: entry.fact for entry in log.read() if "n" in entry.fact.attributes}
        whole = {n for n in range(FACTS) if lines[n][:-1] in stored[n]}
        assert good <= whole <= facts.keys()
        assert all(fact.time_unix_nano == event(seq or 0).time_unix_nano for seq, fact in facts.items())
        if mode == "repair" and damage is DAMAGES["a bit"]:
            assert len(facts) == FACTS
        if mode == "quarantine":
            assert facts.keys() == whole
    before = reassembled(shop)[:FACTS]
    assert before == entries
    for field, line in shop.client.hgetall(shop.tag.meta).items():
        if field.startswith(b"restored:"):
            at = next(n for n, (entry_id, _) in enumerate(entries) if field.endswith(b":" + entry_id))
            assert line == lines[at]


def test_damage_while_a_writer_goes_on(shop: Workshop) -> None:
    dice = random.Random(3)
    shop.write(50)
    alive = shop.open()
    stored = 0

    def change(entries: list[tuple[bytes, Fields]]) -> None:
        for n in dice.sample(range(len(entries)), 3):
            entries[n] = entries[n][0], {b"data": dice.randbytes(20)}

    for _ in range(6):
        alive.append([event(1000 + stored)])
        stored += 1
        shop.rebuild(change)

        def more(_: object) -> None:
            nonlocal stored
            alive.append([event(1000 + stored)])
            stored += 1

        with shop.open() as log:
            report = log.recover(progress=more)
        assert report.remaining.healthy, report.remaining.anomalies
    alive.close()
    assert shop.scan().healthy
    # two may have been kept for every entry hit: damage of damage; all else is there
    taken = {entry_id for _, entry_id, _, _ in kept(shop)}
    assert len(shop.entries()) + len(taken) == 50 + stored + 6


def test_readers_get_along_with_everything(shop: Workshop) -> None:
    dice = random.Random(5)
    for n in range(60):
        shop.client.flushdb()
        shop.write(6)
        shop.write(6, start=6)
        for _ in range(dice.randrange(1, 5)):
            _spoil(shop, dice)
        with shop.open() as log:
            oldest = [entry.fact for entry in log.read()]
            newest = [entry.fact for entry in log.read(newest_first=True)]
            # (what stands there twice is read where it is met first)
            assert {fact.uid for fact in oldest} == {fact.uid for fact in newest}, n
            assert len(oldest) == len(newest), n
            stats = log.stats()
            assert sum(stream.records for stream in stats.streams.values()) >= len(oldest)
            list(log.read(limit=2))
            log.scan()
            log.scan(incremental=True)
            log.recover("repair")
            assert {fact.uid for fact in oldest} <= {entry.fact.uid for entry in log.read()}, n


def _spoil(shop: Workshop, dice: random.Random) -> None:
    fields = shop.client.hkeys(shop.tag.fence) if shop.client.type(shop.tag.fence) == b"hash" else []
    keys = [shop.events, shop.tag.fence, shop.tag.meta, "papyra:systems", shop.tag.stream(FactKind.AUDIT)]
    choice = dice.randrange(8)
    if choice == 0 and fields:
        shop.client.hset(shop.tag.fence, dice.choice(fields), dice.randbytes(10))
    elif choice == 1 and fields:
        shop.client.hdel(shop.tag.fence, dice.choice(fields))
    elif choice == 2:
        shop.client.delete(dice.choice(keys))
    elif choice == 3:
        key = dice.choice(keys[1:])
        shop.client.delete(key)
        shop.client.set(key, "x")
    elif choice == 4 and shop.client.type(shop.tag.meta) == b"hash":
        name = dice.choice(
            [
                "restored:event:5-0",
                "restored:x",
                "hole:x",
                "verified:event",
                field_of("a" * 16, FactKind.EVENT),
            ]
        )
        shop.client.hset(shop.tag.meta, name, dice.randbytes(5))
    elif shop.client.type(shop.events) == b"stream" and shop.entries():
        entry_id, values = dice.choice(shop.entries())
        if choice == 5:
            shop.client.xadd(shop.events, values)
        elif choice == 6:
            shop.client.xdel(shop.events, entry_id)
        else:
            at = [each for each, _ in shop.entries()].index(entry_id)
            shop.set_data(
                at, lambda line: dice.choice(list(DAMAGES.values()))(line, dice) if len(line) > 20 else line
            )
