"""How long messages took: one histogram, fed every message up to a rate, and evenly chosen ones above it.

One record into the SDK costs more than the handling of a small message (about 10 us), so the rate bounds what a busy
actor type can cost; ``papyra.message.processed`` stays exact.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from papyra_otel.pipeline.counters import Key

__all__ = ["DurationSampler"]

_WINDOW_SECONDS = 1.0


class _Pace:
    """Of one key: one message in *stride* is recorded."""

    __slots__ = ("ends", "recorded", "seen", "stride")

    def __init__(self) -> None:
        self.ends = 0.0
        self.seen = self.recorded = 0
        self.stride = 1


class DurationSampler:
    """Chooses which durations of a key are recorded. Thread-safe; threads that race may record one too many.

    In each second at most about *rate_per_second* of a key: when that many were recorded the stride doubles, and
    the next second begins with the stride that would have done for the last.
    """

    def __init__(
        self,
        record: Callable[[float, Key], None],
        rate_per_second: int = 200,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._record = record
        self._rate = rate_per_second
        self._clock = clock
        self._paces: dict[Key, _Pace] = {}

    def __call__(self, seconds: float, key: Key) -> None:
        """Offer one duration."""
        pace = self._paces.get(key)
        if pace is None:
            pace = self._paces.setdefault(key, _Pace())
        now = self._clock()
        if now >= pace.ends:
            pace.ends = now + _WINDOW_SECONDS
            pace.stride = max(1, -(-pace.seen // self._rate))
            pace.seen = pace.recorded = 0
        pace.seen += 1
        if pace.seen % pace.stride:
            return
        pace.recorded += 1
        if pace.recorded >= self._rate:
            pace.recorded //= 2
            pace.stride *= 2
        self._record(seconds, key)
