"""What a recovery does to one segment: the edits. Reads, never writes; the same bytes always give the same plan.

Damage is corrected or cut out; a line end that was lost is put back; lines that stand in the wrong order go
to their place, second copies go; a missing header and a missing seal are made. If what then stands before
the seal is what was sealed, the segment is as it was, and its seal stays. Else a new one is made, which
names the digests of those it replaces.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from papyra_otel import semconv
from papyra_otel.log.codec import (
    FORMAT,
    LINE_BYTES_MAX,
    SEGMENT_OPEN,
    SEGMENT_SEAL,
    Line,
    Outline,
    encode_line,
)
from papyra_otel.log.explained import SeqRange
from papyra_otel.log.file.examine import Digests, Span, examine
from papyra_otel.log.file.fs import FileSystem
from papyra_otel.log.file.layout import folder_of_system
from papyra_otel.log.file.marks import Header, Seal
from papyra_otel.log.file.quarantine import Edit, ReadAt, edited
from papyra_otel.log.file.survey import FoundSeal, Region, Site, Survey
from papyra_otel.log.mending import UNSEALED_LINE_BYTES_MAX, Found, mended
from papyra_otel.log.seqset import SeqSet

__all__ = ["Plan", "plan_segment"]

_MENDED_BYTES_MAX = 4 << 20  # longer damage, or in more lines, is no flipped bits
_MENDED_LINES_MAX = 10_000
_SEQ_MAX = (1 << 63) - 1
_Range = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The *edits*, ordered and apart, of a segment of *size_bytes* whose bytes have *digest*.

    *corrected* are the seqs of facts that were damaged and will be good again, *lost* those that are told to be
    lost from now on, *reach* is the highest seq that the new segment shows to have been given.
    """

    size_bytes: int
    digest: str
    edits: tuple[Edit, ...]
    quarantined_spans: int
    quarantined_bytes: int
    repaired_lines: int
    corrected: tuple[_Range, ...]
    lost: tuple[_Range, ...]
    reach: int

    @property
    def rewrites(self) -> bool:
        """Say whether the segment changes; if not, what there is to do is to keep evidence."""
        return any(edit.length or edit.replacement for edit in self.edits)


def plan_segment(fs: FileSystem, fd: int, site: Site, mode: str) -> Plan:
    """Plan what to do with the open segment *fd*, which nobody writes any more. Raises OSError, TooNew."""
    size = fs.size(fd)
    digests = Digests()
    seen = Survey(site)
    seen.take(examine(fs, fd, size, alive=False, digests=digests))
    if seen.repeated or seen.late:
        seen.take_again(examine(fs, fd, size, alive=False))

    def read(size: int, offset: int) -> bytes:
        return fs.pread(fd, size, offset)

    digest = digests.whole()
    if mode == "repair" and seen.regions:
        # A seal's digest proves corrections, of lines however long; without a seal each has to fit.
        sealed = _Draft(site, seen, read, size, mode).mend(strict=False)
        if sealed.seals:
            if sealed.as_sealed():
                return sealed.plan(digest)
        else:
            return _Draft(site, seen, read, size, mode).mend(strict=True).plan(digest)
    return _Draft(site, seen, read, size, mode).cut().plan(digest)


