"""One segment of which the beginning, or all, is hidden by retention: what goes, and what it looks like without."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from papyra_otel import semconv
from papyra_otel.errors import LineDamaged, LogTooNew
from papyra_otel.log.codec import (
    LINE_BYTES_MAX,
    SEGMENT_OPEN,
    SEGMENT_SEAL,
    Line,
    Outline,
    encode_line,
    outline,
)
from papyra_otel.log.explained import SeqRange, explained_by, low_marks_of
from papyra_otel.log.file.examine import DAMAGED, FACT, HEADER, NEWER, SEAL, Digests, Span, examine
from papyra_otel.log.file.folder import StreamFolder
from papyra_otel.log.file.fs import FileSystem
from papyra_otel.log.file.layout import SegmentName
from papyra_otel.log.file.lines import lines_backward, lines_forward
from papyra_otel.log.file.marks import Seal
from papyra_otel.log.file.quarantine import Edit

__all__ = ["Cut", "NotCut", "cut_segment", "shortened"]

REWRITTEN = "compaction"
_COPY_BYTES = 1 << 18
_REPLACES_MAX = 16
_TELLING = frozenset({semconv.FACT_DROPPED, semconv.LOG_COMPACTED})
_NO_DIGEST = "0" * 64
_QUICK_BYTES = 1 << 20
_MARKER = b'{"v":1,"writer":"'


class NotCut(Exception):
    """A segment must stay as it is; the message says why."""


@dataclass(slots=True)
class Cut:
    """What goes of a segment that nobody writes any more: all, or what comes before *keep_from*.

    *records* facts go, of which *told* only say what earlier compactions removed; *last_seq* is the highest of
    the segment's own that goes. *damaged* are the bad bytes that would go too; with any, *digest* is of the whole
    file.
    """

    stream: StreamFolder
    name: SegmentName
    size_bytes: int
    keep_from: int | None = None
    keep_to: int = 0
    records: int = 0
    told: int = 0
    last_seq: int = -1
    damaged: list[Edit] = field(default_factory=list[Edit])
    explained: list[SeqRange] = field(default_factory=list[SeqRange])
    low_marks: list[SeqRange] = field(default_factory=list[SeqRange])
    digest: str = ""
    header: Outline | None = None
    seal: Outline | None = None
    kept_records: int = 0

    @property
    def place(self) -> str:
        """Where it is, relative to the log's folder."""
        return f"{self.stream.place}/{self.name}"

    @property
    def path(self) -> str:
        """Where it is."""
        return os.path.join(self.stream.path, str(self.name))

    @property
    def freed_bytes(self) -> int:
        """How much smaller the log becomes."""
        if self.keep_from is None:
            return self.size_bytes
        kept = self.keep_to - self.keep_from
        return self.size_bytes - len(_header(self)) - kept - len(_seal(self, kept, _NO_DIGEST))


def cut_segment(
    fs: FileSystem,
    stream: StreamFolder,
    name: SegmentName,
    keep_from: int | None,
    read: Callable[[int], None],
) -> Cut:
    """Read a whole segment of a dead writer and return what goes of it if it is to begin at *keep_from*.

    *read* is told how many bytes were read, now and then. Raises NotCut, and OSError.
    """
    fd = fs.open_read(os.path.join(stream.path, str(name)))
    try:
        size = fs.size(fd)
        sound = _Sound(fs, fd, Cut(stream, name, size), size if keep_from is None else keep_from)
        if sound.holds(read):
            return sound.cut
        digests = Digests()
        cutting = _Cutting(Cut(stream, name, size), size if keep_from is None else keep_from, read)
        for span in examine(fs, fd, size, alive=False, digests=digests):
            cutting.take(span)
        return cutting.end(digests)
    finally:
        fs.close(fd)


