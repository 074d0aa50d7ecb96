"""What waits for a log that is away or far: in memory and, if there is one, in the spill; never out of order.

For each writer and kind, what is in the spill came before what is in flight, and that before what is in the ring. (What
is in flight may be in the spill, too; it is stored once all the same.) So nothing is taken from the ring while the
spill may hold something, and nothing of the ring goes to the spill before what is in flight: docs/decisions/0034.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from papyra_otel.facts import Fact
from papyra_otel.pipeline.ring import Ring
from papyra_otel.pipeline.spill import Spill

__all__ = ["BATCH_FACTS", "Backlog"]

BATCH_FACTS = 500
_HAND_SECONDS_MAX = 0.02
_HAND_PAUSE_SECONDS = 1.0


class Backlog:
    """The queue behind a writer. *lock* is its owner's; who must hold it is said. *lost* is told what gives way.

    Locks are taken in this order: what drains, ``spilling`` here, *lock*.
    """

    def __init__(
        self,
        lock: threading.RLock,
        ring: Ring,
        spill: Spill | None,
        *,
        lost: Callable[[list[Fact]], None],
        ticks: Callable[[], float],
    ) -> None:
        self._lock = lock
        self._ring = ring
        self._spill = spill
        self._lost = lost
        self._ticks = ticks
        self._spilling = threading.Lock()
        self._in_flight: list[Fact] = []
        self._in_flight_spilled = False
        self._brink = ring.capacity - min(BATCH_FACTS, ring.capacity // 4)
        self._no_hand_until = 0.0

    # --- in and out -----------------------------------------------------------------------------------

    def put(self, fact: Fact) -> None:
        """Add *fact* at the end. With the lock."""
        shed = self._ring.put(fact)
        if shed:
            self._lost(shed)

    @property
    def in_memory(self) -> bool:
        """Whether the ring holds anything."""
        return bool(self._ring)

    @property
    def is_half_full(self) -> bool:
        """Whether it is time to relieve the ring."""
        return 2 * len(self._ring) > self._ring.capacity

    @property
    def is_spilled(self) -> bool:
        """Whether something may wait in the spill: that comes first."""
        return self._spill is not None and self._spill.active

    def take(self, *, precious: bool = False) -> list[Fact]:
        """Return what is to be stored next of the ring, now in flight; nothing while something is spilled.

        *precious* takes dead letters or audits, each of which has an order of its own.
        """
        with self._lock:
            if self.is_spilled:
                return []
            self._in_flight = (self._ring.take_precious if precious else self._ring.take)(BATCH_FACTS)
            self._in_flight_spilled = False
            return self._in_flight

    def arrived(self) -> None:
        """Forget what is in flight: it is stored."""
        with self._lock:
            self._in_flight = []

    def returned(self, batch: list[Fact]) -> None:
        """Take back *batch*, which could not be stored, unless it is in the spill. With the lock."""
        if batch and not self._in_flight_spilled:
            self._lost(self._ring.put_back(batch))
        self._in_flight = []

    def left(self) -> list[Fact]:
        """Return what waits in memory only. With the lock."""
        return [*([] if self._in_flight_spilled else self._in_flight), *self._ring]

    def clear(self) -> list[Fact]:
        """Remove and return what waits in memory only. With the lock."""
        left = self.left()
        self._ring.clear()
        self._in_flight = []
        return left

    def waiting(self) -> tuple[int, int, int | None]:
        """Return how many facts wait in memory, how many can, and when the oldest happened. With the lock."""
        size = len(self._ring) + len(self._in_flight)
        oldest = self._in_flight[0].time_unix_nano if self._in_flight else self._ring.oldest_unix_nano()
        return size, self._ring.capacity, oldest

    # --- to the disk and back ---------------------------------------------------------------------------

    def spill(self, wanted: Callable[[], bool], wait_seconds: float) -> bool:
        """Move what waits in memory to the disk while that is *wanted*; False when the disk does not take it."""
        if self._spill is None:
            return True
        while wanted():
            if not self._spilling.acquire(timeout=wait_seconds):
                return False
            try:
                kept = self._spill_batch(self._spill)
            finally:
                self._spilling.release()  # after each batch, so that others have their turn
            if kept is not True:
                return kept is None
        return True

    def lend_a_hand(self) -> None:
        """Spill one batch, or wait a moment for who does, if in a burst the ring is about to overflow.

        As with a file log: no more than a write to the kernel. A disk that does not take it is left alone for a second.
        """
        if self._spill is None or len(self._ring) <= self._brink or self._ticks() < self._no_hand_until:
            return
        if self._spilling.acquire(timeout=_HAND_SECONDS_MAX):
            try:
                helped = self._spill_batch(self._spill) is not False
            finally:
                self._spilling.release()
        else:
            helped = len(self._ring) < self._ring.capacity
        if not helped:
            self._no_hand_until = self._ticks() + _HAND_PAUSE_SECONDS

    def _spill_batch(self, spill: Spill) -> bool | None:
        """Move one batch; None when nothing waits. Call with ``spilling``."""
        with self._lock:
            flying = self._in_flight if not self._in_flight_spilled else []
            batch = flying or self._ring.take(BATCH_FACTS)
            if not batch:
                return None
            spill.active = True  # from here on nothing of the ring overtakes it
        kept = spill.put(batch)
        with self._lock:
            if flying:
                self._in_flight_spilled = kept and self._in_flight is flying
            elif not kept:
                self._lost(self._ring.put_back(batch))
        return kept

    def drain_spill(self, store: Callable[[list[Fact]], bool]) -> bool:
        """Hand what waits on the disk to *store* until it says no; meanwhile more may come there, from the ring."""
        if self._spill is None or not self._spill.active:
            return True
        if not self._spill.drain(store):
            return False
        with self._spilling, self._lock:
            self._spill.settle()
        return True
