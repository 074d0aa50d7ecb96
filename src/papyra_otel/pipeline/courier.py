"""A thread for what may not happen where it comes up: on an actor's path, or while the log is locked."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from queue import Empty

from papyra_otel import semconv
from papyra_otel.pipeline.counters import Counters
from papyra_otel.pipeline.guard import Guard

__all__ = ["Courier"]

ERRANDS_MAX = 1000
_SECONDS_TO_END = 1.0


class Courier:
    """Runs errands one after the other, elsewhere. ``post`` never blocks and never raises; any thread may call it.

    At most ``ERRANDS_MAX`` wait; what comes then is not done, and counted. The thread is a daemon; after ``stop``
    errands are kept until ``run_waiting``.
    """

    def __init__(self, counters: Counters, guard: Guard) -> None:
        self._counters = counters
        self._guard = guard
        self._errands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def post(self, errand: Callable[[], None]) -> None:
        """Have *errand* run soon."""
        if self._errands.qsize() < ERRANDS_MAX:
            self._errands.put(errand)
        else:
            self._counters.add(semconv.EVENT_SUPPRESSED, ("backlog",))

    def start(self) -> None:
        """Begin, if not begun."""
        if self._thread is None:
            try:
                self._thread = threading.Thread(target=self._run, name="papyra-otel-courier", daemon=True)
                self._thread.start()
            except (
                RuntimeError
            ):  # no more threads, or the interpreter is ending: what waits is done at the end
                self._thread = None

    def stop(self) -> None:
        """End the thread; an errand under way is waited for, but no longer than a second."""
        thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            self._errands.put(None)
            thread.join(timeout=_SECONDS_TO_END)

    def run_waiting(self) -> None:
        """Run what waits, in the caller's thread."""
        while True:
            try:
                self._run_one(self._errands.get_nowait())
            except Empty:
                return

    def after_fork_in_child(self) -> None:
        """Begin again with nothing: what waits is the parent's to do."""
        # Looked up now: gevent may have replaced threads and queues since, and then they only go together.
        self._errands = queue.SimpleQueue()
        if self._thread is not None:
            self._thread = None
            self.start()

    def _run(self) -> None:
        me = threading.current_thread()
        errands = self._errands
        while self._thread is me:
            self._run_one(errands.get())

    def _run_one(self, errand: Callable[[], None] | None) -> None:
        if errand is not None:
            with self._guard("courier"):
                errand()
