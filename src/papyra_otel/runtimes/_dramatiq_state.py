"""What the dramatiq adapter knows of one message while it is handled, and of the threads that handle them."""

from __future__ import annotations

import dataclasses
import os
import socket
import sys
import weakref
from collections.abc import Callable
from importlib import metadata
from types import CodeType
from typing import Any, Final, NamedTuple

from papyra_otel.recorder import Actor
from papyra_otel.runtimes.adapter import Ability

__all__ = [
    "EMITS",
    "KIND",
    "NEEDS",
    "NOTES",
    "PROCESS_MESSAGE",
    "SIGNALS",
    "Decision",
    "Handling",
    "Never",
    "Roster",
    "current_error",
    "decide",
    "installed_version",
    "plain_message",
    "raised_in",
    "retries_made",
    "retry_limit",
]

KIND: Final = "task"
SIGNALS: Final[dict[Ability, frozenset[str]]] = {
    Ability.SYSTEM: frozenset({"after_worker_boot", "after_worker_shutdown"}),
    Ability.LIFECYCLE: frozenset(
        {
            "after_consumer_thread_boot",
            "after_worker_thread_boot",
            "before_consumer_thread_shutdown",
            "before_worker_thread_shutdown",
        }
    ),
    Ability.CRASHED: frozenset({"before_process_message", "after_process_message"}),
    Ability.DECIDED: frozenset({"before_process_message", "after_enqueue", "after_process_message"}),
    Ability.PROCESSED: frozenset({"before_process_message", "after_process_message"}),
    Ability.DEAD_TARGET: frozenset({"after_nack"}),
    Ability.GIVEN_UP: frozenset(
        {
            "before_process_message",
            "after_ack",
            "after_enqueue",
            "after_nack",
            "after_process_message",
            "after_skip_message",
        }
    ),
    Ability.AUDIT: frozenset({"after_declare_actor"}),
    Ability.DEAD_NAMES: frozenset({"after_declare_actor"}),
    Ability.LETTERS_KEPT: frozenset({"after_declare_actor"}),
    Ability.MAILBOX_DEPTH: frozenset({"after_declare_actor"}),
    Ability.ACTIVE_AGE: frozenset({"before_process_message", "after_process_message"}),
    Ability.TRACE_CONTEXT: frozenset({"before_enqueue", "after_enqueue"}),
}
PROCESS_MESSAGE: Final = "WorkerThread.process_message"
EMITS: Final = frozenset({"Broker.emit_before", "Broker.emit_after"})
NEEDS: Final[dict[Ability, frozenset[str]]] = {
    ability: EMITS | {f"Middleware.{name}" for name in names} for ability, names in SIGNALS.items()
}
NEEDS[Ability.TRACE_CONTEXT] |= {PROCESS_MESSAGE}
NOTES: Final[dict[Ability, str]] = {
    Ability.SYSTEM: "a worker in this process; a process that only sends has none",
    Ability.LIFECYCLE: "of worker and consumer threads; an actor is a name, which is declared",
    Ability.CRASHED: "per message; Retry and RateLimitExceeded are how handlers ask to be called again",
    Ability.RESTARTED: "dramatiq retries messages, actors have nothing to restart",
    Ability.STOPPING: "a thread ends between two messages, and says so when it does",
    Ability.RESTARTING: "dramatiq retries messages, actors have nothing to restart",
    Ability.ORPHANS: "a declared name is its actor",
    Ability.DEAD_NAMES: "of threads that ended without a word",
    Ability.LETTERS_KEPT: "of Redis and stub brokers, which keep them in queues of their own",
    Ability.UNDRAINED: "what a worker has not handled goes back to the broker, which keeps it",
    Ability.UNHANDLED: "every message names its actor, which handles all of them",
    Ability.MAILBOX_DEPTH: "of Redis and stub brokers, by queue and in audits only: a queue is many actors' mailbox",
    Ability.LATE_REPLY: "nobody asks; results stay in their backend until they expire",
    Ability.NO_SUBSCRIBER: "a queue keeps its messages until somebody consumes it",
    Ability.BLOCKED_SENDERS: "brokers take what is sent to them",
    Ability.ASK_TIMED_OUT: "nobody asks; who waits for a result in vain gets ResultTimeout",
}


class Decision(NamedTuple):
    """What was done about a failed message: the directive, who gave it, and what came of it."""

    directive: str
    source: str
    outcome: str


class Handling:
    """What is known of one delivery, from before its handler runs until the broker is told how it ended.

    Kept by the identity of dramatiq's proxy, so it does not matter whether threads or greenlets handle messages.
    """

    __slots__ = (
        "active",
        "actor",
        "began_seconds",
        "dead_reason",
        "duration_seconds",
        "pid",
        "retries",
        "sent_again",
        "unsettled",
        "wait_seconds",
        "watch",
    )

    def __init__(
        self, actor: Actor, watch: weakref.ref[Any], *, began_seconds: float, wait_seconds: float | None
    ) -> None:
        self.actor = actor
        self.watch = watch
        self.pid = os.getpid()  # a forked child has a copy, and none of the threads
        self.active = True  # its handler has not returned yet
        self.began_seconds = began_seconds
        self.wait_seconds = wait_seconds
        self.duration_seconds = 0.0
        self.retries: object = 0  # how many the message said it had when its handler was done
        self.sent_again = False  # somebody put it into a queue again since
        self.dead_reason = "rejected"  # should it be rejected
        self.unsettled = False  # should it be acknowledged, then it is lost


