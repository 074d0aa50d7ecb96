"""What the tests of the dramatiq adapter share: a tape of facts, what should be on it, and workers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dramatiq
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import (
    AgeLimit,
    Callbacks,
    CurrentMessage,
    Pipelines,
    Retries,
    ShutdownNotifications,
    TimeLimit,
    TimeLimitExceeded,
    raise_thread_exception,
)

from papyra_otel import semconv as s

WAIT_SECONDS = 20
FAST = {"min_backoff": 1, "max_backoff": 1}


class Tape:
    """A capturing emitter, and questions about what it captured."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.facts: list[dict[str, Any]] = []

    def emit(self, **fact: Any) -> None:
        with self._lock:
            self.facts.append(fact)

    def of(self, event: str, address: str | None = None) -> list[dict[str, Any]]:
        with self._lock:
            return [
                fact["attributes"]
                for fact in self.facts
                if fact["event_name"] == event
                and (address is None or fact["attributes"].get(s.ACTOR_ADDRESS) == address)
            ]

    def one(self, event: str, address: str | None = None) -> dict[str, Any]:
        (found,) = self.of(event, address)
        return found

    def story(self, address: str) -> list[tuple[str, ...]]:
        """Return what is recorded of one actor, in order, each fact as its name and what matters most in it."""
        with self._lock:
            return [
                (fact["event_name"].removeprefix("papyra."), *_gist(fact["attributes"]))
                for fact in self.facts
                if fact["attributes"].get(s.ACTOR_ADDRESS) == address
            ]


def _gist(attributes: dict[str, Any]) -> list[str]:
    names = (
        s.ERROR_TYPE,
        s.SUPERVISION_DIRECTIVE,
        s.SUPERVISION_SOURCE,
        s.SUPERVISION_OUTCOME,
        s.RESTART_COUNT,
        s.DEAD_LETTER_REASON,
        s.MAILBOX_NAME,
    )
    return [str(attributes[name]) for name in names if name in attributes]


# --- what should be recorded --------------------------------------------------------------------------


def declared(queue: str = "default") -> list[tuple[str, ...]]:
    return [("actor.declared", queue)]


def handled() -> list[tuple[str, ...]]:
    return [("message.processed",)]


def raised(error: str, decision: str, *, crash: bool = True) -> list[tuple[str, ...]]:
    """Return what one failed delivery leaves; *decision* is directive, source, outcome and perhaps retries so far."""
    crashed = [("actor.exception", error)] if crash else []
    return [("message.processed", error), *crashed, ("supervision.decided", *decision.split())]


def dead(reason: str) -> list[tuple[str, ...]]:
    return [("dead_letter.captured", reason)]


# --- brokers and workers --------------------------------------------------------------------------------


def stock_middleware() -> list[Any]:
    """Return dramatiq's default middleware without Prometheus, which 1.17 had among it."""
    return [
        AgeLimit(),
        TimeLimit(),
        ShutdownNotifications(),
        Callbacks(),
        Pipelines(),
        Retries(),
        CurrentMessage(),
    ]


def new_broker(*more: Any, without: type | None = None) -> Any:
    middleware = [each for each in stock_middleware() if without is None or not isinstance(each, without)]
    return StubBroker(middleware=[*middleware, *more])


@contextmanager
def minding(limit: TimeLimit) -> Iterator[None]:
    """Do what the thread of *limit* does, which nothing would ever end."""
    done = threading.Event()

    def mind() -> None:
        while not done.wait(0.01):
            for thread, deadline in list(limit.manager.deadlines.items()):
                if deadline is not None and time.monotonic() >= deadline:
                    limit.manager.deadlines[thread] = None
                    raise_thread_exception(thread, TimeLimitExceeded)

    thread = threading.Thread(target=mind)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(WAIT_SECONDS)


@contextmanager
def working(broker: Any, *, threads: int = 1) -> Iterator[Any]:
    """Run a worker; when the block ends every message is settled, and then the worker stopped."""
    worker = dramatiq.Worker(broker, worker_timeout=10, worker_threads=threads)
    worker.start()
    try:
        yield worker
        drain(broker, worker)
    finally:
        worker.stop()


def drain(broker: Any, worker: Any) -> None:
    """Return when no message of any queue is waiting or under way."""
    patience: dict[str, Any] = {"timeout": WAIT_SECONDS * 1000}
    patience |= {"fail_fast": False} if isinstance(broker, StubBroker) else {"interval": 10}
    for queue in list(broker.get_declared_queues()):
        if not queue.endswith(".DQ"):
            broker.join(queue, **patience)
    worker.join()
