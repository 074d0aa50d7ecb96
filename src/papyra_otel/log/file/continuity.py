"""What no segment shows alone: missing sequence numbers, missing segments, broken chains, writers that ended badly.

Works on summaries only. A hole is an anomaly unless something explains it: a drop fact, a compaction, a quarantine.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from papyra_otel.facts import FactKind
from papyra_otel.log.explained import Explanations, gaps, union
from papyra_otel.log.file.marks import Header
from papyra_otel.log.file.summary import Summary
from papyra_otel.reports import Anomaly

__all__ = ["judge", "overlaps", "own_header"]

_Range = tuple[int, int]


def judge(summaries: Iterable[Summary], explanations: Explanations) -> Iterator[Anomaly]:
    """Yield what is wrong between segments.

    Segments that were not read, or not to their end, accuse nobody; nor does a hole where something unread may explain
    it, or a living writer yet: in the segment that it writes, or wrote when it was read, and just before and behind.
    """
    groups = _by_writer(summaries)
    living = {_who(segment) for segments in groups for segment in segments if segment.alive}
    untold = {
        segment.system_folder
        for segments in groups
        for segment in segments
        if segment.kind is FactKind.EVENT and _unknown(segment)
    }
    for segments in groups:
        last = segments[-1]
        if last.system_folder not in untold:
            yield from _holes(segments, explanations)
        yield from _chain(segments)
        told = "unclean_shutdown" in last.tally.counts
        if last.seal is None and not (told or _unknown(last) or _who(last) in living):
            yield last.anomaly("unclean_shutdown", "not sealed, and its writer is gone")


def own_header(summary: Summary) -> Header | None:
    """Return the header of a segment, if it is its own: not that of a file that was put in its place."""
    header, name = summary.header, summary.name
    if header is None or (header.writer, header.number) != (name.writer, name.number):
        return None
    return header


def overlaps(summaries: Iterable[Summary]) -> Iterator[tuple[Summary, Summary, list[_Range], bool]]:
    """Yield pairs of one writer's segments that hold facts of the same seqs, which, and whether that is right.

    It is right when the later one's header announces it: after a failed fsync a writer appends again what
    may not have reached the disk.
    """
    for segments in _by_writer(summaries):
        highest = -1
        for at, later in enumerate(segments):
            if not later.ranges:
                continue
            if later.ranges[0][0] <= highest:
                for earlier in segments[:at]:
                    common = _intersection(earlier.ranges, later.ranges)
                    if common:
                        begin = _announced(later)
                        yield earlier, later, common, begin is not None and begin <= common[0][0]
            highest = max(highest, later.ranges[-1][1])


def _by_writer(summaries: Iterable[Summary]) -> list[list[Summary]]:
    groups: defaultdict[tuple[str, FactKind, str], list[Summary]] = defaultdict(list)
    for summary in summaries:
        groups[summary.system_folder, summary.kind, summary.name.writer].append(summary)
    return [sorted(group, key=lambda summary: summary.name.number) for group in groups.values()]


def _who(summary: Summary) -> tuple[str, str]:
    return summary.system_folder, summary.name.writer


def _unknown(summary: Summary) -> bool:
    """Say whether not all of a segment was seen."""
    return summary.unread or "unreadable" in summary.tally.counts or bool(summary.scan.newer_bytes)


def _announced(summary: Summary) -> int | None:
    """Return the first seq that a segment was begun for, if its own header says so."""
    header = own_header(summary)
    return None if header is None else header.first_seq


# --- holes ----------------------------------------------------------------------------------------------


def _holes(segments: Sequence[Summary], explanations: Explanations) -> Iterator[Anomaly]:
    first = segments[0]
    present = union(found for segment in segments for found in segment.ranges)
    sealed_to = max((hole.last for segment in segments for hole in segment.holes), default=-1)
    begun_at = max((begin for begin in map(_announced, segments) if begin is not None), default=0)
    end = max(present[-1][1] if present else -1, sealed_to, begun_at - 1)
    known = union([*present, *explanations.of(first.name.writer, first.kind), *_unseen(segments, end)])
    place = _Placing(segments)
    for hole in gaps(known, end):
        yield place.missing(*hole)


def _unseen(segments: Sequence[Summary], end: int) -> Iterator[_Range]:
    """Yield the seqs that may stand, or be explained yet, in what was not seen whole: those between its neighbours'."""
    earlier = accumulate((each.ranges[-1][1] if each.ranges else -1 for each in segments), max, initial=-1)
    firsts = [each.ranges[0][0] if each.ranges else end + 1 for each in reversed(segments)]
    later = [*accumulate(firsts, min, initial=end + 1)][-2::-1]
    for segment, before, after in zip(segments, earlier, later, strict=False):
        if segment.alive or _unknown(segment):
            yield before + 1, after - 1


