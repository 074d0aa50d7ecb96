"""Appending when the server forgets, refuses, or answers too late: every fact is there once, or told."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import pytest

from papyra_otel import semconv
from papyra_otel.errors import LogTooNew, LogUnavailable
from papyra_otel.facts import Fact, FactKind
from papyra_otel.log import LogOptions
from papyra_otel.log.codec import sign
from papyra_otel.log.contract import Lost, Mark
from papyra_otel.log.redis.address import parse_address
from papyra_otel.log.redis.redislog import RedisLog
from papyra_otel.testing import make_fact
from redis_servers.fixtures import require
from redis_servers.flavours import Flavour
from redis_servers.lab import Lab
from redis_servers.server import Server

KEY = "papyra:{shop}:events"
FENCE = "papyra:{shop}:fence"


def event(n: int) -> Fact:
    return make_fact(n, kind=FactKind.EVENT)


def opened(url: str, options: LogOptions | None = None) -> RedisLog:
    return RedisLog(parse_address(url), options=options)


def reserved(log: RedisLog, numbers: Sequence[int]) -> list[Fact]:
    return [event(n).identified(*log.reserve("shop", FactKind.EVENT)) for n in numbers]


def shown(log: RedisLog) -> list[int]:
    return [entry.fact.attributes["n"] for entry in log.read()]


def stored(server: Server) -> int:
    return int(server.client().xlen(KEY))


# --- a server that forgets ------------------------------------------------------------------------------


def _flush_all(server: Server) -> None:
    server.client().flushall()


def _delete_all_but_the_index(server: Server) -> None:
    server.client().delete(
        KEY, FENCE, "papyra:{shop}:meta", "papyra:{shop}:audits", "papyra:{shop}:dead_letters"
    )


@pytest.mark.parametrize("forget", [_flush_all, _delete_all_but_the_index])
def test_what_the_server_forgot_is_sent_again_before_anything_new(
    redis_server: Server, forget: Callable[[Server], None]
) -> None:
    lost: list[Lost] = []
    with opened(redis_server.url, LogOptions(on_lost=lost.append)) as log:
        facts = [make_fact(n) for n in range(30)]
        log.append(facts[:20])
        forget(redis_server)
        log.append(facts[20:])
        assert shown(log) == list(range(30))
        assert lost == []
        log.flush()


def test_what_is_too_old_to_be_sent_again_is_told_with_its_numbers(
    redis_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[Lost] = []
    with opened(redis_server.url, LogOptions(on_lost=lost.append)) as log:
        log._appending._recent_facts_max = 10
        facts = reserved(log, range(30))
        dropped = facts.pop(3)
        for fact in facts[:20]:
            log.append([fact])
        _flush_all(redis_server)
        log.append(facts[20:])
        assert shown(log) == [fact.attributes["n"] for fact in facts[10:]]
        assert [(each.first, each.last) for each in lost] == [(0, 2), (4, 10)], "never what was never stored"
        assert dropped.seq == 3
        assert {(each.writer, each.kind, each.error_type) for each in lost} == {
            (facts[0].writer, FactKind.EVENT, "rollback")
        }


def test_without_anybody_to_tell_the_next_flush_raises_once(redis_server: Server) -> None:
    with opened(redis_server.url) as log:
        log._appending._recent_facts_max = 1
        log.append([event(0)])
        log.append([event(1)])
        _flush_all(redis_server)
        log.append([event(2)])
        with pytest.raises(LogUnavailable, match=r"-event-0\.\.0") as raised:
            log.flush()
        assert raised.value.error_type == "rollback"
        log.flush()


def test_a_restart_without_files_is_noticed_and_made_good(lab: Lab) -> None:
    server = lab.server()
    with opened(server.url) as log:
        log.append([event(n) for n in range(50)])
        server.kill()
        with pytest.raises(LogUnavailable) as raised:
            log.append(reserved(log, [50]))
        assert raised.value.error_type == "connection"
        server.start()
        log.append([event(51)])
        assert shown(log) == [*range(50), 51]


def test_scripts_that_the_server_lost_are_sent_again(redis_server: Server) -> None:
    with opened(redis_server.url) as log:
        log.append([event(0)])
        redis_server.client().script_flush()
        log.append([event(1)])
        assert shown(log) == [0, 1]


def test_a_system_is_listed_again_by_a_sign_of_life(redis_server: Server) -> None:
    with opened(redis_server.url) as log:
        log.append([event(0)])
        redis_server.client().delete("papyra:systems")
        redis_server.client().sadd("papyra:systems", "another")
        assert shown(log) == []
        log._appending.seal(sealed=False)
        assert shown(log) == [0]


# --- replies that do not come ---------------------------------------------------------------------------


def test_a_batch_whose_reply_was_lost_is_stored_once(lab: Lab) -> None:
    server = lab.server()
    proxy = lab.proxy(server)
    with opened(f"redis://127.0.0.1:{proxy.port}?timeout=500ms&wait_timeout=100ms") as log:
        log.append([event(0)])
        facts = reserved(log, range(1, 6))
        proxy.lose_reply_to(b"EVALSHA")
        with pytest.raises(LogUnavailable) as raised:
            log.append(facts)
        assert raised.value.error_type in {"timeout", "connection"}
        assert stored(server) == 6, "it was stored, but nobody knew"
        proxy.heal()
        log.append(facts)
        log.append([event(6)])
        assert stored(server) == 7
        assert shown(log) == list(range(7))
        assert log.appended()["shop", FactKind.EVENT][0] == 7


def test_requests_and_replies_cut_anywhere_are_stored_once(lab: Lab) -> None:
    server = lab.server()
    proxy = lab.proxy(server)
    failed = 0
    with opened(f"redis://127.0.0.1:{proxy.port}?timeout=1") as log:
        log.append([event(0)])
        for way in ("requests", "replies"):
            for cut_after_bytes in range(0, 1500 if way == "requests" else 120, 9):
                facts = reserved(log, [0, 1, 2])
                proxy.cut_after(**{way: cut_after_bytes})
                try:
                    log.append(facts)
                except LogUnavailable:
                    failed += 1
                    proxy.heal()
                    log.append(facts)
                proxy.heal()
        expected = log.reserve("shop", FactKind.EVENT)[1]
        assert [entry.fact.seq for entry in log.read()] == list(range(expected))
        assert stored(server) == expected
    assert failed > 100


# --- a server that refuses ------------------------------------------------------------------------------


def test_a_key_of_another_type_is_refused_whole_and_says_which(redis_server: Server) -> None:
    with opened(redis_server.url) as log:
        redis_server.client().set("papyra:{shop}:audits", "mine")
        facts = [make_fact(n, kind=kind) for n, kind in enumerate((FactKind.EVENT, FactKind.AUDIT) * 2)]
        with pytest.raises(LogUnavailable, match=r"papyra:\{shop\}:audits") as raised:
            log.append(facts)
        assert raised.value.error_type == "wrong_type"
        assert redis_server.client().exists(KEY) == 0


def test_a_server_without_memory_takes_nothing_and_later_all(lab: Lab) -> None:
    server = lab.server(options={"maxmemory-policy": "noeviction"})
    with opened(server.url) as log:
        log.append([event(0)])
        server.client().config_set("maxmemory", 1)
        facts = reserved(log, range(1, 5))
        with pytest.raises(LogUnavailable, match="maxmemory") as raised:
            log.append(facts)
        assert raised.value.error_type == "oom"
        server.client().config_set("maxmemory", 0)
        log.append(facts)
        assert shown(log) == list(range(5))


def test_a_replica_is_refused_with_the_remedy(lab: Lab) -> None:
    server = lab.server()
    server.client().replicaof("127.0.0.1", 1)
    with opened(server.url) as log:
        with pytest.raises(LogUnavailable, match="replica") as raised:
            log.append([event(0)])
        assert raised.value.error_type in {"read_only", "no_primary"}


@pytest.mark.parametrize(
    ("url", "error_type"),
    [("redis://:wrong@{host}", "auth"), ("redis://{host}", "auth"), ("redis://ada:pw@{host}", "permission")],
)
def test_credentials_and_permissions_are_told_without_the_password(
    lab: Lab, url: str, error_type: str
) -> None:
    server = lab.server(options={"user": ["ada on >pw ~papyra:* -@all +sadd"]}, password="secret")
    with opened(url.format(host=f"{server.host}:{server.port}")) as log:
        with pytest.raises(LogUnavailable) as raised:
            log.append([event(0)])
        assert raised.value.error_type == error_type
        assert not {"wrong", "pw@", "secret"} & set(str(raised.value).replace(":", " ").split())


# --- durability ------------------------------------------------------------------------------------------


def test_wait_is_told_when_no_replica_confirms_and_the_fact_is_stored_once(redis_server: Server) -> None:
    with opened(f"{redis_server.url}?durability=wait&wait_timeout=10ms") as log:
        facts = reserved(log, [0])
        for _ in range(2):
            with pytest.raises(LogUnavailable, match=r"\[0\] of \[1\]") as raised:
                log.append(facts)
            assert raised.value.error_type == "not_durable"
        assert stored(redis_server) == 1


def test_aof_is_confirmed_where_there_is_one_and_refused_where_not(lab: Lab) -> None:
    server = lab.server(options={"appendonly": True, "appendfsync": "everysec"})
    with opened(f"{server.url}?durability=aof") as log:
        log.append([event(0)])
        server.client().config_set("appendonly", "no")
        with pytest.raises(LogUnavailable):
            log.append(reserved(log, [1]))


@pytest.mark.redis
@pytest.mark.parametrize("flavour", [Flavour.REDIS, Flavour.OLDEST])
def test_a_server_that_knows_no_waitaof_says_so(lab: Lab, flavour: Flavour) -> None:
    server = lab.server(require(flavour), {"appendonly": True})
    with opened(f"{server.url}?durability=aof") as log, pytest.raises(LogUnavailable, match="WAITAOF"):
        log.append([event(0)])


# --- order and marks ----------------------------------------------------------------------------------------


def test_what_would_be_passed_over_as_stored_already_is_refused(redis_server: Server) -> None:
    with opened(redis_server.url) as log:
        first, second = reserved(log, [0, 1])
        log.append([second])
        with pytest.raises(ValueError, match="order of reserving"):
            log.append([first])


def test_segments_are_marked_when_a_writer_begins_and_ends_in_order(redis_server: Server) -> None:
    marks: list[Mark] = []
    with opened(redis_server.url, LogOptions(on_mark=marks.append)) as log:
        log.append([make_fact(n) for n in range(12)])
        log.append([make_fact(n) for n in range(12, 15)])
    told = [(mark.name, mark.kind) for mark in marks]
    assert told == list(itertools.product((semconv.LOG_OPENED, semconv.LOG_SEALED), FactKind))
    assert sum(mark.attributes[semconv.SEGMENT_RECORDS] for mark in marks[3:]) == 15


def test_the_fence_says_how_far_each_writer_came(redis_server: Server) -> None:
    with opened(redis_server.url) as log:
        log.append([make_fact(n) for n in range(9)])
        lines = {kind: [] for kind in FactKind}
        for site in log._survey.sites(None):
            for fence in site.fence:
                entries = redis_server.client().xrange(f"papyra:{{shop}}:{fence.kind.plural}")
                lines[fence.kind] = [fields[b"data"] for _, fields in entries]
                assert fence.records == len(entries)
                assert fence.size_bytes == sum(map(len, lines[fence.kind]))
                assert (bytes(fence.first), bytes(fence.last)) == (entries[0][0], entries[-1][0])
                assert (fence.seq, fence.low, fence.sealed) == (len(entries) - 1, 0, False)
        assert sum(map(len, lines.values())) == 9
    assert all(fence.sealed for fence in opened(redis_server.url)._survey.sites(None)[0].fence)


# --- a newer version ----------------------------------------------------------------------------------------


def test_a_newer_versions_line_is_told_before_recording_and_stops_readers(redis_server: Server) -> None:
    with opened(redis_server.url) as log:
        log.append([event(0)])
        log.prepare()
        ((_, fields),) = redis_server.client().xrange(KEY)
        newer = sign(fields[b"data"].partition(b',"crc":')[0].replace(b'{"v":1,', b'{"v":12,') + b"}")
        redis_server.client().xadd(KEY, {"data": newer})
        log.append([event(1)])
        redis_server.client().xadd(KEY, {"data": newer})
        with pytest.raises(LogTooNew):
            log.prepare()
        with pytest.raises(LogTooNew):
            list(log.read())
