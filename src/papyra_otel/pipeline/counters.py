"""Plain integers behind the observable instruments: cheap to add to, read only at collection."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Protocol

from papyra_otel import semconv

__all__ = ["Counters", "Expected", "Key"]

Key = tuple[str, ...]


class Expected(Protocol):
    """What is to be seen as 0 before it is counted. Both are called under a lock: they are quick and call nobody."""

    def at_once(self) -> Iterable[tuple[str, Key]]:
        """Return (metric, key) of what is known from the beginning."""
        ...

    def beside(self, metric: str, key: Key) -> Iterable[tuple[str, Key]]:
        """Return (metric, key) of what is known once *metric* was counted first at *key*."""
        ...


class Counters:
    """Named counts by attribute values. Exact under threads; *add* is one lock and one dict entry.

    A key holds the values of the attributes that ``pipeline.metrics`` lists for that metric, in that
    order. Keys come from bounded sets only: types are folded by ``TypeCap`` before they get here.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, dict[Key, int]] = {}
        self._expected: Expected | None = None

    def expect(self, expected: Expected) -> None:
        """Let what is *expected* be seen as 0 from now on, also after ``reset``."""
        with self._lock:
            self._expected = expected
            self._observe(expected.at_once())

    def add(self, metric: str, key: Key, amount: int = 1) -> None:
        """Add *amount* (negative for an up-down counter) to *metric* at *key*."""
        with self._lock:
            counts = self._counts.get(metric)
            if counts is None:
                counts = self._counts[metric] = {}
            known = counts.get(key)
            if known is None:
                counts[key] = amount
                if self._expected is not None:
                    self._observe(self._expected.beside(metric, key))
            else:
                counts[key] = known + amount

    def observe_zero(self, metric: str, keys: Iterable[Key]) -> None:
        """Make *keys* visible as 0, so that the first real one is an increase."""
        with self._lock:
            self._observe((metric, key) for key in keys)

    def _observe(self, zeros: Iterable[tuple[str, Key]]) -> None:
        for metric, key in zeros:
            self._counts.setdefault(metric, {}).setdefault(key, 0)

    def read(self, metric: str) -> list[tuple[Key, int]]:
        """Return the counts of *metric*, a copy."""
        with self._lock:
            return list(self._counts.get(metric, {}).items())

    def total(self, metric: str) -> int:
        """Return the sum over all keys of *metric*."""
        return sum(count for _, count in self.read(metric))

    def reset(self) -> None:
        """Begin again from nothing, with a new lock: what a forked child does."""
        self._lock = threading.Lock()
        self._counts = {}
        if self._expected is not None:
            self._observe(self._expected.at_once())


class TypeCap:
    """Keep a set of attribute values bounded: what comes after the first *limit* becomes ``_OTHER``.

    *group* says under which name a value is counted: it must be quick, also for values never seen before.
    """

    def __init__(
        self, counters: Counters, what: str, limit: int, group: Callable[[str], str] | None = None
    ) -> None:
        self._counters = counters
        self._what = what
        self._limit = limit
        self._group = group
        self._known: dict[str, str] = {}

    def __call__(self, value: str) -> str:
        if self._group is not None:
            value = self._group(value)
        known = self._known.get(value)
        if known is not None:
            return known
        if len(self._known) < self._limit:
            return self._known.setdefault(value, value)
        self._counters.add(semconv.ATTRIBUTE_OVERFLOW, (self._what,))
        return semconv.OTHER
