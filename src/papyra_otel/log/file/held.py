"""What compaction leaves because it is not delivered yet, and what it takes when forced (docs/decisions/0052)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from papyra_otel.facts import FactKind
from papyra_otel.log.cursor import Position
from papyra_otel.log.file.checkpoint import Held
from papyra_otel.log.file.reader import FileSource
from papyra_otel.reports import GroupHold

__all__ = ["HoldingBack"]


class HoldingBack:
    """What the outlets of a log still need of one system, among what retention hides."""

    def __init__(self, held: Sequence[Held], system: str, *, force: bool) -> None:
        self._held = [each for each in held if each.system is None or each.system == system]
        self._system = system
        self._force = force
        self._missing: dict[tuple[FactKind, str], dict[str, int]] = {}

    def floor(self, source: FileSource, floor: Position) -> Position | None:
        """Return before which position *source* may be removed: *floor* or less, None for nothing of it."""
        lowest: Position | None = floor
        for held in self._held:
            needed, begins = _needed(source, held, floor)
            self._missing.setdefault((source.kind, held.outlet), {})[source.id] = needed
            if needed and not self._force and lowest is not None:
                lowest = begins if begins is None or source.order(begins) < source.order(lowest) else lowest
        return lowest

    def holds(self) -> Iterator[GroupHold]:
        """Yield what was held back or, when forced, is lost to delivery."""
        for (kind, outlet), by_source in self._missing.items():
            unread = sum(by_source.values())
            if unread:
                yield GroupHold(
                    system=self._system, kind=kind, group=outlet, unread=unread, pending=0, lost=self._force
                )


def _needed(source: FileSource, held: Held, floor: Position) -> tuple[int, Position | None]:
    """Return how many facts before *floor* are not delivered, and where the first of them begins.

    A position in a segment that was rewritten since is only good for reading on from, so that is done.
    """
    delivered = None if held.positions is None else held.positions.get(source.id)
    first: int | None = None
    count = 0
    for stored in source.forward(delivered):
        if source.order(stored.position) > source.order(floor):
            break
        first = stored.fact.seq if first is None else first
        count += 1
    if first is None or delivered is None:
        return count, None
    for stored in source.backward(floor):
        if stored.fact.seq == first:
            return count, source.turned(stored.position)
    return count, None
