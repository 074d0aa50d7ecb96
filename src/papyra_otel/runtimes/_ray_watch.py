"""The one watcher of a job: a thread of its driver that looks at the cluster every half second."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

from papyra_otel.pipeline.guard import Guard
from papyra_otel.recorder import Actor, AuditSnapshot
from papyra_otel.runtimes._ray_gcs import Cluster
from papyra_otel.runtimes._ray_history import History

__all__ = ["Watch"]

LOOK_SECONDS = 0.5
LOSSES_SECONDS = 2.0  # ray's processes report their calls once a second
REST_FACTOR = 20  # looking takes at most 1/20 of one core, however many actors there are
END_SECONDS = 4.0  # at most so long the end of a job waits for the last look
_UNREPORTED_SECONDS = 1.5


class Watch:
    """Looks until ended. ``end`` may be called from any thread, the rest of the work is done in the watch's own."""

    def __init__(
        self,
        cluster: Cluster,
        history: History,
        guard: Guard,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._history = history
        self._guard = guard
        self._clock = clock
        self._pid = os.getpid()
        self._ending = threading.Event()
        self._job_ends = False
        self._losses_due = 0.0
        self._thread = threading.Thread(target=self._run, name="papyra-otel-ray", daemon=True)

    def start(self) -> None:
        """Begin to look. Raises RuntimeError when there can be no more threads."""
        self._thread.start()

    def end(self, *, job_ends: bool) -> None:
        """Look a last time, and stop. With *job_ends* also wait for what ray reports late, and end the actors."""
        if self._pid != os.getpid():  # a forked child has no such thread, and no such job
            return
        self._job_ends = job_ends
        self._ending.set()
        self._thread.join(END_SECONDS)

    def who(self, actor_id: str) -> Actor | None:
        """Return the actor of this id, if a look has shown it."""
        return self._history.who(actor_id)

    def when_known(self, actor_id: str, tell: Callable[[Actor | None], None]) -> None:
        """Call *tell* with the actor of this id when a look has shown it, or with None: see ``History``."""
        if self._pid != os.getpid():  # nobody looks here
            tell(self.who(actor_id))
            return
        self._history.when_known(actor_id, tell)
        if not self._thread.is_alive():
            self._history.tell_waiting()

    def audit(self, unsupported: tuple[str, ...]) -> AuditSnapshot | None:
        """Return the state of the job as the last look showed it; None in a forked child."""
        return self._history.audit(unsupported) if self._pid == os.getpid() else None

    def _run(self) -> None:
        rest = LOOK_SECONDS
        while not self._ending.wait(rest):
            began = self._clock()
            self._look()
            if self._clock() >= self._losses_due:
                self._look_for_losses(last=False)
                self._losses_due = self._clock() + max(LOSSES_SECONDS, rest)
            rest = max(LOOK_SECONDS, REST_FACTOR * (self._clock() - began))
        with self._guard("ray.end"):
            self._finish()
        self._cluster.close()
        self._history.tell_waiting()

    def _finish(self) -> None:
        self._look()
        if self._history.may_have_losses():
            if self._job_ends:
                time.sleep(_UNREPORTED_SECONDS)
            self._look_for_losses(last=True)
        if self._job_ends:
            self._look()
            self._history.tell_waiting()
            self._history.end()

    def _look(self) -> None:
        try:
            self._history.look(self._cluster.actors())
            self._history.silence = ""
        except Exception as error:
            self._history.silence = type(error).__name__
            self._guard.failed("ray.look")

    def _look_for_losses(self, *, last: bool) -> None:
        if not self._history.may_have_losses():
            return
        with self._guard("ray.losses"):
            new, due = self._history.candidates(self._cluster.losses())
            for task in [*due, *new] if last else due:
                self._history.settle(task, self._cluster.last_attempt(task))
