"""Recovering: what is damaged is taken out and kept, what is good stays, and then the log is healthy."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import closing, suppress

import pytest

from papyra_otel import semconv
from papyra_otel.errors import ConfigError, LogBusy, LogUnavailable
from papyra_otel.facts import FactKind
from papyra_otel.log.codec import sign
from papyra_otel.log.redis.address import parse_address
from papyra_otel.log.redis.fence import field_of
from papyra_otel.log.redis.lock import UpkeepLock
from papyra_otel.log.redis.redislog import RedisLog
from papyra_otel.log.redis.wire import Command, Reply, connect
from papyra_otel.reports import RecoveryReport
from redislog.workshop import Fields, Workshop, event, flipped, kept, reassembled, state

Change = Callable[[bytes], bytes]
Harm = Callable[[Workshop], object]


def recover(shop: Workshop, mode: str = "quarantine", **more: object) -> RecoveryReport:
    with shop.open() as log:
        return log.recover(mode, **more)


def settled(shop: Workshop, mode: str = "quarantine") -> RecoveryReport:
    """Recover; then all is healthy, a second run changes nothing, and nothing that was read before is gone."""
    before = shop.read()
    report = recover(shop, mode)
    assert report.remaining.healthy, report.remaining.anomalies
    assert shop.scan().healthy, shop.scan().anomalies
    assert set(before) <= set(shop.read())
    again = recover(shop, mode)
    assert (again.changed, again.recorded) == (False, ())
    assert again.found.healthy
    with shop.open() as log:
        stats, found = log.stats(), log.scan()
    assert {kind: stream.records for kind, stream in stats.streams.items()} == {
        kind: stream.records for kind, stream in found.streams.items()
    }
    assert {kind: stream.bytes for kind, stream in stats.streams.items()} == {
        kind: stream.size_bytes for kind, stream in found.streams.items()
    }
    return report


@pytest.mark.parametrize(
    "change",
    [
        lambda line: flipped(flipped(line, 30), 60),
        lambda _: b"",
        lambda _: b'{"level":"info"}\n',
        lambda _: b"\0\0\0",
        lambda line: line[:80],
        lambda _: b"x" * (1 << 20) + b"\n",
    ],
)
def test_damage_is_moved_aside_and_can_be_put_back(shop: Workshop, change: Change) -> None:
    shop.write(5)
    shop.set_data(2, change)
    before = shop.entries()
    report = settled(shop)
    assert shop.read() == [0, 1, 3, 4]
    assert reassembled(shop)[:5] == before
    assert (report.quarantined_spans, report.repaired_lines) == (1, 0)
    assert report.quarantined_bytes == len(before[2][1][b"data"])
    assert report.kept_in == (shop.tag.quarantine,)
    assert shop.events in report.rewritten
    (fact,) = report.recorded
    assert fact.name == semconv.LOG_RECOVERED
    assert fact.attributes[semconv.RECOVERY_QUARANTINED_SPANS] == 1
    assert fact.attributes[semconv.RECOVERY_FILES] == [shop.tag.quarantine]


@pytest.mark.parametrize("count", [2, 5000])
def test_entries_with_other_fields_are_kept_as_they_are(shop: Workshop, count: int) -> None:
    shop.write(5)
    strange = {b"f%d" % n: b"v%d" % n for n in range(count)}

    def change(entries: list[tuple[bytes, Fields]]) -> None:
        entries[1] = entries[1][0], strange

    shop.rebuild(change)
    settled(shop)
    ((key, _, anomaly, fields),) = kept(shop)
    assert (key, anomaly) == (shop.events, "corrupt_line")
    if count == 2:
        assert fields == strange
    else:
        packed = b"".join(b"%d:%b" % (len(text), text) for pair in strange.items() for text in pair)
        assert fields == {b"packed": packed}


@pytest.mark.parametrize("mode", ["quarantine", "repair"])
@pytest.mark.parametrize(
    "change",
    [
        lambda line: line[:-1],
        lambda line: line[:-1] + b"\x0b",
        lambda line: b"what is this" + line,
        lambda line: line[:80] + line,
        lambda line: line + b"\0" * 20,
        lambda line: line[:-1] + b" " * (1 << 20) + b"\n",
    ],
)
def test_whole_lines_are_never_given_up(shop: Workshop, change: Change, mode: str) -> None:
    facts = shop.write(5)
    shop.set_data(2, change)
    before = shop.entries()
    report = settled(shop, mode)
    assert shop.read() == [0, 1, 2, 3, 4]
    assert (report.quarantined_spans, report.repaired_lines) == (1, 1)
    assert reassembled(shop)[:5] == before
    with shop.open() as log:
        assert [entry.fact.attributes for entry in log.read(limit=5)] == [fact.attributes for fact in facts]


def test_several_whole_lines_in_one_entry_stand_side_by_side(shop: Workshop) -> None:
    shop.write(5)

    def join(entries: list[tuple[bytes, Fields]]) -> None:
        joined = b"".join(fields[b"data"][:-1] for _, fields in entries[3:5])
        entries[3:5] = [(entries[3][0], {b"data": joined + b"\n"})]

    shop.rebuild(join)
    report = settled(shop)
    assert report.repaired_lines == 2
    assert shop.read() == [0, 1, 2, 3, 4]


def test_every_single_flipped_bit_is_corrected(shop: Workshop) -> None:
    shop.write(3, trace_id=None, span_id=None, attributes={"n": 1})
    entries = shop.entries()
    line = entries[1][1][b"data"]
    fence = shop.client.hgetall(shop.tag.fence)
    meta = shop.client.hgetall(shop.tag.meta)
    with shop.open() as log:
        for at in range(len(line)):
            bit = 1 << at % 8  # all bits take too long here: see the model, and mending's own tests
            shop.client.flushdb()
            shop.client.sadd("papyra:systems", "shop")
            shop.client.hset(shop.tag.fence, mapping=fence)
            shop.client.hset(shop.tag.meta, mapping=meta)
            for index, (entry_id, fields) in enumerate(entries):
                data = flipped(line, at, bit) if index == 1 else fields[b"data"]
                shop.client.xadd(shop.events, {"data": data}, id=entry_id)
            report = log.recover("repair")
            restored = shop.client.hget(shop.tag.meta, f"restored:event:{entries[1][0].decode()}")
            assert restored == line, at
            assert report.remaining.healthy
            assert report.repaired_lines == 1
            assert shop.client.hgetall(shop.tag.fence).items() >= fence.items()


@pytest.mark.parametrize("at", [0, 1, 4])
def test_a_flipped_bit_is_corrected_at_the_ends_too_and_never_elsewhere(shop: Workshop, at: int) -> None:
    shop.write(5)
    shop.set_data(at, lambda line: flipped(line, 60, 4))
    settled(shop, "repair")
    assert shop.read() == [0, 1, 2, 3, 4]
    line = shop.client.hgetall(shop.tag.meta)
    assert sum(name.startswith(b"restored:") for name in line) == 1


def test_a_line_that_is_not_missing_is_not_put_back(shop: Workshop) -> None:
    shop.write(5)
    line = shop.entries()[1][1][b"data"]
    shop.client.xadd(shop.events, {"data": flipped(line, 60, 4)})
    report = settled(shop, "repair")
    assert (report.quarantined_spans, report.repaired_lines) == (1, 0)


def test_the_later_copy_is_moved_aside(shop: Workshop) -> None:
    shop.write(5)
    copy = shop.entries()[1][1]
    for _ in range(3):
        shop.client.xadd(shop.events, copy)
    report = settled(shop)
    assert [each[2] for each in kept(shop)] == ["duplicate"] * 3
    assert report.quarantined_spans == 3


def test_two_that_contradict_each_other_are_both_left(shop: Workshop) -> None:
    shop.write(5)
    said = json.loads(shop.entries()[1][1][b"data"])
    del said["crc"]
    other = sign(json.dumps({**said, "actor": "shop/other"}, separators=(",", ":")).encode())
    shop.client.xadd(shop.events, {"data": other})
    report = recover(shop)
    assert not report.changed
    assert report.remaining.counts == {"fork_conflict": 1}
    assert "nobody knows which one is right" in report.skipped[0].reason


def test_facts_in_another_order_stay_and_are_told_once(shop: Workshop) -> None:
    shop.write(5)

    def swap(entries: list[tuple[bytes, Fields]]) -> None:
        entries[1:3] = [(entries[1][0], entries[2][1]), (entries[2][0], entries[1][1])]

    shop.rebuild(swap)
    before = shop.entries()
    report = settled(shop)
    assert report.found.counts == {"out_of_order": 1}
    assert shop.entries()[:5] == before


HARMS: dict[str, Harm] = {
    "deleted inside": lambda shop: shop.client.xdel(shop.events, shop.entries()[2][0]),
    "deleted at the end": lambda shop: shop.client.xdel(shop.events, shop.entries()[4][0]),
    "trimmed": lambda shop: shop.client.xtrim(shop.events, maxlen=2, approximate=False),
    "gone": lambda shop: shop.client.delete(shop.events),
    "fence gone": lambda shop: shop.client.delete(shop.tag.fence),
    "meta gone": lambda shop: shop.client.delete(shop.tag.meta),
    "index gone": lambda shop: shop.client.delete("papyra:systems"),
    "strange stream": lambda shop: (shop.client.delete(shop.events), shop.client.set(shop.events, "x")),
    "strange fence": lambda shop: (shop.client.delete(shop.tag.fence), shop.client.set(shop.tag.fence, "x")),
    "strange meta": lambda shop: (shop.client.delete(shop.tag.meta), shop.client.set(shop.tag.meta, "x")),
    "strange quarantine": lambda shop: shop.client.set(shop.tag.quarantine, "x"),
    "strange index": lambda shop: (
        shop.client.delete("papyra:systems"),
        shop.client.set("papyra:systems", "x"),
    ),
    "strange fields": lambda shop: shop.client.hset(
        shop.tag.fence, mapping={"x": "y", "a" * 16 + "-event": "z"}
    ),
    "a field of the fence strange": lambda shop: shop.client.hset(
        shop.tag.fence, shop.client.hkeys(shop.tag.fence)[0], "what"
    ),
    "silent": lambda shop: shop.silence(),
    "a damaged correction": lambda shop: shop.client.hset(shop.tag.meta, "restored:event:5-0", "what"),
    "a flipped bit": lambda shop: shop.set_data(1, lambda line: flipped(line, 40)),
    "a cut line": lambda shop: shop.set_data(3, lambda line: line[:70]),
    "a line end": lambda shop: shop.set_data(2, lambda line: line[:-1]),
    "a copy": lambda shop: shop.client.xadd(shop.events, shop.entries()[0][1]),
}


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS)
def test_whatever_happened_it_is_healthy_afterwards(shop: Workshop, harm: Harm) -> None:
    shop.write(5)
    shop.write(3, start=5)
    harm(shop)
    if shop.scan().healthy:
        assert harm is HARMS["meta gone"]
    dry = recover(shop, dry_run=True)
    report = settled(shop)
    assert (dry.changed, dry.rewritten) == (report.changed, report.rewritten)
    assert (dry.quarantined_spans, dry.quarantined_bytes, dry.repaired_lines) == (
        report.quarantined_spans,
        report.quarantined_bytes,
        report.repaired_lines,
    )
    with shop.open() as log:
        log.append([event(9)])
        assert shop.read()[-1] == 9
    assert shop.scan().healthy


def test_what_held_another_type_is_kept_under_another_name(shop: Workshop) -> None:
    shop.write(5)
    for n in (1, 2):
        shop.client.delete(shop.events)
        shop.client.set(shop.events, f"x{n}")
        report = recover(shop)
        assert f"{shop.tag.quarantine}:events:{n}" in report.kept_in
        assert shop.client.get(f"{shop.tag.quarantine}:events:{n}") == b"x%d" % n
    assert shop.scan().healthy


def test_a_dry_run_and_ignore_change_nothing(shop: Workshop) -> None:
    shop.write(5)
    for harm in ("a flipped bit", "deleted at the end", "a copy"):
        HARMS[harm](shop)
    before = state(shop)
    report = recover(shop, dry_run=True)
    assert report.changed
    assert report.found is report.remaining
    assert not recover(shop, "ignore").changed
    assert state(shop) == before
    with pytest.raises(ConfigError, match="mode='mend'"):
        recover(shop, "mend")


def test_only_one_at_a_time(shop: Workshop) -> None:
    shop.write(5)
    HARMS["a flipped bit"](shop)
    with (
        closing(connect(parse_address(shop.server.url))) as wire,
        UpkeepLock(wire, "here", [shop.tag]),
        pytest.raises(LogBusy),
    ):
        recover(shop)
    assert recover(shop).changed


def test_who_lost_the_lock_changes_nothing_more(shop: Workshop) -> None:
    shop.write(5)
    HARMS["a flipped bit"](shop)
    before = shop.entries()

    def take_over(_: object) -> None:
        shop.client.hset(shop.tag.meta, "upkeep", "another 99999999999999")

    with pytest.raises(LogBusy, match="another process may have taken over"):
        recover(shop, progress=take_over)
    assert shop.entries() == before


def test_a_living_writer_goes_on(shop: Workshop) -> None:
    log = shop.open()
    log.append([event(n) for n in range(5)])
    HARMS["a flipped bit"](shop)
    HARMS["fence gone"](shop)
    report = recover(shop, progress=lambda _: log.append([event(100)]) if len(shop.entries()) < 6 else None)
    assert report.remaining.counts in ({}, {"duplicate": 4}, {"duplicate": 5}), report.remaining.anomalies
    log.append([event(6)])
    log.close()
    recover(shop)
    assert shop.scan().healthy
    assert sorted({*shop.read(), 1}) == [0, 1, 2, 3, 4, 6, 100]


def test_more_bad_entries_than_are_remembered_at_once(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("papyra_otel.log.redis.redislog.BAD_MAX", 7)
    shop.write(40)

    def change(entries: list[tuple[bytes, Fields]]) -> None:
        entries[:] = [(entry_id, {b"data": b"x%d" % n}) for n, (entry_id, _) in enumerate(entries)]

    shop.rebuild(change)
    before = shop.entries()
    report = settled(shop)
    assert report.quarantined_spans == 40
    assert reassembled(shop)[:40] == before


# --- a run that dies ------------------------------------------------------------------------------------


class _Dying:
    """A wire that fails once, at a certain command; what it sent may have been done, or not."""

    def __init__(self, wire: object, at: int, *, done: bool) -> None:
        self._wire = wire
        self.left = at
        self._done = done

    def send(self, key: str, commands: Sequence[Command]) -> list[Reply]:
        self.left -= 1
        if self.left == 0:
            if self._done:
                self._wire.send(key, commands)
            raise LogUnavailable("cut", error_type="connection")
        return self._wire.send(key, commands)

    def __getattr__(self, name: str) -> object:
        return getattr(self._wire, name)


def _dying(log: RedisLog, at: int, *, done: bool) -> _Dying:
    wire = _Dying(log._wire, at, done=done)
    log._wire = wire
    log._survey._wire = wire
    log._appending._wire = wire
    return wire


def _hurt(shop: Workshop) -> None:
    shop.client.flushdb()
    for start in (0, 5):
        with shop.open() as log:
            log._identities._new_writer = lambda start=start: f"{start:016x}"
            log.append([event(start + n) for n in range(5)])
    ids = [b"%d-0" % (n + 1) for n in range(10)]

    def change(entries: list[tuple[bytes, Fields]]) -> None:
        entries[:] = [(entry_id, fields) for entry_id, (_, fields) in zip(ids, entries, strict=True)]

    shop.rebuild(change)
    for start in (0, 5):
        name = field_of(f"{start:016x}", FactKind.EVENT)
        parts = shop.client.hget(shop.tag.fence, name).split(b" ")
        parts[3:5] = ids[start], ids[start + 4]
        shop.client.hset(shop.tag.fence, name, b" ".join(parts))
    shop.set_data(1, lambda line: flipped(line, 40))
    shop.set_data(3, lambda line: line[:60])
    shop.set_data(6, lambda line: line[:-1])
    shop.client.xdel(shop.events, ids[8])
    shop.client.xadd(shop.events, shop.entries()[0][1], id=b"20-0")
    shop.client.hset(shop.tag.fence, "x", "y")
    shop.client.set(shop.tag.stream(FactKind.AUDIT), "x")
    shop.client.delete("papyra:systems")


@pytest.mark.parametrize("done", [False, True])
def test_a_run_that_died_at_any_step_is_finished_by_the_next(shop: Workshop, *, done: bool) -> None:
    _hurt(shop)
    report = recover(shop, "repair")
    assert report.remaining.healthy
    wanted = state(shop)
    at = 0
    while True:
        at += 1
        _hurt(shop)
        with shop.open() as log:
            wire = _dying(log, at, done=done)
            with suppress(LogUnavailable):
                log.recover("repair")
            if wire.left > 0:
                break
        shop.client.hdel(shop.tag.meta, "upkeep")  # time has passed
        last = recover(shop, "repair")
        assert last.remaining.healthy
        found = state(shop)
        assert found == wanted, at
        facts = [each for each in shop.entries() if b"papyra.log.recovered" in each[1][b"data"]]
        assert facts, at
    assert at > 15
