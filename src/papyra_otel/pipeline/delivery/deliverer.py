"""Delivering for as long as it is wanted: the lease, looking for what is new, not too fast, and a bounded end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from papyra_otel.errors import LogBusy, LogError
from papyra_otel.facts import Fact
from papyra_otel.log.outlet import Backlog, Item, Outlet
from papyra_otel.pipeline.counters import Counters
from papyra_otel.pipeline.delivery.shipper import REMIND_SECONDS, Client, Shipper

__all__ = ["LEASE_SECONDS", "POLL_SECONDS", "Deliverer", "Pace"]

POLL_SECONDS = 0.5
LEASE_SECONDS = 2.0  # how often it is asked whether the one that delivers is gone
LOOK_SECONDS = 10.0  # how often the backlog is counted
AWAY_SECONDS = 5.0
_COST = 20  # looking takes at most one part in so many of the time
_LAST_REQUEST_SECONDS = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast to deliver: at most *share* of one core's time, at most *rate* facts per second. None: no limit."""

    share: float | None = None
    rate: float | None = None


class Deliverer:
    """Delivers from *outlet* to *client*. ``run`` is for one thread; ``end`` and ``backlog`` for any.

    *told* gets what an operator has to know. *wait* waits so many seconds or until ``end``, and says whether it is the
    end; it is for tests, as *ticks* and *cpu* (seconds of clocks that never step) are.
    """

    def __init__(
        self,
        outlet: Outlet,
        client: Client,
        encode: Callable[[Sequence[Item]], bytes],
        counters: Counters,
        *,
        receiver: str,
        timeout_seconds: float,
        wanted: Callable[[Fact], bool],
        told: Callable[[str], None],
        pace: Pace | None = None,
        ticks: Callable[[], float] = time.monotonic,
        cpu: Callable[[], float] = time.thread_time,
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        self._outlet = outlet
        self._timeout_seconds = timeout_seconds
        self._told = told
        self._pace = pace or Pace()
        self._ticks = ticks
        self._cpu = cpu
        self._ended = threading.Event()
        self._wait = wait or self._ended.wait
        self._until: float | None = None
        self._look_at = 0.0
        self._lost_log = 0.0
        self._holds = False
        self._backlog: Backlog | None = None
        self.shipper: Shipper = Shipper(
            outlet,
            client,
            encode,
            counters,
            receiver=receiver,
            wanted=wanted,
            told=told,
            pause=self._pause,
            timeout_seconds=self._next_timeout_seconds,
            ticks=ticks,
        )

    def run(self, *, follow: bool) -> bool:
        """Deliver what there is and, if *follow*, what comes until ``end``. Say whether nothing was left.

        When *follow*, what keeps the log from being read is told and tried again, and while another process delivers
        this one waits for its turn. Otherwise raises LogUnavailable and LogBusy; in any case ConfigError.
        """
        while True:
            ending = self._ended.is_set()
            try:
                return self._deliver(follow=follow)
            except LogError as error:
                if not follow:
                    raise
                if not isinstance(error, LogBusy):
                    self._tell_away(error)
                if ending:  # tried once more: who delivered until now may have ended just before us
                    return False
                self._wait(LEASE_SECONDS if isinstance(error, LogBusy) else AWAY_SECONDS)

    def end(self, within_seconds: float) -> None:
        """Have ``run`` return soon: it delivers what is left if that takes no longer, and nothing goes wrong."""
        self._until = self._ticks() + within_seconds
        self._ended.set()

    def backlog(self) -> Backlog | None:
        """Return what was not delivered when that was last counted; None unless this process delivers."""
        return self._backlog if self._holds else None

    def abandon(self) -> None:
        """Give up what a forked child inherited. Never raises."""
        self._outlet.abandon()

    # --- inside ---------------------------------------------------------------------------------------

    def _deliver(self, *, follow: bool) -> bool:
        self._outlet.acquire()
        self._holds = True
        try:
            while self._until is None or self._ticks() < self._until:
                begun, spent = self._ticks(), self._cpu()
                passed = self.shipper.step()
                if passed is None:
                    return False
                if passed:
                    self._keep_pace(passed, self._ticks() - begun, self._cpu() - spent)
                    continue
                self._backlog = Backlog(records=0, oldest_unix_nano=None)
                if self._ended.is_set() or not follow:
                    return True
                self._wait(max(POLL_SECONDS, _COST * (self._ticks() - begun)))
            return False
        finally:
            self._holds = False
            self._outlet.release()

    def _keep_pace(self, passed: int, seconds: float, cpu_seconds: float) -> None:
        """Leave the rest of the time to others. Not at the end: then it is now or later."""
        pauses = [0.0]
        if self._pace.share is not None:
            pauses.append(cpu_seconds * (1 / self._pace.share - 1))
        if self._pace.rate is not None:
            pauses.append(passed / self._pace.rate - seconds)
        if max(pauses) > 0 and not self._ended.is_set():
            self._look()
            self._wait(max(pauses))

    def _pause(self, seconds: float) -> bool:
        """Wait before a request is made again; False at the end: what did not work then is for the next start."""
        if self._ended.is_set():
            return False
        self._outlet.rest()
        self._look()
        return not self._wait(seconds)

    def _next_timeout_seconds(self) -> float:
        if self._until is None:
            return self._timeout_seconds
        return max(min(self._timeout_seconds, self._until - self._ticks()), _LAST_REQUEST_SECONDS)

    def _look(self) -> None:
        """Count what is left, now and then."""
        begun = self._ticks()
        if begun < self._look_at:
            return
        try:
            self._backlog = self._outlet.backlog()
        except LogError:  # it is told where facts are read
            self._backlog = None
        now = self._ticks()
        self._look_at = now + max(LOOK_SECONDS, _COST * (now - begun))

    def _tell_away(self, error: LogError) -> None:
        now = self._ticks()
        if now >= self._lost_log:
            self._lost_log = now + REMIND_SECONDS
            what = str(error).rstrip(".")
            self._told(f"{what}. Facts are not delivered until that is put right.")
