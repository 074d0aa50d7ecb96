"""What keeps a storm of like events from the collector: live forwarding shows the first ones, then says how many more.

The log keeps every fact, and metrics count every one; nothing here concerns them. Like are events of one name, system
and actor type with the same error type or, where there is none, message type. Audits and processed messages always
pass: somebody set how often, or that, they are forwarded.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from papyra_otel import semconv
from papyra_otel.facts import Fact, FactKind
from papyra_otel.pipeline.counters import Counters

__all__ = ["EVENTS_MAX", "WINDOW_SECONDS", "Limiter"]

EVENTS_MAX = 10
WINDOW_SECONDS = 60.0
LIKES_MAX = 1000  # sorts of events told apart at a time; what comes beyond that is told apart by name only


class _Like(NamedTuple):
    system: str
    name: str
    actor_type: str | None
    attribute: str | None
    what: str | None


@dataclass(slots=True)
class _Window:
    """What came of one sort since *begun* (ticks)."""

    begun: float
    events: int = 0
    hidden: int = 0
    first_unix_nano: int = 0
    last_unix_nano: int = 0


class Limiter:
    """Lets the first *events_max* like events of a window pass, which begins with the first of them.

    Thread-safe; ``passes`` never waits for long. *hides* is called, perhaps on an actor's path, when something is
    hidden, so that ``summaries`` will be asked for. *ticks* are seconds of a clock that never steps.
    """

    def __init__(
        self,
        counters: Counters,
        hides: Callable[[], None],
        *,
        events_max: int = EVENTS_MAX,
        window_seconds: float = WINDOW_SECONDS,
        likes_max: int = LIKES_MAX,
        ticks: Callable[[], float] = time.monotonic,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._counters = counters
        self._hides = hides
        self._events_max = events_max
        self._window_seconds = window_seconds
        self._likes_max = likes_max
        self._ticks = ticks
        self._clock = clock
        self.reset()

    def reset(self) -> None:
        """Forget everything: what a forked child does. The parent tells what it hid."""
        self._lock = threading.Lock()
        self._windows: dict[_Like, _Window] = {}
        self._ended: list[Fact] = []
        self._look_at = 0.0

    def passes(self, fact: Fact) -> bool:
        """Say whether *fact* is to be forwarded in full; if not, it is counted and will be told in a summary."""
        if fact.kind is FactKind.AUDIT or fact.name == semconv.MESSAGE_PROCESSED:
            return True  # as frequent as a setting asks for
        attributes = fact.attributes
        like = _Like(fact.system, fact.name, _text(attributes.get(semconv.ACTOR_TYPE)), *_what(attributes))
        now = self._ticks()
        with self._lock:
            window = self._windows.get(like)
            if window is None and len(self._windows) >= self._likes_max and not self._made_room(now):
                like = _Like(fact.system, fact.name, semconv.OTHER, None, None)
                window = self._windows.get(like)
            if window is not None and now - window.begun >= self._window_seconds:
                self._end(like, window)
                window = None
            if window is None:
                if (
                    len(self._windows) >= 2 * self._likes_max
                ):  # systems or names without end, which nobody means
                    return self._hidden_unseen()
                window = self._windows[like] = _Window(now)
            window.events += 1
            if window.events <= self._events_max:
                return True
            window.hidden += 1
            window.first_unix_nano = window.first_unix_nano or fact.time_unix_nano
            window.last_unix_nano = fact.time_unix_nano
        self._counters.add(semconv.EVENT_SUPPRESSED, ("limit",))
        self._hides()
        return False

    def summaries(self, *, whole: bool = False) -> list[Fact]:
        """Return a ``papyra.event.suppressed`` event for each window that has ended, or for all that hid something.

        They have no identity: they tell about forwarding, and are not in the log.
        """
        now = self._ticks()
        with self._lock:
            self._end_old(now, whole=whole)
            ended, self._ended = self._ended, []
        return ended

    def _made_room(self, now: float) -> bool:
        """End windows that are over, but look seldom; say whether there is room for another sort."""
        if now < self._look_at:
            return False
        self._look_at = now + 1.0
        self._end_old(now, whole=False)
        return len(self._windows) < self._likes_max

    def _end_old(self, now: float, *, whole: bool) -> None:
        for like, window in list(self._windows.items()):
            if whole or now - window.begun >= self._window_seconds:
                self._end(like, window)

    def _end(self, like: _Like, window: _Window) -> None:
        del self._windows[like]
        if window.hidden:
            self._ended.append(self._summary(like, window))

    def _hidden_unseen(self) -> bool:
        self._counters.add(semconv.EVENT_SUPPRESSED, ("limit",))
        return False

    def _summary(self, like: _Like, window: _Window) -> Fact:
        attributes: dict[str, Any] = {
            semconv.SUPPRESSED_NAME: like.name,
            semconv.SUPPRESSED_COUNT: window.hidden,
            semconv.SUPPRESSED_DURATION: max(window.last_unix_nano - window.first_unix_nano, 0) / 1e9,
        }
        if like.actor_type is not None:
            attributes[semconv.ACTOR_TYPE] = like.actor_type
        if like.attribute is not None:
            attributes[like.attribute] = like.what
        return Fact(
            kind=FactKind.EVENT,
            name=semconv.EVENT_SUPPRESSED,
            time_unix_nano=self._clock(),
            system=like.system,
            severity="WARN",
            attributes=attributes,
        )


def _what(attributes: Any) -> tuple[str | None, str | None]:
    for name in (semconv.EXCEPTION_TYPE, semconv.ERROR_TYPE, semconv.MESSAGE_TYPE):
        found = attributes.get(name)
        if found is not None:
            return name, _text(found)
    return None, None


def _text(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else str(value)
