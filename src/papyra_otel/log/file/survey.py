"""A segment as a recovery finds it: what is damaged, misplaced, there twice or missing, and what stands around it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import msgspec

from papyra_otel.facts import FactKind
from papyra_otel.log.codec import Outline
from papyra_otel.log.file.examine import DAMAGED, FACT, HEADER, NEWER, SEAL, Span
from papyra_otel.log.file.layout import SegmentName, folder_of_system
from papyra_otel.log.file.marks import Header, Seal
from papyra_otel.log.seqset import SeqSet

__all__ = ["FoundSeal", "Region", "Site", "Survey", "TooNew"]

_MOVED_BYTES_MAX = 4 << 20
_Range = tuple[int, int]


class TooNew(Exception):
    """The segment is a newer version's: nothing in it may be touched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What is known of a segment from around it.

    *before* is the highest seq in the writer's earlier segments (-1), *until* the first one that the next
    segment's header expects, *witnessed* the digest it says this segment was sealed with. *missing* tells which
    seqs, up to one given, are nowhere, for no reason other than what this very segment's quarantine says, given the
    digest of the segment as a whole. *rest* says that whatever is missing by then is to be told lost here.
    """

    name: SegmentName
    kind: FactKind
    system: str
    system_folder: str
    before: int
    until: int | None
    witnessed: str | None
    missing: Callable[[str, int], list[_Range]]
    rest: bool = False


@dataclass(slots=True)
class Region:
    """Damaged bytes without a good line between them, and what stands around them."""

    offset: int
    end: int
    unended: bool  # the line before has no line end
    before: int  # the highest seq before it
    after: int | None = None  # the seq of the next fact
    anomalies: dict[str, None] = field(default_factory=dict[str, None])


@dataclass(slots=True)
class FoundSeal:
    """A seal and where it stands; *data* is its line when that had to be corrected."""

    offset: int
    end: int
    said: Seal
    data: bytes = b""


class Survey:
    """A segment as it is, in so much room as there is damage."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._kind = site.kind.value
        self.header: Span | None = None
        self.first_seq: int | None = None  # as the header says, if it is this segment's
        self.more_headers: list[Span] = []
        self.seals: list[FoundSeal] = []
        self.regions: list[Region] = []
        self.unended: set[int] = set()
        self.holes: list[tuple[int, int, int]] = []  # first, last, offset
        self.seqs: SeqSet = SeqSet()
        self.repeated: SeqSet = SeqSet()
        self.late: SeqSet = SeqSet()
        self.equals: list[Span] = []
        self.moves: list[tuple[int, Span]] = []  # (where it belongs, which)
        self.records: int = 0
        self.newer: bool = False
        self.content_end: int = 0  # of the last good line that is no seal
        self.system: str | None = None
        self.time: str | None = None
        self._highest = site.before
        self._known: str | None = None
        self._waiting: list[Region] = []

    def take(self, spans: Iterator[Span]) -> None:
        """Take all spans."""
        last: Span | None = None
        for span in spans:
            if span.what is DAMAGED:
                self._damaged(span, last)
            else:
                if last is not None and last.anomaly == "lost_newline":
                    self.unended.add(last.end)
                self._good(span)
            last = span
        if last is not None and last.anomaly == "lost_newline":
            self.unended.add(last.end)

    def take_again(self, spans: Iterator[Span]) -> None:
        """Find out which repeated facts are second copies, and where those in the wrong place belong."""
        first: dict[int, bytes] = {}
        waiting = [seq for begin, end in self.late.ranges() for seq in range(begin, end + 1)]
        targets: dict[int, int] = {}
        late: dict[int, Span] = {}
        highest = -1
        at = 0
        for span in spans:
            line = span.outline
            if span.what is not FACT or line is None or not self._own(line):
                continue
            if line.seq in self.repeated and first.setdefault(line.seq, said := _said(line)) is not said:
                if first[line.seq] == said:
                    self.equals.append(span)
                continue
            if line.seq in self.late and line.seq < highest:
                late[line.seq] = span
                continue
            highest = max(highest, line.seq)
            while at < len(waiting) and waiting[at] < line.seq:
                targets[waiting[at]] = span.offset
                at += 1
        if sum(span.length for span in late.values()) <= _MOVED_BYTES_MAX:
            self.moves = [(targets[seq], span) for seq, span in sorted(late.items())]

    def _damaged(self, span: Span, last: Span | None) -> None:
        if last is None or last.what is not DAMAGED:
            unended = last is not None and last.anomaly == "lost_newline"
            region = Region(span.offset, span.end, unended, self._highest)
            self.regions.append(region)
            self._waiting.append(region)
        self.regions[-1].end = span.end
        self.regions[-1].anomalies[span.anomaly or "corrupt_line"] = None

    def _good(self, span: Span) -> None:
        line = span.outline
        if span.what is NEWER or line is None:
            if span.offset == 0:
                raise TooNew
            self.newer = True
        elif span.what is HEADER:
            self._a_header(span, line)
        elif span.what is SEAL:
            self.seals.append(FoundSeal(span.offset, span.end, Seal.of(line)))
            return
        else:
            self._fact(span, line)
        self.content_end = span.end

    def _a_header(self, span: Span, line: Outline) -> None:
        said = Header.of(line)
        own = said.writer == self._site.name.writer and said.number == self._site.name.number
        if self.header is None and (own or span.offset == 0):
            self.header = span
            self.system = self.system or said.system
            self.time = self.time or line.time
            if own:
                self.first_seq = said.first_seq
                if not self.records:
                    if said.first_seq > self._highest + 1:
                        self.holes.append((self._highest + 1, said.first_seq - 1, 0))
                    self._highest = max(said.first_seq - 1, -1)
                    self._meet(said.first_seq)
        else:
            self.more_headers.append(span)

    def _fact(self, span: Span, line: Outline) -> None:
        self.records += 1
        if not self._own(line):
            return
        self.system = self._known = line.system
        self.time = line.time
        seq = line.seq
        if seq > self._highest:
            if seq > self._highest + 1:
                self.holes.append((self._highest + 1, seq - 1, span.offset))
            self._highest = seq
            self._meet(seq)
            self.seqs.add(seq)
        elif not self.seqs.add(seq):
            self.repeated.add(seq)
        elif seq < self.seqs.last:
            self.late.add(seq)

    def _meet(self, seq: int) -> None:
        for region in self._waiting:
            region.after = seq
        self._waiting.clear()

    def _own(self, line: Outline) -> bool:
        return (
            line.writer == self._site.name.writer
            and line.kind == self._kind
            and (line.system == self._known or folder_of_system(line.system) == self._site.system_folder)
        )


def _said(line: Outline) -> bytes:
    return hashlib.blake2b(_encoder.encode(line), digest_size=16).digest()


_encoder = msgspec.json.Encoder()
