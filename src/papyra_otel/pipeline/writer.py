"""Between an emitted fact and a log that may be away: through when it can, a bounded ring when it cannot.

An actor never waits here for anything but a lock and, in write-through mode, one write to the kernel (and for
the disk with fsync=always, together with all who write meanwhile).
While the log is away facts wait in the ring and a thread tries again, with growing pauses. What the ring
cannot hold is lost with a count, and when the log is back a ``papyra.fact.dropped`` fact explains the hole.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Mapping
from typing import Any

from papyra_otel import semconv
from papyra_otel.errors import LogUnavailable
from papyra_otel.facts import Fact, FactKind
from papyra_otel.log import FactLog
from papyra_otel.pipeline.counters import Counters
from papyra_otel.pipeline.ring import Losses, Ring

__all__ = ["FactWriter"]

_logger = logging.getLogger("papyra_otel")

RING_FACTS_MAX = 10_000
RING_BYTES_MAX = 32 << 20
_BATCH_FACTS = 500
_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 30.0
_NO_SPACE = frozenset({"ENOSPC", "EDQUOT"})


class FactWriter:
    """Gives every fact its identity and its place in the log. Thread-safe; ``record`` never raises.

    *queued* lets every fact wait for the background thread, for logs behind a network. *tell* is called
    with the attributes of each ``papyra.fact.dropped`` event that is due; it emits it.
    """

    def __init__(
        self,
        log: FactLog,
        counters: Counters,
        *,
        queued: bool = False,
        capacity: int = RING_FACTS_MAX,
        capacity_bytes: int = RING_BYTES_MAX,
        jitter: Callable[[], float] = random.random,
        background: bool = True,
    ) -> None:
        self._log = log
        self._backend = log.capabilities.backend
        self._counters = counters
        self._queued = queued
        self._capacity = capacity
        self._capacity_bytes = capacity_bytes
        self._jitter = jitter
        self._background = background
        self.tell: Callable[[Mapping[str, object]], None] | None = None
        self._closed = False
        self.after_fork_in_child()

    def after_fork_in_child(self) -> None:
        """Begin anew: what waits in the ring is the parent's to write."""
        self._lock = threading.RLock()
        self._draining = threading.Lock()
        self._ring = Ring(self._capacity, self._capacity_bytes)
        self._in_flight: list[Fact] = []
        self._losses = Losses()
        self._trouble: str | None = None
        self._through = not self._queued  # nothing waits: facts go straight to the log
        self._pause_seconds = _FIRST_PAUSE_SECONDS
        self._wake = threading.Event()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

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
            writer, seq = self._log.reserve(system, kind)
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
                wait = self._write(fact)
            elif self._closed:
                self._lose((fact,), "closed")
            else:
                self._keep(fact)
        if wait is not None:
            self._wait(wait, fact)
        return fact

    def _write(self, fact: Fact) -> Callable[[], None] | None:
        try:
            return self._log.write((fact,))
        except LogUnavailable as error:
            self._begin_trouble(error)
            self._keep(fact)
        except Exception as error:  # not the log's fault but this fact's: trying again would not help
            self._lose((fact,), type(error).__name__)
            _logger.exception("papyra_otel could not store a %s fact", fact.name)
        except BaseException:  # an interrupt between reserving and storing: explain the hole, let it pass
            self._lose((fact,), "interrupted")
            raise
        return None

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
        self._lose(self._ring.put(fact), self._trouble or "queue_full")
        self._start_thread()
        self._wake.set()

    def _lose(self, facts: tuple[Fact, ...] | list[Fact], error_type: str) -> None:
        for fact in facts:
            self._losses.add(fact, error_type)
            self._counters.add(
                semconv.PERSISTENCE_DROPPED, (self._backend, fact.kind.value, error_type, fact.system)
            )
        if facts and self._background and not self._closed:
            self._start_thread()
            self._wake.set()

    def _begin_trouble(self, error: LogUnavailable) -> None:
        if self._trouble is None:
            _logger.error(
                "papyra_otel cannot write its log: %s. Up to %d facts wait in memory; it tries again by itself",
                error,
                self._ring.capacity,
            )
        self._trouble = error.error_type

    # --- the background side ------------------------------------------------------------------------

    def drain(self) -> bool:
        """Try now to store all that waits, and to explain what was lost; say whether nothing waits any more."""
        with self._draining:
            while batch := self._take(self._ring.take):
                failed = self._stored(batch)
                if failed is None:
                    continue
                if failed.error_type in _NO_SPACE:  # there may be room, kept or small, for what matters most
                    while batch := self._take(self._ring.take_precious):
                        if self._stored(batch) is not None:
                            break
                return False
            self._end_trouble()
        self._tell_losses()
        return True

    def _take(self, take: Callable[[int], list[Fact]]) -> list[Fact]:
        with self._lock:
            self._in_flight = take(_BATCH_FACTS)
            return self._in_flight

    def _stored(self, batch: list[Fact]) -> LogUnavailable | None:
        """Store *batch*, or return it to the ring and say why."""
        failed: LogUnavailable | None = None
        try:
            self._log.append(batch)
        except LogUnavailable as error:
            self._return(batch, error)
            return error
        except Exception:
            failed = self._stored_one_by_one(batch)
        with self._lock:
            self._in_flight = []
        return failed

    def _return(self, batch: list[Fact], error: LogUnavailable) -> None:
        with self._lock:
            self._begin_trouble(error)
            self._in_flight = []
            self._lose(self._ring.put_back(batch), error.error_type)

    def _stored_one_by_one(self, batch: list[Fact]) -> LogUnavailable | None:
        """Store what can be stored of a batch in which one fact is at fault."""
        for at, fact in enumerate(batch):
            try:
                self._log.append((fact,))
            except LogUnavailable as error:
                self._return(batch[at:], error)
                return error
            except Exception as error:
                with self._lock:
                    self._lose((fact,), type(error).__name__)
                _logger.exception("papyra_otel could not store a %s fact", fact.name)
        return None

    def _end_trouble(self) -> None:
        with self._lock:
            if self._ring:
                return
            self._through = not (self._queued or self._closed)
            if self._trouble is not None:
                self._trouble = None
                self._pause_seconds = _FIRST_PAUSE_SECONDS
                _logger.warning("papyra_otel writes its log again")

    def _tell_losses(self) -> None:
        with self._lock:
            due = [] if self._closed or self._trouble is not None else list(self._losses.take())
        for attributes in due:
            if self.tell is not None:
                self.tell(attributes)

    def _start_thread(self) -> None:
        if self._thread is None and self._background:
            try:
                self._thread = threading.Thread(target=self._run, name="papyra-otel-writer", daemon=True)
                self._thread.start()
            except RuntimeError:  # the interpreter is ending: what waits is drained at exit
                self._thread = None

    def _run(self) -> None:
        me = threading.current_thread()
        while self._thread is me:
            self._wake.wait()
            self._wake.clear()
            while self._thread is me and not self._drained():
                self._ended.wait(self._next_pause_seconds())

    def _drained(self) -> bool:
        try:
            return self.drain()
        except Exception:
            _logger.exception("papyra_otel: the writer thread goes on after a failure")
            return False

    def _next_pause_seconds(self) -> float:
        self._pause_seconds = min(self._pause_seconds * 2, _LONGEST_PAUSE_SECONDS)
        return self._pause_seconds * (0.5 + self._jitter() / 2)

    # --- ends -----------------------------------------------------------------------------------------

    def waiting(self) -> tuple[int, int, int | None]:
        """Return how many facts wait, how many can, and when the oldest happened (ns since the epoch)."""
        with self._lock:
            size = len(self._ring) + len(self._in_flight)
            oldest = self._in_flight[0].time_unix_nano if self._in_flight else self._ring.oldest_unix_nano()
            return size, self._ring.capacity, oldest

    def close(self) -> int:
        """Make a last attempt to store what waits; return how many facts are lost for good."""
        self.drain()
        with self._lock:
            left = self._ring.clear()
            self._lose(left, self._trouble or "closed")
            self._closed = True
            self._through = False
            self._thread = None
            self._wake.set()
            self._ended.set()
        return len(left)
