"""Which facts of a writer are missing, segment by segment, as a recovery needs to know it.

What a segment's own quarantine file already explains does not count while the segment is still as it was: a run that
was cut short is then planned again just as it was the first time.

One run settles everything, by construction: segments are planned in order, each tells lost what is missing where it
stands, and the last one of them whatever else is missing by then, up to the highest seq that anything in the
writer's segments, as they will be, shows to have been given: just what a scan would ask for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from papyra_otel.log.explained import Explanations, SeqRange
from papyra_otel.log.file.continuity import own_header
from papyra_otel.log.file.layout import system_of_folder
from papyra_otel.log.file.marks import Header
from papyra_otel.log.file.quarantine import quarantine_name
from papyra_otel.log.file.summary import Summary
from papyra_otel.log.file.survey import Site
from papyra_otel.log.seqset import SeqSet

__all__ = ["Losses"]

_Range = tuple[int, int]


class Losses:
    """One writer's segments of one kind, and which of its facts are missing."""

    def __init__(
        self,
        segments: Sequence[Summary],
        explained: Sequence[SeqRange],
        kept: dict[str, list[SeqRange]],
    ) -> None:
        self._segments = segments
        self._explained = explained
        self._kept = kept
        self._corrected = SeqSet()
        self._lost: list[_Range] = []
        self._reach = -1

    def unexplained(self, explanations: Explanations) -> bool:
        """Say whether a scan finds facts missing."""
        first = self._segments[0]
        return bool(self._gaps(explanations.of(first.name.writer, first.kind), self._end()))

    def corrected(self, ranges: Iterable[_Range]) -> None:
        """Note that damaged facts are good again."""
        for first, last in ranges:
            for seq in range(first, last + 1):
                self._corrected.add(seq)

    def told(self, lost: Iterable[_Range], reach: int) -> None:
        """Note that facts are told lost, and a seq that is known to have been given."""
        self._lost.extend(lost)
        self._reach = max(self._reach, reach)

    def site(self, at: int, *, rest: bool) -> Site:
        """Return what is known around the segment at *at*; *rest*: none of those behind it is planned."""
        summary = self._segments[at]
        known = [found[-1][1] for found in (each.ranges for each in self._segments[:at]) if found]
        after = self._follower(at)
        return Site(
            name=summary.name,
            kind=summary.kind,
            system=summary.system or system_of_folder(summary.system_folder),
            system_folder=summary.system_folder,
            before=max(known, default=-1),
            until=None if after is None else after.first_seq,
            witnessed=None if after is None or after.previous is None else after.predecessor,
            missing=lambda digest, reach: self._missing(summary, digest, reach),
            rest=rest,
        )

    def _follower(self, at: int) -> Header | None:
        """Return the header of the next segment if it is its own, and follows this one as far as it says."""
        if at + 1 == len(self._segments):
            return None
        header = own_header(self._segments[at + 1])
        if header is None or header.previous not in {None, self._segments[at].name.number}:
            return None
        return header

    def _missing(self, summary: Summary, digest: str, reach: int) -> list[_Range]:
        own = quarantine_name(summary.kind.plural, summary.name, digest)
        others = [each for name, found in self._kept.items() if name != own for each in found]
        explanations = Explanations([*self._explained, *others])
        explained = explanations.of(summary.name.writer, summary.kind)
        return self._gaps(
            [*explained, *self._corrected.ranges(), *self._lost], max(self._end(), self._reach, reach)
        )

    def _end(self) -> int:
        """Return the highest seq that is known to have been given."""
        ends = [each.ranges[-1][1] for each in self._segments if each.ranges]
        ends += [hole.last for each in self._segments for hole in each.holes]
        ends += [header.first_seq - 1 for header in map(own_header, self._segments) if header is not None]
        return max(ends, default=-1)

    def _gaps(self, explained: Iterable[_Range], end: int) -> list[_Range]:
        """Return what neither is there nor is explained, up to *end*."""
        known = [*explained, *self._unseen(end), *(found for each in self._segments for found in each.ranges)]
        gaps: list[_Range] = []
        next_seq = 0
        for first, last in sorted(known):
            if next_seq < first <= end:
                gaps.append((next_seq, first - 1))
            next_seq = max(next_seq, last + 1)
        if next_seq <= end:
            gaps.append((next_seq, end))
        return gaps

    def _unseen(self, end: int) -> Iterator[_Range]:
        """Yield what may stand in segments that cannot be read, or by this version, or are being written.

        That is what is between others'. What a seal says was in its segment is not behind it: it is lost.
        """
        for at, segment in enumerate(self._segments):
            if segment.alive or "unreadable" in segment.tally.counts or segment.scan.newer_bytes:
                before = [found[-1][1] for found in (each.ranges for each in self._segments[:at]) if found]
                if segment.alive:
                    before += [_sealed_to(each) for each in self._segments[:at]]
                after = [found[0][0] for found in (each.ranges for each in self._segments[at + 1 :]) if found]
                yield max(before, default=-1) + 1, min(after, default=end + 1) - 1


def _sealed_to(segment: Summary) -> int:
    """Return the last seq that a segment's seal says it had."""
    last = None if segment.seal is None else segment.seal.last_seq
    return -1 if last is None else last
