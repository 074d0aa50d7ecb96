"""A background thread that forces written facts to the disk, a fixed time after the first unforced one."""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["Flusher"]

_LONGEST_PAUSE_SECONDS = 30.0


class Flusher:
    """Calls *flush* at most every *interval_seconds*, and only after ``wake``. Starts its thread when needed.

    *flush* says whether the disk has everything; if not it is called again by itself, with growing pauses.
    ``wake`` costs one flag test when a flush is already due. The thread is a daemon: it never keeps a
    process alive, and a log that is closed in order flushes by itself.
    """

    def __init__(self, flush: Callable[[], bool], interval_seconds: float) -> None:
        self._flush = flush
        self._interval_seconds = interval_seconds
        self.reset()

    def reset(self) -> None:
        """Begin anew without a thread: at first, and in a forked child, which has none."""
        self._due = False
        self._wanted = threading.Event()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def wake(self) -> None:
        """Say that there is something to flush. Call under the log's lock."""
        if self._due:
            return
        self._due = True
        if self._thread is None and not self._stopped.is_set():
            try:
                self._thread = threading.Thread(target=self._run, name="papyra-otel-fsync", daemon=True)
                self._thread.start()
            except RuntimeError:  # no more threads now, or the interpreter is ending: closing the log flushes
                self._thread = None
                self._due = False
                return
        self._wanted.set()

    def stop(self) -> None:
        """End the thread, without a last flush."""
        self._stopped.set()
        self._wanted.set()
        thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=5)

    def _run(self) -> None:
        pause_seconds = self._interval_seconds
        while True:
            self._wanted.wait()
            if self._stopped.wait(pause_seconds):
                return
            self._wanted.clear()
            if self._stopped.is_set():  # just before: what was cleared was its call, and no other comes
                return
            self._due = False
            if self._flushed():
                pause_seconds = self._interval_seconds
            else:
                pause_seconds = longer(pause_seconds)
                self._wanted.set()

    def _flushed(self) -> bool:
        try:
            return self._flush()
        except Exception:  # whatever it is: forcing must not end with it
            return False


def longer(pause_seconds: float) -> float:
    """Return the pause after one of *pause_seconds* that did not help."""
    return max(pause_seconds, min(max(pause_seconds * 2, 0.1), _LONGEST_PAUSE_SECONDS))
