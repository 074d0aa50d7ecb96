"""What can go of one system when its log is compacted: seen, decided, and put into the facts that will tell of it.

Nothing is changed here. Which writers live is asked before it is worked out what is hidden, so nothing appended
since can be in a segment that is taken for a dead one's.
"""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from papyra_otel.errors import LogTooNew
from papyra_otel.facts import Fact, FactKind
from papyra_otel.log.codec import encode
from papyra_otel.log.compaction import compacted_facts, refuse_wrong_clock
from papyra_otel.log.cursor import Position
from papyra_otel.log.explained import SeqRange
from papyra_otel.log.file.checkpoint import Held
from papyra_otel.log.file.cut import Cut, NotCut, cut_segment
from papyra_otel.log.file.folder import LogFolder, StreamFolder
from papyra_otel.log.file.fs import FileSystem
from papyra_otel.log.file.held import HoldingBack
from papyra_otel.log.file.layout import REMOVING, SegmentName, system_of_folder
from papyra_otel.log.file.lines import lines_forward
from papyra_otel.log.file.reader import FileSource
from papyra_otel.log.file.summary import opened
from papyra_otel.log.merge import floors_of
from papyra_otel.log.retention import KindRetention, Retention
from papyra_otel.reports import GroupHold, Skipped, StreamCompaction

__all__ = ["Read", "StreamPlan", "SystemPlan"]

_ALIVE = "its writer is alive: what is hidden there stays hidden, and goes when the segment has ended"
_LONGEST_SEQ = 2**63 - 1

Read = Callable[[str, int], None]
"""Called with a place and how many bytes of it were read just now."""


@dataclass(slots=True)
class StreamPlan:
    """One stream of a system, as it was found before anything was decided."""

    folder: StreamFolder
    names: dict[str, list[SegmentName]]  # by writer, in order
    dead: set[SegmentName]
    removing: list[str]
    records: int = 0
    floors: dict[str, Position] = field(default_factory=dict[str, Position])
    reduced: dict[str, Position] | None = None  # the same with room for one more, if that is known
    cuts: list[Cut] = field(default_factory=list[Cut])
    sources: list[FileSource] = field(default_factory=list[FileSource])

    def source_id(self, writer: str) -> str:
        """Return the id of *writer*'s ``FileSource``."""
        return f"{self.folder.place}/{writer}"


