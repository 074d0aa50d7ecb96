"""Consumer groups on real servers: every entry is given out at least once, to one of each group."""

from __future__ import annotations

import functools
import operator
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest

from papyra_otel.errors import ConfigError, LogUnavailable
from papyra_otel.facts import Fact, FactKind
from papyra_otel.log.redis import Delivery, RedisLog, Unseen
from papyra_otel.log.redis.address import parse_address
from papyra_otel.log.retention import parse_retention
from papyra_otel.testing import make_fact
from redis_servers.flavours import Flavour
from redis_servers.lab import Lab
from redis_servers.server import Server

KEY = "papyra:{shop}:audits"


def opened(url: str, **more: Any) -> RedisLog:
    return RedisLog(parse_address(url), **more)


def audit(n: int, **changes: Any) -> Fact:
    return make_fact(n, kind=FactKind.AUDIT, **changes)


def numbers(deliveries: Iterable[Delivery]) -> list[int]:
    facts = [delivery.fact for delivery in deliveries if delivery.fact is not None]
    return [fact.attributes["n"] for fact in facts if "n" in fact.attributes]


def all_of(log: RedisLog, group: str, consumer: str, **more: Any) -> list[Delivery]:
    """Consume until nothing comes, acknowledging."""
    found: list[Delivery] = []
    while some := log.consume(group, consumer, **more):
        assert log.ack(group, some) == len(some)
        found += some
    return found


# --- giving out ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shards", [1, 4])
def test_every_fact_is_given_to_one_consumer_of_each_group(redis_server: Server, shards: int) -> None:
    with (
        opened(f"{redis_server.url}?shards={shards}") as one,
        opened(f"{redis_server.url}?shards={shards}") as two,
        opened(redis_server.url) as reader,
    ):
        for n in range(60):
            (one, two)[n % 2].append([make_fact(n, system=f"system-{n % 3}")])
        found = {consumer: [] for consumer in "ab"}
        while any(some := [reader.consume("first", consumer, count=7) for consumer in "ab"]):
            for consumer, deliveries in zip("ab", some, strict=True):
                assert len(deliveries) <= 7
                found[consumer] += deliveries
        assert Counter(numbers(found["a"] + found["b"])) == Counter(range(60))
        assert min(map(len, found.values())) > 10
        for delivery in found["a"]:
            assert delivery.fact is not None
            assert (delivery.kind, delivery.system) == (delivery.fact.kind, delivery.fact.system)
            assert (delivery.uid, delivery.times_delivered) == (delivery.fact.uid, 1)
        pending = reader.pending("first")
        assert {(each.key, each.id): each.consumer for each in pending} == {
            (each.key, each.id): consumer for consumer in "ab" for each in found[consumer]
        }
        assert len(reader.pending("first", count=5)) == 5
        assert reader.ack("first", found["a"] + found["b"]) == 60
        assert reader.ack("first", found["a"]) == 0
        assert reader.pending("first") == ()
        assert sorted(numbers(all_of(reader, "second", "a"))) == list(range(60))


def test_only_the_wanted_kinds_and_system_are_given(redis_server: Server) -> None:
    with opened(redis_server.url) as log, opened(redis_server.url, system="a") as one:
        log.append([make_fact(n, system="ab"[n % 2]) for n in range(30)])
        kinds = (FactKind.AUDIT, FactKind.DEAD_LETTER)
        found = all_of(one, "group", "me", kinds=kinds)
        assert {delivery.kind for delivery in found} == set(kinds)
        assert {delivery.system for delivery in found} == {"a"}
        assert sorted(numbers(found)) == [n for n in range(30) if n % 2 == 0 and make_fact(n).kind in kinds]


def test_more_streams_than_are_asked_for_come_in_turn(redis_server: Server) -> None:
    with opened(redis_server.url) as log:
        log.append([audit(n, system=f"system-{n}") for n in range(9)])
        found = [numbers(log.consume("group", "me", count=2)) for _ in range(6)]
        assert sorted(functools.reduce(operator.iadd, found, [])) == list(range(9))
        for n in (0, 8):
            log.append([audit(n, system=f"system-{n}")])
            assert numbers(log.consume("group", "me", count=1)) == [n]


def test_a_group_that_starts_with_the_newest_misses_nothing_from_then_on(redis_server: Server) -> None:
    with opened(redis_server.url) as log, opened(redis_server.url) as other:
        log.append([audit(0)])
        assert log.consume("group", "a", start="newest") == []
        log.append([audit(1), make_fact(2, kind=FactKind.EVENT)])
        log.append([audit(3, system="late")])
        assert sorted(numbers(all_of(other, "group", "b", start="newest"))) == [1, 2, 3]
        assert all_of(log, "group", "a", start="newest") == []
        assert sorted(numbers(all_of(log, "another", "a"))) == [0, 1, 2, 3]
        log.append([audit(4, system="later")])
        assert numbers(log.consume("group", "a", start="newest")) == [4]