class _Draft:
    """One attempt at a plan."""

    def __init__(self, site: Site, seen: Survey, read: ReadAt, size: int, mode: str) -> None:
        self._site = site
        self._seen = seen
        self._read = read
        self._size = size
        self._mode = mode
        self._edits: list[tuple[int, int, Edit]] = []
        self.seals = list(seen.seals)
        self._has_header = seen.header is not None
        self._corrected = SeqSet()
        self._lost: list[_Range] = []
        self._first_seq = seen.first_seq
        self._content_end = seen.content_end
        self._spans = self._bytes = self._repaired = 0
        self._records = seen.records
        self._again = [span for span in seen.more_headers if self._repeats_header(span)]
        moved = [span for _, span in seen.moves]
        if seen.header is not None and seen.header.offset:
            moved.append(seen.header)
        self._leaving = {span.end for span in (*seen.equals, *self._again, *moved)}
        self._fitting: tuple[str, FoundSeal | None] | None = None

    # --- damage

    def cut(self) -> _Draft:
        """Set all damage aside."""
        for region in self._seen.regions:
            self._end_line_before(region)
            self._set_aside(region.offset, region.end, tuple(region.anomalies))
        return self._order()

    def mend(self, *, strict: bool) -> _Draft:
        """Correct what can be corrected, set the rest aside. *strict*: only short lines that are what is missing."""
        for region in self._seen.regions:
            size = region.end - region.offset
            data = self._read(size, region.offset) if size <= _MENDED_BYTES_MAX else b""
            if data and data.count(b"\n") <= _MENDED_LINES_MAX:
                self._mend_region(region, data, strict=strict)
            else:
                self._end_line_before(region)
                self._set_aside(region.offset, region.end, tuple(region.anomalies))
        return self._order()

    def _mend_region(self, region: Region, data: bytes, *, strict: bool) -> None:
        found = mended(
            data,
            unended=region.unended,
            fits=partial(self._fits, region, strict),
            line_bytes_max=UNSEALED_LINE_BYTES_MAX if strict else LINE_BYTES_MAX,
        )
        if strict:
            found = _each_once(found)
        self._end_line_before(region)
        for each in found:
            begin = region.offset + each.offset
            if each.change is not None and each.line is not None:
                at, right = each.change
                self._add(region.offset + at, 1, bytes([right]), tuple(region.anomalies))
                self._repaired += 1
            elif each.change is not None:  # what stands for the line end that was put in before it
                self._add(begin, 1, b"", tuple(region.anomalies))
            elif each.line is None:
                self._set_aside(begin, begin + each.length, tuple(region.anomalies))
            if each.line is not None:
                self._take_line(region, each, each.line, data)

    def _take_line(self, region: Region, found: Found, line: Outline, data: bytes) -> None:
        """Count a line that is good again."""
        begin = region.offset + found.offset
        if line.kind == SEGMENT_SEAL:
            right = bytearray(data[found.offset : found.offset + found.length])
            if found.change is not None:
                right[found.change[0] - found.offset] = found.change[1]
            self.seals.append(FoundSeal(begin, begin + found.length, Seal.of(line), bytes(right)))
            return
        self._content_end = max(self._content_end, begin + found.length)
        if line.kind == SEGMENT_OPEN:
            self._has_header = True
            self._first_seq = line.seq
        else:
            self._records += 1
            self._corrected.add(line.seq)

    def _fits(self, region: Region, strict: bool, said: Outline, /, *, before: int, behind: int) -> bool:
        """Say whether a corrected line is what is missing there: with *strict*, exactly that."""
        site = self._site
        if said.writer != site.name.writer or folder_of_system(said.system) != site.system_folder:
            return False
        if said.kind == SEGMENT_OPEN:
            if self._seen.header is not None:
                return False  # a whole one stands elsewhere, and is put in its place
            here = not (region.offset or before) and Header.of(said).number == site.name.number
            after = site.before + 1 if region.after is None else region.after
            return here and (not strict or said.seq + behind == after)
        if said.kind == SEGMENT_SEAL:
            return not strict and region.end == self._size and behind == 0
        return said.kind == site.kind.value and (
            not strict or self._is_missing(region, said.seq, before, behind)
        )

    def _is_missing(self, region: Region, seq: int, before: int, behind: int) -> bool:
        if seq in self._seen.seqs or seq in self._corrected:
            return False
        follows = (
            region.offset > 0 and seq == region.before + 1 + before
        )  # at 0, the first line is the header
        return follows or (region.after is not None and seq == region.after - 1 - behind)

    def _end_line_before(self, region: Region) -> None:
        if region.unended and region.offset not in self._leaving:
            self._add(region.offset, 0, b"\n", ("lost_newline",))
            self._repaired += 1

    def _set_aside(self, begin: int, end: int, anomalies: tuple[str, ...]) -> None:
        self._add(begin, end - begin, b"", anomalies)
        self._spans += 1
        self._bytes += end - begin

    def _add(
        self, offset: int, length: int, replacement: bytes, anomalies: tuple[str, ...], rank: int = 1
    ) -> None:
        """Note an edit. At one offset a line end (rank 1) comes first, then moved lines, then what is cut."""
        rank = rank if not length else 9
        self._edits.append((offset, rank, Edit(offset, length, replacement, anomalies)))

    # --- order

    def _order(self) -> _Draft:
        """Put lines back in their place and take second copies out."""
        seen = self._seen
        if seen.header is not None and seen.header.offset:
            self._move(seen.header, 0, "head_missing")
        for span in self._again:
            self._set_aside(span.offset, span.end, ("duplicate",))
        for span in seen.equals:
            self._set_aside(span.offset, span.end, ("duplicate",))
            self._records -= 1
        for target, span in seen.moves:
            self._move(span, target, "out_of_order")
        for offset in sorted(seen.unended - self._leaving):
            self._add(offset, 0, b"\n", ("lost_newline",))
            self._repaired += 1
        return self

    def _repeats_header(self, span: Span) -> bool:
        header = self._seen.header
        return header is not None and self._data(span).rstrip() == self._data(header).rstrip()

    def _move(self, span: Span, target: int, anomaly: str) -> None:
        line = self._data(span)
        self._add(target, 0, line if line.endswith(b"\n") else line + b"\n", (anomaly,), rank=3)
        self._add(span.offset, span.length, b"", (anomaly,))

    def _data(self, span: Span) -> bytes:
        return self._read(span.length, span.offset)

    # --- the whole

    def as_sealed(self) -> bool:
        """Say whether what stands before the seal now is what was sealed."""
        return self._sealed_with()[1] is not None

    def plan(self, digest: str) -> Plan:
        """Return the plan for the segment, which as a whole has *digest*."""
        content_digest, fitting = self._sealed_with()
        content = self._content()
        if fitting is None:
            self._seal_anew(content_digest, content)
        elif len(self.seals) > 1 or fitting.offset < self._content_end:
            seal = fitting.data or self._read(fitting.end - fitting.offset, fitting.offset)
            self._drop_seals()
            self._add(
                self._size, 0, seal if seal.endswith(b"\n") else seal + b"\n", ("out_of_order",), rank=5
            )
        for edit in self._evidence(digest):
            self._edits.append((edit.offset, 2, edit))
        return Plan(
            size_bytes=self._size,
            digest=digest,
            edits=tuple(_joined(self._sorted())),
            quarantined_spans=self._spans,
            quarantined_bytes=self._bytes,
            repaired_lines=self._repaired,
            corrected=tuple(self._corrected.ranges()),
            lost=tuple(self._lost),
            reach=self._reach(),
        )

    def _sealed_with(self) -> tuple[str, FoundSeal | None]:
        """Return the digest of the new content without seals, and the seal that has it."""
        if self._fitting is None:
            if not self._has_header:
                self._add(0, 0, self._new_header(), ("head_missing",), rank=0)
                self._has_header = True
            hashed = hashlib.blake2b(digest_size=32)
            for piece in edited(self._read, self._size, self._content()):
                hashed.update(piece)
            digest = hashed.hexdigest()
            fitting = next((seal for seal in self.seals if seal.said.digest == digest), None)
            self._fitting = digest, fitting
        return self._fitting

    def _content(self) -> list[Edit]:
        """Return the edits that leave nothing but the content: no seals."""
        kept = [each for each in self._edits if not self._of_a_seal(each[2])]
        kept += [(seal.offset, 9, Edit(seal.offset, seal.end - seal.offset)) for seal in self.seals]
        return list(_joined(edit for *_, edit in sorted(kept, key=_place)))

    def _of_a_seal(self, edit: Edit) -> bool:
        """Say whether *edit* corrects a seal, or gives it its line end."""
        if edit.length:
            return any(seal.offset <= edit.offset and edit.end <= seal.end for seal in self.seals)
        return edit.replacement == b"\n" and any(edit.offset == seal.end for seal in self.seals)

    def _drop_seals(self) -> None:
        """Set all seals aside, corrected or not."""
        self._edits = [each for each in self._edits if not self._of_a_seal(each[2])]
        for seal in self.seals:
            self._set_aside(seal.offset, seal.end, ("segment_digest",))

    def _seal_anew(self, digest: str, content: list[Edit]) -> None:
        seen = self._seen
        had = list(self.seals)
        if not had and seen.newer:
            return  # a newer version knows how it ends
        self._drop_seals()
        replaces = [
            text for seal in had for text in (seal.said.digest, *seal.said.replaces) if text is not None
        ]
        if self._site.witnessed is not None and not any(
            seal.said.replaces or not seal.said.rewritten for seal in had
        ):
            replaces.append(self._site.witnessed)
        attributes: dict[str, object] = {
            semconv.FACT_KIND: self._site.kind.value,
            semconv.SEGMENT_RECORDS: self._records,
            semconv.SEGMENT_LAST_SEQ: self._last_seq(),
            semconv.SEGMENT_BYTES: self._size + sum(len(edit.replacement) - edit.length for edit in content),
            semconv.SEGMENT_DIGEST: digest,
        }
        replaces = [text for text in dict.fromkeys(replaces) if text != digest]
        if replaces:
            attributes[semconv.SEGMENT_REPLACES] = replaces
        seal = self._mark(SEGMENT_SEAL, semconv.LOG_SEALED, max(self._last_seq(), 0), attributes)
        self._add(self._size, 0, seal, () if had else ("unclean_shutdown",), rank=5)

    def _new_header(self) -> bytes:
        attributes: dict[str, object] = {
            semconv.FACT_KIND: self._site.kind.value,
            semconv.SEGMENT_FORMAT: FORMAT,
            semconv.SEGMENT_INDEX: self._site.name.number,
        }
        firsts = [found[0][0] for found in (self._seen.seqs.ranges(), self._corrected.ranges()) if found]
        first = self._site.before + 1 if self._site.until is None else self._site.until
        return self._mark(SEGMENT_OPEN, semconv.LOG_OPENED, min(firsts, default=first), attributes)

    def _last_seq(self) -> int:
        if self._seen.seqs or self._corrected:
            return max(self._seen.seqs.last, self._corrected.last)
        return self._site.before if self._first_seq is None else self._first_seq - 1

    def _reach(self) -> int:
        """Return the highest seq that the segment, its seals and the next one's header show to have been given."""
        begun = -1 if self._first_seq is None else self._first_seq - 1
        return max(self._last_seq(), begun, *self._expected(), -1)

    def _expected(self) -> list[int]:
        """Return which seqs its seals, and the next segment's header, say came last."""
        expected = [seal.said.last_seq for seal in self.seals if seal.said.last_seq is not None]
        return expected if self._site.until is None else [*expected, self._site.until - 1]

    def _mark(self, kind: str, name: str, seq: int, attributes: dict[str, object]) -> bytes:
        """Return a header or seal that says it was made by recovery; it depends on nothing but the segment."""
        stamp = self._site.name.stamp
        begun = f"{stamp[:4]}-{stamp[4:6]}-{stamp[6:11]}:{stamp[11:13]}:{stamp[13:15]}.000000000Z"
        return encode_line(
            Line(
                v=FORMAT,
                writer=self._site.name.writer,
                seq=seq,
                time=self._seen.time or begun,
                kind=kind,
                name=name,
                severity="DEBUG",
                system=self._seen.system or self._site.system,
                attributes={**attributes, semconv.SEGMENT_REWRITTEN: self._mode},
            )
        )

    # --- what is lost

    def _evidence(self, digest: str) -> Iterator[Edit]:
        """Yield edits that change nothing but say which facts were lost where."""
        holes = self._holes()
        missing = self._site.missing(digest, self._reach()) if holes else []
        for first, last, offset in holes:
            known = sorted([*self._corrected.ranges(), *self._lost])
            lost = list(_without(_within(missing, first, last), known))
            if lost:
                self._lost += lost
                texts = (str(SeqRange(self._site.name.writer, self._site.kind, *found)) for found in lost)
                yield Edit(offset, 0, b"", ("gap",), tuple(texts))

    def _holes(self) -> list[tuple[int, int, int]]:
        holes = list(self._seen.holes)
        end = min((seal.offset for seal in self.seals), default=self._size)
        expected = max(self._expected(), default=-1)
        if self._last_seq() < expected:
            holes.append((self._last_seq() + 1, expected, end))
        if self._site.rest:
            holes.append((0, _SEQ_MAX, end))
        return holes

    def _sorted(self) -> list[Edit]:
        return [edit for *_, edit in sorted(self._edits, key=_place)]


