"""The log in Redis as an outbox: a consumer group, shared by those who deliver."""

from __future__ import annotations

from collections import Counter

import pytest

import papyra_otel
from delivery.conftest import RESOURCE, TIME, Delivery, fact, record
from delivery.receivers import Answer, in_turn, records_in, uids_in
from papyra_otel.facts import FactKind
from papyra_otel.log.redis import outlet as redis_outlet


@pytest.fixture
def url(redis_server) -> str:
    return redis_server.url


def exported(delivery: Delivery) -> dict[str, int]:
    return {key[0]: n for key, n in delivery.counters.read("papyra.delivery.exported")}


def test_every_fact_arrives_once_with_its_process_s_resource(url, receiver, new_delivery):
    record(url, range(700), {"service.name": "first"})
    uids = record(
        url,
        [fact(n, system="other", kind=FactKind.DEAD_LETTER) for n in range(5)],
        {"service.name": "second"},
    )
    delivery = new_delivery(receiver)
    assert delivery.run() is True
    assert Counter(receiver.uids) == dict.fromkeys(uids, 1)
    assert exported(delivery) == {"": 705}
    names = Counter()
    for request in receiver.taken:
        for resource in request.resource_logs:
            (pair,) = resource.resource.attributes
            names[pair.value.string_value] += sum(len(scope.log_records) for scope in resource.scope_logs)
    assert names == {"first": 700, "second": 5}
    assert new_delivery(receiver).run() is True
    assert len(receiver.uids) == 705


def test_what_one_was_given_and_did_not_deliver_another_one_delivers(
    url, receiver, new_delivery, monkeypatch
):
    uids = record(url, range(300))
    away = new_delivery(receiver)
    receiver.behave = in_turn([], then=Answer(503))
    away.deliverer._wait = lambda seconds: True
    away.deliverer._ended.set()
    assert away.run() is False
    receiver.behave = in_turn([])
    monkeypatch.setattr(redis_outlet, "CLAIM_SECONDS", 0.0)
    assert new_delivery(receiver).run() is True
    assert Counter(receiver.uids) == dict.fromkeys(uids, 1)


def test_two_deliver_together(url, receiver, new_delivery):
    uids = record(url, range(1000))
    first, second = new_delivery(receiver), new_delivery(receiver)
    first.shipper.step()
    second.shipper.step()
    assert first.shipper.delivered
    assert second.shipper.delivered
    assert first.run() is True
    assert second.run() is True
    assert Counter(receiver.uids) == dict.fromkeys(uids, 1)


def test_poison_is_noted_in_the_quarantine(url, receiver, new_delivery, redis_server):
    uids = record(url, range(50))
    receiver.behave = lambda request: Answer(400, message="odd") if uids[7] in uids_in(request) else Answer()
    delivery = new_delivery(receiver)
    assert delivery.run() is True
    assert sorted(receiver.uids) == sorted({*uids} - {uids[7]})
    with redis_server.new_client() as client:
        ((_, fields),) = client.xrange("papyra:{orders}:quarantine")
    assert fields[b"anomaly"].startswith(b"refused: ")
    assert b'"n":7' in fields[b"data"]
    assert "papyra:{orders}:quarantine" in " ".join(delivery.told)


def test_what_is_not_delivered_is_counted(url, receiver, new_delivery):
    record(url, range(10))
    outlet = new_delivery(receiver).deliverer._outlet
    assert outlet.backlog().records == 10
    assert outlet.backlog().oldest_unix_nano == TIME
    new_delivery(receiver).run()
    assert outlet.backlog().records == 0
    record(url, range(10, 13))
    assert outlet.backlog().records == 3
    assert outlet.backlog().oldest_unix_nano == TIME + 10


def test_compaction_leaves_what_is_not_delivered(url, receiver, new_delivery):
    record(url, range(4))
    new_delivery(receiver).run()
    record(url, range(4, 10))
    with papyra_otel.open_log(url) as log:
        report = log.compact("events=3")
    assert report.groups[0].group == "papyra-otel-otlp"
    assert report.groups[0].unread
    receiver.taken.clear()
    assert new_delivery(receiver).run() is True
    assert len([each for request in receiver.taken for each in records_in(request)]) == 7


def test_consumers_do_not_pile_up(url, receiver, new_delivery, redis_server):
    record(url, range(4))
    for _ in range(3):
        new_delivery(receiver).run()
    with redis_server.new_client() as client:
        assert client.xinfo_consumers("papyra:{orders}:events", "papyra-otel-otlp") == []


def test_a_scan_finds_nothing_strange(url, receiver, new_delivery):
    record(url, range(3), RESOURCE)
    new_delivery(receiver).run()
    with papyra_otel.open_log(url) as log:
        report = log.scan()
        assert report.counts.get("unexpected_file", 0) == 0
        assert not report.damaged
