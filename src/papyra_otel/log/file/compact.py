"""Compacting a log: removing what retention hides already, so that every state in between reads the same.

Per system: see what can go, move damaged bytes that would go with it aside, record what is about to
happen (``papyra.log.compacted``, with a low mark per writer and kind), and only then remove: whole segments, oldest
first; last the segments of which something stays, by replacing them. The order is what makes it safe. A crash
before the record leaves all as it was, one after it leaves hidden facts that the next compaction removes.

Segments of living writers are left alone, and no lock of theirs is ever waited for or held: appending
goes on. Which writers live is asked before it is worked out what is hidden, so nothing appended since can be in
a segment that is taken for a dead one's.

What is hidden and not delivered yet stays, with all that its writer wrote behind it, unless forced (``held``).

When the disk is too full even for the record, the oldest segment that can go makes room: it is renamed to
``<name>.removing``, which stays as evidence until the record is written, and cut to nothing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Protocol

from papyra_otel.errors import LogBusy, LogTooNew
from papyra_otel.facts import Fact, FactKind
from papyra_otel.log.codec import encode
from papyra_otel.log.compaction import compacted_facts, refuse_wrong_clock
from papyra_otel.log.cursor import Position
from papyra_otel.log.explained import SeqRange
from papyra_otel.log.file.checkpoint import Held, checkpoints
from papyra_otel.log.file.cut import REWRITTEN, Cut, NotCut, cut_segment, shortened
from papyra_otel.log.file.folder import LogFolder, StreamFolder
from papyra_otel.log.file.fs import FileSystem, error_name
from papyra_otel.log.file.held import HoldingBack
from papyra_otel.log.file.layout import QUARANTINE, REMOVING, SegmentName, system_of_folder
from papyra_otel.log.file.lines import lines_forward
from papyra_otel.log.file.quarantine import FORMAT, KeptSegment, quarantine_lines, quarantine_name
from papyra_otel.log.file.reader import FileSource
from papyra_otel.log.file.replace import replace_file
from papyra_otel.log.file.summary import opened
from papyra_otel.log.merge import floors_of
from papyra_otel.log.retention import KindRetention, Retention
from papyra_otel.reports import (
    CompactionReport,
    GroupHold,
    Progress,
    ProgressCallback,
    Skipped,
    StreamCompaction,
)

__all__ = ["Record", "compact_log"]

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
_ALIVE = "its writer is alive: what is hidden there stays hidden, and goes when the segment has ended"
_LONGEST_SEQ = 2**63 - 1


class Record(Protocol):
    """Appends facts about the log and forces them to the disk.

    On a full disk it calls *make_room* and tries again, with the same identities, for as long as that returns True.
    """

    def __call__(self, facts: Sequence[Fact], make_room: Callable[[], bool]) -> tuple[Fact, ...]:
        """Return the facts with their identities. Raises LogUnavailable."""
        ...


def compact_log(
    folder: LogFolder,
    clock: Callable[[], int],
    limits: Retention,
    *,
    force: bool = False,
    dry_run: bool = False,
    progress: ProgressCallback | None = None,
    record: Record,
    ticks: Callable[[], float] = time.monotonic,
) -> CompactionReport:
    """Compact the log in *folder*. See ``FactLog.compact``; *ticks* are seconds of a clock that never steps.

    Raises OSError when something cannot be removed; what was done until then stands, the rest is done next time.
    """
    begun = ticks()
    now = clock()
    with ExitStack() as locks:
        held = [*checkpoints(folder.fs, folder.root)]
        systems = [
            _System(folder, system_folder, limits, now, held, force=force)
            for system_folder in _locked_systems(folder, locks)
        ]
        if not force:
            for system in systems:
                system.refuse_wrong_clock()
        meter = _Meter(progress, sum(system.look() for system in systems))
        for system in systems:
            system.plan(meter.read)
        recorded = () if dry_run else tuple(fact for system in systems for fact in system.carry_out(record))
        return CompactionReport(
            dry_run=dry_run,
            streams=tuple(stream for system in systems for stream in system.streams()),
            skipped=tuple(skipped for system in systems for skipped in system.skipped),
            kept_in=tuple(sorted(place for system in systems for place in system.kept_in)),
            recorded=recorded,
            groups=tuple(hold for system in systems for hold in system.holds()),
            duration_seconds=ticks() - begun,
        )


def _locked_systems(folder: LogFolder, locks: ExitStack) -> list[str]:
    """Return the systems' folders, all locked against other maintenance. Raises LogBusy."""
    found: list[str] = []
    for name in folder.system_folders():
        path = os.path.join(folder.root, name)
        if not folder.fs.is_folder(path):
            continue
        fd = folder.fs.lock_folder(path)
        if fd is None:
            raise LogBusy(f"another process is recovering or compacting {path}; try again when it is done")
        locks.callback(folder.fs.close, fd)
        found.append(name)
    return found


