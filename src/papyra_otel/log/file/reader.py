"""Reading what one writer wrote into one stream: its segments in order, from either end.

Good facts only: headers, seals and damage are stepped over (a scan tells of damage). Each identity once:
after a failed fsync a writer appends again what may not have reached the disk.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from itertools import islice

from papyra_otel import semconv
from papyra_otel.errors import LineDamaged, LogTooNew, LogUnavailable
from papyra_otel.facts import Fact, FactKind
from papyra_otel.log.codec import LINE_BYTES_MAX, SEGMENT_OPEN, SEGMENT_SEAL, parse, to_fact
from papyra_otel.log.cursor import Position
from papyra_otel.log.file.fs import FileSystem, error_name
from papyra_otel.log.file.layout import SegmentName, is_whole_name, system_of_folder
from papyra_otel.log.file.lines import count_lines, end_of_lines, lines_backward, lines_forward
from papyra_otel.log.merge import Expired, Stored, expired
from papyra_otel.log.seqset import SeqSet
from papyra_otel.log.times import format_time, parse_time

__all__ = ["FileSource"]

_EDGE_NUMBERS = 3
_GLANCE_BYTES = 1 << 20
_BEGINNING = re.compile(
    rb'\{"v":1,"writer":"[0-9a-f]{16}","seq":(\d{1,19}),"time":"([0-9TZ:.-]{30})","kind":"([a-z_.]+)"[^\n]*\n'
)
_NO_INDEX = 1 << 62
_MARKS = frozenset({SEGMENT_OPEN, SEGMENT_SEAL})


class FileSource:
    """See ``merge.Source``. A position is (segment index, offset, seq of the fact that ends there).

    Backward it is the fact that begins there; so it is forward too, if a fourth number, 1, says so. Recovery and
    compaction rewrite segments, so an offset is believed only if that fact is there; otherwise the segment is
    searched for the place between the seqs before and after. A segment that vanishes between listing and
    opening was compacted away: it is passed over.
    """

    def __init__(
        self, fs: FileSystem, root: str, system_folder: str, kind: FactKind, names: list[SegmentName]
    ) -> None:
        self._fs = fs
        self._folder = os.path.join(root, system_folder, kind.plural)
        self._system_folder = system_folder
        self.kind = kind
        self._segments = {name.number: str(name) for name in sorted(names, key=lambda name: name.number)}
        self._expired: tuple[int, Expired] | None = None
        self.writer: str = names[0].writer
        self.newest_name: SegmentName = max(names)
        self.id: str = f"{system_folder}/{kind.plural}/{self.writer}"

    @property
    def stream(self) -> str:
        """See Source."""
        return f"{self._system_folder}/{self.kind.plural}"

    @property
    def system(self) -> str:
        """The actor system; when its name is too long for a folder's, read from a header."""
        name = system_of_folder(self._system_folder)
        if is_whole_name(self._system_folder):
            return name
        for index in self._segments:
            with self._opened(index) as fd:
                for _, line in () if fd is None else islice(lines_forward(self._fs, fd, 0), 1):
                    try:
                        return parse(line).system
                    except (LineDamaged, LogTooNew):
                        break
        return name

    def check_version(self) -> None:
        """Raise LogTooNew if a newer version began the newest segment."""
        for index in islice(reversed(self._segments), 1):
            with self._opened(index) as fd:
                for _, line in () if fd is None else islice(lines_forward(self._fs, fd, 0), 1):
                    self._fact(index, line)

    def forward(self, after: Position | None) -> Iterator[Stored]:
        """See Source."""
        from_index = -1 if after is None else after[0]
        seen: defaultdict[str | None, SeqSet] = defaultdict(SeqSet)  # by writer: files may have been swapped
        for index in self._segments:
            if index < from_index:
                continue
            with self._opened(index) as fd:
                if fd is None:
                    continue
                start = self._resume_forward(fd, after) if after and index == from_index else 0
                for end, line in lines_forward(self._fs, fd, start):
                    fact = self._fact(index, line)
                    if fact is not None and seen[fact.writer].add(fact.seq or 0):
                        yield Stored(fact, len(line) + 1, (index, end, fact.seq or 0))

    def backward(self, before: Position | None) -> Iterator[Stored]:
        """See Source."""
        from_index = _NO_INDEX if before is None else before[0]
        seen: defaultdict[str | None, SeqSet] = defaultdict(SeqSet)  # by writer: files may have been swapped
        for index in reversed(self._segments):
            if index > from_index:
                continue
            with self._opened(index) as fd:
                if fd is None:
                    continue
                start = (
                    self._resume_backward(fd, before) if before and index == from_index else self._fs.size(fd)
                )
                for begin, line in lines_backward(self._fs, fd, start):
                    fact = self._fact(index, line)
                    if fact is not None and seen[fact.writer].add(fact.seq or 0):
                        yield Stored(fact, len(line) + 1, (index, begin, fact.seq or 0))

    def turned(self, before: Position) -> Position:
        """See Source."""
        return *_position(before), 1

    def order(self, position: Position) -> Position:
        """See Source. Within a segment seqs tell what is later: offsets change when it is rewritten."""
        index, _, seq = _position(position)
        return index, seq - 1 if len(position) > _EDGE_NUMBERS else seq

    def end(self) -> Position:
        """See Source. The seq is the one after the last."""
        for index in reversed(self._segments):
            with self._opened(index) as fd:
                if fd is not None:
                    return self._end(index, fd)
        return 0, 0, 0

    def _end(self, index: int, fd: int) -> Position:
        offset = 0
        for begin, line in lines_backward(self._fs, fd, self._fs.size(fd)):
            offset = offset or (begin + len(line) + 1 if line else end_of_lines(self._fs, fd))
            seq = self._seq(index, line)
            if seq is not None:
                return index, offset, seq + 1
        return index, offset, 0

    def expired(self, oldest_unix_nano: int) -> Expired:
        """See Source. What was too old is too old still: the same is not worked out again."""
        if self._expired is None or self._expired[0] != oldest_unix_nano:
            self._expired = oldest_unix_nano, self._glanced(oldest_unix_nano)
        return self._expired[1]

    def _glanced(self, oldest_unix_nano: int) -> Expired:
        """Look at times only, as they are written, up to where one is young enough."""
        oldest = format_time(oldest_unix_nano).encode()
        known = Expired(None, 0, None, None)
        for index in self._segments:
            with self._opened(index) as fd:
                for begin, lines in () if fd is None else _whole_lines(self._fs, fd):
                    found = _BEGINNING.findall(lines)
                    facts = [line for line in found if not line[2].startswith(b"segment.")]
                    if len(found) != lines.count(b"\n") or any(line[1] >= oldest for line in facts):
                        # Only reading tells what is a fact: begin with the first of these lines.
                        here = (index, begin, int(found[0][0]) if found else 0, 1)
                        return expired(self, oldest_unix_nano, here if begin else (index, 0, 0), known)
                    if facts:
                        latest = parse_time(max(line[1] for line in facts).decode())
                        known = Expired(
                            position=(index, begin + len(lines), int(found[-1][0])),
                            records=known.records + len(facts),
                            latest_unix_nano=max(latest, known.latest_unix_nano or latest),
                            next_unix_nano=None,
                        )
        return known

    def totals(self) -> tuple[int, int]:
        """See Source."""
        counted = [self._segment_totals(index) for index in self._segments]
        return sum(records for records, _ in counted), sum(size for _, size in counted)

    def _segment_totals(self, index: int) -> tuple[int, int]:
        with self._opened(index) as fd:
            if fd is None:
                return 0, 0
            _, header = next(lines_forward(self._fs, fd, 0), (0, b""))
            _, last = next(lines_backward(self._fs, fd, self._fs.size(fd)), (0, b""))
            sealed = _sealed_records(last)
            if sealed is not None:
                size = self._fs.size(fd) - len(header) - len(last) - 2
                return sealed, max(size, 0)
            lines, size_bytes = count_lines(self._fs, fd)
            return (lines - 1, size_bytes - len(header) - 1) if lines else (0, 0)

    def _fact(self, index: int, data: bytes) -> Fact | None:
        try:
            line = parse(data)
            return None if line.kind in _MARKS else to_fact(line)
        except LineDamaged:
            return None
        except LogTooNew as error:
            raise LogTooNew(self._path(index), error.version) from None

    def _resume_forward(self, fd: int, after: Position) -> int:
        """Return where to read on: just past the fact with the seq of *after*, or where it would be."""
        index, offset, seq = _position(after)
        begins = len(after) > _EDGE_NUMBERS
        offset = min(offset, self._fs.size(fd))
        if offset == 0 or (self._begins if begins else self._ends)(index, fd, offset, seq):
            return offset
        begin = 0
        for end, line in lines_forward(self._fs, fd, 0):
            found = self._seq(index, line)
            if found is not None and found >= seq + (not begins):
                return begin
            begin = end
        return begin

    def _resume_backward(self, fd: int, before: Position) -> int:
        index, offset, seq = _position(before)
        size = self._fs.size(fd)
        offset = min(offset, size)
        if self._begins(index, fd, offset, seq):
            return offset
        end = size
        for begin, line in lines_backward(self._fs, fd, size):
            found = self._seq(index, line)
            if found is not None and found < seq:
                return end
            end = begin
        return end

    def _begins(self, index: int, fd: int, offset: int, seq: int) -> bool:
        _, line = next(lines_forward(self._fs, fd, offset), (0, b""))
        return self._seq(index, line) == seq

    def _ends(self, index: int, fd: int, offset: int, seq: int) -> bool:
        begin, line = next(lines_backward(self._fs, fd, offset), (0, b""))
        return begin + len(line) + 1 == offset and self._seq(index, line) == seq

    def _seq(self, index: int, line: bytes) -> int | None:
        fact = self._fact(index, line)
        return None if fact is None else fact.seq

    @contextmanager
    def _opened(self, index: int) -> Generator[int | None]:
        path = self._path(index)
        try:
            fd = self._fs.open_read(path)
        except FileNotFoundError:
            yield None
            return
        except OSError as error:
            raise LogUnavailable(
                f"{path}: {error.strerror}; check its permissions", error_type=error_name(error)
            ) from error
        try:
            yield fd
        finally:
            self._fs.close(fd)

    def _path(self, index: int) -> str:
        return os.path.join(self._folder, self._segments[index])


def _whole_lines(fs: FileSystem, fd: int) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, many whole lines) from the beginning; an unterminated tail is left out, however long."""
    at = 0
    pending = b""
    while chunk := fs.pread(fd, _GLANCE_BYTES, at + len(pending)):
        data = pending + chunk
        cut = data.rfind(b"\n") + 1
        if cut:
            yield at, data[:cut]
            at += cut
            pending = data[cut:]
        elif len(data) > LINE_BYTES_MAX:
            yield at, data  # no line is that long: whoever looks closer must
            return
        else:
            pending = data


def _position(position: Position) -> tuple[int, int, int]:
    index, offset, seq = (*position, 0, 0)[:_EDGE_NUMBERS]
    return index, offset, seq


def _sealed_records(line: bytes) -> int | None:
    if SEGMENT_SEAL.encode() not in line:
        return None
    try:
        mark = parse(line)
    except (LineDamaged, LogTooNew):
        return None
    records = mark.attributes.get(semconv.SEGMENT_RECORDS)
    return records if mark.kind == SEGMENT_SEAL and isinstance(records, int) else None
