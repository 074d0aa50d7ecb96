"""A writer's facts may stand in two shards: what it left in a spill is stored with the shards of who finds it."""

from __future__ import annotations

from papyra_otel.facts import FactKind
from papyra_otel.log.redis.address import parse_address
from papyra_otel.log.redis.redislog import RedisLog
from papyra_otel.testing import make_fact
from redis_servers.server import Server


def test_one_writer_in_two_shards_is_read_whole_and_resumed_anywhere(redis_server: Server) -> None:
    one = RedisLog(
        parse_address(redis_server.url), new_writer=lambda: "00000001" + "0" * 8
    )  # the second of two
    facts = [make_fact(n, kind=FactKind.EVENT) for n in range(10)]
    facts = [fact.identified(*one.reserve("shop", FactKind.EVENT)) for fact in facts]
    one.append(facts[:5])
    two = RedisLog(parse_address(f"{redis_server.url}?shards=2"))
    two.adopt(facts[5:])
    assert redis_server.client().scard("papyra:systems") == 2
    for newest_first, expected in ((False, facts), (True, facts[::-1])):
        entries = list(two.read(newest_first=newest_first))
        assert [entry.fact for entry in entries] == expected
        for at, entry in enumerate(entries):
            rest = [each.fact for each in one.read(after=entry.cursor, newest_first=newest_first)]
            assert rest == expected[at + 1 :]
    one.close()
    two.close()
