"""The periodic audit: asks every installed adapter for its systems' state, from a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from papyra_otel.pipeline.guard import Guard
from papyra_otel.recorder import Recorder
from papyra_otel.runtimes.adapter import Adapter

__all__ = ["Auditor"]


class Auditor:
    """Audits every *interval_seconds* until stopped. Thread-safe; the thread is a daemon.

    *adapters* returns those installed now. ``audit`` does one round in the caller's thread; it never raises.
    """

    def __init__(
        self,
        recorder: Recorder,
        guard: Guard,
        adapters: Callable[[], Iterable[Adapter]],
        interval_seconds: float,
    ) -> None:
        self._recorder = recorder
        self._guard = guard
        self._adapters = adapters
        self._interval_seconds = interval_seconds
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, if not begun."""
        if self._thread is None and not self._stopped.is_set():
            try:
                self._thread = threading.Thread(target=self._run, name="papyra-otel-audit", daemon=True)
                self._thread.start()
            except RuntimeError:  # no more threads, or the interpreter is ending: nobody audits any more
                self._thread = None

    def after_fork_in_child(self) -> None:
        """Begin again: a forked child has none of its parent's threads."""
        if self._thread is not None and not self._stopped.is_set():
            self._stopped = threading.Event()
            self._thread = None
            self.start()

    def stop(self) -> None:
        """End; a round under way is waited for, but no longer than a second."""
        self._stopped.set()
        thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=1)

    def audit(self) -> None:
        """Record the state of every system now."""
        for adapter in self._adapters():
            with self._guard(f"{adapter.name}.audits"):
                for snapshot in adapter.audits():
                    with self._guard(f"{adapter.name}.audit"):
                        self._recorder.audit(snapshot)

    def _run(self) -> None:
        stopped = self._stopped
        while not stopped.wait(self._interval_seconds):
            self.audit()
