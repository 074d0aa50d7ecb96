"""A daemon thread that works when woken, a moment later, and again by itself while the work is not done."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable

__all__ = ["GATHER_SECONDS", "Worker"]

_logger = logging.getLogger("papyra_otel")

GATHER_SECONDS = 0.005
_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 30.0


class Worker:
    """Calls *work* after ``wake``; what comes within *gather_seconds* is worked on together.

    *work* says whether all is done; while it is not, it is called again, after growing pauses with jitter. *chore* is
    called every *chore_seconds*, between the work. ``wake`` never blocks and costs one flag test while the thread is
    awake; it may be called with locks held that *work* takes. The thread begins with the first ``wake``.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[], bool],
        *,
        chore: Callable[[], None] | None = None,
        chore_seconds: float = 30.0,
        gather_seconds: float = GATHER_SECONDS,
        jitter: Callable[[], float] = random.random,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._work = work
        self._chore = chore
        self._chore_seconds = chore_seconds
        self._gather_seconds = gather_seconds
        self._jitter = jitter
        self._ticks = ticks
        self.reset()

    def reset(self) -> None:
        """Begin anew without a thread: at first, and in a forked child, which has none."""
        self._awake = False
        self._wanted = threading.Event()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._pause_seconds = _FIRST_PAUSE_SECONDS
        self._chore_due = self._ticks() + self._chore_seconds

    def wake(self) -> None:
        """Have the work done soon."""
        if not self._awake:
            self._awake = True
            if self._thread is None:
                self._start()
            self._wanted.set()

    def stop(self) -> None:
        """Let the thread end after what it does just now; it is not waited for."""
        self._thread = None
        self._ended.set()
        self._wanted.set()

    def _start(self) -> None:
        if self._ended.is_set():
            return
        try:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        except (
            RuntimeError
        ):  # no more threads now, or the interpreter is ending: tried again, or done at exit
            self._thread = None
            self._awake = False

    def _run(self) -> None:
        me = threading.current_thread()
        while self._thread is me:
            if self._wanted.wait(self._until_chore()):
                self._wanted.clear()
                self._ended.wait(self._gather_seconds)
                self._awake = False  # before the work begins: what comes from here on may be too late for it
                while self._thread is me and not self._worked():
                    self._ended.wait(self._next_pause_seconds())
            self._do_chore(me)

    def _worked(self) -> bool:
        try:
            done = self._work()
        except Exception:
            _logger.exception("papyra_otel: the thread %s goes on after a failure", self._name)
            return False
        if done:
            self.encourage()
        return done

    def encourage(self) -> None:
        """Begin with a short pause again when the work fails next: it went well for a while, though it is not done."""
        self._pause_seconds = _FIRST_PAUSE_SECONDS

    def _next_pause_seconds(self) -> float:
        self._pause_seconds = min(self._pause_seconds * 2, _LONGEST_PAUSE_SECONDS)
        return self._pause_seconds * (0.5 + self._jitter() / 2)

    def _until_chore(self) -> float | None:
        return None if self._chore is None else max(self._chore_due - self._ticks(), 0.0)

    def _do_chore(self, me: threading.Thread) -> None:
        if self._chore is None or self._thread is not me or self._ticks() < self._chore_due:
            return
        self._chore_due = self._ticks() + self._chore_seconds
        try:
            self._chore()
        except Exception:
            _logger.exception("papyra_otel: the thread %s goes on after a failure", self._name)
