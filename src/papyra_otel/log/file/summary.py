"""What a segment holds, in little room: enough to judge the whole log without reading the segment again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager

import msgspec

from papyra_otel.facts import FactKind
from papyra_otel.log.codec import Outline
from papyra_otel.log.explained import TELLING, SeqRange, explained_by, low_marks_of
from papyra_otel.log.file.examine import DAMAGED, FACT, HEADER, IN_FLIGHT, NEWER, SEAL, Digests, Span, examine
from papyra_otel.log.file.folder import LogFolder, StreamFolder
from papyra_otel.log.file.fs import FileStatus, FileSystem
from papyra_otel.log.file.layout import SegmentName, folder_of_system
from papyra_otel.log.file.marks import Header, Seal
from papyra_otel.log.seqset import SeqSet
from papyra_otel.log.tally import Tally
from papyra_otel.log.times import format_time, parse_time
from papyra_otel.reports import ANOMALY_SEVERITIES, Anomaly, StreamScan

__all__ = ["Hole", "Summary", "opened", "repeats", "same", "summarise"]

_BACKWARD_NANOS_MAX = 60_000_000_000  # smaller steps back are threads and clocks being adjusted
_FUTURE_NANOS_MAX = 86_400_000_000_000


class Hole(msgspec.Struct, frozen=True, array_like=True):
    """Sequence numbers *first* to *last* are missing before the fact at *offset*."""

    first: int
    last: int
    offset: int


class Summary(msgspec.Struct, kw_only=True):
    """One segment as it was found. *ranges* are the seqs of its own writer and kind, ascending and apart.

    *digest* is that of everything before the seal; empty without one. *alive* says that its writer still holds it,
    *unread* that it was not looked into, *remembered* that it was verified before and is unchanged.
    """

    place: str
    system_folder: str
    kind: FactKind
    name: SegmentName
    size_bytes: int = 0
    inode: int = 0
    changed_unix_nano: int = 0
    alive: bool = False
    unread: bool = False
    remembered: bool = False
    system: str | None = None
    scan: StreamScan = StreamScan()
    ranges: list[tuple[int, int]] = []
    holes: list[Hole] = []
    header: Header | None = None
    seal: Seal | None = None
    digest: str = ""
    explained: list[SeqRange] = []
    low_marks: list[SeqRange] = []
    tally: Tally = msgspec.field(default_factory=Tally)

    @property
    def status(self) -> FileStatus:
        """What the file was like when it was read."""
        return FileStatus(self.size_bytes, self.inode, self.changed_unix_nano)

    @property
    def sound(self) -> bool:
        """Say whether nothing in it was found wrong, so that it need not be read again while it is unchanged."""
        harmless = all(ANOMALY_SEVERITIES[name] == "INFO" for name in self.tally.counts)
        return harmless and not (self.alive or self.unread)

    def anomaly(
        self, name: str, detail: str, offset: int | None = None, length: int | None = None
    ) -> Anomaly:
        """Return an anomaly of this place."""
        return Anomaly(
            type=name,
            place=self.place,
            detail=detail,
            offset=offset,
            length=length,
            system=self.system,
            kind=self.kind,
            writer=self.name.writer,
        )

    def report(self, name: str, detail: str, offset: int | None = None, length: int | None = None) -> None:
        """Count an anomaly of this place."""
        self.tally.add(self.anomaly(name, detail, offset, length))


def summarise(
    folder: LogFolder,
    stream: StreamFolder,
    name: SegmentName,
    now_unix_nano: int,
    watch: Callable[[int], None] = lambda _: None,
) -> Summary | None:
    """Read a whole segment. None when it is not there any more: it was compacted away.

    What cannot be read is an anomaly of the summary, not an error. *watch* is called with how many bytes were read,
    some hundred KiB at a time; it must not raise OSError.
    """
    summary = Summary(
        place=f"{stream.place}/{name}", system_folder=stream.system_folder, kind=stream.kind, name=name
    )
    path = os.path.join(stream.path, str(name))
    try:
        there = _read(summary, folder.fs, path, now_unix_nano, watch)
    except FileNotFoundError:
        return None
    except OSError as error:
        there = True
        _unread(summary, f"cannot be read: {error.strerror}")
    return summary if there else None


@contextmanager
def opened(fs: FileSystem, path: str) -> Generator[int]:
    """Open *path* for reading, and close it."""
    fd = fs.open_read(path)
    try:
        yield fd
    finally:
        fs.close(fd)


class _Watched:
    """A file system whose reading is watched."""

    def __init__(self, fs: FileSystem, watch: Callable[[int], None]) -> None:
        self._fs = fs
        self._watch = watch

    def pread(self, fd: int, size: int, offset: int, /) -> bytes:
        data = self._fs.pread(fd, size, offset)
        self._watch(len(data))
        return data


def _read(
    summary: Summary, fs: FileSystem, path: str, now_unix_nano: int, watch: Callable[[int], None]
) -> bool:
    """Fill *summary*. False if the segment is being removed."""
    # Asked first: if it is replaced from now on, what is remembered will not be taken for the new one.
    status = fs.status(path)
    summary.size_bytes, summary.inode, summary.changed_unix_nano = status
    if not status.size_bytes:  # no segment is ever without header; a pipe of that name would make us wait
        summary.report("unclean_shutdown", "the file is empty: nothing of it was forced to the disk", 0, 0)
        return True
    with opened(fs, path) as fd:
        summary.alive = fs.locked(fd)  # asked before the size: what is unfinished then is a living writer's
        summary.size_bytes = size = fs.size(fd)
        digests = Digests()
        reading = _Reading(summary, now_unix_nano)
        reading.take(examine(_Watched(fs, watch), fd, size, alive=summary.alive, digests=digests))
        if summary.scan.size_bytes < size:
            if not fs.linked(fd) or fs.status(path).inode != summary.inode:
                return False
            _unread(summary, "became shorter while it was read")
        reading.end(digests)
        if reading.repeated:
            again = examine(fs, fd, size, alive=summary.alive)
            for anomaly in repeats(again, reading.repeated, summary):
                summary.tally.add(anomaly)
    return True


def _unread(summary: Summary, detail: str) -> None:
    """Account for what could not be read."""
    read_bytes = summary.scan.size_bytes
    left = max(summary.size_bytes - read_bytes, 0)
    summary.scan += StreamScan(size_bytes=left, damaged_bytes=left)
    summary.report("unreadable", detail, read_bytes, left)


def repeats(spans: Iterable[Span], seqs: SeqSet, summary: Summary) -> Iterator[Anomaly]:
    """Yield an anomaly for each fact of *summary*'s writer with one of *seqs* that came before: equal, or not."""
    seen: dict[int, bytes] = {}
    for span in spans:
        line = span.outline
        if (
            span.what is not FACT
            or line is None
            or line.seq not in seqs
            or line.writer != summary.name.writer
        ):
            continue
        digest = hashlib.blake2b(_encoder.encode(line), digest_size=16).digest()
        before = seen.setdefault(line.seq, digest)
        if before is digest:
            continue
        if before == digest:
            detail = f"the fact with seq {line.seq} stands here again"
            yield summary.anomaly("duplicate", detail, span.offset, span.length)
        else:
            detail = f"another fact with seq {line.seq}: two processes wrote under one identity"
            yield summary.anomaly("fork_conflict", detail, span.offset, span.length)


