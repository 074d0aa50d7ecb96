"""What one stream holds, in little room: how far each writer's facts go, and what is wrong with single entries."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from papyra_otel.facts import FactKind
from papyra_otel.log.codec import Outline
from papyra_otel.log.explained import TELLING, SeqRange, explained_by, low_marks_of
from papyra_otel.log.redis.examine import NEWER, Look
from papyra_otel.log.redis.fence import Fence
from papyra_otel.log.redis.keys import EntryId, Tag
from papyra_otel.log.seqset import SeqSet
from papyra_otel.log.tally import Tally
from papyra_otel.log.times import parse_time
from papyra_otel.reports import Anomaly, StreamScan

__all__ = ["NOWHERE", "Bad", "Hole", "StreamTrail", "Trail"]

NOWHERE = EntryId(0, 0)
_BACKWARD_NANOS_MAX = 60_000_000_000  # smaller steps back are threads and clocks being adjusted


class Bad(NamedTuple):
    """An entry that a recovery has to look into."""

    id: EntryId
    anomaly: str


class Hole(NamedTuple):
    """Sequence numbers *first* to *last* are missing between two entries of one writer."""

    first: int
    last: int
    before: EntryId
    behind: EntryId


@dataclass(slots=True)
class Trail:
    """One writer's good facts in one stream, each identity once.

    *within* counts those up to the last entry that the fence knew of before the stream was read.
    """

    writer: str
    known_until: EntryId = NOWHERE
    known_records: int = 0
    seqs: SeqSet = field(default_factory=SeqSet)
    records: int = 0
    size_bytes: int = 0
    first: EntryId = NOWHERE
    last: EntryId = NOWHERE
    latest: str = ""
    within: int = 0
    within_bytes: int = 0
    holes: list[Hole] = field(default_factory=list[Hole])
    repeated: SeqSet = field(default_factory=SeqSet)

    def count(self, entry_id: EntryId, size_bytes: int) -> None:
        """Count a fact that is new."""
        if not self.records:
            self.first = entry_id
        self.first = min(self.first, entry_id)
        self.last = max(self.last, entry_id)
        self.records += 1
        self.size_bytes += size_bytes
        if entry_id <= self.known_until:
            self.within += 1
            self.within_bytes += size_bytes


@dataclass(slots=True)
class StreamTrail:
    """One stream as far as it was read. Everything up to *until* was, *entries* of them; *whole* if that is all.

    *bad* is kept only up to *bad_max*.
    """

    tag: Tag
    kind: FactKind
    system: str
    future: str
    settled: frozenset[EntryId] = frozenset()
    bad_max: int = 0
    trails: dict[str, Trail] = field(default_factory=dict[str, Trail])
    scan: StreamScan = field(default_factory=StreamScan)
    explained: list[SeqRange] = field(default_factory=list[SeqRange])
    tally: Tally = field(default_factory=Tally)
    bad: list[Bad] = field(default_factory=list[Bad])
    first: EntryId | None = None
    until: EntryId = NOWHERE
    entries: int = 0
    read_bytes: int = 0
    remembered: bool = False
    whole: bool = False
    unreadable: bool = False
    there: bool = False
    damaged: int = 0
    newer: int = 0
    restored: set[EntryId] = field(default_factory=set[EntryId])
    kept: bytes | None = None

    @property
    def key(self) -> str:
        """The stream's key."""
        return self.tag.stream(self.kind)

    def anomaly(
        self, name: str, detail: str, entry_id: EntryId | None = None, writer: str | None = None
    ) -> Anomaly:
        """Return an anomaly of this stream, or of one entry."""
        return Anomaly(
            type=name,
            place=self.key if entry_id is None else f"{self.key} {entry_id}",
            detail=detail,
            length=None if entry_id is None else 1,
            system=self.system,
            kind=self.kind,
            writer=writer,
        )

    def report(
        self, name: str, detail: str, entry_id: EntryId | None = None, writer: str | None = None
    ) -> None:
        """Count an anomaly, and keep it for a recovery if it is one of an entry."""
        self.tally.add(self.anomaly(name, detail, entry_id, writer))
        if entry_id is not None:
            self.note(entry_id, name)

    def note(self, entry_id: EntryId, name: str) -> None:
        """Keep where a recovery has to look."""
        if len(self.bad) < self.bad_max:
            self.bad.append(Bad(entry_id, name))

    def expect(self, fences: Iterable[Fence]) -> None:
        """Learn what the fence knew before the stream is read."""
        for fence in fences:
            if fence.kind is self.kind:
                trail = self.trails.setdefault(fence.writer, Trail(fence.writer))
                trail.known_until = fence.last
                trail.known_records = fence.records
                trail.within_bytes = trail.size_bytes
                trail.within = trail.records  # of what was verified before

    def take(self, looks: Iterable[Look]) -> None:
        """Take entries in their order; pass quickly over facts that follow the one before as they should."""
        trails, kind, system, future = self.trails, self.kind.value, self.system, self.future
        records = good = damaged = newer = 0
        for look in looks:
            entry_id, size_bytes, what, anomaly, line, detail = look
            self.entries += 1
            self.until = entry_id
            if line is None:
                if what is NEWER:
                    newer += size_bytes
                    self.newer += 1
                else:
                    damaged += size_bytes
                    self.damaged += 1
                self.report(anomaly or "corrupt_line", detail, entry_id)
                continue
            records += 1
            good += size_bytes
            trail = trails.get(line.writer)
            if (
                trail is not None
                and trail.records
                and line.seq == trail.seqs.last + 1
                and trail.latest <= line.time <= future
                and line.kind == kind
                and line.system == system
                and anomaly is None
                and line.name not in TELLING
            ):
                trail.seqs.append_range(line.seq, line.seq)
                trail.last = entry_id
                trail.latest = line.time
                trail.records += 1
                trail.size_bytes += size_bytes
                if entry_id <= trail.known_until:
                    trail.within += 1
                    trail.within_bytes += size_bytes
            else:
                self._look(look, line)
        size = good + damaged + newer
        self.read_bytes += size
        self.scan += StreamScan(
            records=records, size_bytes=size, good_bytes=good, damaged_bytes=damaged, newer_bytes=newer
        )

    def _look(self, look: Look, line: Outline) -> None:
        entry_id = look.id
        if line.kind != self.kind.value or not _is_of(line.system, self.system, self.tag):
            wrong = f"kind {line.kind}" if line.kind != self.kind.value else f"system {line.system!r}"
            self.report("fork_conflict", f"a fact of {wrong} in the wrong stream", entry_id, line.writer)
            return
        trail = self.trails.get(line.writer)
        if trail is None:
            trail = self.trails[line.writer] = Trail(line.writer)
        if look.anomaly is not None:
            self.report(look.anomaly, look.detail, entry_id, line.writer)
        highest = trail.seqs.last
        if line.seq > highest:
            if line.seq > highest + 1:
                before = trail.last if trail.records else NOWHERE
                trail.holes.append(Hole(highest + 1, line.seq - 1, before, entry_id))
            trail.seqs.append_range(line.seq, line.seq)
        elif not trail.seqs.add(line.seq):
            trail.repeated.add(line.seq)
            return
        elif entry_id not in self.settled:
            self.report("out_of_order", f"seq {line.seq} behind seq {highest}", entry_id, line.writer)
        trail.count(entry_id, look.size_bytes)
        self._clock(trail, line, entry_id)
        self.tell(line)

    def tell(self, line: Outline) -> None:
        """Note what a fact explains."""
        if line.name in TELLING:
            self.explained += [*explained_by(line), *low_marks_of(line)]

    def restore(self, entry_id: EntryId, line: Outline, size_bytes: int) -> None:
        """Take a line that stands in the place of a damaged entry."""
        trail = self.trails.setdefault(line.writer, Trail(line.writer))
        self.scan += StreamScan(records=1, size_bytes=size_bytes, good_bytes=size_bytes)
        if trail.seqs.add(line.seq):
            trail.count(entry_id, size_bytes)
        self.tell(line)

    def _clock(self, trail: Trail, line: Outline, entry_id: EntryId) -> None:
        """Tell of a clock that stepped back or is far ahead; then go on from there."""
        latest, future = trail.latest, self.future
        if line.time > future and not latest > future:
            detail = f"{line.time} is more than a day ahead of now"
        elif latest and parse_time(latest) - parse_time(line.time) > _BACKWARD_NANOS_MAX:
            detail = f"{line.time} comes after {latest}"
        else:
            trail.latest = max(latest, line.time)
            return
        trail.latest = line.time
        self.tally.add(self.anomaly("clock_jump", detail, entry_id, line.writer))

    @property
    def fresh(self) -> bool:
        """Whether more is known than was remembered."""
        return bool(self.read_bytes) or not (self.remembered or self.first is None)

    @property
    def sound(self) -> bool:
        """Whether nothing in it needs looking at again, as far as it was read."""
        harmless = set(self.tally.counts) <= {"clock_jump"}
        return harmless and not (self.unreadable or any(trail.repeated for trail in self.trails.values()))


def _is_of(system: str, expected: str, tag: Tag) -> bool:
    return system == expected or tag.is_of(system)