class _Placing:
    """Finds where a hole is to be reported: where the next fact stands."""

    def __init__(self, segments: Sequence[Summary]) -> None:
        self._last = segments[-1]
        self._numbers = {segment.name.number for segment in segments}
        inside = ((hole.last, at, hole) for at, each in enumerate(segments) for hole in each.holes)
        self._inside = [(last, segments[at], hole) for last, at, hole in sorted(inside)]
        begins = ((_begin(each), at) for at, each in enumerate(segments))
        self._begins = [
            (begin, segments[at]) for begin, at in sorted((b, at) for b, at in begins if b is not None)
        ]

    def missing(self, first: int, last: int) -> Anomaly:
        """Return the anomaly for the hole from *first* to *last*."""
        what = f"seq {first}" if first == last else f"seqs {first} to {last}"
        at = bisect_left(self._inside, first, key=lambda each: each[0])
        if at < len(self._inside) and self._inside[at][2].first <= last:
            _, segment, hole = self._inside[at]
            return segment.anomaly(
                "gap", f"{what} missing before this place, for no known reason", hole.offset, 0
            )
        at = bisect_right(self._begins, last, key=lambda each: each[0])
        if at == len(self._begins):
            return self._last.anomaly("gap", f"{what} missing at the end, for no known reason")
        segment = self._begins[at][1]
        previous = segment.header.previous if segment.header is not None else None
        if previous is not None and previous not in self._numbers:
            detail = f"segment {previous} of this writer is gone, with {what}"
            return segment.anomaly("segment_missing", detail)
        return segment.anomaly("gap", f"{what} missing before this segment, for no known reason", 0, 0)


def _begin(segment: Summary) -> int | None:
    """Return the seq that a segment begins with, or was to begin with."""
    return segment.ranges[0][0] if segment.ranges else _announced(segment)


# --- the chain of digests -------------------------------------------------------------------------------


def _chain(segments: Sequence[Summary]) -> Iterator[Anomaly]:
    by_number = {segment.name.number: segment for segment in segments}
    for segment in segments:
        header = segment.header
        if (
            header is None
            or header.previous is None
            or header.predecessor is None
            or _announced(segment) is None
        ):
            continue
        before = by_number.get(header.previous)
        if before is None or before is segment or before.alive or _unknown(before):
            continue
        seal = before.seal
        if seal is None:
            # A power cut takes a seal that was not forced yet. If it took facts too, they are a hole of their own.
            detail = f"its seal is gone: segment {segment.name.number} says that it had one"
            yield before.anomaly("unclean_shutdown", detail)
        elif header.predecessor not in {seal.digest, *seal.replaces} and not (
            seal.rewritten and not seal.replaces
        ):
            detail = f"segment {header.previous} is not the one that this one followed"
            yield segment.anomaly("segment_digest", detail, 0)


# --- ranges ---------------------------------------------------------------------------------------------


def _intersection(left: Sequence[_Range], right: Sequence[_Range]) -> list[_Range]:
    found: list[_Range] = []
    i = j = 0
    while i < len(left) and j < len(right):
        first, last = max(left[i][0], right[j][0]), min(left[i][1], right[j][1])
        if first <= last:
            found.append((first, last))
        if left[i][1] < right[j][1]:
            i += 1
        else:
            j += 1
    return found
