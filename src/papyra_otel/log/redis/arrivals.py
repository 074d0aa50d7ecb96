"""Waiting for new entries: the server tells at once, nobody asks again and again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import redis

from papyra_otel.log.redis.address import Address, Topology
from papyra_otel.log.redis.keys import KINDS, EntryId, Tag
from papyra_otel.log.redis.survey import Survey, as_map
from papyra_otel.log.redis.trouble import unavailable
from papyra_otel.log.redis.wire import Reply, Wire

__all__ = ["LISTEN_SECONDS_MAX", "Arrivals", "together"]

LISTEN_SECONDS_MAX: Final = 0.5
"""After this time we look for new systems, and whoever waits may end it."""

_SLICE_SECONDS = 0.05


def together(address: Address, tags: Iterable[Tag]) -> list[list[Tag]]:
    """Return *tags* in parts whose keys one command may name: in a cluster each is one of its own."""
    listed = list(tags)
    if address.topology is Topology.CLUSTER:
        return [[tag] for tag in listed]
    return [listed] if listed else []


class Arrivals:
    """Knows up to which entry the streams were read. One thread at a time."""

    def __init__(
        self,
        address: Address,
        wire: Wire,
        survey: Survey,
        *,
        ticks: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._address = address
        self._wire = wire
        self._survey = survey
        self._ticks = ticks
        self._sleep = sleep
        self._tags: list[Tag] = []
        self._names: frozenset[str] = frozenset()
        self._places: dict[str, EntryId] = {}

    def mark(self, system: str | None) -> None:
        """Note the last entry of every stream of *system*, or of all: what is read next has these."""
        self._tags = self._survey.tags(system)
        self._names = frozenset(tag.name for tag in self._tags)
        self._places = {}
        for part in together(self._address, self._tags):
            keys = [tag.stream(kind) for tag in part for kind in KINDS]
            replies = self._wire.send(keys[0], [("XINFO", "STREAM", key) for key in keys])
            for key, reply in zip(keys, replies, strict=True):
                self._places[key] = self._last(reply)

    def _last(self, reply: Reply) -> EntryId:
        if isinstance(reply, redis.ResponseError) and "no such key" in str(reply):
            return EntryId(0, 0)
        self._check(reply)
        return EntryId.parse(as_map(reply)[b"last-generated-id"])

    def wait(self, seconds: float, system: str | None) -> bool:
        """Wait until there is something new, or a new system of those wanted, at most *seconds*; say whether."""
        end = self._ticks() + seconds
        parts = together(self._address, self._tags)
        if not parts:
            self._sleep(seconds)
        if len(parts) == 1:
            return self._listen(parts[0], max(seconds, 0.001)) or self._is_new(system)
        while parts:
            if any(self._listen(part, None) for part in parts):
                return True
            left = end - self._ticks()
            if left <= 0:
                break
            if self._listen(parts[0], max(min(left, _SLICE_SECONDS), 0.001)):
                return True
            parts = parts[1:] + parts[:1]
        return self._is_new(system)

    def _is_new(self, system: str | None) -> bool:
        known = self._survey.names(system)
        return known != self._names

    def _listen(self, part: Sequence[Tag], seconds: float | None) -> bool:
        keys = [tag.stream(kind) for tag in part for kind in KINDS]
        block = () if seconds is None else ("BLOCK", max(int(seconds * 1000), 1))
        places = [str(self._places[key]) for key in keys]
        (reply,) = self._wire.send(keys[0], [("XREAD", "COUNT", 1, *block, "STREAMS", *keys, *places)])
        if isinstance(reply, redis.ResponseError) and str(reply).startswith("UNBLOCKED"):
            return True  # a failover: look what is there now
        self._check(reply)
        return bool(reply)

    def _check(self, reply: Reply) -> None:
        if isinstance(reply, redis.RedisError):
            raise unavailable(self._address.shown, reply)
