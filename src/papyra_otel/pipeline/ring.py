"""What waits while the log is away: bounded, in order, the least valuable shed first, every loss accounted for."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import cast

from papyra_otel import semconv
from papyra_otel.facts import Fact, FactKind
from papyra_otel.log.contract import Lost

__all__ = ["Losses", "Ring"]

_RANGES_MAX = 64
_FIXED_BYTES = 400  # a fact's own weight without its texts: an estimate for the bound, not a measurement


def _value(fact: Fact) -> int:
    """Return how much a fact is worth keeping: processed messages least, dead letters and explanations most."""
    if fact.name == semconv.FACT_DROPPED:
        return 4
    if fact.kind is FactKind.DEAD_LETTER:
        return 3
    if fact.kind is FactKind.AUDIT:
        return 2
    return 0 if fact.name == semconv.MESSAGE_PROCESSED else 1


def _weight(fact: Fact) -> int:
    return _FIXED_BYTES + sum(len(value) for value in fact.attributes.values() if isinstance(value, str))


class Ring:
    """A bounded queue of facts. Not thread-safe: its owner holds the lock.

    *capacity* in facts and *capacity_bytes* (estimated) both hold. When it is full the oldest of the
    least valuable facts gives way, which may be the one just offered.
    """

    def __init__(self, capacity: int, capacity_bytes: int) -> None:
        self.capacity = capacity
        self._capacity_bytes = capacity_bytes
        self._bytes = 0
        self._order: deque[list[Fact]] = deque()  # a shed fact leaves an empty cell behind
        self._by_value: tuple[deque[list[Fact]], ...] = tuple(deque() for _ in range(5))
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Fact]:
        return (fact for cell in self._order for fact in cell)

    def put(self, fact: Fact) -> list[Fact]:
        """Add *fact* at the end; return what had to give way."""
        cell = [fact]
        self._order.append(cell)
        self._by_value[_value(fact)].append(cell)
        self._size += 1
        self._bytes += _weight(fact)
        shed: list[Fact] = []
        while self._size > self.capacity or (self._bytes > self._capacity_bytes and self._size > 1):
            shed.append(self._shed())
        return shed

    def take(self, count: int) -> list[Fact]:
        """Remove and return up to *count* facts from the front."""
        taken: list[Fact] = []
        while self._order and len(taken) < count:
            cell = self._order.popleft()
            if cell:
                taken.append(self._empty(cell))
        self._drop_empty_cells()
        return taken

    def take_precious(self, count: int) -> list[Fact]:
        """Remove and return up to *count* dead letters or, if there are none, audits: each a stream of its own."""
        for cells in (self._by_value[3], self._by_value[2]):
            taken: list[Fact] = []
            while cells and len(taken) < count:
                cell = cells.popleft()
                if cell:
                    taken.append(self._empty(cell))
            if taken:
                self._drop_empty_cells()
                return taken
        return []

    def put_back(self, facts: Sequence[Fact]) -> list[Fact]:
        """Return *facts* to the front, in order, after they could not be stored; return what had to give way."""
        for fact in reversed(facts):
            cell = [fact]
            self._order.appendleft(cell)
            self._by_value[_value(fact)].appendleft(cell)
            self._size += 1
            self._bytes += _weight(fact)
        shed: list[Fact] = []
        while self._size > self.capacity:
            shed.append(self._shed())
        return shed

    def oldest_unix_nano(self) -> int | None:
        """Return when the fact that waits longest happened."""
        return next((cell[0].time_unix_nano for cell in self._order if cell), None)

    def clear(self) -> list[Fact]:
        """Remove and return everything."""
        return self.take(self._size)

    def _shed(self) -> Fact:
        for cells in self._by_value:
            while cells:
                cell = cells.popleft()
                if cell:
                    fact = self._empty(cell)
                    self._drop_empty_cells()
                    return fact
        raise AssertionError("shedding from an empty ring")

    def _empty(self, cell: list[Fact]) -> Fact:
        fact = cell.pop()
        self._size -= 1
        self._bytes -= _weight(fact)
        return fact

    def _drop_empty_cells(self) -> None:
        """Keep the number of cells near the number of facts."""
        for cells in (self._order, *self._by_value):
            while cells and not cells[0]:
                cells.popleft()
            if len(cells) > 2 * self.capacity:
                live = [cell for cell in cells if cell]
                cells.clear()
                cells.extend(live)


@dataclass(slots=True)
class _Lost:
    count: int = 0
    starts: list[int] = field(default_factory=list[int])
    ends: list[int] = field(default_factory=list[int])

    def add(self, seq: int) -> None:
        self.count += 1
        at = bisect_right(self.starts, seq)
        if at > 0 and self.ends[at - 1] >= seq - 1:
            self.ends[at - 1] = max(self.ends[at - 1], seq)
            if at < len(self.starts) and self.starts[at] == self.ends[at - 1] + 1:
                self._join(at - 1)
        elif at < len(self.starts) and self.starts[at] == seq + 1:
            self.starts[at] = seq
        else:
            self.starts.insert(at, seq)
            self.ends.insert(at, seq)
        self._limit()

    def add_range(self, first: int, last: int) -> None:
        """Add what a lost explanation explained; it is counted elsewhere."""
        joined: list[tuple[int, int]] = []
        for start, end in sorted([*zip(self.starts, self.ends, strict=True), (first, last)]):
            if joined and start <= joined[-1][1] + 1:
                joined[-1] = joined[-1][0], max(joined[-1][1], end)
            else:
                joined.append((start, end))
        self.starts = [start for start, _ in joined]
        self.ends = [end for _, end in joined]
        self._limit()

    def _limit(self) -> None:
        if len(self.starts) > _RANGES_MAX:
            gaps = [self.starts[i + 1] - self.ends[i] for i in range(len(self.starts) - 1)]
            self._join(gaps.index(min(gaps)))

    def _join(self, at: int) -> None:
        self.ends[at] = self.ends.pop(at + 1)
        del self.starts[at + 1]


class Losses:
    """What nobody accepted, by system, writer and kind, until it has been told in a ``papyra.fact.dropped`` fact.

    Counts are exact. Sequence ranges are at most 64 per writer and kind; beyond that neighbours are joined,
    so a range may cover a fact that was stored, but never leaves out one that was not.
    """

    def __init__(self) -> None:
        self._lost: dict[tuple[str, str, FactKind], _Lost] = {}
        self._error_types: dict[str, str] = {}

    def __bool__(self) -> bool:
        return bool(self._lost)

    def add(self, fact: Fact, error_type: str) -> None:
        """Note that *fact* is lost because of *error_type*."""
        self._of(fact.system, fact.writer or "", fact.kind).add(fact.seq or 0)
        self._error_types[fact.system] = error_type
        if fact.name == semconv.FACT_DROPPED:
            self._add_explained(fact)

    def add_range(self, lost: Lost) -> None:
        """Note that a log lost what it had acknowledged."""
        entry = self._of(lost.system, lost.writer, lost.kind)
        entry.count += lost.last - lost.first + 1
        entry.add_range(lost.first, lost.last)
        self._error_types[lost.system] = lost.error_type

    def _of(self, system: str, writer: str, kind: FactKind) -> _Lost:
        return self._lost.setdefault((system, writer, kind), _Lost())

    def _add_explained(self, told: Fact) -> None:
        """Take over what an explanation explained that is lost itself."""
        for text in _texts(told, semconv.DROPPED_RANGES):
            with suppress(ValueError):  # anybody may emit an event of that name
                writer, kind, seqs = text.split("-")
                first, _, last = seqs.partition("..")
                self._of(told.system, writer, FactKind(kind)).add_range(int(first), int(last))
        for text in _texts(told, semconv.DROPPED_BY_KIND):
            with suppress(ValueError):
                kind, _, count = text.partition("=")
                self._of(told.system, told.writer or "", FactKind(kind)).count += int(count)

    def take(self) -> Iterator[dict[str, object]]:
        """Forget everything, yielding the attributes of one explaining fact per system."""
        lost, self._lost = self._lost, {}
        error_types, self._error_types = self._error_types, {}
        for system in dict.fromkeys(system for system, _, _ in lost):
            of_system = {
                (writer, kind): entry for (name, writer, kind), entry in lost.items() if name == system
            }
            yield {
                semconv.SYSTEM_ID: system,
                semconv.DROPPED_COUNT: sum(entry.count for entry in of_system.values()),
                semconv.DROPPED_BY_KIND: [f"{kind}={entry.count}" for (_, kind), entry in of_system.items()],
                semconv.DROPPED_RANGES: [
                    f"{writer}-{kind}-{start}..{end}"
                    for (writer, kind), entry in of_system.items()
                    for start, end in zip(entry.starts, entry.ends, strict=True)
                ],
                semconv.ERROR_TYPE: error_types[system],
            }


def _texts(fact: Fact, attribute: str) -> list[str]:
    value = fact.attributes.get(attribute)
    return (
        [text for text in cast("list[object]", value) if isinstance(text, str)]
        if isinstance(value, list)
        else []
    )
