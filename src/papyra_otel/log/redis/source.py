"""One writer's facts of one kind, read out of the stream that it shares with others. See ``merge.Source``."""

from __future__ import annotations

from collections.abc import Iterator

from papyra_otel.errors import LineDamaged
from papyra_otel.facts import FactKind
from papyra_otel.log.codec import decode
from papyra_otel.log.cursor import Position
from papyra_otel.log.merge import Expired, Stored, expired
from papyra_otel.log.redis.fence import Fence
from papyra_otel.log.redis.keys import EntryId
from papyra_otel.log.redis.pages import Pages
from papyra_otel.log.seqset import SeqSet

__all__ = ["RedisSource"]


class RedisSource:
    """Positions are identifiers of entries: forward that of the entry just read, backward of the one just read, too."""

    def __init__(self, system: str, fence: Fence, pages: Pages, shard: str = "") -> None:
        # with the shard: what a writer left in a spill is stored where the log that finds it has its shards
        self.id: str = f"{fence.kind.plural}/{fence.writer}{shard}"
        self.system = system
        self.kind: FactKind = fence.kind
        self.writer: str = fence.writer
        self.stream: str = f"{fence.kind.plural}/{system}"
        self._fence = fence
        self._pages = pages

    def forward(self, after: Position | None) -> Iterator[Stored]:
        """Yield past the entry *after*, up to the last that was there when the log was asked."""
        fence, writer, seen = self._fence, self.writer.encode(), SeqSet()
        if not fence.records:
            return
        place = fence.first.previous() if after is None else max(EntryId.of(after), fence.first.previous())
        while place < fence.last:
            lines, end = self._pages.after(place, writer)
            for entry_id, line in lines:
                if entry_id > fence.last:
                    return
                stored = _stored(entry_id, line, seen)
                if stored is not None:
                    yield stored
            if end is None:
                return
            place = end

    def backward(self, before: Position | None) -> Iterator[Stored]:
        """Yield in reverse from before the entry *before*."""
        fence, writer, seen = self._fence, self.writer.encode(), SeqSet()
        if not fence.records:
            return
        end = fence.last.next()
        place = end if before is None else min(EntryId.of(before), end)
        while place > fence.first:
            lines, begin = self._pages.before(place, writer)
            for entry_id, line in reversed(lines):
                if entry_id < fence.first:
                    return
                stored = _stored(entry_id, line, seen)
                if stored is not None:
                    yield stored
            if begin is None:
                return
            place = begin

    def turned(self, before: Position) -> Position:
        """See Source."""
        return tuple(EntryId.of(before).previous())

    def order(self, position: Position) -> Position:
        """See Source."""
        return tuple(EntryId.of(position))

    def end(self) -> Position:
        """See Source."""
        return tuple(self._fence.last.next())

    def expired(self, oldest_unix_nano: int) -> Expired:
        """See Source."""
        return expired(self, oldest_unix_nano)

    def totals(self) -> tuple[int, int]:
        """See Source. More than there is, where somebody else removed entries."""
        return self._fence.records, self._fence.size_bytes


def _stored(entry_id: EntryId, line: bytes, seen: SeqSet) -> Stored | None:
    """Return the fact in *line*; None if it is damaged, or was yielded already."""
    try:
        fact = decode(line.removesuffix(b"\n"))
    except LineDamaged:
        return None
    return Stored(fact, len(line), tuple(entry_id)) if seen.add(fact.seq or 0) else None