class _Meter:
    """Tells how far reading is."""

    def __init__(self, progress: ProgressCallback | None, total_bytes: int) -> None:
        self._progress = progress
        self._total_bytes = total_bytes
        self._done_bytes = 0

    def read(self, place: str, size_bytes: int) -> None:
        self._done_bytes += size_bytes
        if self._progress is not None and size_bytes:
            total = max(self._total_bytes, self._done_bytes)
            self._progress(Progress(done_bytes=self._done_bytes, total_bytes=total, place=place))


_Read = Callable[[str, int], None]


@dataclass(slots=True)
class _Stream:
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
        return f"{self.folder.place}/{writer}"


class _System:
    """One system's part of a compaction."""

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
        self._not_kept: list[Skipped] = []
        self.skipped: list[Skipped] = []
        self.kept_in: list[str] = []
        self._streams = [
            self._found(stream) for stream in folder.streams() if stream.system_folder == system_folder
        ]

    # --- looking --------------------------------------------------------------------------------------

    def _found(self, folder: StreamFolder) -> _Stream:
        names: defaultdict[str, list[SegmentName]] = defaultdict(list)
        for name in self._folder.segments(folder):
            names[name.writer].append(name)
        for own in names.values():
            own.sort(key=lambda name: name.number)
        limited = not self._limits.of(folder.kind).unlimited
        dead = {name for own in names.values() for name in own if self._is_dead(folder, name)}
        return _Stream(folder, dict(names), dead if limited else set(), list(self._removing(folder)))

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

    def _sources(self, stream: _Stream) -> list[FileSource]:
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

    def _size(self, stream: _Stream, name: SegmentName) -> int:
        """Return how many bytes of a segment are to be read."""
        floor = stream.floors.get(stream.source_id(name.writer))
        if floor is None or name.number > floor[0]:
            return 0
        with contextlib.suppress(FileNotFoundError):
            return self._fs.status(_path(stream.folder, name)).size_bytes
        return 0

    # --- deciding -------------------------------------------------------------------------------------

    def plan(self, read: _Read) -> None:
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

    def _events(self) -> _Stream | None:
        return next((stream for stream in self._streams if stream.folder.kind is FactKind.EVENT), None)

    def _decide(self, stream: _Stream, read: _Read) -> None:
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
        self, stream: _Stream, names: Sequence[SegmentName], floor: Position, read: _Read
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

    def _cut(self, stream: _Stream, name: SegmentName, keep_from: int | None, read: _Read) -> Cut | str:
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

    def _hides(self, stream: _Stream, name: SegmentName, keep_from: int | None) -> bool:
        """Say whether anything of a living writer's segment is hidden."""
        with contextlib.suppress(FileNotFoundError), opened(self._fs, _path(stream.folder, name)) as fd:
            ends = [end for end, _ in zip(_ends(self._fs, fd), range(2), strict=False)]
            return len(ends) > 1 and (keep_from is None or keep_from > ends[0])
        return False

    def _skip(self, stream: _Stream, name: SegmentName, reason: str) -> None:
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

    def _first_seq(self, stream: _Stream, writer: str) -> int:
        """Return what the header of the writer's first segment says is the first seq in it; 0 without any."""
        for name in stream.names.get(writer, []):
            with contextlib.suppress(NotCut, FileNotFoundError):
                header = cut_segment(self._fs, stream.folder, name, 0, lambda _: None).header
                return 0 if header is None else header.seq
        return 0

    # --- doing ----------------------------------------------------------------------------------------

    def carry_out(self, record: Record) -> tuple[Fact, ...]:
        """Move damage aside, record, remove. Return what was recorded."""
        self._keep_damage()
        facts = self._telling()
        if not facts:
            return ()
        recorded = record(facts, self._make_room)
        self._stay_with_the_visible()
        for cut in self._whole():
            _unlink(self._fs, cut.path + (REMOVING if cut.path in self._renamed else ""))
        for stream in self._streams:
            for name in stream.removing:
                _unlink(self._fs, os.path.join(stream.folder.path, name))
            if stream.removing or any(cut.keep_from is None for cut in stream.cuts):
                self._fs.fsync_folder(stream.folder.path)
        for stream in self._streams:
            stream.cuts = [cut for cut in stream.cuts if cut.keep_from is None or self._shorten(stream, cut)]
        return recorded

    def _whole(self) -> list[Cut]:
        """Return what goes as a whole, oldest first, but each writer's in order."""
        keyed: list[tuple[str, str, int, Cut]] = []
        for stream in self._streams:
            latest: dict[str, str] = {}
            for cut in stream.cuts:
                stamp = latest[cut.name.writer] = max(latest.get(cut.name.writer, ""), cut.name.stamp)
                if cut.keep_from is None:
                    keyed.append((stamp, cut.stream.place + cut.name.writer, cut.name.number, cut))
        return [cut for _, _, _, cut in sorted(keyed, key=lambda each: each[:3])]

    def _keep_damage(self) -> None:
        """Keep the damaged bytes that would go. Where there is no space for that, nothing goes."""
        for stream in self._streams:
            staying: set[str] = set()
            for cut in list(stream.cuts):
                if cut.name.writer not in staying and self._kept(stream, cut):
                    continue
                staying.add(cut.name.writer)
                stream.cuts.remove(cut)

    def _kept(self, stream: _Stream, cut: Cut) -> bool:
        if not cut.damaged:
            return True
        kinds = stream.folder.kind.plural
        said = KeptSegment(
            v=FORMAT,
            segment=f"{kinds}/{cut.name}",
            size_bytes=cut.size_bytes,
            digest=cut.digest,
            mode=REWRITTEN,
        )
        path = os.path.join(self._folder.root, self._name, QUARANTINE)
        name = quarantine_name(kinds, cut.name, cut.digest)
        try:
            self._fs.make_folder(path)
            self._fs.fsync_folder(os.path.dirname(path))
            with opened(self._fs, cut.path) as fd:
                lines = quarantine_lines(
                    said, cut.damaged, lambda size, offset: self._fs.pread(fd, size, offset)
                )
                replace_file(self._fs, path, name, lines)
        except OSError as error:
            if error.errno not in _NO_SPACE:
                raise
            self._skip(stream, cut.name, f"no space to keep its damaged bytes ({error_name(error)})")
            return False
        self.kept_in.append(f"{self._name}/{QUARANTINE}/{name}")
        return True

    def _make_room(self) -> bool:
        """Empty the oldest segment that goes as a whole; False when there is none left."""
        for cut in self._whole():
            if cut.path in self._renamed:
                continue
            self._fs.rename(cut.path, cut.path + REMOVING)
            self._renamed.add(cut.path)
            self._fs.fsync_folder(cut.stream.path)  # the name must be there before the content goes
            self._fs.truncate(cut.path + REMOVING, 0)
            return True
        return False

    def _stay_with_the_visible(self) -> None:
        """Leave what turns out to be visible now that the record is among the events.

        Room was left as for the newest event of all, of the greatest length it can have. It is not the newest
        where a clock is behind, and may be shorter.
        """
        events = self._events()
        limits = self._limits.of(FactKind.EVENT)
        if events is None or not events.cuts:
            return
        if limits.max_bytes is None and (limits.max_records is None or self._is_newest(events)):
            return
        fresh = self._found(events.folder)
        floors, _ = floors_of(self._sources(fresh), limits, self._now)
        changed = False
        for source in self._sources(events):
            planned, true = events.floors.get(source.id), floors.get(source.id)
            if planned is None or (true is not None and source.order(true) >= source.order(planned)):
                continue
            changed = True
            if true is None:
                del events.floors[source.id]
            else:
                events.floors[source.id] = true
        if changed:
            self._decide(events, _unheard)

    def _is_newest(self, events: _Stream) -> bool:
        """Say whether all events that were there are earlier than now."""
        newest = (next(source.backward(None), None) for source in self._sources(events))
        return all(stored is None or stored.fact.time_unix_nano < self._now for stored in newest)

    def _shorten(self, stream: _Stream, cut: Cut) -> bool:
        try:
            replace_file(self._fs, stream.folder.path, str(cut.name), shortened(self._fs, cut))
        except OSError as error:
            if error.errno not in {*_NO_SPACE, errno.EBUSY}:
                raise
            self._skip(stream, cut.name, f"cannot be replaced by what is visible of it ({error_name(error)})")
            return False
        return True

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


def _unheard(place: str, size_bytes: int) -> None:
    """Tell nobody how far reading is."""


def _unlink(fs: FileSystem, path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        fs.unlink(path)
