"""Every number that an alert is about, once. Change one here, and rules, texts and tests follow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["DAY", "HOUR", "MINUTE", "Thresholds", "Windows"]

MINUTE, HOUR, DAY = 60, 3600, 86_400
_UNITS = ((DAY, "d"), (HOUR, "h"), (MINUTE, "m"), (1, "s"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """From when on somebody should look. Durations are in seconds, rates per second."""

    fact_waits: float = 30
    queue_filled: float = 0.8
    undelivered: float = 5 * MINUTE
    scan_age: float = 8 * DAY
    audit_age: float = 5 * MINUTE
    storage_bytes: int = 50 << 30
    storage_ahead: float = 4 * DAY
    restarts: int = 20
    handler_runs: float = 5 * MINUTE
    dead_letters_burst: int = 100
    dead_letters_rate: float = 0.1
    ask_timeouts: int = 20


@dataclass(frozen=True, slots=True)
class Windows:
    """Durations in rules. *shorter* maps seconds to fewer, so that a test sees days pass in seconds."""

    shorter: Callable[[float], float] = float

    def __call__(self, seconds: float) -> str:
        """Return *seconds* as Prometheus writes durations."""
        shortened = self.shorter(seconds)
        if shortened != int(shortened):
            return f"{round(shortened * 1000)}ms"
        whole = int(shortened)
        size, unit = next((size, unit) for size, unit in _UNITS if whole % size == 0)
        return f"{whole // size}{unit}"

    def limit(self, seconds: float) -> str:
        """Return *seconds* as a number to compare an age with."""
        return f"{round(self.shorter(seconds), 3):g}"
