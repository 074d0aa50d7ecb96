"""What the server lost behind a writer's back: noticed at its next append, sent again, or told once."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import redis

from papyra_otel.errors import LogUnavailable
from papyra_otel.facts import FactKind
from papyra_otel.log import LogOptions
from papyra_otel.log.contract import Lost
from papyra_otel.log.redis.address import parse_address
from papyra_otel.log.redis.redislog import RedisLog
from papyra_otel.log.redis.trouble import unavailable
from papyra_otel.log.redis.wire import Command, Reply
from papyra_otel.testing import make_fact
from redis_servers.lab import Lab
from redis_servers.server import Server

EVENTS = "papyra:{shop}:events"
FENCE = "papyra:{shop}:fence"


class Forgetful:
    """A log, what it told as lost, and how often it asked the server to store."""

    def __init__(self, server: Server, *, recent: int | None = None) -> None:
        self.lost: list[Lost] = []
        self.server = server
        self.log = RedisLog(parse_address(server.url), options=LogOptions(on_lost=self.lost.append))
        if recent is not None:
            self.log._appending._recent_facts_max = recent
        self.sent = 0
        send = self.log._wire.send

        def counted(key: str, commands: list[Command]) -> list[Reply]:
            self.sent += any(str(command[0]).startswith("EVAL") for command in commands)
            return send(key, commands)

        self.log._wire.send = counted

    def append(self, *numbers: int, kind: FactKind = FactKind.EVENT) -> None:
        self.log.append([make_fact(n, kind=kind) for n in numbers])

    def shown(self, kind: FactKind = FactKind.EVENT) -> list[int]:
        return [entry.fact.attributes["n"] for entry in self.log.read(kinds=kind)]

    def told(self) -> list[tuple[FactKind, int, int]]:
        return [(each.kind, each.first, each.last) for each in self.lost]

    def stored(self) -> int:
        return int(self.server.client().xlen(EVENTS))

    def close(self) -> None:
        self.log.close()


@pytest.fixture
def forgetful(redis_server: Server):
    with closing(Forgetful(redis_server)) as made:
        yield made


def _rename(client: redis.Redis) -> None:
    client.rename(EVENTS, "elsewhere")


def _trim(client: redis.Redis) -> None:
    client.xtrim(EVENTS, maxlen=0)


def _delete(client: redis.Redis) -> None:
    client.delete(EVENTS)


def _replace_and_remove(client: redis.Redis) -> None:
    client.set(EVENTS, "mine")
    client.delete(EVENTS)


@pytest.mark.parametrize("lose", [_delete, _rename, _trim, _replace_and_remove])
@pytest.mark.parametrize("again", [FactKind.EVENT, FactKind.AUDIT])
def test_a_stream_that_went_alone_is_noticed_by_any_append(
    forgetful: Forgetful, lose: Callable[[redis.Redis], None], again: FactKind
) -> None:
    forgetful.append(0, 1, 2)
    lose(forgetful.server.client())
    forgetful.append(3, kind=again)
    assert forgetful.shown() == ([0, 1, 2, 3] if again is FactKind.EVENT else [0, 1, 2])
    assert forgetful.told() == []


def test_a_stream_that_another_writer_began_again_is_noticed_too(redis_server: Server) -> None:
    with closing(Forgetful(redis_server)) as one, closing(Forgetful(redis_server)) as other:
        one.append(0, 1)
        other.append(2)
        redis_server.client().delete(EVENTS)
        other.append(3)
        one.append(4)
        assert sorted(one.shown()) == [0, 1, 2, 3, 4]
        assert one.told() == other.told() == []


def test_a_lost_fence_is_put_back_and_nothing_is_stored_twice(forgetful: Forgetful) -> None:
    forgetful.append(*range(20))
    forgetful.append(20, kind=FactKind.AUDIT)
    before = forgetful.server.client().hgetall(FENCE)
    forgetful.server.client().delete(FENCE)
    forgetful.append(21)
    after = forgetful.server.client().hgetall(FENCE)
    assert forgetful.stored() == 21
    assert forgetful.shown() == [*range(20), 21]
    assert forgetful.told() == []
    name = next(name for name in before if name.endswith(b"-event"))
    assert after[name].split()[:4] == [b"20", b"21", *after[name].split()[2:3], before[name].split()[3]]


def test_a_lost_fence_of_facts_that_went_as_well_is_a_loss(redis_server: Server) -> None:
    with closing(Forgetful(redis_server, recent=2)) as forgetful:
        for n in range(5):
            forgetful.append(n)
        redis_server.client().delete(FENCE, EVENTS)
        forgetful.append(5)
        assert forgetful.shown() == [3, 4, 5]
        assert forgetful.told() == [(FactKind.EVENT, 0, 2)]


def test_what_is_lost_of_a_kind_that_nobody_remembers_is_told_once_and_asked_once(
    redis_server: Server,
) -> None:
    with closing(Forgetful(redis_server, recent=2)) as forgetful:
        forgetful.append(0, kind=FactKind.AUDIT)
        forgetful.append(1)
        forgetful.append(2)
        redis_server.client().flushall()
        forgetful.append(3)
        sent = forgetful.sent
        forgetful.append(4)
        forgetful.append(5)
        assert forgetful.sent == sent + 2
        assert forgetful.told() == [(FactKind.AUDIT, 0, 0)]


def test_sending_again_goes_on_where_it_broke_off(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first part of what is sent again must not pass for all of it."""
    monkeypatch.setattr("papyra_otel.log.redis.appending.BATCH_FACTS_MAX", 10)
    server = lab.server()
    with closing(Forgetful(server, recent=40)) as forgetful:
        for n in range(50):
            forgetful.append(n)
        server.client().flushall()
        send, allowed = forgetful.log._wire.send, 3  # listing, the first of four parts, then nothing more

        def breaks_off(key: str, commands: list[Command]) -> list[Reply]:
            nonlocal allowed
            if allowed == 0:
                raise LogUnavailable("cut", error_type="connection")
            allowed -= 1
            return send(key, commands)

        facts = [
            make_fact(50, kind=FactKind.EVENT).identified(*forgetful.log.reserve("shop", FactKind.EVENT))
        ]
        forgetful.log._wire.send = breaks_off
        with pytest.raises(LogUnavailable, match="cut"):
            forgetful.log.append(facts)
        forgetful.log._wire.send = send
        assert 0 < forgetful.stored() < 40
        forgetful.log.append(facts)
        assert forgetful.shown() == list(range(10, 51))
        assert forgetful.told() == [(FactKind.EVENT, 0, 9)]


