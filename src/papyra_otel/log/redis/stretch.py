"""What goes of a stream: its beginning, stretch by stretch, looked at entry by entry.

Nothing is decided here about what is hidden: *floors* say up to which entry each writer's facts are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import redis

from papyra_otel import semconv
from papyra_otel.errors import LineDamaged, LogTooNew
from papyra_otel.facts import Fact, FactKind
from papyra_otel.log.codec import decode
from papyra_otel.log.explained import SeqRange, parse_range, texts_of
from papyra_otel.log.redis.keys import EntryId
from papyra_otel.log.redis.pages import StoredEntry, line_of, parse_entries, writer_of
from papyra_otel.log.redis.survey import Site
from papyra_otel.log.redis.trouble import unavailable
from papyra_otel.log.redis.wire import Wire

__all__ = ["STRETCH_ENTRIES_MAX", "Going", "StreamHead", "Stretch", "explained_by"]

STRETCH_ENTRIES_MAX = 1000
_STRETCH_BYTES = 1 << 20
_FIRST_COUNT = 64
_EXPLAINING = {
    semconv.FACT_DROPPED: semconv.DROPPED_RANGES,
    semconv.LOG_COMPACTED: semconv.COMPACTION_EXPLAINED,
}


@dataclass(frozen=True, slots=True)
class Going:
    """One entry, or one line that was restored, that may go: a good *fact*, or the name of what is wrong."""

    id: EntryId
    size_bytes: int
    writer: str | None
    fact: Fact | None = None
    anomaly: str = ""
    restored: bool = False


@dataclass(slots=True)
class Stretch:
    """What may go past *after*, up to *until*; *size_bytes* were read to see it."""

    after: EntryId
    until: EntryId
    going: list[Going] = field(default_factory=list[Going])
    size_bytes: int = 0


class StreamHead:
    """The part of one stream that holds what is hidden: up to the last of *floors*. One reading at a time."""

    def __init__(
        self, wire: Wire, shown: str, site: Site, kind: FactKind, floors: Mapping[str, EntryId]
    ) -> None:
        self.key: str = site.tag.stream(kind)
        self.newer: set[str] = set()
        self._wire = wire
        self._shown = shown
        self._kind = kind
        self._floors = dict(floors)
        self._known = {fence.writer for fence in site.fence if fence.kind is kind}
        self._restored = list(site.meta.restored.get(kind, ()))
        self._foreign = self._foreign_until(site)

    def _foreign_until(self, site: Site) -> EntryId:
        """Return up to where all that is known goes: damage that belongs to nobody may go with it."""
        kept = [
            self._floors.get(fence.writer, fence.first.previous())
            for fence in site.fence
            if fence.kind is self._kind
            and fence.records
            and self._floors.get(fence.writer, EntryId(0, 0)) < fence.last
        ]
        return min(kept, default=max(self._floors.values(), default=EntryId(0, 0)))

    def stretches(self) -> Iterator[Stretch]:
        """Yield what may go, from the beginning. Raises LogUnavailable."""
        end = max(self._floors.values(), default=EntryId(0, 0))
        self.newer.clear()
        place, count = EntryId(0, 0), _FIRST_COUNT
        while place < end:
            (reply,) = self._wire.send(self.key, [("XRANGE", self.key, f"({place}", end, "COUNT", count)])
            if isinstance(reply, redis.RedisError):
                raise unavailable(self._shown, reply)
            entries = parse_entries(reply)
            last = len(reply) < count
            stretch = Stretch(place, end if last else entries[-1].id)
            self._look(stretch, entries)
            yield stretch
            place = stretch.until
            count = _next_count(count, stretch.size_bytes)

    def _look(self, stretch: Stretch, entries: Sequence[StoredEntry]) -> None:
        found = [self._looked_at(entry) for entry in entries]
        for entry_id, line in self._restored:
            if stretch.after < entry_id <= stretch.until:
                found.append(self._line_looked_at(entry_id, line, restored=True))
        stretch.size_bytes = sum(each.size_bytes for each in found)
        for each in sorted(found, key=lambda going: going.id):
            if self._goes(each):
                stretch.going.append(each)

    def _goes(self, entry: Going) -> bool:
        if entry.writer is None:
            return entry.id <= self._foreign
        if entry.writer in self.newer or entry.id > self._floors.get(entry.writer, EntryId(0, 0)):
            return False
        if entry.anomaly == "future_version":  # and all of that writer behind it stays, too
            self.newer.add(entry.writer)
            return False
        return True

    def _looked_at(self, entry: StoredEntry) -> Going:
        line = line_of(entry)
        if line is None:
            size_bytes = sum(map(len, entry.fields[1::2]))
            return Going(entry.id, size_bytes, None, anomaly="corrupt_line")
        return self._line_looked_at(entry.id, line)

    def _line_looked_at(self, entry_id: EntryId, line: bytes, *, restored: bool = False) -> Going:
        writer: str | None = writer_of(line).decode(errors="replace")
        fact, anomaly = None, ""
        try:
            fact = decode(line.removesuffix(b"\n"))
        except LineDamaged as error:
            anomaly = error.anomaly
        except LogTooNew:
            anomaly = "future_version"
        if fact is not None and (fact.writer != writer or fact.kind is not self._kind):
            fact, anomaly = None, "foreign_json"
        if writer not in self._known and anomaly not in {"", "future_version"}:
            writer = None
        return Going(entry_id, len(line), writer, fact, anomaly, restored)


def _next_count(count: int, size_bytes: int) -> int:
    if size_bytes > _STRETCH_BYTES:
        count //= 2
    elif size_bytes < _STRETCH_BYTES // 2:
        count *= 2
    return min(max(count, 1), STRETCH_ENTRIES_MAX)


def explained_by(fact: Fact) -> Iterator[SeqRange]:
    """Yield what *fact* says is lost for a known reason."""
    attribute = _EXPLAINING.get(fact.name)
    for text in [] if attribute is None else texts_of(fact.attributes, attribute):
        found = parse_range(text)
        if found is not None and found.first <= found.last:
            yield found
