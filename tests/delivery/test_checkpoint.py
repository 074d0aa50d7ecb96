"""How far delivery is: durable, private, damaged without harm, and known to compaction."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import pytest

import papyra_otel
from delivery.conftest import fact, record
from papyra_otel.errors import ConfigError, LogTooNew
from papyra_otel.facts import FactKind
from papyra_otel.log.file.checkpoint import Checkpoint, Damaged, load, save
from papyra_otel.log.file.fs import OS

KEEP_3 = "events=3"


@pytest.fixture
def root(url) -> Path:
    return Path(url.removeprefix("file:"))


@pytest.fixture
def note(root) -> Path:
    return root / ".delivery/otlp.json"


def test_it_is_private_and_says_what_was_saved(url, root, note, receiver, new_delivery):
    record(url, range(3))
    new_delivery(receiver).run()
    assert note.stat().st_mode & 0o777 == 0o600
    assert note.parent.stat().st_mode & 0o777 == 0o700
    assert (note.parent / "otlp.lock").stat().st_mode & 0o777 == 0o600
    found = load(OS, str(root), "otlp")
    assert found.delivered == 3
    assert len(found.positions()) == 1


def test_any_changed_or_missing_byte_is_noticed(url, root, note):
    record(url, range(1))
    save(OS, str(root), Checkpoint(outlet="otlp", cursor="f1.gA", delivered=12, time="2026"))
    good = note.read_bytes()
    assert load(OS, str(root), "otlp").delivered == 12
    damaged = [good[:n] for n in range(len(good))] + [good + b"x", good + good, b""]
    damaged += [
        good[:place] + bytes([good[place] ^ 1 << bit]) + good[place + 1 :]
        for place in range(len(good))
        for bit in range(8)
    ]
    for data in damaged:
        note.write_bytes(data)
        with pytest.raises(Damaged):
            load(OS, str(root), "otlp")


def test_with_a_damaged_note_everything_is_delivered_again_and_that_is_said(
    url, note, receiver, new_delivery, caplog
):
    uids = record(url, range(5))
    new_delivery(receiver).run()
    good = note.read_bytes()
    for place in range(0, len(good), 7):
        note.write_bytes(good[:place] + bytes([good[place] ^ 64]) + good[place + 1 :])
        receiver.taken.clear()
        with caplog.at_level(logging.ERROR):
            assert new_delivery(receiver).run() is True
        assert receiver.uids == uids
        assert "damaged" in caplog.text
        caplog.clear()
        receiver.taken.clear()
        assert new_delivery(receiver).run() is True
        assert receiver.uids == []


def test_a_note_of_a_newer_version_is_left_alone(url, note, receiver, new_delivery):
    record(url, range(5))
    new_delivery(receiver).run()
    from zlib import crc32

    body = b'{"v":2,"outlet":"otlp","new":true'
    newer = b'%b,"crc":"%08x"}\n' % (body, crc32(b"}", crc32(body)))
    note.write_bytes(newer)
    with pytest.raises(LogTooNew, match="Upgrade"):
        new_delivery(receiver).run()
    assert note.read_bytes() == newer


def test_it_moves_only_when_the_receiver_took_it(url, note, receiver, new_delivery):
    from delivery.receivers import Answer, in_turn

    uids = record(url, range(1030))
    receiver.behave = in_turn([Answer(), Answer()], then=Answer(503))
    delivery = new_delivery(receiver)
    delivery.deliverer._wait = lambda seconds: True
    delivery.deliverer.end(60)
    assert delivery.run() is False
    receiver.behave = in_turn([])
    assert new_delivery(receiver).run() is True
    assert receiver.uids == uids


def test_a_note_that_cannot_be_written_keeps_nobody_from_delivering(
    url, root, receiver, new_delivery, monkeypatch
):
    from papyra_otel.log.file import outlet

    uids = record(url, range(1500))
    calls = Counter()

    def failing(*args):
        calls["save"] += 1
        raise OSError(28, "No space left on device", "otlp.json")

    monkeypatch.setattr(outlet, "save", failing)
    delivery = new_delivery(receiver)
    assert delivery.run() is True
    assert calls["save"] == 3
    assert receiver.uids == uids
    assert sum("No space left" in told for told in delivery.told) == 1
    monkeypatch.undo()
    assert new_delivery(receiver).run() is True
    assert Counter(receiver.uids) == dict.fromkeys(uids, 2)


def test_an_outlet_of_one_system_is_not_one_of_all(url, root, receiver, new_delivery):
    record(url, [fact(0), fact(1, system="other")])
    with papyra_otel.open_log(url, system="other") as log:
        outlet = log.outlet()
        outlet.acquire()
        batch = outlet.next_batch(lambda fact: True, 10, 1000)
        assert [item.fact.system for item in batch.items] == ["other"]
        outlet.done(batch)
        outlet.release()
    with pytest.raises(ConfigError, match="use another name"):
        new_delivery(receiver).run()


def test_places_that_are_gone_are_forgotten(url, root, receiver, new_delivery):
    for n in range(5):
        record(url, range(n, n + 1))
        new_delivery(receiver).run()
    assert len(load(OS, str(root), "otlp").positions()) == 5
    segments = sorted((root / "orders/events").iterdir())
    for segment in segments[:3]:
        segment.unlink()
    record(url, range(9, 10))
    new_delivery(receiver).run()
    assert len(load(OS, str(root), "otlp").positions()) == 3
    assert len(receiver.uids) == 6


def test_what_comes_when_a_batch_ended_with_the_last_fact_is_seen_at_once(url):
    record(url, range(2))
    with papyra_otel.open_log(url) as log:
        outlet = log.outlet()
        outlet.acquire()
        assert len(outlet.next_batch(lambda fact: True, 2, 1 << 20).items) == 2
        record(url, range(2, 4))
        assert len(outlet.next_batch(lambda fact: True, 2, 1 << 20).items) == 2
        outlet.rest()
        record(url, range(4, 6))
        assert len(outlet.next_batch(lambda fact: True, 5, 1 << 20).items) == 2
        outlet.rewind()
        assert len(outlet.next_batch(lambda fact: True, 9, 1 << 20).items) == 6
        outlet.release()


# --- compaction --------------------------------------------------------------------------------------


def left(url: str) -> list[int]:
    with papyra_otel.open_log(url) as log:
        return [
            entry.fact.attributes["n"]
            for entry in log.read(kinds=FactKind.EVENT)
            if entry.fact.name == "papyra.actor.exception"
        ]


def test_compaction_takes_what_is_delivered(url, receiver, new_delivery):
    record(url, range(10))
    new_delivery(receiver).run()
    with papyra_otel.open_log(url) as log:
        report = log.compact(KEEP_3)
    assert report.groups == ()
    assert report.records_removed == 8
    assert left(url) == [8, 9]


def test_compaction_leaves_what_is_not_delivered_and_tells(url, receiver, new_delivery):
    record(url, range(4))
    new_delivery(receiver).run()
    record(url, range(4, 10))
    with papyra_otel.open_log(url) as log:
        dry = log.compact(KEEP_3, dry_run=True)
        report = log.compact(KEEP_3)
    assert report.records_removed == dry.records_removed == 4
    (hold,) = report.groups
    assert (hold.system, hold.kind, hold.group, hold.lost) == ("orders", FactKind.EVENT, "otlp", False)
    assert hold.unread == 4
    assert left(url) == [4, 5, 6, 7, 8, 9]
    receiver.taken.clear()
    assert new_delivery(receiver).run() is True
    delivered = [each for each in receiver.uids if each is not None]
    assert len(delivered) == 7  # and the fact about the compaction


def test_a_position_inside_a_segment_holds_back_what_follows_it(url, receiver, new_delivery):
    record(url, range(10))
    with papyra_otel.open_log(url) as log:
        outlet = log.outlet()
        outlet.acquire()
        outlet.done(outlet.next_batch(lambda fact: True, 5, 1 << 20))
        outlet.release()
        report = log.compact(KEEP_3)
        assert report.groups[0].unread == 3
    assert left(url) == [5, 6, 7, 8, 9]
    new_delivery(receiver).run()
    assert len(receiver.uids) == 6


def test_forced_it_takes_everything_and_says_what_was_lost(url, receiver, new_delivery):
    record(url, range(4))
    new_delivery(receiver).run()
    record(url, range(4, 10))
    with papyra_otel.open_log(url) as log:
        report = log.compact(KEEP_3, force=True)
    assert report.records_removed == 8
    (hold,) = report.groups
    assert hold.lost
    assert hold.unread == 4
    assert left(url) == [8, 9]


def test_with_a_damaged_note_nothing_is_known_to_be_delivered(url, note, receiver, new_delivery):
    record(url, range(10))
    new_delivery(receiver).run()
    note.write_bytes(note.read_bytes()[:-5])
    with papyra_otel.open_log(url) as log:
        report = log.compact(KEEP_3)
    assert report.records_removed == 0
    assert report.groups[0].unread > 0
    assert left(url) == [*range(10)]


def test_a_log_that_was_never_delivered_is_compacted_as_ever(url):
    record(url, range(10))
    with papyra_otel.open_log(url) as log:
        assert log.compact(KEEP_3).records_removed == 8


def test_a_scan_finds_nothing_strange(url, receiver, new_delivery):
    record(url, range(3))
    new_delivery(receiver).run()
    with papyra_otel.open_log(url) as log:
        assert log.scan().healthy
        assert log.stats().systems == ("orders",)