def same(left: Outline, right: Outline) -> bool:
    """Say whether two lines hold the same."""
    return _encoder.encode(left) == _encoder.encode(right)


class _Reading:
    """Turns spans into a summary."""

    def __init__(self, summary: Summary, now_unix_nano: int) -> None:
        self._summary = summary
        self._kind = summary.kind.value
        self._writer = summary.name.writer
        self._future = format_time(now_unix_nano + _FUTURE_NANOS_MAX)
        self._system: str | None = None  # as facts that belong here name it
        self._latest = ""
        self._seqs = SeqSet()
        self._run = 0, -1  # first, and one past the last, of the seqs that are not in the set yet
        self._records = 0
        self._amounts: dict[str, int] = dict.fromkeys((FACT, HEADER, SEAL, NEWER, DAMAGED, IN_FLIGHT), 0)
        self._head: Span | None = None  # the first good line
        self._fits = False  # it is this segment's header
        self._seal_at: int | None = None
        self.repeated: SeqSet = SeqSet()

    def take(self, spans: Iterable[Span]) -> None:
        """Take all *spans* of the segment. What was taken stands when reading fails."""
        try:
            self._take(spans)
        finally:
            self._end_run()
            self._summary.ranges = self._seqs.ranges()
            amounts = self._amounts
            self._summary.scan = StreamScan(
                records=self._records,
                size_bytes=sum(amounts.values()),
                good_bytes=amounts[FACT],
                mark_bytes=amounts[HEADER] + amounts[SEAL],
                newer_bytes=amounts[NEWER],
                damaged_bytes=amounts[DAMAGED],
                in_flight_bytes=amounts[IN_FLIGHT],
            )

    def _take(self, spans: Iterable[Span]) -> None:
        """Pass quickly over facts that follow the one before as they should; look closely at all else."""
        writer, kind, future = self._writer, self._kind, self._future
        usual_system, latest = self._system, self._latest
        first, next_seq = self._run
        good_bytes = 0
        try:
            for span in spans:
                _, length, what, anomaly, line, _ = span
                if (
                    what is FACT
                    and line is not None
                    and line.seq == next_seq
                    and line.writer == writer
                    and line.kind == kind
                    and line.system == usual_system
                    and latest <= line.time <= future
                    and line.name not in TELLING
                    and anomaly is None
                ):
                    next_seq += 1
                    latest = line.time
                    good_bytes += length
                    continue
                self._passed(first, next_seq, good_bytes)
                good_bytes = 0
                self._latest = latest
                self._look(span)
                usual_system = self._system if self._seal_at is None else None
                latest = self._latest
                first, next_seq = self._run
        finally:
            self._passed(first, next_seq, good_bytes)

    def _passed(self, first: int, next_seq: int, good_bytes: int) -> None:
        """Count what was passed over since the last look."""
        self._records += next_seq - self._run[1]
        self._amounts[FACT] += good_bytes
        self._run = first, next_seq

    def end(self, digests: Digests) -> None:
        """Judge the segment as a whole, after all was taken."""
        summary = self._summary
        if self._head is None:
            summary.report("head_missing", "there is no good line", 0, summary.size_bytes)
        seal = summary.seal
        if seal is None or self._seal_at is None:
            return
        summary.digest = digests.before_seal
        if seal.digest != summary.digest:
            detail = "what comes before the seal is not what was sealed"
            summary.report("segment_digest", detail, self._seal_at)
        highest = self._highest()
        if seal.last_seq is not None and highest is not None and seal.last_seq > highest:
            summary.holes.append(Hole(highest + 1, seal.last_seq, self._seal_at))

    def _look(self, span: Span) -> None:
        """Take one span, whatever it is."""
        self._amounts[span.what] += span.length
        if self._head is None and span.what is not DAMAGED:
            self._take_head(span)
        elif span.what is HEADER:
            self._another_header(span)
        if span.what is FACT and span.outline is not None:
            self._fact(span, span.outline)
        elif span.what is SEAL and span.outline is not None:
            self._summary.seal = Seal.of(span.outline)
            self._seal_at = span.offset
        elif span.what is DAMAGED or span.what is NEWER:
            self._summary.report(span.anomaly or "corrupt_line", span.detail, span.offset, span.length)
        if span.anomaly == "lost_newline":
            detail = "a whole line without its line end"
            self._summary.report("lost_newline", detail, span.offset, span.length)

    def _fact(self, span: Span, line: Outline) -> None:
        self._records += 1
        if not self._belongs(line, span):
            return
        if line.seq == self._run[1]:
            self._run = self._run[0], line.seq + 1
        else:
            self._jump(line.seq, span)
        if self._latest <= line.time <= self._future:
            self._latest = line.time
        else:
            self._clock(line, span)
        if self._seal_at is not None:
            self._summary.report("segment_digest", "a fact behind the seal", span.offset, span.length)
        if line.name in TELLING:
            self._summary.explained.extend(explained_by(line))
            self._summary.low_marks.extend(low_marks_of(line))

    def _take_head(self, span: Span) -> None:
        summary = self._summary
        self._head = span
        if span.what is not HEADER or span.outline is None:
            if span.what is not NEWER and span.what is not IN_FLIGHT:
                summary.report("head_missing", "the first good line is no header", 0, span.offset)
            return
        header = summary.header = Header.of(span.outline)
        wrong = header.not_of(summary.name, summary.kind, summary.system_folder)
        if wrong:
            said = " and ".join(wrong)
            detail = f"the header is another segment's (its {said}): files were renamed or swapped"
            summary.report("head_missing", detail, span.offset, span.length)
        else:
            self._fits = True
            summary.system = header.system

    def _another_header(self, span: Span) -> None:
        first = None if self._head is None else self._head.outline
        if first is not None and span.outline is not None and same(first, span.outline):
            self._summary.report("duplicate", "the header stands here again", span.offset, span.length)
        else:
            self._summary.report("fork_conflict", "a header within a segment", span.offset, span.length)

    def _belongs(self, line: Outline, span: Span) -> bool:
        summary = self._summary
        if line.writer != self._writer:
            wrong = f"writer {line.writer}"
        elif line.kind != self._kind:
            wrong = f"kind {line.kind}"
        elif line.system != self._system and folder_of_system(line.system) != summary.system_folder:
            wrong = f"system {line.system!r}"
        else:
            self._system = line.system
            summary.system = summary.system or line.system
            return True
        header = summary.header
        if self._fits or header is None or not header.announces(line):  # else all of that was said once
            detail = f"a fact of {wrong} in the wrong segment"
            summary.report("fork_conflict", detail, span.offset, span.length)
        return False

    def _highest(self) -> int | None:
        """Return the highest seq so far; before any, the one that the header says came before; None if unknown."""
        highest = self._seqs.last
        if highest >= 0:
            return highest
        header = self._summary.header
        return header.first_seq - 1 if header is not None and self._fits else None

    def _jump(self, seq: int, span: Span) -> None:
        """Take a seq that does not follow the one before."""
        self._end_run()
        seqs = self._seqs
        highest = self._highest()
        if seq > seqs.last:
            if highest is not None and seq > highest + 1:
                self._summary.holes.append(Hole(highest + 1, seq - 1, span.offset))
            self._run = seq, seq + 1
        elif seqs.add(seq):
            detail = f"seq {seq} behind seq {highest}"
            self._summary.report("out_of_order", detail, span.offset, span.length)
        else:
            self.repeated.add(seq)

    def _end_run(self) -> None:
        first, end = self._run
        if end > first:
            self._seqs.append_range(first, end - 1)
        self._run = 0, -1

    def _clock(self, line: Outline, span: Span) -> None:
        """Tell of a clock that stepped back or is far ahead; then go on from there."""
        if line.time > self._future and not self._latest > self._future:
            detail = f"{line.time} is more than a day ahead of now"
        elif self._latest and parse_time(self._latest) - parse_time(line.time) > _BACKWARD_NANOS_MAX:
            detail = f"{line.time} comes after {self._latest}"
        else:
            self._latest = max(self._latest, line.time)
            return
        self._latest = line.time
        self._summary.report("clock_jump", detail, span.offset, span.length)


_encoder = msgspec.json.Encoder()