def decide(handling: Handling, message: Any, error: BaseException, throws: Any) -> Decision:
    """Return what dramatiq's middleware decided about *message*, whose handler raised *error*.

    *throws* is what its actor may raise. Retries counts before it decides, and looks at *throws* before it counts.
    """
    counted = message.options.get("retries", 0) != handling.retries
    if message.failed:
        if counted:
            return Decision("give_up", "policy", "retries_exhausted")
        expected = bool(throws) and isinstance(error, throws)
        return Decision("reject", "policy" if expected else "runtime", "rejected")
    if handling.sent_again:
        return Decision("retry", "policy" if counted else "runtime", "retried")
    if counted:
        return Decision("retry", "policy", "retry_failed")
    return Decision("ignore", "runtime", "lost")


def retries_made(options: Any, decision: Decision) -> int | None:
    """Return how often the message was retried, this time included; it counts itself before it is decided."""
    retries = options.get("retries")
    if type(retries) is not int:
        return None
    return retries - 1 if decision.outcome in {"retries_exhausted", "retry_failed"} else retries


def retry_limit(options: Any, actor_options: Any, retries: Any) -> int | None:
    """Return how often a message may be retried, or None where a predicate decides, nothing limits it, or is known.

    *retries* is the broker's Retries middleware. A limit of 0 in a message counts in dramatiq 2 and does not in 1.
    """
    if retries is None or actor_options.get("retry_when", retries.retry_when) is not None:
        return None
    limit = options.get("max_retries", actor_options.get("max_retries", retries.max_retries))
    return limit if type(limit) is int and (limit > 0 or "max_retries" not in options) else None


def raised_in(error: BaseException | None, code: CodeType) -> bool:
    """Say whether *error* came out of the function with this *code*."""
    trace = None if error is None else error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code is code:
            return True
        trace = trace.tb_next
    return False


def plain_message(proxy: Any) -> Any:
    """Return the message that *proxy* stands for, without the traceback that retries put into it. Never raises."""
    message: Any = getattr(proxy, "_message", proxy)
    try:
        if "traceback" in message.options:
            options = {name: value for name, value in message.options.items() if name != "traceback"}
            return dataclasses.replace(message, options=options)
    except Exception:  # noqa: S110 - a message of somebody's own making: then it is shown as it is
        pass
    return message


class _Entry(NamedTuple):
    actor: Actor
    thread: weakref.ref[Any]
    began_seconds: float
    pid: int


class Roster:
    """The worker and consumer threads of this process, from their start until they say that they end."""

    def __init__(self, system: str, clock: Callable[[], float]) -> None:
        self._system = system
        self._clock = clock
        self._entries: dict[int, _Entry] = {}

    def begin(self, kind: str, thread: Any) -> Actor:
        """Take note of *thread* and return it as an actor."""
        pid = os.getpid()
        worker = f"{socket.gethostname()}/{pid}"
        actor = Actor(
            system=self._system,
            type=f"dramatiq.{kind}",
            address=f"{worker}/{thread.name}",
            name=getattr(thread, "queue_name", None),
            parent=worker,
        )
        self._entries[id(thread)] = _Entry(actor, weakref.ref(thread), self._clock(), pid)
        return actor

    def end(self, thread: Any) -> tuple[Actor, float] | None:
        """Return *thread* as an actor and how long it lived, in seconds; None when it is not known."""
        entry = self._entries.get(id(thread))
        if entry is None or entry.thread() is not thread:
            return None
        del self._entries[id(thread)]
        return entry.actor, self._clock() - entry.began_seconds

    def living_and_dead(self) -> tuple[list[str], list[str]]:
        """Return the addresses of the threads that run, and of those that ended without saying so."""
        living: list[str] = []
        dead: list[str] = []
        for entry in list(self._entries.values()):
            if entry.pid == os.getpid():
                thread = entry.thread()
                (living if thread is not None and thread.is_alive() else dead).append(entry.actor.address)
        return living, dead

    def clear(self) -> None:
        """Forget them all."""
        self._entries.clear()


def installed_version() -> str | None:
    """Return dramatiq's version, if it says."""
    try:
        return metadata.version("dramatiq")
    except metadata.PackageNotFoundError:
        return None


class Never:
    """Stands where dramatiq lacks a class: nothing is an instance of it."""


def current_error() -> BaseException | None:
    """Return the exception that is being handled by whoever calls."""
    return sys.exc_info()[1]