def test_a_consumer_that_waits_is_given_what_comes(redis_server: Server) -> None:
    with opened(redis_server.url) as log, opened(redis_server.url) as reader:
        log.append([audit(0)])
        assert numbers(reader.consume("group", "me")) == [0]
        found: list[Delivery] = []
        thread = threading.Thread(
            target=lambda: found.extend(reader.consume("group", "me", block_seconds=15))
        )
        thread.start()
        log.append([audit(1)])
        thread.join()
        assert numbers(found) == [1]


def test_waiting_ends_in_time_and_longer_than_the_timeout_of_the_connection(redis_server: Server) -> None:
    with opened(f"{redis_server.url}?timeout=600ms") as log:
        assert log.consume("group", "me", block_seconds=0.01) == []
        log.append([audit(0)])
        assert numbers(log.consume("group", "me", block_seconds=0.7)) == [0]
        assert log.consume("group", "me", block_seconds=0.7) == []


def test_the_first_fact_of_all_is_waited_for(redis_server: Server) -> None:
    with opened(redis_server.url) as log, opened(redis_server.url) as reader:
        found: list[Delivery] = []
        thread = threading.Thread(
            target=lambda: found.extend(reader.consume("group", "me", block_seconds=15))
        )
        thread.start()
        log.append([audit(0)])
        thread.join()
        assert numbers(found) == [0]


# --- damage -------------------------------------------------------------------------------------------


def test_damaged_entries_are_given_out_so_that_they_can_be_acknowledged(redis_server: Server) -> None:
    client = redis_server.client()
    with opened(redis_server.url) as log:
        log.append([audit(0)])
        line = client.xrange(KEY)[0][1][b"data"]
        client.xadd(KEY, {"data": line.replace(b'"kind"', b'"kinD"')})
        client.xadd(KEY, {"strange": b"\xff"})
        client.xadd(KEY, {"data": b'{"v":7,"writer":"0123456789abcdef"}\n'})
        log.append([audit(1)])
        found = log.consume("group", "me")
        assert [None if each.damage is None else each.damage.partition(":")[0] for each in found] == [
            None,
            "crc_mismatch",
            "corrupt_line",
            "crc_mismatch",
            None,
        ]
        assert [each.uid is None for each in found] == [each.fact is None for each in found]
        assert {(each.system, each.kind) for each in found} == {("shop", FactKind.AUDIT)}
        assert log.ack("group", found) == 5
        assert log.pending("group") == ()


def test_what_is_gone_before_it_was_acknowledged_is_told(redis_server: Server) -> None:
    client = redis_server.client()
    with opened(redis_server.url, retention=parse_retention("audits=1")) as log:
        log.append([audit(n) for n in range(4)])
        given = log.consume("group", "dead", count=3)
        entries = dict(client.xrange(KEY))
        first = given[0].id.encode()
        client.hset("papyra:{shop}:meta", b"restored:audit:" + first, entries[first][b"data"])
        client.xdel(KEY, first)
        client.xdel(KEY, given[2].id)
        claimed = log.claim("group", "me", idle_seconds=0)
        assert [(each.id, each.times_delivered) for each in claimed] == [(each.id, 2) for each in given]
        assert numbers(claimed) == [0, 1]
        assert claimed[2].damage is not None
        assert claimed[2].damage.startswith("removed")
        log.ack("group", claimed)
        assert log.pending("group") == ()


def test_forced_compaction_leaves_nothing_pending_for_ever(redis_server: Server) -> None:
    with opened(redis_server.url, retention=parse_retention("audits=1")) as log:
        log.append([audit(n) for n in range(4)])
        log.consume("group", "dead", count=3)
        assert log.compact().records_removed == 0
        assert log.compact(force=True).records_removed == 3
        assert [each.fact for each in log.claim("group", "me", idle_seconds=0)] == [None, None, None]
        assert log.pending("group") == ()
        assert numbers(all_of(log, "group", "me")) == [3]


# --- who dies -----------------------------------------------------------------------------------------

PROGRAM = """
import sys
from papyra_otel.log import open_log
log = open_log(sys.argv[1])
found = log.consume("group", "victim", count=30)
log.ack("group", found[:10])
print(len(found), flush=True)
sys.stdin.read()
"""


