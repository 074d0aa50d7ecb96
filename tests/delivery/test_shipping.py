"""What a receiver does, and what becomes of the facts: none is lost, and one that comes twice has the same uid."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import count, repeat
from pathlib import Path

import pytest

import papyra_otel
from delivery.conftest import RESOURCE, TIME, fact, record
from delivery.receivers import RECEIVERS, Answer, in_turn, records_in, uids_in, value_of
from papyra_otel.errors import ConfigError, LogBusy
from papyra_otel.pipeline.delivery import shipper


def exported(delivery) -> dict[str, int]:
    return {key[0]: n for key, n in delivery.counters.read("papyra.delivery.exported")}


def test_every_fact_arrives_once_as_it_was_recorded(url, receiver, new_delivery):
    uids = record(url, range(1200))
    delivery = new_delivery(receiver)
    assert delivery.run() is True
    assert receiver.uids == uids
    assert exported(delivery) == {"": 1200}
    first = records_in(receiver.taken[0])[0]
    assert first.time_unix_nano == TIME
    assert first.observed_time_unix_nano == TIME
    assert first.event_name == "papyra.actor.exception"
    assert (first.severity_text, first.severity_number) == ("ERROR", 17)
    assert first.trace_id.hex() == f"{1:032x}"
    assert first.span_id.hex() == f"{1:016x}"
    assert value_of(first, "papyra.actor.address") == "orders/0"
    assert value_of(first, "papyra.system.id") == "orders"
    assert value_of(first, "n") == 0
    (resource,) = receiver.taken[0].resource_logs
    assert {
        pair.key: pair.value.string_value or pair.value.int_value for pair in resource.resource.attributes
    } == (RESOURCE)
    assert resource.scope_logs[0].scope.name == "papyra_otel"


def test_what_was_delivered_is_not_delivered_again(url, receiver, new_delivery):
    record(url, range(3))
    new_delivery(receiver).run()
    uids = record(url, range(3, 5))
    assert new_delivery(receiver).run() is True
    assert sorted(receiver.uids) == sorted(uids)


def test_each_process_s_facts_have_its_resource(url, receiver, new_delivery):
    record(url, range(2), {"service.name": "first"})
    record(url, range(2, 4), {"service.name": "second"})
    new_delivery(receiver).run()
    names = {
        resource.resource.attributes[0].value.string_value: sum(
            len(s.log_records) for s in resource.scope_logs
        )
        for resource in receiver.taken[0].resource_logs
    }
    assert names == {"first": 2, "second": 2}


def test_what_is_not_to_leave_is_passed_over(url, receiver, new_delivery):
    record(
        url,
        [
            fact(0),
            fact(1, name="papyra.message.processed"),
            fact(2, attributes={"papyra.message.payload": "x"}),
        ],
    )
    delivery = new_delivery(receiver)
    delivery.run()
    records = [each for request in receiver.taken for each in records_in(request)]
    assert [each.event_name for each in records] == ["papyra.actor.exception"] * 2
    assert [value_of(each, "papyra.message.payload") for each in records] == [None, None]
    receiver.taken.clear()
    new_delivery(receiver, outlet="all", messages=True, payload=True).run()
    records = [each for request in receiver.taken for each in records_in(request)]
    assert [value_of(each, "papyra.message.payload") for each in records] == [None, None, "x"]


@pytest.mark.parametrize("status", [429, 503, 500, 401, 404])
def test_a_receiver_that_does_not_take_it_now_is_asked_until_it_does(url, receiver, new_delivery, status):
    uids = record(url, range(5))
    receiver.behave = in_turn([Answer(status, message="not now")] * 5)
    delivery = new_delivery(receiver)
    assert delivery.run() is True
    assert receiver.uids == uids
    assert len(receiver.requests) == 6
    assert sum("not now" in told for told in delivery.told) == 1
    assert "again" in delivery.told[-1]
    assert len(delivery.waited) == 5
    assert all(0.25 * 2**n <= pause <= 0.5 * 2**n for n, pause in enumerate(delivery.waited))


@pytest.mark.parametrize("status", [429, 503])
def test_a_receiver_that_asks_to_be_left_alone_is_left_alone(url, receiver, new_delivery, status):
    record(url, range(5))
    receiver.behave = in_turn([Answer(status, after_seconds=37), Answer(status, after_seconds=999_999)])
    delivery = new_delivery(receiver)
    assert delivery.run() is True
    assert delivery.waited == [37, shipper.LONGEST_OBEYED_SECONDS]


def test_a_date_to_come_back_at_is_a_number_of_seconds():
    from papyra_otel.pipeline.delivery.http import _after_seconds

    assert _after_seconds("Wed, 21 Oct 2026 07:28:30 GMT", 1792567700.0) == 10.0
    assert _after_seconds("Wed, 21 Oct 2026 07:28:30 GMT", 1892567700.0) == 0.0
    for nonsense in ("", "soon", "-5", "9" * 400, "Wed, 99 Oct 2026 07:28:30 GMT"):
        assert _after_seconds(nonsense, 0.0) is None


def test_a_connection_that_is_reset_is_tried_again(url, receiver, new_delivery):
    uids = record(url, range(5))
    receiver.behave = in_turn([Answer(reset=True)] * 3)
    delivery = new_delivery(receiver)
    assert delivery.run() is True
    assert receiver.uids == uids


def test_a_receiver_that_took_it_and_could_not_say_so_gets_it_again_with_the_same_uid(
    url, receiver, new_delivery
):
    uids = record(url, range(5))
    receiver.behave = in_turn([Answer(reset=True, taken=True)])
    assert new_delivery(receiver).run() is True
    assert Counter(receiver.uids) == dict.fromkeys(uids, 2)
    assert receiver.taken[0] == receiver.taken[1]


def test_a_receiver_that_does_not_answer_is_left_after_the_timeout(url, receiver, new_delivery):
    uids = record(url, range(5))
    receiver.behave = in_turn([Answer(hang=True)])
    delivery = new_delivery(receiver, environ={"OTEL_EXPORTER_OTLP_TIMEOUT": "0.2"})
    assert delivery.run() is True
    assert receiver.uids == uids
    assert any(
        "timeout" in told.lower() or "deadline" in told.lower() or "no answer" in told
        for told in delivery.told
    )


def test_a_receiver_that_is_away_for_the_whole_run_gets_everything_later(url, new_delivery):
    for kind, make in RECEIVERS.items():
        away = make()
        away.close()
        delivery = new_delivery(away, outlet=kind)
        ended = iter(range(5))
        delivery.deliverer._wait = lambda seconds, ended=ended, delivery=delivery: (
            next(ended, None) is None and (delivery.deliverer.end(1.0), True)[1]
        )
        uids = record(url, range(3))
        assert delivery.run() is False
        assert delivery.shipper.delivered == 0
        back = make(away.port)
        try:
            assert new_delivery(back, outlet=kind).run() is True
            assert back.uids == uids
        finally:
            back.close()


def test_partial_success_is_not_sent_again_and_is_told(url, receiver, new_delivery):
    record(url, range(10))
    receiver.behave = in_turn([Answer(rejected=3, message="too old")])
    delivery = new_delivery(receiver)
    assert delivery.run() is True
    assert len(receiver.requests) == 1
    assert exported(delivery) == {"": 7, "partial_success": 3}
    assert any("too old" in told and "3 of its 10" in told for told in delivery.told)


def test_a_warning_of_the_receiver_is_told_once(url, receiver, new_delivery):
    record(url, range(1000))
    receiver.behave = in_turn([], then=Answer(message="deprecated"))
    delivery = new_delivery(receiver)
    assert delivery.run() is True
    assert exported(delivery) == {"": 1000}
    assert sum("deprecated" in told for told in delivery.told) == 1


def refusing(*poisoned: str, status: int = 400):
    return lambda request: (
        Answer(status, message="what is this?") if {*poisoned} & {*uids_in(request)} else Answer()
    )


@pytest.mark.parametrize("at", [[0], [699], [511, 512], [3, 4, 5], [0, 100, 200, 300]])
def test_poison_is_found_put_aside_and_told(url, receiver, new_delivery, at, tmp_path):
    uids = record(url, range(700))
    poisoned = [uids[n] for n in at]
    receiver.behave = refusing(*poisoned)
    delivery = new_delivery(receiver)
    assert delivery.run() is True
    assert receiver.uids == [uid for uid in uids if uid not in poisoned]
    code = "400" if receiver.protocol.startswith("http") else "INVALID_ARGUMENT"
    assert exported(delivery) == {"": 700 - len(at), code: len(at)}
    files = sorted(Path(tmp_path, "facts/.delivery").glob("otlp.refused-*.ndjson"))
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    assert sorted(line["uid"] for line in lines) == sorted(poisoned)
    assert all(f"{line['fact']['writer']}-event-{line['fact']['seq']}" == line["uid"] for line in lines)
    assert {line["message"].partition(" what")[2] for line in lines} == {" is this?"}
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    assert any("for good" in told for told in delivery.told)


def test_a_record_that_makes_the_receiver_fail_is_found_too(url, receiver, new_delivery):
    uids = record(url, range(20))
    receiver.behave = refusing(uids[7], status=500)
    delivery = new_delivery(receiver)
    assert delivery.run() is True
    assert sorted(receiver.uids) == sorted({*uids} - {uids[7]})
    assert sum(exported(delivery).values()) == 20


def test_a_receiver_that_refuses_everything_costs_no_fact(url, receiver, new_delivery):
    uids = record(url, range(20))
    said = count()
    receiver.behave = lambda request: Answer(400, message="no such tenant") if next(said) < 30 else Answer()
    delivery = new_delivery(receiver)
    assert delivery.run() is True
    assert receiver.uids[-20:] == uids
    assert exported(delivery) == {"": 20}
    assert any("refuses everything" in told for told in delivery.told)


def test_one_that_takes_empty_requests_only_costs_no_fact(url, receiver, new_delivery):
    uids = record(url, range(4))
    said = count()
    receiver.behave = lambda request: (
        Answer(400, message="quota") if request.resource_logs and next(said) < 50 else Answer()
    )
    delivery = new_delivery(receiver)
    assert delivery.run() is True
    assert [uid for uid in receiver.uids if uid] == uids
    assert exported(delivery) == {"": 4}


def test_a_single_poison_record_is_blamed_once_others_were_taken(url, receiver, new_delivery):
    (poison,) = record(url, range(1))
    receiver.behave = refusing(poison)
    delivery = new_delivery(receiver)
    more = iter([lambda: None, lambda: None, lambda: record(url, range(1, 3))])
    delivery.deliverer._wait = lambda seconds: next(more, lambda: None)() is not None and False
    assert delivery.run() is True
    assert len(receiver.uids) == 2 + receiver.uids.count(None)
    assert exported(delivery)[""] == 2
    assert sum(exported(delivery).values()) == 3


def test_a_fact_that_cannot_be_encoded_keeps_nothing_else(url, receiver, new_delivery, monkeypatch):
    uids = record(url, range(10))
    delivery = new_delivery(receiver)
    encode = delivery.shipper._encode

    def encoding(items):
        if any(item.fact.uid == uids[4] for item in items):
            raise TypeError("odd")
        return encode(items)

    monkeypatch.setattr(delivery.shipper, "_encode", encoding)
    assert delivery.run() is True
    assert receiver.uids == uids[:4] + uids[5:]
    assert exported(delivery) == {"": 9, "encoding": 1}


def test_two_deliverers_of_one_log_take_turns(url, receiver, new_delivery):
    record(url, range(3))
    first, second = new_delivery(receiver), new_delivery(receiver)
    first.deliverer._outlet.acquire()
    with pytest.raises(LogBusy, match="another process delivers"):
        second.run()
    first.deliverer._outlet.release()
    assert second.run() is True
    assert first.run() is True
    assert len(receiver.uids) == 3


def test_outlets_are_delivered_apart(url, receiver, new_delivery):
    uids = record(url, range(3))
    new_delivery(receiver, outlet="first").run()
    new_delivery(receiver, outlet="second").run()
    assert receiver.uids == uids * 2


def test_an_outlet_has_a_name_that_is_fit_for_a_file(url, receiver, new_delivery):
    record(url, range(1))
    for name in ("", "../x", "A", "a/b", "x" * 64, ".x"):
        with pytest.raises(ConfigError, match="outlet"):
            new_delivery(receiver, outlet=name)


def test_retention_hides_nothing_from_delivery(url, receiver, new_delivery):
    uids = record(url, range(10))
    log = papyra_otel.open_log(url, retention="2")
    assert len(list(log.read())) == 2
    delivery = new_delivery(receiver)
    delivery.deliverer._outlet = delivery.shipper._outlet = log.outlet()
    assert delivery.run() is True
    assert receiver.uids == uids
    log.close()


@pytest.mark.parametrize("compression", ["gzip", "none"])
def test_what_is_compressed_arrives_whole(url, receiver, new_delivery, compression):
    uids = record(url, range(30))
    environ = {
        "OTEL_EXPORTER_OTLP_COMPRESSION": compression,
        "OTEL_EXPORTER_OTLP_HEADERS": "X-Tenant=blue%20sky",
    }
    assert new_delivery(receiver, environ=environ).run() is True
    assert receiver.uids == uids
    assert receiver.headers[0]["x-tenant"] == "blue sky"
    if receiver.protocol != "grpc":
        assert receiver.headers[0].get("content-encoding") == (None if compression == "none" else compression)
        assert receiver.headers[0]["path"] == "/v1/logs"


def test_what_is_not_delivered_is_counted_without_a_lease(url, receiver, new_delivery):
    record(url, range(10))
    outlet = new_delivery(receiver).deliverer._outlet
    assert outlet.backlog().records == 10
    assert outlet.backlog().oldest_unix_nano == TIME
    new_delivery(receiver).run()
    assert outlet.backlog().records == 0
    assert outlet.backlog().oldest_unix_nano is None
    record(url, range(10, 14))
    assert outlet.backlog().records == 4
    assert outlet.backlog().oldest_unix_nano == TIME + 10


def test_the_backlog_is_known_while_the_receiver_is_away(url, receiver, new_delivery):
    record(url, range(1300))
    receiver.behave = in_turn([Answer(), Answer(503), Answer(503)])
    delivery = new_delivery(receiver)
    delivery.deliverer._look_at = 0.0
    seen = []
    delivery.deliverer._wait = lambda seconds: bool(seen.append(delivery.deliverer.backlog()))
    assert delivery.run() is True
    assert seen[0].records == 1300 - 512
    assert seen[0].oldest_unix_nano == TIME + 512
    assert delivery.deliverer.backlog() is None  # not the one that delivers any more


def test_requests_are_bounded_in_size(url, receiver, new_delivery):
    record(url, [fact(n, attributes={"text": "x" * 300_000}) for n in range(10)])
    assert new_delivery(receiver).run() is True
    assert max(request.ByteSize() for request in receiver.requests) < 2_000_000
    assert len(receiver.uids) == 10


def test_secrets_are_not_told(url, receiver, new_delivery):
    record(url, range(1))
    receiver.behave = in_turn(repeat(Answer(401, message="who?"), 3))
    delivery = new_delivery(receiver, environ={"OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer hunter2"})
    delivery.run()
    assert not re.search("hunter2", " ".join([*delivery.told, repr(delivery.target), delivery.target.shown]))
