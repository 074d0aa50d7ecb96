"""The fence between our code and an actor: our failures are counted, told seldom, and never passed on."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from types import TracebackType

from papyra_otel import semconv
from papyra_otel.pipeline.counters import Counters

__all__ = ["Guard"]

_logger = logging.getLogger("papyra_otel")
_SECONDS_BETWEEN_REPORTS = 60.0


class Guard:
    """Wraps whatever of ours runs on an actor's path. Thread-safe and re-entrant.

    ``with guard("pykka.started"): ...`` swallows any ``Exception`` raised inside; cancellation and
    interrupts pass. On hot paths write ``try: ... except Exception: guard.failed("...")`` instead, which
    costs nothing when nothing fails. Each failure counts; each kind is logged at most once a minute.
    """

    def __init__(self, counters: Counters, clock: Callable[[], float] = time.monotonic) -> None:
        self._counters = counters
        self._clock = clock
        self._next_report: dict[str, float] = {}

    def __call__(self, what: str) -> _Fence:
        """Return the fence for one block."""
        return _Fence(self, what)

    def failed(self, what: str) -> None:
        """Count the exception that is being handled under *what*, and log it if that was not done lately.

        To be called from an ``except`` block.
        """
        try:
            self._counters.add(semconv.INSTRUMENTATION_ERRORS, (what,))
            now = self._clock()
            if now >= self._next_report.get(what, now):
                self._next_report[what] = now + _SECONDS_BETWEEN_REPORTS
                error = sys.exc_info()
                _logger.error(
                    "papyra_otel failed in %s; the application is not affected", what, exc_info=error
                )
        except Exception:  # noqa: S110 - the last fence: a broken logging handler must not reach an actor
            pass


class _Fence:
    __slots__ = ("_guard", "_what")

    def __init__(self, guard: Guard, what: str) -> None:
        self._guard = guard
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if isinstance(error, Exception):
            self._guard.failed(self._what)
            return True
        return False
