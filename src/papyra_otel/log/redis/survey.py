"""What there is: systems, writers, and what is known of each, asked for in as few round trips as possible."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import redis

from papyra_otel.facts import FactKind
from papyra_otel.log.redis.address import Address
from papyra_otel.log.redis.fence import Fence, parse_fence
from papyra_otel.log.redis.keys import KINDS, Tag, index_key, tag_of_key
from papyra_otel.log.redis.meta import Meta, parse_meta
from papyra_otel.log.redis.pages import Pages, line_of, parse_entries
from papyra_otel.log.redis.rebuild import rebuilt_fence
from papyra_otel.log.redis.source import RedisSource
from papyra_otel.log.redis.trouble import unavailable
from papyra_otel.log.redis.wire import Reply, Wire

__all__ = ["Site", "Survey", "as_map"]

_SCAN_COUNT = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One tag: what its fence and meta say."""

    tag: Tag
    system: str
    fence: tuple[Fence, ...]
    strange: tuple[bytes, ...]
    meta: Meta

    @property
    def is_empty(self) -> bool:
        """Whether nothing is recorded."""
        return not any(fence.records for fence in self.fence)


class Survey:
    """Looks around. Thread-safe; every call asks the server anew."""

    def __init__(self, address: Address, wire: Wire) -> None:
        self._address = address
        self._wire = wire

    def tags(self, system: str | None) -> list[Tag]:
        """Return the tags of *system*, or all; from the index, or if there is none by looking at every key."""
        tags = self.indexed() or list(dict.fromkeys(tag for tag, _ in self.keys()))
        return [tag for tag in tags if system is None or tag.is_of(system)]

    def indexed(self) -> list[Tag]:
        """Return the tags in the index; none if it is missing, or something else."""
        return [Tag(self._address.prefix, name) for name in sorted(self.names(None))]

    def names(self, system: str | None) -> frozenset[str]:
        """Return the names of the tags of *system*, or all, that are in the index."""
        key = index_key(self._address.prefix)
        (reply,) = self._wire.send(key, [("SMEMBERS", key)])
        if isinstance(reply, redis.RedisError):
            if "WRONGTYPE" in str(reply):
                return frozenset()
            raise unavailable(self._address.shown, reply)
        names = {name.decode(errors="replace") for name in cast("Iterable[bytes]", reply)}
        tags = (Tag(self._address.prefix, name) for name in names)
        return frozenset(tag.name for tag in tags if system is None or tag.is_of(system))

    def keys(self) -> Iterator[tuple[Tag, str]]:
        """Yield every key that looks like one of ours: its tag, and what it is of it. Looks at every key there is."""
        prefix = self._address.prefix
        pattern = f"{prefix.replace('[', '?').replace('*', '?')}:{{*"
        for node in self._wire.nodes():
            cursor: Any = b"0"
            while True:
                (reply,) = node.send([("SCAN", cursor, "MATCH", pattern, "COUNT", _SCAN_COUNT)])
                if isinstance(reply, redis.RedisError):
                    raise unavailable(self._address.shown, reply)
                cursor, found = reply
                for key in found:
                    ours = tag_of_key(prefix, key.decode(errors="replace"))
                    if ours is not None:
                        yield ours
                if int(cursor) == 0:
                    break

    def sites(self, system: str | None) -> list[Site]:
        """Return what is known of each tag."""
        return [self.site(tag) for tag in self.tags(system)]

    def site(self, tag: Tag) -> Site:
        """Return what is known of *tag*. A fence or meta of another type counts as empty: a scan tells."""
        fence, meta = self._wire.send(tag.fence, [("HGETALL", tag.fence), ("HGETALL", tag.meta)])
        known, strange = parse_fence(self._map(fence))
        about = parse_meta(self._map(meta))
        return Site(
            tag=tag,
            system=tag.system if tag.is_whole or about.system is None else about.system,
            fence=tuple(known),
            strange=tuple(strange),
            meta=about,
        )

    def _map(self, reply: Reply) -> Mapping[bytes, bytes]:
        if isinstance(reply, redis.RedisError):
            if "WRONGTYPE" in str(reply):
                return {}
            raise unavailable(self._address.shown, reply)
        return as_map(reply)

    def sources(self, system: str | None, kinds: Iterable[FactKind] = KINDS) -> list[RedisSource]:
        """Return what every writer wrote of *kinds*, to be read."""
        wanted = frozenset(kinds)
        return [source for site in self.sites(system) for source in self.sources_at(site, wanted)]

    def sources_at(self, site: Site, kinds: Collection[FactKind] = KINDS) -> list[RedisSource]:
        """Return what every writer wrote of *kinds* at one tag, to be read."""
        pages = {kind: self.pages(site, kind) for kind in kinds}
        return [
            RedisSource(site.system, fence, pages[fence.kind], site.tag.shard)
            for fence in site.fence or self._rebuilt(site, kinds)
            if fence.kind in pages and fence.records
        ]

    def newest_lines(self, system: str | None) -> Iterator[bytes]:
        """Yield the last line of each stream; of a key of another type, none."""
        for tag in self.tags(system):
            replies = self._wire.send(
                tag.fence, [("XREVRANGE", tag.stream(kind), "+", "-", "COUNT", 1) for kind in KINDS]
            )
            for reply in replies:
                if not isinstance(reply, redis.RedisError):
                    yield from filter(None, map(line_of, parse_entries(reply)))

    def _rebuilt(self, site: Site, kinds: Iterable[FactKind]) -> list[Fence]:
        """Return what the fence, which is gone, would say."""
        wire, shown = self._wire, self._address.shown
        found = (
            rebuilt_fence(wire, site.tag, kind, shown, site.meta.restored.get(kind, ())) for kind in kinds
        )
        return [fence for fences in found for fence in fences]

    def pages(self, site: Site, kind: FactKind) -> Pages:
        """Return a reading of one stream."""
        key = site.tag.stream(kind)
        return Pages(self._wire, key, self._address.shown, site.meta.restored.get(kind, ()))


def as_map(reply: Reply) -> Mapping[bytes, bytes]:
    """Return a map reply, which older protocols give as a list."""
    if isinstance(reply, dict):
        return cast("dict[bytes, bytes]", reply)
    pairs = iter(cast("Iterable[bytes]", reply))
    return dict(zip(pairs, pairs, strict=True))
