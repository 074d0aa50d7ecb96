"""Going through a whole stream, page by page, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple, cast

import redis

from papyra_otel.log.redis.keys import EntryId
from papyra_otel.log.redis.pages import StoredEntry, parse_entries
from papyra_otel.log.redis.trouble import unavailable
from papyra_otel.log.redis.wire import Reply, Wire

__all__ = ["Extent", "extent_of", "walk"]

_FIRST_COUNT: Final = 32
_COUNT_MAX: Final = 256  # of the longest lines that is 256 MiB, once: the next page is a small one
_PAGE_BYTES: Final = 1 << 20


class Extent(NamedTuple):
    """How many entries a stream has, its first and its last; None where there is none."""

    entries: int
    first: EntryId | None
    last: EntryId | None


def extent_of(wire: Wire, key: str, shown: str) -> Extent:
    """Ask, in one moment, how large a stream is. Raises LogUnavailable (``wrong_type`` if it is none)."""
    commands = [
        ("MULTI",),
        ("XLEN", key),
        ("XRANGE", key, "-", "+", "COUNT", 1),
        ("XREVRANGE", key, "+", "-", "COUNT", 1),
        ("EXEC",),
    ]
    *queued, replies = wire.send(key, commands)
    inner: list[Reply] = [] if isinstance(replies, (redis.RedisError, type(None))) else list(replies)
    for reply in [*queued, replies, *inner]:
        if isinstance(reply, redis.RedisError):
            raise unavailable(shown, reply)
    entries, first, last = cast("tuple[int, Reply, Reply]", replies)
    ends = [parse_entries(found) for found in (first, last)]
    return Extent(entries, *(found[0].id if found else None for found in ends))


def walk(
    wire: Wire, key: str, shown: str, after: EntryId | None = None, until: EntryId | None = None
) -> Iterator[list[StoredEntry]]:
    """Yield the entries past *after* up to and with *until*, some at a time. Raises LogUnavailable."""
    count = _FIRST_COUNT
    begin = "-" if after is None else f"({after}"
    end = "+" if until is None else str(until)
    while True:
        (reply,) = wire.send(key, [("XRANGE", key, begin, end, "COUNT", count)])
        if isinstance(reply, redis.RedisError):
            raise unavailable(shown, reply)
        entries = parse_entries(reply)
        if entries:
            yield entries
            begin = f"({entries[-1].id}"
        if len(reply) < count:
            return
        size_bytes = sum(len(text) for entry in entries for text in entry.fields)
        if size_bytes > _PAGE_BYTES:
            count = max(count * _PAGE_BYTES // size_bytes, 1)
        elif size_bytes < _PAGE_BYTES // 2:
            count = min(count * 2, _COUNT_MAX)
