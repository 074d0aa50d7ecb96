"""What consumer groups still need of a stream: what they were not given yet, and what they have not acknowledged."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, cast

import redis

from papyra_otel.log.redis.keys import EntryId
from papyra_otel.log.redis.survey import as_map
from papyra_otel.log.redis.trouble import unavailable
from papyra_otel.log.redis.wire import Reply, Wire

__all__ = ["Holder", "holders_of", "pending_among"]

_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Holder:
    """One group on one stream: given up to *delivered*; of that, *pending* are not acknowledged, from *lowest* on."""

    name: bytes
    delivered: EntryId
    pending: int = 0
    lowest: EntryId | None = None

    @property
    def free_until(self) -> EntryId:
        """The last entry that the group needs no more, and none before it."""
        return self.delivered if self.lowest is None else min(self.delivered, self.lowest.previous())


def holders_of(wire: Wire, key: str, shown: str) -> list[Holder]:
    """Return the groups of the stream *key*; none where there is no stream. Raises LogUnavailable."""
    (reply,) = wire.send(key, [("XINFO", "GROUPS", key)])
    if isinstance(reply, redis.ResponseError) and "no such key" in str(reply):
        return []
    _check(reply, shown)
    holders: list[Holder] = []
    for group in map(as_map, cast("Iterable[Any]", reply)):
        name = group[b"name"]
        (pending,) = wire.send(key, [("XPENDING", key, name)])
        _check(pending, shown)
        holders.append(
            Holder(
                name,
                EntryId.parse(group[b"last-delivered-id"]),
                int(pending[0]),
                EntryId.parse(pending[1]) if pending[0] else None,
            )
        )
    return holders


def pending_among(wire: Wire, key: str, shown: str, group: bytes, ids: Collection[EntryId]) -> int:
    """Say how many of the entries *ids* are pending in *group*. Raises LogUnavailable."""
    count, place, end = 0, min(ids).previous(), max(ids)
    while place < end:
        (reply,) = wire.send(key, [("XPENDING", key, group, f"({place}", end, _PAGE)])
        _check(reply, shown)
        found = [EntryId.parse(each[0]) for each in reply]
        count += sum(entry_id in ids for entry_id in found)
        if len(found) < _PAGE:
            break
        place = found[-1]
    return count


def _check(reply: Reply, shown: str) -> None:
    if isinstance(reply, redis.RedisError):
        raise unavailable(shown, reply)