def _each_once(found: Sequence[Found]) -> list[Found]:
    """Return *found* with each line once: where damaged lines become the same one, the first; where not quite, none."""
    first: dict[tuple[str, str, int], Outline] = {}
    again: list[Outline] = []
    doubtful: list[Outline] = []
    for line in (each.line for each in found):
        if line is None:
            continue
        before = first.setdefault((line.writer, line.kind, line.seq), line)
        if before is not line:
            again.append(line)
            if before != line:
                doubtful.append(before)
    no = {id(line) for line in (*again, *doubtful)}
    return [Found(each.offset, each.length) if id(each.line) in no else each for each in found]


def _place(each: tuple[int, int, Edit]) -> tuple[int, int]:
    return each[0], each[1]


def _joined(edits: Iterable[Edit]) -> Iterator[Edit]:
    """Join edits that touch."""
    last: Edit | None = None
    for edit in edits:
        if last is not None and last.end == edit.offset:
            anomalies = tuple(dict.fromkeys((*last.anomalies, *edit.anomalies)))
            real = tuple(name for name in anomalies if name != "gap")
            last = Edit(
                last.offset,
                last.length + edit.length,
                last.replacement + edit.replacement,
                real or anomalies,
                last.seqs + edit.seqs,
            )
            continue
        if last is not None:
            yield last
        last = edit
    if last is not None:
        yield last


def _within(ranges: Iterable[_Range], first: int, last: int) -> Iterator[_Range]:
    for begin, end in ranges:
        if begin <= last and first <= end:
            yield max(begin, first), min(end, last)


def _without(ranges: Iterable[_Range], taken: Sequence[_Range]) -> Iterator[_Range]:
    """Yield *ranges* without what is *taken*, which ascends."""
    for first, last in ranges:
        begin = first
        for gone_first, gone_last in _within(taken, first, last):
            if begin < gone_first:
                yield begin, gone_first - 1
            begin = max(begin, gone_last + 1)
        if begin <= last:
            yield begin, last