def test_a_replica_that_knows_less_is_no_loss(lab: Lab) -> None:
    server = lab.server()
    with closing(Forgetful(server, recent=1)) as forgetful:
        for n in range(5):
            forgetful.append(n)
        server.client().flushall()
        server.client().replicaof("127.0.0.1", 1)
        facts = [make_fact(5, kind=FactKind.EVENT).identified(*forgetful.log.reserve("shop", FactKind.EVENT))]
        with pytest.raises(LogUnavailable) as raised:
            forgetful.log.append(facts)
        assert raised.value.error_type in {"read_only", "no_primary"}
        assert forgetful.told() == []


def test_a_meta_of_another_type_keeps_nobody_from_writing(forgetful: Forgetful) -> None:
    forgetful.append(0)
    forgetful.server.client().set("papyra:{shop}:meta", "mine")
    forgetful.append(1)
    assert forgetful.shown() == [0, 1]


@pytest.mark.parametrize(
    ("text", "error_type"),
    [
        (
            "Error running script (call to f_ab): @user_script:1: @user_script: 1: -OOM command not allowed",
            "oom",
        ),
        ("Error running script (call to f_ab): @user_script:57: @user_script: 57: -READONLY no", "read_only"),
        ("Error running script (call to f_ab): @user_script:1: WRONGTYPE Operation", "wrong_type"),
        ("@user_script: 32: -MISCONF Redis is configured to save", "misconf"),
        ("The user executing the script can't run this command or subcommand script: ab, on", "permission"),
        ("ACL failure in script: No permissions to access a key script: on @user_script:1.", "permission"),
        ("NOREPLICAS Not enough good replicas to write. script: ab, on @user_script:1.", "no_replicas"),
    ],
)
def test_what_is_refused_within_a_script_is_told_as_what_it_is(text: str, error_type: str) -> None:
    assert unavailable("redis://host", redis.ResponseError(text)).error_type == error_type


def test_every_row_of_the_failure_matrix_names_tests_that_exist() -> None:
    text = (Path(__file__).parents[2] / "docs/redis.md").read_text("utf-8")
    section = text.split("## When the server fails")[1].split("\n## ")[0]
    outages = Path(__file__).parent / "outages"
    known = {
        name for path in outages.glob("test_*.py") for name in re.findall(r"def (test_\w+)", path.read_text())
    }
    rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 15
    for row in rows:
        named = set(re.findall(r"`(test_\w+)`", row))
        assert named
        assert named <= known