def test_what_a_killed_consumer_had_is_claimed_by_another(redis_server: Server) -> None:
    with opened(redis_server.url) as log:
        log.append([audit(n) for n in range(50)])
        with subprocess.Popen(
            [sys.executable, "-c", PROGRAM, redis_server.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as victim:
            assert victim.stdout is not None
            assert victim.stdout.readline() == b"30\n"
            victim.kill()
        assert {each.consumer for each in log.pending("group")} == {"victim"}
        assert log.claim("group", "heir", idle_seconds=3600) == []
        rest = all_of(log, "group", "heir")
        claimed: list[Delivery] = []
        while some := log.claim("group", "heir", idle_seconds=0, count=8):
            assert {each.times_delivered for each in some} == {2}
            assert {each.consumer for each in log.pending("group")} <= {"heir", "victim"}
            log.ack("group", some)
            claimed += some
        assert sorted(numbers(rest) + numbers(claimed)) == list(range(10, 50))
        assert log.pending("group") == ()


@pytest.mark.parametrize("start", ["oldest", "newest"])
def test_a_group_that_the_server_forgot_is_made_again(redis_server: Server, start: str) -> None:
    client = redis_server.client()
    with opened(redis_server.url) as log:
        log.append([audit(0)])
        log.consume("group", "me", start=start)
        client.flushall()
        assert log.consume("group", "me", start=start) == []
        log.append([audit(1)])  # the log sends again what was lost, too
        assert numbers(log.consume("group", "me", start=start)) == [0, 1]
        client.xgroup_destroy(KEY, "group")
        assert log.pending("group") == ()
        assert log.claim("group", "me", idle_seconds=0) == []
        assert log.ack("group", [Delivery(system="", kind=FactKind.AUDIT, key=KEY, id="1-1", fact=None)]) == 0
        unseen = Unseen()
        again = log.consume("group", "me", start=start)
        assert numbers(unseen(again)) == [0, 1]
        assert unseen(again) == []


def test_what_cannot_be_reached_is_log_unavailable(lab: Lab) -> None:
    server = lab.server()
    log = opened(server.url)
    log.append([audit(0)])
    given = log.consume("group", "me")
    server.kill()
    for call in (
        lambda: log.consume("group", "me"),
        lambda: log.ack("group", given),
        lambda: log.pending("group"),
        lambda: log.claim("group", "me", idle_seconds=0),
    ):
        with pytest.raises(LogUnavailable):
            call()
    log.close()
    with pytest.raises(LogUnavailable, match="closed"):
        log.consume("group", "me")


def test_wrong_arguments_are_refused(redis_server: Server) -> None:
    with opened(redis_server.url) as log:
        for call in (
            lambda: log.consume("", "me"),
            lambda: log.consume("group", ""),
            lambda: log.consume("group", "me", count=0),
            lambda: log.consume("group", "me", start="middle"),
            lambda: log.consume("group", "me", kinds="audits"),  # type: ignore[arg-type]
            lambda: log.claim("group", "me", idle_seconds=-1),
            lambda: log.claim("group", "me", idle_seconds=1, count=0),
            lambda: log.pending("group", count=0),
            lambda: log.pending(""),
            lambda: Unseen(0),
        ):
            with pytest.raises(ConfigError):
                call()


# --- the same fact twice ------------------------------------------------------------------------------


def test_a_fact_passes_once_and_damage_always() -> None:
    def delivery(n: int | None) -> Delivery:
        fact = None if n is None else audit(n).identified("0" * 16, n)
        return Delivery(system="shop", kind=FactKind.AUDIT, key=KEY, id="1-1", fact=fact)

    unseen = Unseen(capacity=3)
    assert numbers(unseen([delivery(0), delivery(1), delivery(0)])) == [0, 1]
    assert len(unseen([delivery(None), delivery(None)])) == 2
    assert numbers(unseen([delivery(2), delivery(0), delivery(3)])) == [2, 3]
    assert numbers(unseen([delivery(0)])) == [], "what was seen lately is remembered longest"
    assert numbers(unseen([delivery(1)])) == [1], "only so many are remembered"


# --- a cluster ----------------------------------------------------------------------------------------


def test_groups_following_and_compaction_in_a_cluster(lab: Lab) -> None:
    cluster = lab.cluster(Flavour.VALKEY)
    url = "redis+cluster://" + ",".join(f"127.0.0.1:{port}" for port in cluster.ports)
    with (
        opened(f"{url}?shards=5") as log,
        opened(f"{url}?shards=5") as other,
        opened(url, retention=parse_retention("audits=5")) as reader,
    ):
        for n in range(40):
            (log, other)[n % 2].append([audit(n, system=f"system-{n % 4}")])
        found = all_of(reader, "group", "me", count=9, start="oldest")
        assert Counter(numbers(found)) == Counter(range(40))
        assert reader.consume("fresh", "me", start="newest") == []

        waited: list[Delivery] = []
        thread = threading.Thread(
            target=lambda: waited.extend(reader.consume("fresh", "me", block_seconds=15))
        )
        thread.start()
        log.append([audit(40, system="system-1")])
        thread.join()
        assert numbers(waited) == [40]
        reader.ack("fresh", waited)

        doings = iter([lambda: other.append([audit(41, system="system-2")])])

        def wait(_: float) -> object:
            doing = next(doings, None)
            return False if doing is None else doing()

        cursor = list(reader.read(kinds=FactKind.AUDIT))[-1].cursor
        assert [entry.fact.attributes["n"] for entry in reader.follow(after=cursor, wait=wait)] == [41]

        all_of(reader, "group", "me")
        all_of(reader, "fresh", "me")
        before = [entry.fact for entry in reader.read(kinds=FactKind.AUDIT)]
        report = reader.compact(force=True)
        assert report.records_removed == 42 - 4 * 5
        assert [entry.fact for entry in log.read(kinds=FactKind.AUDIT)] == before
