"""Only one looks after a tag's streams at a time, and who dies does not stop the others for long."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from papyra_otel.errors import LogBusy, LogUnavailable
from papyra_otel.log.redis.address import parse_address
from papyra_otel.log.redis.keys import Tag
from papyra_otel.log.redis.lock import UpkeepLock
from papyra_otel.log.redis.wire import Wire, connect
from redis_servers.server import Server

ONE, OTHER = Tag("papyra", "one"), Tag("papyra", "other")


@pytest.fixture
def wire(redis_server: Server) -> Iterator[Wire]:
    with closing(connect(parse_address(redis_server.url))) as wire:
        yield wire


def test_one_at_a_time_and_free_again_afterwards(wire: Wire) -> None:
    with UpkeepLock(wire, "here", [ONE]) as lock:
        with pytest.raises(LogBusy, match="system 'one' in here is being recovered or compacted"):
            UpkeepLock(wire, "here", [ONE]).__enter__()
        with UpkeepLock(wire, "here", [OTHER]):
            lock.renew()
    with UpkeepLock(wire, "here", [ONE]):
        pass
    assert wire.send(ONE.meta, [("EXISTS", ONE.meta)]) == [0]


def test_of_several_all_or_none_are_taken(wire: Wire) -> None:
    with UpkeepLock(wire, "here", [OTHER]):
        with pytest.raises(LogBusy):
            UpkeepLock(wire, "here", [ONE, OTHER]).__enter__()
        with UpkeepLock(wire, "here", [ONE]):
            pass


def test_who_died_loses_it_and_cannot_renew_it(wire: Wire) -> None:
    dead = UpkeepLock(wire, "here", [ONE], seconds=0)
    dead.__enter__()
    with UpkeepLock(wire, "here", [ONE]) as heir:
        with pytest.raises(LogBusy, match="took too long"):
            dead.renew()
        dead.__exit__(None, None, None)  # does not take away what is another's now
        heir.renew()


def test_what_is_no_lock_is_overwritten(wire: Wire) -> None:
    wire.send(ONE.meta, [("HSET", ONE.meta, "upkeep", "what is this")])
    with UpkeepLock(wire, "here", [ONE]) as lock:
        lock.renew()


def test_what_the_server_refuses_is_told(wire: Wire) -> None:
    wire.send(ONE.meta, [("SET", ONE.meta, "1")])
    with pytest.raises(LogUnavailable, match="here: WRONGTYPE"):
        UpkeepLock(wire, "here", [ONE]).__enter__()
