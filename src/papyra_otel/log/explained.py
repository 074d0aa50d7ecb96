"""Which sequence numbers are missing for a known reason: what facts say about that, and the ranges it is said in."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import msgspec

from papyra_otel import semconv
from papyra_otel.facts import FactKind
from papyra_otel.log.codec import Outline

__all__ = [
    "TELLING",
    "Explanations",
    "SeqRange",
    "explained_by",
    "gaps",
    "low_marks_of",
    "parse_range",
    "texts_of",
    "union",
]

TELLING = frozenset({semconv.FACT_DROPPED, semconv.LOG_COMPACTED})  # only such facts explain anything
_RANGE = re.compile(r"([0-9a-f]{16})-(event|audit|dead_letter)-(\d{1,19})(?:\.\.(\d{1,19}))?", re.ASCII)
_KINDS = {kind.value: kind for kind in FactKind}
_Range = tuple[int, int]


class SeqRange(msgspec.Struct, frozen=True, array_like=True, order=True):
    """Sequence numbers *first* to *last*, both included, of one writer's facts of one kind."""

    writer: str
    kind: FactKind
    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.writer}-{self.kind}-{self.first}..{self.last}"


class Explanations:
    """Which sequence numbers are missing for a known reason."""

    def __init__(self, ranges: Iterable[SeqRange]) -> None:
        by_stream: defaultdict[tuple[str, FactKind], list[_Range]] = defaultdict(list)
        for each in ranges:
            by_stream[each.writer, each.kind].append((each.first, each.last))
        self._by_stream = {stream: union(found) for stream, found in by_stream.items()}

    def of(self, writer: str, kind: FactKind) -> list[_Range]:
        """Return the explained ranges of a writer's facts of a kind, ascending and apart."""
        return self._by_stream.get((writer, kind), [])


def parse_range(text: str) -> SeqRange | None:
    """Read ``<writer>-<kind>-<first>..<last>``, or ``<writer>-<kind>-<seq>`` as one number; None if it is neither."""
    match = _RANGE.fullmatch(text)
    if match is None:
        return None
    first = int(match[3])
    return SeqRange(match[1], _KINDS[match[2]], first, first if match[4] is None else int(match[4]))


def explained_by(line: Outline) -> Iterator[SeqRange]:
    """Yield the ranges that a fact says are lost for a known reason: a drop fact's, or what a compaction carried on."""
    if line.name == semconv.FACT_DROPPED:
        yield from _ranges(line, semconv.DROPPED_RANGES)
    elif line.name == semconv.LOG_COMPACTED:
        yield from _ranges(line, semconv.COMPACTION_EXPLAINED)


def low_marks_of(line: Outline) -> Iterator[SeqRange]:
    """Yield what a compaction removed: everything below each mark, as a range from 0."""
    if line.name == semconv.LOG_COMPACTED:
        for mark in _ranges(line, semconv.COMPACTION_LOW_MARKS):
            if mark.first > 0:
                yield SeqRange(mark.writer, mark.kind, 0, mark.first - 1)


def _ranges(line: Outline, attribute: str) -> Iterator[SeqRange]:
    for text in texts_of(line.details(), attribute):
        found = parse_range(text)
        if found is not None and found.first <= found.last:
            yield found


def texts_of(details: Mapping[str, Any], attribute: str) -> list[str]:
    """Return the texts in a list among a line's attributes; none if there is no list."""
    value = details.get(attribute)
    if not isinstance(value, list):
        return []
    return [text for text in cast("list[object]", value) if isinstance(text, str)]


def union(ranges: Iterable[_Range]) -> list[_Range]:
    """Return *ranges* ascending, joined where they overlap or touch, empty ones left out."""
    joined: list[_Range] = []
    for first, last in sorted(ranges):
        if last < first:
            continue
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = joined[-1][0], max(joined[-1][1], last)
        else:
            joined.append((first, last))
    return joined


def gaps(known: Sequence[_Range], end: int) -> Iterator[_Range]:
    """Yield what *known* leaves out of 0 to *end*."""
    next_seq = 0
    for first, last in known:
        if first > end:
            break
        if first > next_seq:
            yield next_seq, first - 1
        next_seq = max(next_seq, last + 1)
    if next_seq <= end:
        yield next_seq, end
