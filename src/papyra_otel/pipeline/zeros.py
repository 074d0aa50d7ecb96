"""Which counts are seen as 0 before they are 1: what alerts read, or ``increase()`` in PromQL misses the first one.

Only what is known before it happens: combinations of fixed values, for every system and actor type that was seen to
start. docs/decisions/0056 says what is left out and why.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import product

from papyra_otel import semconv as s
from papyra_otel.facts import FactKind
from papyra_otel.pipeline.counters import Key

__all__ = ["Zeros"]

_KINDS = tuple(kind.value for kind in FactKind)
_STOPS = ("restart_limit", "start_failed")
_DECISIONS = tuple(product(("restart",), ("policy", "parent"), ("restart_limit_exceeded", "restart_failed")))
_LOST = {
    "file": ("ENOSPC", "EIO", "EROFS", "queue_full"),
    "redis": ("connection", "timeout", "oom", "read_only", "rollback", "queue_full"),
}
_LOST_OTHERWISE = ("queue_full",)


class Zeros:
    """What a recording into a log of type *backend*, with a spill if *spills*, lets be seen as 0."""

    def __init__(self, backend: str, *, spills: bool) -> None:
        self._backend = backend
        self._spills = spills
        self._lost = _LOST.get(backend, _LOST_OTHERWISE)

    def at_once(self) -> Iterator[tuple[str, Key]]:
        """Yield (metric, key) of what is known from the beginning."""
        for what in ("emit", "forward"):
            yield s.INSTRUMENTATION_ERRORS, (what,)
        for what in ("backlog", "reentrant", "limit"):
            yield s.EVENT_SUPPRESSED, (what,)
        for what in (s.ACTOR_TYPE, s.MESSAGE_TYPE):
            yield s.ATTRIBUTE_OVERFLOW, (what,)
        yield s.DELIVERY_EXPORTED, ("",)

    def beside(self, metric: str, key: Key) -> Iterable[tuple[str, Key]]:
        """Return (metric, key) of what may happen to what *metric* has just counted first at *key*."""
        return self._of_a_type(*key) if metric == s.ACTOR_STARTS else ()

    def _of_a_type(self, system: str, actor_type: str) -> Iterator[tuple[str, Key]]:
        yield s.ACTOR_RESTARTS, (system, actor_type)
        for reason in _STOPS:
            yield s.ACTOR_STOPS, (system, actor_type, reason)
        for decision in _DECISIONS:
            yield s.SUPERVISION_DECISIONS, (system, actor_type, *decision)
        for kind in _KINDS:
            for error_type in self._lost:
                yield s.PERSISTENCE_DROPPED, (self._backend, kind, error_type, system)
            if self._spills:
                yield s.PERSISTENCE_SPILLED, (self._backend, kind, system)
