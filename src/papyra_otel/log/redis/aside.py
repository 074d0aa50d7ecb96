"""Keys of ours that hold something else: given another name, so that what should be there can be."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import redis

from papyra_otel.log.redis.keys import Tag, index_key
from papyra_otel.log.redis.scripts import run
from papyra_otel.log.redis.trouble import unavailable
from papyra_otel.log.redis.wire import Wire

__all__ = ["put_aside", "put_index_aside"]


def put_aside(wire: Wire, shown: str, tag: Tag, key: str, wanted: str) -> str | None:
    """Rename *key* of *tag* unless it is a *wanted* or missing. Return its new name; None if nothing was done."""
    what = key.rpartition(":")[2]
    return _renamed(wire, shown, key, wanted, (tag.key(f"quarantine:{what}:{n}") for n in count(1)))


def put_index_aside(wire: Wire, shown: str, prefix: str) -> str | None:
    """Rename the index unless it is a set or missing. The new name has the same hash slot."""
    key = index_key(prefix)
    return _renamed(wire, shown, key, "set", (f"{{{key}}}:quarantine:{n}" for n in count(1)))


def _renamed(wire: Wire, shown: str, key: str, wanted: str, names: Iterator[str]) -> str | None:
    for name in names:
        reply, _ = run(wire, "aside", [key, name], [wanted])
        if isinstance(reply, redis.RedisError):
            raise unavailable(shown, reply)
        if reply != b"taken":
            return name if reply == b"ok" else None
    return None
