"""What stands beside a tag's streams at one moment: fence, meta, the types of all keys, the server's time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import redis

from papyra_otel.facts import FactKind
from papyra_otel.log.redis.fence import Fence, parse_fence
from papyra_otel.log.redis.keys import KINDS, Tag
from papyra_otel.log.redis.meta import Meta, parse_meta
from papyra_otel.log.redis.survey import as_map
from papyra_otel.log.redis.trouble import unavailable
from papyra_otel.log.redis.wire import Reply, Wire

__all__ = ["ALIVE_SECONDS_MAX", "Beside", "beside"]

ALIVE_SECONDS_MAX: Final = 120
"""A writer that did not end in order and gave no sign of life for longer is dead. They give one every minute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """See the beginning of this module. *now_ms* is the server's time; *raw* and *raw_meta* are fields as stored."""

    tag: Tag
    now_ms: int
    types: Mapping[str, str]
    fence: Mapping[tuple[str, FactKind], Fence]
    strange: tuple[bytes, ...]
    raw: Mapping[bytes, bytes]
    raw_meta: Mapping[bytes, bytes]
    meta: Meta

    @property
    def system(self) -> str:
        """The system's name, as far as it is known."""
        tag, told = self.tag, self.meta.system
        return tag.system if tag.is_whole or told is None else told

    def wrong_types(self) -> Mapping[str, tuple[str, str]]:
        """Return keys that hold something else than ours do: what is there, and what should be."""
        tag = self.tag
        wanted = {**{tag.stream(kind): "stream" for kind in KINDS}, tag.quarantine: "stream"}
        wanted |= {tag.fence: "hash", tag.meta: "hash"}
        return {
            key: (self.types[key], want)
            for key, want in wanted.items()
            if self.types[key] not in {want, "none"}
        }

    def is_alive(self, seen_ms: int) -> bool:
        """Say whether who was last seen then is alive, if it did not end."""
        return self.now_ms - seen_ms <= ALIVE_SECONDS_MAX * 1000


def beside(wire: Wire, tag: Tag, shown: str) -> Beside:
    """Look. A fence or meta of another type counts as empty. Raises LogUnavailable."""
    keys = [*map(tag.stream, KINDS), tag.fence, tag.meta, tag.quarantine]
    commands = [("TIME",), ("HGETALL", tag.fence), ("HGETALL", tag.meta), *(("TYPE", key) for key in keys)]
    now, fence, meta, *types = (_checked(reply, shown) for reply in wire.send(tag.fence, commands))
    raw, raw_meta = as_map(fence or {}), as_map(meta or {})
    known, strange = parse_fence(raw)
    return Beside(
        tag=tag,
        now_ms=int(now[0]) * 1000 + int(now[1]) // 1000,
        types={key: found.decode() for key, found in zip(keys, types, strict=True)},
        fence={(each.writer, each.kind): each for each in known},
        strange=tuple(strange),
        raw=raw,
        raw_meta=raw_meta,
        meta=parse_meta(raw_meta),
    )


def _checked(reply: Reply, shown: str) -> Reply:
    if isinstance(reply, redis.RedisError):
        if "WRONGTYPE" in str(reply):
            return None
        raise unavailable(shown, reply)
    return reply