class _Cutting:
    _TOLD_BYTES = 1 << 20

    def __init__(self, cut: Cut, keep_from: int, read: Callable[[int], None]) -> None:
        self._cut = cut
        self._keep_from = keep_from
        self._read = read
        self._untold_bytes = 0
        self._seal: Span | None = None
        self._behind_seal = False
        self._damaged_behind: list[Edit] = []

    def take(self, span: Span) -> None:
        self._untold_bytes += span.length
        if self._untold_bytes >= self._TOLD_BYTES:
            self._read(self._untold_bytes)
            self._untold_bytes = 0
        goes = span.offset < self._keep_from
        cut = self._cut
        self._behind_seal = self._seal is not None
        if span.what is FACT and span.outline is not None:
            if goes:
                self._fact(span.outline)
            else:
                cut.kept_records += 1
        elif span.what is NEWER:
            raise NotCut("it holds lines of a newer version")
        elif span.what is DAMAGED:
            edit = Edit(span.offset, span.length, anomalies=(span.anomaly or "corrupt_line",))
            (cut.damaged if goes else self._damaged_behind).append(edit)
        elif span.what is HEADER and span.offset == 0:
            cut.header = span.outline
        elif span.what is SEAL:
            self._seal = span

    def _fact(self, line: Outline) -> None:
        cut = self._cut
        cut.records += 1
        if line.writer == cut.name.writer and line.kind == cut.stream.kind.value:
            cut.last_seq = max(cut.last_seq, line.seq)
        _take_told(cut, line)

    def end(self, digests: Digests) -> Cut:
        self._read(self._untold_bytes)
        cut = self._cut
        cut.digest = digests.whole()
        if not cut.kept_records:
            cut.damaged += self._damaged_behind
            return cut
        cut.keep_from, cut.keep_to = self._keep_from, cut.size_bytes
        if cut.header is None:
            raise NotCut("its header is damaged; recover first")
        if self._seal is not None and self._seal.outline is not None:
            if self._behind_seal or Seal.of(self._seal.outline).digest != digests.before_seal:
                raise NotCut("it is not as it was sealed; recover first")
            cut.keep_to = self._seal.offset
            cut.seal = self._seal.outline
        return cut


class _Sound:
    """A segment that is exactly as it was sealed: what goes of it is known without looking at every line.

    Its digest is verified, so nothing in it is damaged; each of its lines begins as one of this version; and
    only those that tell of losses and removals are decoded.
    """

    def __init__(self, fs: FileSystem, fd: int, cut: Cut, keep_from: int) -> None:
        self._fs = fs
        self._fd = fd
        self._keep_from = keep_from
        self._hash = hashlib.blake2b(digest_size=32)
        self._lines_gone = self._lines_kept = 0
        self._found: list[Outline] = []
        self.cut: Cut = cut

    def holds(self, read: Callable[[int], None]) -> bool:
        """Say whether all that is so, having filled in *cut*. Raises OSError."""
        cut = self.cut
        seal_at, seal_line = next(lines_backward(self._fs, self._fd, cut.size_bytes), (0, b""))
        _, header_line = next(lines_forward(self._fs, self._fd, 0), (0, b""))
        try:
            cut.header, cut.seal = outline(header_line), outline(seal_line)
            ends = seal_at + len(seal_line) + 1 == cut.size_bytes
            if (
                not ends
                or not self._is_ours(cut.header, cut.seal, seal_at)
                or not self._all_lines(seal_at, read)
            ):
                return False
        except (LineDamaged, LogTooNew):
            return False
        return self._as_sealed(Seal.of(cut.seal))

    def _is_ours(self, header: Outline, seal: Outline, seal_at: int) -> bool:
        writer, kind = self.cut.name.writer, self.cut.stream.kind.value
        return (
            (header.kind, seal.kind) == (SEGMENT_OPEN, SEGMENT_SEAL)
            and header.writer == seal.writer == writer
            and header.details().get(semconv.FACT_KIND) == kind
            and Seal.of(seal).size_bytes == seal_at
        )

    def _all_lines(self, end: int, read: Callable[[int], None]) -> bool:
        """Digest and count the lines before *end*; False when one does not begin as it should."""
        at = 0
        pending = b""
        while at < end:
            piece = self._fs.pread(self._fd, min(_QUICK_BYTES, end - at), at)
            if not piece:
                return False
            self._hash.update(piece)
            read(len(piece))
            data = pending + piece if pending else piece
            begin = at - len(pending)
            at += len(piece)
            cut = data.rfind(b"\n") + 1
            pending = data[cut:]
            edge = min(max(self._keep_from - begin, 0), cut)
            gone, kept = data[:edge], data[edge:cut]
            if not (self._counted(gone) and self._counted(kept)) or len(pending) > LINE_BYTES_MAX:
                return False
            self._lines_gone += gone.count(b"\n")
            self._lines_kept += kept.count(b"\n")
            self._tell(gone)
        return not pending

    @staticmethod
    def _counted(data: bytes) -> bool:
        """Say whether every line of *data* begins as one of this version."""
        return data.count(b"\n") == data.startswith(_MARKER) + data.count(b"\n" + _MARKER)

    def _tell(self, data: bytes) -> None:
        for name in _TELLING:
            at = data.find(name.encode())
            while at >= 0:
                begin, end = data.rfind(b"\n", 0, at) + 1, data.find(b"\n", at)
                self._found.append(outline(data[begin:end]))
                at = data.find(name.encode(), end)

    def _as_sealed(self, seal: Seal) -> bool:
        """Say whether the seal says what was found, and fill in what goes."""
        cut = self.cut
        records = self._lines_gone + self._lines_kept - 1
        if (seal.records, seal.digest) != (records, self._hash.hexdigest()) or seal.last_seq is None:
            return False
        cut.records = max(self._lines_gone - 1, 0)  # one is the header
        cut.kept_records = records - cut.records
        cut.last_seq = seal.last_seq
        for line in self._found:
            _take_told(cut, line)
        if cut.kept_records:
            cut.keep_from, cut.keep_to = self._keep_from, seal.size_bytes or 0
            _, last = next(lines_backward(self._fs, self._fd, self._keep_from), (0, b""))
            cut.last_seq = outline(last).seq if cut.records else -1
        return True


