"""The periodic scan of a long-running program: everything, again and again, and hardly noticeable."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from papyra_otel.errors import LogUnavailable
from papyra_otel.pipeline.guard import Guard
from papyra_otel.pipeline.upkeep import ScanEnded, Upkeep
from papyra_otel.reports import Progress

__all__ = ["Scanner", "Throttle"]

SHARE_OF_A_CORE = 0.1
_logger = logging.getLogger("papyra_otel")
_SECONDS_TO_END = 1.0


class Throttle:
    """A progress callback that pauses, so that its thread works for at most *share* of the time.

    *working* is the time this thread has spent computing, *passing* that which has passed, both in seconds.
    *pause* waits that many seconds, or returns True at once when the work is not wanted any more.
    """

    def __init__(
        self,
        pause: Callable[[float], bool],
        *,
        share: float = SHARE_OF_A_CORE,
        working: Callable[[], float] = time.thread_time,
        passing: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pause = pause
        self._share = share
        self._working = working
        self._passing = passing
        self._worked = working()
        self._passed = passing()

    def __call__(self, progress: Progress) -> None:
        """Pause as long as is due. Raises ScanEnded when the scan is not wanted any more."""
        del progress
        due = (self._working() - self._worked) / self._share - (self._passing() - self._passed)
        if self._pause(max(due, 0.0)):
            raise ScanEnded
        self._worked = self._working()
        self._passed = self._passing()


class Scanner:
    """Scans the whole log about every *interval_seconds* until stopped. Thread-safe; the thread is a daemon.

    The first scan comes after one interval, and intervals differ by a tenth, so that processes which began together
    do not go on scanning together. *wait* stands in for waiting until stopped, for tests.
    """

    def __init__(
        self,
        upkeep: Upkeep,
        guard: Guard,
        interval_seconds: float,
        *,
        jitter: Callable[[], float] = random.random,
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        self._upkeep = upkeep
        self._guard = guard
        self._interval_seconds = interval_seconds
        self._jitter = jitter
        self._stopped = threading.Event()
        self._wait = wait or self._stopped.wait
        self._thread: threading.Thread | None = None
        self._away = False

    def start(self) -> None:
        """Begin, if not begun."""
        if self._thread is None and not self._stopped.is_set():
            try:
                self._thread = threading.Thread(target=self.run, name="papyra-otel-scan", daemon=True)
                self._thread.start()
            except RuntimeError:  # no more threads, or the interpreter is ending: nobody scans any more
                self._thread = None

    def stop(self) -> None:
        """End; a scan under way ends within a MiB, and is waited for no longer than a second."""
        self._stopped.set()
        thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=_SECONDS_TO_END)

    def after_fork_in_child(self) -> None:
        """Stay ended: the parent scans."""
        self._stopped = threading.Event()
        self._stopped.set()
        self._thread = None

    def run(self) -> None:
        """Scan until stopped; what a scan raises is counted, told seldom, and the next one comes."""
        while not self._wait(self._interval_seconds * (0.9 + 0.2 * self._jitter())):
            with self._guard("scan"), suppress(ScanEnded):
                self._scan()

    def _scan(self) -> None:
        try:
            self._upkeep.scan(Throttle(self._wait))
        except LogUnavailable as error:  # no error of ours; the failed scan is counted as one
            if not self._away:
                _logger.warning("papyra_otel cannot scan its log: %s. It tries again by itself", error)
            self._away = True
        else:
            self._away = False
