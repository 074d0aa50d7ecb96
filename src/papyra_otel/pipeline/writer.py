"""Between an emitted fact and a log that may be away: through when it can, a bounded ring when it cannot.

An actor never waits here for anything but a lock and, in write-through mode, one write to the kernel (and for
the disk with fsync=always, together with all who write meanwhile). For a log behind a network every fact waits for
the writer's thread, which stores them in batches.

While the log is away facts wait, in order (``backlog``), and the thread tries again, with growing pauses. What
nothing can hold is lost with a count, and when the log is back a ``papyra.fact.dropped`` fact explains the hole.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from papyra_otel import semconv
from papyra_otel.errors import LogUnavailable, NotSupported
from papyra_otel.facts import Fact, FactKind
from papyra_otel.log import FactLog
from papyra_otel.log.contract import Lost
from papyra_otel.pipeline.backlog import BATCH_FACTS, Backlog
from papyra_otel.pipeline.counters import Counters
from papyra_otel.pipeline.ring import Losses, Ring
from papyra_otel.pipeline.spill import Spill
from papyra_otel.pipeline.worker import GATHER_SECONDS, Worker

__all__ = ["Ended", "FactWriter"]

_logger = logging.getLogger("papyra_otel")

RING_FACTS_MAX = 10_000
RING_BYTES_MAX = 32 << 20
SPILL_AFTER_SECONDS = 1.0
END_SECONDS_MAX = 10.0
_SOON_SECONDS = 0.5  # an attempt that fails so fast may be made once more at exit
_NO_SPACE = frozenset({"ENOSPC", "EDQUOT"})


class Ended(NamedTuple):
    """What a last attempt left: facts in the spill for the next process, and facts with nowhere to go."""

    spilled: int
    left: int


class FactWriter:
    """Gives every fact its identity and its place in the log. Thread-safe; ``record`` never raises.

    *queued* lets every fact wait for the background thread, for logs behind a network; only then there may be a
    *spill*. *tell* is called with the attributes of each ``papyra.fact.dropped`` event that is due; it emits it.
    *chore* is called every half minute by the background thread once there was a fact.
    """

    def __init__(
        self,
        log: FactLog,
        counters: Counters,
        *,
        queued: bool = False,
        spill: Spill | None = None,
        chore: Callable[[], None] | None = None,
        capacity: int = RING_FACTS_MAX,
        capacity_bytes: int = RING_BYTES_MAX,
        gather_seconds: float = GATHER_SECONDS,
        jitter: Callable[[], float] = random.random,
        ticks: Callable[[], float] = time.monotonic,
        background: bool = True,
    ) -> None:
        self._log = log
        self._reserve = log.reserve
        self._backend = log.capabilities.backend
        self._counters = counters
        self._queued = queued
        self._spill = spill if queued else None
        self._capacity = capacity
        self._capacity_bytes = capacity_bytes
        self._ticks = ticks
        self._background = background
        self._chore = chore
        self.tell: Callable[[Mapping[str, object]], None] | None = None
        self._worker = Worker(
            "papyra-otel-writer",
            self._work,
            chore=None if chore is None else self._do_chores,
            gather_seconds=gather_seconds,
            jitter=jitter,
        )
        self._spiller = Worker("papyra-otel-spill", self._spill_waiting, jitter=jitter)
        self._closed = False
        self._begin()

    def after_fork_in_child(self) -> None:
        """Begin anew: what waits in the ring and in the spill is the parent's to write."""
        if self._spill is not None:
            self._spill.after_fork_in_child()
        self._worker.reset()
        self._spiller.reset()
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.RLock()
        self._draining = threading.Lock()
        self._backlog = Backlog(
            self._lock,
            Ring(self._capacity, self._capacity_bytes),
            self._spill,
            lost=lambda facts: self._lose(facts, self._trouble or "queue_full"),
            ticks=self._ticks,
        )
        self._losses = Losses()
        self._lost_by_log: deque[Lost] = deque()
        self._trouble: str | None = None
        self._through = not self._queued  # nothing waits: facts go straight to the log
        self._spills = False  # the log is away for so long that what comes is spilled at once
        self._orphans_due = self._spill is not None
        self._ending = False
        self._until: float | None = None
        self._attempt_ticks = self._trouble_ticks = self._failed_ticks = 0.0

    def begin(self) -> None:
        """Look for what earlier processes left in the spill, in the background."""
        if self._orphans_due and self._background:
            self._worker.wake()

    # --- the actor's side -------------------------------------------------------------------------

    def record(
        self,
        kind: FactKind,
        name: str,
        time_unix_nano: int,
        system: str,
        actor: str | None,
        severity: str,
        trace_id: str | None,
        span_id: str | None,
        attributes: Mapping[str, Any],
    ) -> Fact:
        """Store one fact, or keep it for later, or count it as lost; return it with its identity."""
        wait: Callable[[], None] | None = None
        with self._lock:
            writer, seq = self._reserve(system, kind)
            fact = Fact(
                kind=kind,
                name=name,
                time_unix_nano=time_unix_nano,
                system=system,
                actor=actor,
                severity=severity,
                trace_id=trace_id,
                span_id=span_id,
                attributes=attributes,
                writer=writer,
                seq=seq,
            )
            if self._through:
                try:
                    wait = self._log.write((fact,))
                except BaseException as error:
                    self._not_written(fact, error)
            elif self._closed:
                self._lose((fact,), "closed")
            else:
                self._keep(fact)
        if wait is not None:
            self._wait(wait, fact)
        if self._ending and not self._through:
            self._store_late()
        elif self._spill is not None:
            self._backlog.lend_a_hand()
        return fact

    def _not_written(self, fact: Fact, error: BaseException) -> None:
        """Keep *fact* if it is the log's fault; trying again would not help against its own."""
        if isinstance(error, LogUnavailable):
            self._begin_trouble(error)
            self._keep(fact)
        elif isinstance(error, Exception):
            self._lose((fact,), type(error).__name__)
            _logger.error("papyra_otel could not store a %s fact", fact.name, exc_info=error)
        else:  # an interrupt between reserving and storing: explain the hole, let it pass
            self._lose((fact,), "interrupted")
            raise error

    def _wait(self, wait: Callable[[], None], fact: Fact) -> None:
        """Wait for the disk, without the lock: who writes meanwhile shares the next fsync."""
        try:
            wait()
        except LogUnavailable as error:  # written, but not forced: the log knows it again
            with self._lock:
                self._begin_trouble(error)
                self._keep(fact)
        except Exception:
            _logger.exception("papyra_otel could not force a %s fact to the disk", fact.name)

    def _keep(self, fact: Fact) -> None:
        self._through = False  # until all that waits is stored: no fact overtakes another
        self._backlog.put(fact)
        if self._background:
            self._worker.wake()
            if self._spill is not None and self._is_pressed():
                self._spiller.wake()

    def _is_pressed(self) -> bool:
        return self._spills or self._backlog.is_half_full

    def _lose(self, facts: tuple[Fact, ...] | list[Fact], error_type: str) -> None:
        for fact in facts:
            self._losses.add(fact, error_type)
            self._counters.add(
                semconv.PERSISTENCE_DROPPED, (self._backend, fact.kind.value, error_type, fact.system)
            )
        if facts and self._background and not self._closed:
            self._worker.wake()

    def _begin_trouble(self, error: LogUnavailable) -> None:
        if self._trouble is None:
            self._trouble_ticks = self._attempt_ticks if self._queued else self._ticks()
            _logger.error(
                "papyra_otel cannot write its log: %s. Up to %d facts wait in memory%s; it tries again by itself",
                error,
                self._capacity,
                "" if self._spill is None else f", and any number in {self._spill.root}",
            )
        self._trouble = error.error_type

    def note_lost(self, lost: Lost) -> None:
        """Take note of what the log acknowledged and lost. Takes no lock; told with the next that is stored."""
        self._lost_by_log.append(lost)

    # --- the background side ------------------------------------------------------------------------

    def _work(self) -> bool:
        return self.drain() and self._adopt_orphans()

    def drain(self) -> bool:
        """Try now to store all that waits, and to explain what was lost; say whether nothing waits any more."""
        while True:
            with self._draining:
                if not self._drained():
                    return False
            self._tell_losses()
            if not self._waits():
                return True

    def _waits(self) -> bool:
        with self._lock:
            return self._backlog.in_memory or self._backlog.is_spilled

    def _drained(self) -> bool:
        """Say whether all is stored that waited a moment ago: where facts never cease to come, the rest comes later."""
        while not self._is_late():
            if not self._backlog.drain_spill(self._spilled_stored):
                return False
            batch = self._backlog.take()
            if batch:
                failed = self._stored(batch)
                if failed is not None:
                    if failed.error_type in _NO_SPACE:
                        self._store_precious()
                    return False
                if self._trouble is not None and len(batch) < BATCH_FACTS and not self._ending:
                    self._end_trouble()
                    return True
            elif not self._backlog.is_spilled:
                self._end_trouble()
                return True
        return False

    def _spilled_stored(self, batch: list[Fact]) -> bool:
        return not self._is_late() and self._stored(batch, spilled=True) is None

    def _is_late(self) -> bool:
        return self._until is not None and self._ticks() > self._until

    def _store_precious(self) -> None:
        """There may be room, kept or small, for what matters most. Each kind has an order of its own."""
        while batch := self._backlog.take(precious=True):
            if self._stored(batch) is not None:
                return

    def _stored(self, batch: list[Fact], *, spilled: bool = False) -> LogUnavailable | None:
        """Store *batch*, or return it to the ring, unless it is in the spill, and say why."""
        failed: LogUnavailable | None = None
        self._attempt_ticks = self._ticks()
        try:
            self._log.append(batch)
        except LogUnavailable as error:
            self._return([] if spilled else batch, error)
            return error
        except Exception:
            failed = self._stored_one_by_one(batch, spilled=spilled)
        if not spilled:
            self._backlog.arrived()
        return failed

    def _return(self, batch: list[Fact], error: LogUnavailable) -> None:
        with self._lock:
            self._begin_trouble(error)
            self._failed_ticks = self._ticks()
            self._backlog.returned(batch)
            if self._spill is not None and not self._spills:
                self._spills = self._failed_ticks - self._trouble_ticks >= SPILL_AFTER_SECONDS
            if self._spills and self._backlog.in_memory and self._background:
                self._spiller.wake()

    def _stored_one_by_one(self, batch: list[Fact], *, spilled: bool) -> LogUnavailable | None:
        """Store what can be stored of a batch in which one fact is at fault."""
        for at, fact in enumerate(batch):
            try:
                self._log.append((fact,))
            except LogUnavailable as error:
                self._return([] if spilled else batch[at:], error)
                return error
            except Exception as error:
                with self._lock:
                    self._lose((fact,), type(error).__name__)
                _logger.exception("papyra_otel could not store a %s fact", fact.name)
        return None

    def _end_trouble(self) -> None:
        with self._lock:
            if not self._backlog.in_memory:
                self._through = not (self._queued or self._closed)
            self._spills = False
            self._worker.encourage()
            if self._trouble is not None:
                self._trouble = None
                self._orphans_due = self._spill is not None
                _logger.warning("papyra_otel writes its log again")

    def _tell_losses(self) -> None:
        with self._lock:
            while self._lost_by_log:
                self._lose_stored(self._lost_by_log.popleft())
            due = [] if self._closed or self._trouble is not None else list(self._losses.take())
        for attributes in due:
            if self.tell is not None:
                self.tell(attributes)

    def _lose_stored(self, lost: Lost) -> None:
        self._losses.add_range(lost)
        key = (self._backend, lost.kind.value, lost.error_type, lost.system)
        self._counters.add(semconv.PERSISTENCE_DROPPED, key, lost.last - lost.first + 1)

    # --- the spill ----------------------------------------------------------------------------------

    def _spill_waiting(self, wait_seconds: float = END_SECONDS_MAX) -> bool:
        """Move what waits in memory to the disk while that is called for; False when the disk does not take it."""
        return self._backlog.spill(lambda: self._ending or self._is_pressed(), wait_seconds)

    def _adopt_orphans(self) -> bool:
        """Store what earlier processes left in the spill, one batch at a time: what is recorded now comes first."""
        if self._spill is None or not self._orphans_due:
            return True
        try:
            done = self._spill.drain_orphans(lambda batch: self._adopted(batch) and self.drain())
        except NotSupported as error:
            _logger.warning("papyra_otel: %s; what waits in %s stays there", error, self._spill.root)
            done = True
        self._orphans_due = not done
        return done

    def _adopted(self, batch: list[Fact]) -> bool:
        self._attempt_ticks = self._ticks()
        try:
            self._log.adopt(batch)
        except LogUnavailable as error:
            self._return([], error)
            return False
        return True

    def _do_chores(self) -> None:
        if self._chore is not None:
            self._chore()
        if self._spill is not None:  # another process may have ended
            self._orphans_due = True
            self._adopt_orphans()

    # --- ends -----------------------------------------------------------------------------------------

    def waiting(self) -> tuple[int, int, int | None]:
        """Return how many facts wait in memory, how many can, and when the oldest happened (ns since the epoch)."""
        with self._lock:
            return self._backlog.waiting()

    def end(self) -> Ended:
        """Make a last attempt to store what waits, then spill it; return what is left.

        Takes no longer than one attempt that fails, or ``END_SECONDS_MAX`` of attempts that do not. What is
        recorded from now on is stored before ``record`` returns, if the log is there: threads may be at an end.
        """
        begun = self._ticks()
        again, self._ending = self._ending, True
        if self._draining.acquire(timeout=END_SECONDS_MAX):
            try:
                if self._is_worth_trying(begun, again=again):
                    self._until = begun + END_SECONDS_MAX
                    self._drained()
            finally:
                self._until = None
                self._draining.release()
        self._tell_losses()
        self._spill_waiting()
        with self._lock:
            return Ended(0 if self._spill is None else self._spill.waiting, len(self._backlog.left()))

    def _is_worth_trying(self, begun: float, *, again: bool) -> bool:
        """Say whether one more attempt can be made in time: not after one that took long and failed just now."""
        if self._trouble is None or self._failed_ticks - self._attempt_ticks < _SOON_SECONDS:
            return True
        return not again and self._failed_ticks < begun

    def _store_late(self) -> None:
        """Store what is recorded after the end began: the interpreter may stop the threads at any moment."""
        if self._trouble is None and self._draining.acquire(timeout=_SOON_SECONDS):
            try:
                self._drained()
            finally:
                self._draining.release()
        self._spill_waiting(_SOON_SECONDS)

    def close(self) -> Ended:
        """Make a last attempt to store what waits; return what is spilled, and how many facts are lost for good."""
        ended = self.end()
        with self._lock:
            left = self._backlog.clear()
            self._lose(left, self._trouble or "closed")
            self._closed = True
            self._through = False
        self._worker.stop()
        self._spiller.stop()
        if self._spill is not None:
            self._spill.close()
        return Ended(ended.spilled, len(left))