def _take_told(cut: Cut, line: Outline) -> None:
    """Note what a fact that goes says of others that are missing."""
    if line.name in _TELLING:
        cut.told += line.name == semconv.LOG_COMPACTED
        cut.explained.extend(explained_by(line))
        cut.low_marks.extend(low_marks_of(line))


def shortened(fs: FileSystem, cut: Cut) -> Iterator[bytes]:
    """Yield what is left of the segment: a header, what is kept exactly as it is, a seal if it had one.

    The same for the same *cut*, whenever and wherever. Raises OSError.
    """
    assert cut.keep_from is not None  # noqa: S101 - who removes all need not ask what is left
    digest = hashlib.blake2b(digest_size=32)
    header = _header(cut)
    digest.update(header)
    yield header
    fd = fs.open_read(cut.path)
    try:
        at = cut.keep_from
        while at < cut.keep_to:
            piece = fs.pread(fd, min(_COPY_BYTES, cut.keep_to - at), at)
            if not piece:
                raise OSError(errno.EIO, "became shorter while being read", cut.path)
            digest.update(piece)
            yield piece
            at += len(piece)
    finally:
        fs.close(fd)
    yield _seal(cut, cut.keep_to - cut.keep_from, digest.hexdigest())


def _header(cut: Cut) -> bytes:
    """Return the segment's header, for what is left of it."""
    assert cut.header is not None  # noqa: S101 - seen to in cut_segment
    details = {**cut.header.details(), semconv.SEGMENT_REWRITTEN: REWRITTEN}
    return _line(cut.header, max(cut.header.seq, cut.last_seq + 1), details)


def _seal(cut: Cut, kept_bytes: int, digest: str) -> bytes:
    if cut.seal is None:
        return b""
    before = Seal.of(cut.seal)
    replaced = list(dict.fromkeys([*before.replaces, before.digest or ""]))
    details = {
        **cut.seal.details(),
        semconv.SEGMENT_RECORDS: cut.kept_records,
        semconv.SEGMENT_BYTES: len(_header(cut)) + kept_bytes,
        semconv.SEGMENT_DIGEST: digest,
        # The first is the one that the next segment's header knows.
        semconv.SEGMENT_REPLACES: replaced[:1] + replaced[1:][-(_REPLACES_MAX - 1) :],
        semconv.SEGMENT_REWRITTEN: REWRITTEN,
    }
    return _line(cut.seal, cut.seal.seq, details)


def _line(line: Outline, seq: int, details: dict[str, Any]) -> bytes:
    return encode_line(
        Line(
            v=line.v,
            writer=line.writer,
            seq=seq,
            time=line.time,
            kind=line.kind,
            name=line.name,
            severity=line.severity,
            system=line.system,
            attributes=details,
        )
    )
