"""Reading what one writer wrote into one stream: its segments in order, from either end.

Good facts only: headers, seals and damage are stepped over (a scan tells of damage). Each identity once:
after a failed fsync a writer appends again what may not have reached the disk.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from itertools import islice

from papyra_otel import semconv
from papyra_otel.errors import LineDamaged, LogTooNew, LogUnavailable
from papyra_otel.facts import Fact, FactKind
from papyra_otel.log.codec import SEGMENT_OPEN, SEGMENT_SEAL, parse, to_fact
from papyra_otel.log.cursor import Position
from papyra_otel.log.file.fs import FileSystem, error_name
from papyra_otel.log.file.layout import SegmentName, is_whole_name, system_of_folder
from papyra_otel.log.file.lines import count_lines, end_of_lines, lines_backward, lines_forward
from papyra_otel.log.merge import Stored
from papyra_otel.log.seqset import SeqSet

__all__ = ["FileSource"]

_SEAL_BYTES_MAX = 4096
_MARKS = frozenset({SEGMENT_OPEN, SEGMENT_SEAL})


class FileSource:
    """See ``merge.Source``. A position is (segment index, offset, seq of the fact at that edge).

    Recovery and compaction rewrite segments, so an offset is believed only if the fact with that seq ends
    (or, backward, begins) there; otherwise the segment is searched for it. A segment that vanishes between
    listing and opening was compacted away: it is passed over.
    """

    def __init__(
        self, fs: FileSystem, root: str, system_folder: str, kind: FactKind, names: list[SegmentName]
    ) -> None:
        self._fs = fs
        self._folder = os.path.join(root, system_folder, kind.plural)
        self._system_folder = system_folder
        self.kind = kind
        self._segments = {name.number: str(name) for name in sorted(names, key=lambda name: name.number)}
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
        from_index, offset, seq = _position(after)
        seen = SeqSet()
        for index in self._segments:
            if index < from_index:
                continue
            with self._opened(index) as fd:
                if fd is None:
                    continue
                start = self._resume_forward(index, fd, offset, seq) if index == from_index else 0
                for end, line in lines_forward(self._fs, fd, start):
                    fact = self._fact(index, line)
                    if fact is not None and seen.add(fact.seq or 0):
                        yield Stored(fact, len(line) + 1, (index, end, fact.seq or 0))

    def backward(self, before: Position | None) -> Iterator[Stored]:
        """See Source."""
        from_index, offset, seq = (1 << 62, 0, -1) if before is None else _position(before)
        seen = SeqSet()
        for index in reversed(self._segments):
            if index > from_index:
                continue
            with self._opened(index) as fd:
                if fd is None:
                    continue
                at_edge = index == from_index
                start = self._resume_backward(index, fd, offset, seq) if at_edge else self._fs.size(fd)
                for begin, line in lines_backward(self._fs, fd, start):
                    fact = self._fact(index, line)
                    if fact is not None and seen.add(fact.seq or 0):
                        yield Stored(fact, len(line) + 1, (index, begin, fact.seq or 0))

    def turned(self, before: Position) -> Position:
        """See Source. The seq at a backward edge is the next fact's: forward, nothing is known before it."""
        return *before[:2], -1

    def end(self) -> Position:
        """See Source."""
        for index in reversed(self._segments):
            with self._opened(index) as fd:
                if fd is not None:
                    return index, end_of_lines(self._fs, fd), -1
        return 0, 0, -1

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

    def _resume_forward(self, index: int, fd: int, offset: int, seq: int) -> int:
        """Return where to read on: just past the fact with *seq*, wherever it is now."""
        offset = min(offset, self._fs.size(fd))
        if offset == 0:
            return 0
        if seq < 0 or self._has_seq(index, lines_backward(self._fs, fd, offset), seq):
            return offset
        return next((end for end, line in lines_forward(self._fs, fd, 0) if self._seq(index, line) == seq), 0)

    def _resume_backward(self, index: int, fd: int, offset: int, seq: int) -> int:
        size = self._fs.size(fd)
        offset = min(offset, size)
        if seq < 0 or self._has_seq(index, lines_forward(self._fs, fd, offset), seq):
            return offset
        behind = lines_backward(self._fs, fd, size)
        return next((begin for begin, line in behind if self._seq(index, line) == seq), size)

    def _has_seq(self, index: int, lines: Iterator[tuple[int, bytes]], seq: int) -> bool:
        return any(self._seq(index, line) == seq for _, line in (next(lines, (0, b"")),))

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


def _position(position: Position | None) -> tuple[int, int, int]:
    if position is None:
        return 0, 0, -1
    index, offset, seq = (*position, 0, 0, 0)[:3]
    return index, offset, seq


def _sealed_records(line: bytes) -> int | None:
    if len(line) > _SEAL_BYTES_MAX or SEGMENT_SEAL.encode() not in line:
        return None
    try:
        mark = parse(line)
    except (LineDamaged, LogTooNew):
        return None
    records = mark.attributes.get(semconv.SEGMENT_RECORDS)
    return records if mark.kind == SEGMENT_SEAL and isinstance(records, int) else None