class SystemPlan:
    """One system's part of a compaction, up to the decision. Not thread-safe; whoever plans holds the system's lock."""

    def __init__(
        self,
        folder: LogFolder,
        system_folder: str,
        limits: Retention,
        now: int,
        held: Sequence[Held],
        *,
        force: bool,
    ) -> None:
        self._folder = folder
        self._fs: FileSystem = folder.fs
        self._name = system_folder
        self._limits = limits
        self._now = now
        self._system: str = system_of_folder(system_folder)
        self._held = held
        self._force = force
        self._holding: dict[FactKind, HoldingBack] = {}
        self._seen: dict[tuple[FactKind, SegmentName, int | None], Cut | str] = {}
        self._renamed: set[str] = set()
        self.skipped: list[Skipped] = []
        self.kept_in: list[str] = []
        self._streams = [
            self._found(stream) for stream in folder.streams() if stream.system_folder == system_folder
        ]

    # --- looking --------------------------------------------------------------------------------------

    def _found(self, folder: StreamFolder) -> StreamPlan:
        names: defaultdict[str, list[SegmentName]] = defaultdict(list)
        for name in self._folder.segments(folder):
            names[name.writer].append(name)
        for own in names.values():
            own.sort(key=lambda name: name.number)
        limited = not self._limits.of(folder.kind).unlimited
        dead = {name for own in names.values() for name in own if self._is_dead(folder, name)}
        return StreamPlan(folder, dict(names), dead if limited else set(), list(self._removing(folder)))

    def _is_dead(self, folder: StreamFolder, name: SegmentName) -> bool:
        if self._limits.of(folder.kind).unlimited:
            return False
        with contextlib.suppress(FileNotFoundError), opened(self._fs, _path(folder, name)) as fd:
            return not self._fs.locked(fd)
        return False

    def _removing(self, folder: StreamFolder) -> Iterator[str]:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for name in self._fs.names(folder.path):
                stem = name.removesuffix(REMOVING)
                if stem != name and SegmentName.parse(stem) is not None:
                    yield name

    def _sources(self, stream: StreamPlan) -> list[FileSource]:
        folder = stream.folder
        stream.sources = stream.sources or [
            FileSource(self._fs, self._folder.root, folder.system_folder, folder.kind, names)
            for names in stream.names.values()
        ]
        return stream.sources

    def refuse_wrong_clock(self) -> None:
        """Raise CompactionRefused where the clock may be why most would go."""
        sources = [source for stream in self._streams for source in self._sources(stream)]
        refuse_wrong_clock(sources, self._limits, self._now)

    def look(self) -> int:
        """Find out what is hidden; return how many bytes are to be read to see what can go."""
        size_bytes = 0
        for stream in self._streams:
            sources = self._sources(stream)
            limits = self._limits.of(stream.folder.kind)
            if sources:
                self._system = sources[0].system
            if limits.unlimited:
                continue
            try:
                stream.records = sum(source.totals()[0] for source in sources)
                stream.floors, stream.reduced = floors_of(sources, limits, self._now, less_records=1)
            except LogTooNew as error:
                self.skipped.append(Skipped(place=stream.folder.place, reason=str(error)))
                continue
            size_bytes += sum(self._size(stream, name) for name in stream.dead)
        return size_bytes

    def _size(self, stream: StreamPlan, name: SegmentName) -> int:
        """Return how many bytes of a segment are to be read."""
        floor = stream.floors.get(stream.source_id(name.writer))
        if floor is None or name.number > floor[0]:
            return 0
        with contextlib.suppress(FileNotFoundError):
            return self._fs.status(_path(stream.folder, name)).size_bytes
        return 0

    # --- deciding -------------------------------------------------------------------------------------

    def plan(self, read: Read) -> None:
        """See what can go, leaving room among the events for the facts that tell of it."""
        for stream in self._streams:
            self._decide(stream, read)
        told = self._telling()
        events = self._events()
        limits = self._limits.of(FactKind.EVENT)
        while told and events is not None and (limits.max_records, limits.max_bytes) != (None, None):
            if events.reduced is not None and len(told) == 1:
                events.floors = events.reduced
            else:
                with contextlib.suppress(LogTooNew):
                    size_bytes = sum(len(encode(fact.identified("0" * 16, _LONGEST_SEQ))) for fact in told)
                    rest = _less(limits, len(told), size_bytes)
                    events.floors, _ = floors_of(self._sources(events), rest, self._now)
            self._decide(events, read)
            count, told = len(told), self._telling()
            if len(told) <= count:
                break

    def _events(self) -> StreamPlan | None:
        return next((stream for stream in self._streams if stream.folder.kind is FactKind.EVENT), None)

    def _decide(self, stream: StreamPlan, read: Read) -> None:
        """Work out what goes of *stream*, given where the visible part of each writer's facts begins."""
        place = stream.folder.place + "/"
        self.skipped = [each for each in self.skipped if not each.place.startswith(place)]
        stream.cuts = []
        holding = self._holding[stream.folder.kind] = HoldingBack(self._held, self._system, force=self._force)
        sources = {source.writer: source for source in self._sources(stream)}
        for writer, names in stream.names.items():
            hidden = stream.floors.get(stream.source_id(writer))
            floor = None if hidden is None else holding.floor(sources[writer], hidden)
            if floor is None:
                continue
            cuts = list(self._cuts(stream, names, floor, read))
            if any(cut.records for cut in cuts):
                stream.cuts += cuts

    def _cuts(
        self, stream: StreamPlan, names: Sequence[SegmentName], floor: Position, read: Read
    ) -> Iterator[Cut]:
        """Yield what goes of one writer's segments, in order; where one must stay, what comes after it stays."""
        index, offset = floor[:2]
        for name in names:
            keep_from = offset if name.number == index else None
            if name.number > index:
                return
            if name not in stream.dead:
                if self._hides(stream, name, keep_from):
                    self._skip(stream, name, _ALIVE)
                return
            cut = self._cut(stream, name, keep_from, read)
            if isinstance(cut, str):
                self._skip(stream, name, cut)
                return
            if cut.keep_from is None or cut.records:
                yield cut
            if cut.keep_from is not None:
                return

    def _cut(self, stream: StreamPlan, name: SegmentName, keep_from: int | None, read: Read) -> Cut | str:
        """Return what goes of a segment, or why nothing does."""
        key = stream.folder.kind, name, keep_from
        if key not in self._seen:
            place = f"{stream.folder.place}/{name}"
            try:
                found = cut_segment(self._fs, stream.folder, name, keep_from, lambda size: read(place, size))
                self._seen[key] = found
            except NotCut as reason:
                self._seen[key] = str(reason)
            except OSError as error:
                self._seen[key] = f"cannot be read: {error.strerror}"
        return self._seen[key]

    def _hides(self, stream: StreamPlan, name: SegmentName, keep_from: int | None) -> bool:
        """Say whether anything of a living writer's segment is hidden."""
        with contextlib.suppress(FileNotFoundError), opened(self._fs, _path(stream.folder, name)) as fd:
            ends = [end for end, _ in zip(_ends(self._fs, fd), range(2), strict=False)]
            return len(ends) > 1 and (keep_from is None or keep_from > ends[0])
        return False

    def _skip(self, stream: StreamPlan, name: SegmentName, reason: str) -> None:
        self.skipped.append(Skipped(place=f"{stream.folder.place}/{name}", reason=reason))

    # --- telling --------------------------------------------------------------------------------------

    def _telling(self) -> list[Fact]:
        """Return the facts that say what is about to go; none when it is not worth it.

        Facts of earlier compactions alone are not: each time would leave one for the next time.
        """
        cuts = [cut for stream in self._streams for cut in stream.cuts]
        if sum(cut.records - cut.told for cut in cuts) == 0:
            for stream in self._streams:
                stream.cuts = []
            cuts = []
        unfinished = any(stream.removing for stream in self._streams)
        if not cuts and not unfinished:
            return []
        marks = self._low_marks(cuts)
        return compacted_facts(
            self._system,
            self._now,
            low_marks=[f"{writer}-{kind}-{seq}" for (writer, kind), seq in sorted(marks.items())],
            explained=map(str, sorted(self._explained(cuts, marks))),
            records=sum(cut.records for cut in cuts),
            size_bytes=sum(cut.freed_bytes for cut in cuts),
        )

    def _low_marks(self, cuts: Sequence[Cut]) -> dict[tuple[str, FactKind], int]:
        """Return below which seq everything goes, or went: the marks of compactions whose facts go included."""
        marks: defaultdict[tuple[str, FactKind], int] = defaultdict(int)
        for cut in cuts:
            key = cut.name.writer, cut.stream.kind
            marks[key] = max(marks[key], cut.last_seq + 1)
        staying = self._staying()
        for mark in (mark for cut in cuts for mark in cut.low_marks):
            if mark.writer in staying:
                key = mark.writer, mark.kind
                marks[key] = max(marks[key], mark.last + 1)
        for stream in self._streams:
            for writer in {_writer_of(name) for name in stream.removing}:
                first = self._first_seq(stream, writer)
                marks[writer, stream.folder.kind] = max(marks[writer, stream.folder.kind], first)
        return {key: seq for key, seq in marks.items() if seq > 0}

    def _explained(self, cuts: Sequence[Cut], marks: dict[tuple[str, FactKind], int]) -> set[SeqRange]:
        """Return what was explained by facts that go and still needs to be."""
        staying = self._staying()
        return {
            found
            for cut in cuts
            for found in cut.explained
            if found.writer in staying and found.last >= marks.get((found.writer, found.kind), 0)
        }

    def _staying(self) -> set[str]:
        """Return the writers of which a segment stays, of any kind: they may be writing."""
        going = {cut.place for stream in self._streams for cut in stream.cuts if cut.keep_from is None}
        return {
            name.writer
            for stream in self._streams
            for own in stream.names.values()
            for name in own
            if f"{stream.folder.place}/{name}" not in going
        }

    def _first_seq(self, stream: StreamPlan, writer: str) -> int:
        """Return what the header of the writer's first segment says is the first seq in it; 0 without any."""
        for name in stream.names.get(writer, []):
            with contextlib.suppress(NotCut, FileNotFoundError):
                header = cut_segment(self._fs, stream.folder, name, 0, lambda _: None).header
                return 0 if header is None else header.seq
        return 0

    # --- reporting ------------------------------------------------------------------------------------

    def holds(self) -> Iterator[GroupHold]:
        """Yield what outlets needed of what is hidden."""
        for holding in self._holding.values():
            yield from holding.holds()

    def streams(self) -> Iterator[StreamCompaction]:
        """Yield what was, or would be, removed of each stream that has limits."""
        for stream in self._streams:
            if self._limits.of(stream.folder.kind).unlimited or not stream.names:
                continue
            removed = sum(cut.records for cut in stream.cuts)
            whole = sum(cut.keep_from is None for cut in stream.cuts)
            yield StreamCompaction(
                system=self._system,
                kind=stream.folder.kind,
                records_removed=removed,
                records_kept=max(stream.records - removed, 0),
                bytes_freed=sum(cut.freed_bytes for cut in stream.cuts),
                segments_removed=whole,
                segments_replaced=len(stream.cuts) - whole,
            )


def _path(folder: StreamFolder, name: SegmentName) -> str:
    return os.path.join(folder.path, str(name))


def _writer_of(removing: str) -> str:
    name = SegmentName.parse(removing.removesuffix(REMOVING))
    return "" if name is None else name.writer


def _less(limits: KindRetention, records: int, size_bytes: int) -> KindRetention:
    """Return *limits* with that much taken up already."""
    return replace(
        limits,
        max_records=None if limits.max_records is None else max(limits.max_records - records, 0),
        max_bytes=None if limits.max_bytes is None else max(limits.max_bytes - size_bytes, 0),
    )


def _ends(fs: FileSystem, fd: int) -> Iterator[int]:
    return (end for end, _ in lines_forward(fs, fd, 0))
