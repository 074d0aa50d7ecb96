"""What the tests of upkeep share: a log on a real server, and everything that may happen to it behind its back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import redis

from papyra_otel.facts import Fact, FactKind
from papyra_otel.log import open_log
from papyra_otel.log.redis.keys import Tag
from papyra_otel.log.redis.redislog import RedisLog
from papyra_otel.reports import ScanReport
from papyra_otel.testing import make_fact
from redis_servers.server import Server

FIRST_NANOS = 1_760_000_000_000_000_000
Fields = dict[bytes, bytes]


@dataclass
class Workshop:
    """A server with a log of one system, ``shop``."""

    server: Server
    client: redis.Redis
    tag: Tag = Tag("papyra", "shop")  # noqa: RUF009 - a frozen value

    @property
    def events(self) -> str:
        return self.tag.stream(FactKind.EVENT)

    def open(self, system: str | None = None, **more: Any) -> RedisLog:
        log = open_log(self.server.url, system, **more)
        assert isinstance(log, RedisLog)
        return log

    def write(self, count: int = 5, *, sealed: bool = True, start: int = 0, **more: Any) -> list[Fact]:
        """Append *count* facts as a new writer that ends in order, or that is still alive."""
        log = self.open()
        facts = [event(start + n, **more) for n in range(count)]
        log.append(facts)
        if sealed:
            log.close()
        return facts

    def read(self) -> list[int]:
        """Return the numbers of all facts that can be read."""
        with self.open() as log:
            return [entry.fact.attributes["n"] for entry in log.read() if "n" in entry.fact.attributes]

    def scan(self, **more: Any) -> ScanReport:
        with self.open() as log:
            return log.scan(**more)

    def counts(self) -> Mapping[str, int]:
        return self.scan().counts

    def entries(self, key: str | None = None) -> list[tuple[bytes, Fields]]:
        return self.client.xrange(key or self.events)

    def rebuild(self, change: Callable[[list[tuple[bytes, Fields]]], None], key: str | None = None) -> None:
        """Put a stream together anew, with the same identifiers, after *change* had it."""
        name = key or self.events
        entries = self.entries(name)
        change(entries)
        with self.client.pipeline() as pipe:
            pipe.delete(name)
            for entry_id, fields in entries:
                pipe.xadd(name, fields, id=entry_id)
            pipe.execute()

    def set_data(self, index: int, change: Callable[[bytes], bytes], key: str | None = None) -> None:
        """Change the line in the entry at *index*."""

        def changed(entries: list[tuple[bytes, Fields]]) -> None:
            entry_id, fields = entries[index]
            entries[index] = entry_id, {b"data": change(fields[b"data"])}

        self.rebuild(changed, key)

    def silence(self) -> None:
        """Let every writer have been silent for an hour, and none sealed."""
        for field, value in self.client.hgetall(self.tag.fence).items():
            head = value.rsplit(b" ", 2)[0]
            seconds = self.client.time()[0] - 3600
            self.client.hset(self.tag.fence, field, b"%b 0 %d" % (head, seconds * 1000))


def workshop(server: Server) -> Iterator[Workshop]:
    with closing(server.new_client()) as client:
        yield Workshop(server, client)


def event(number: int, **more: Any) -> Fact:
    return make_fact(number, **{"kind": FactKind.EVENT, "time_unix_nano": FIRST_NANOS + number, **more})


def flipped(data: bytes, at: int, mask: int = 1) -> bytes:
    return data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :]


def kept(shop: Workshop) -> list[tuple[str, str, str, Fields]]:
    """Return what is in the quarantine: key, id, anomaly, and the fields as they were."""
    found: list[tuple[str, str, str, Fields]] = []
    for _, fields in shop.entries(shop.tag.quarantine):
        about = [fields.pop(name).decode() for name in (b"key", b"id", b"anomaly", b"time")]
        found.append((about[0], about[1], about[2], fields))
    return found


def reassembled(shop: Workshop, key: str | None = None) -> list[tuple[bytes, Fields]]:
    """Return a stream as it was before recoveries: what is there, and what was taken out of it."""
    name = key or shop.events
    taken = [(entry_id.encode(), fields) for of, entry_id, _, fields in kept(shop) if of == name]
    return sorted([*shop.entries(name), *taken], key=lambda each: [int(n) for n in each[0].split(b"-")])


def state(shop: Workshop) -> dict[str, Any]:
    """Return all that is stored, but times of the clock and what was recorded about recoveries."""

    def told(fields: Fields) -> bool:
        return b"papyra.log.recovered" in fields.get(b"data", b"")

    found: dict[str, Any] = {"kept": sorted(kept(shop), key=str)}
    for kind in FactKind:
        key = shop.tag.stream(kind)
        if shop.client.type(key) == b"stream":
            found[key] = [each for each in shop.entries(key) if not told(each[1])]
    own = {fields[b"data"][17:33] for _, fields in shop.entries() if told(fields)}
    found["fence"] = {
        field: value.rsplit(b" ", 1)[0]
        for field, value in shop.client.hgetall(shop.tag.fence).items()
        if field[:16] not in own
    }
    found["meta"] = shop.client.hgetall(shop.tag.meta)
    found["keys"] = sorted(shop.client.keys())
    return found
