"""What the pykka adapter knows of one actor, and of the envelopes that go to it."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, MutableMapping
from threading import get_ident
from typing import Any, Final

from papyra_otel.pipeline.guard import Guard
from papyra_otel.recorder import Actor, qualified_name
from papyra_otel.runtimes.adapter import Ability
from papyra_otel.runtimes.tracing import Handling, sender_context

__all__ = [
    "ACTOR_REFS",
    "NEEDS",
    "NOTES",
    "STOP_ALL",
    "Asked",
    "Never",
    "State",
    "envelope_in_hand",
    "is_second",
    "is_unsent",
    "stamped_envelope",
    "stop_reason",
    "type_name",
    "waited_seconds",
]

NEEDS: Final[dict[Ability, frozenset[str]]] = {
    Ability.LIFECYCLE: frozenset(
        {
            "Actor._actor_loop",
            "Actor._actor_loop_setup",
            "Actor._actor_loop_teardown",
            "Actor._handle_failure",
            "Actor._handle_receive",
            "Actor._stop",
            "ActorRegistry.stop_all",
            "pykka.messages._ActorStop",
            "pykka._ref.Envelope",
        }
    ),
    Ability.CRASHED: frozenset({"Actor._handle_failure", "Actor._handle_receive", "Actor._stop"}),
    Ability.PROCESSED: frozenset({"Actor._handle_receive", "pykka.messages._ActorStop"}),
    Ability.DEAD_TARGET: frozenset({"ActorRef.tell", "ActorRef.ask", "pykka._ref.Envelope"}),
    Ability.UNDRAINED: frozenset({"Actor._actor_loop_setup", "Actor._actor_loop_teardown"}),
    Ability.UNHANDLED: frozenset({"Actor.on_receive"}),
    Ability.AUDIT: frozenset({"ActorRegistry._actor_refs"}),
    Ability.DEAD_NAMES: frozenset({"ActorRegistry._actor_refs"}),
    Ability.MAILBOX_DEPTH: frozenset({"ActorRegistry._actor_refs"}),
    Ability.ASK_TIMED_OUT: frozenset({"ActorRef.ask", "ThreadingFuture.get", "pykka._ref.Envelope"}),
    Ability.LATE_REPLY: frozenset(
        {"Actor._handle_receive", "ActorRef.ask", "ThreadingFuture.get", "pykka._ref.Envelope"}
    ),
    Ability.NO_SUBSCRIBER: frozenset({"ActorRegistry.broadcast", "ActorRef.tell", "pykka._ref.Envelope"}),
    Ability.ACTIVE_AGE: frozenset({"Actor._handle_receive"}),
    Ability.TRACE_CONTEXT: frozenset({"Actor._handle_receive", "pykka._ref.Envelope"}),
}
NOTES: Final[dict[Ability, str]] = {
    Ability.SYSTEM: "pykka has no actor system: its registry is the process's",
    Ability.RESTARTED: "pykka never restarts an actor",
    Ability.DECIDED: "pykka's one policy is fixed: a failed tell stops the actor, told as its stop reason",
    Ability.STOPPING: "an actor of pykka's is alive until its loop has ended",
    Ability.RESTARTING: "pykka never restarts an actor",
    Ability.ORPHANS: "pykka's registry holds the actors' references themselves",
    Ability.LETTERS_KEPT: "pykka keeps none; papyra.dead_letter.messages counts them",
    Ability.CRASHED: "a failed ask goes to its caller and is told as a processed message with an error",
    Ability.UNDRAINED: "only from an inbox whose get can be replaced on the instance, as pykka's own can",
    Ability.UNHANDLED: "where the handler calls super().on_receive or there is none; also told as processed",
    Ability.GIVEN_UP: "pykka gives each message to its actor once",
    Ability.LATE_REPLY: "to an asker that waited in ask(); a future may be asked again at any time",
    Ability.BLOCKED_SENDERS: "pykka's own mailboxes have no limit",
    Ability.MAILBOX_DEPTH: "of inboxes that have qsize(), as pykka's own have",
}


class State:
    """What is known of one actor while its loop runs. Written by the actor's thread only."""

    __slots__ = (
        "active_since",
        "actor",
        "born_seconds",
        "draining",
        "entered",
        "envelope",
        "handling",
        "message_kind",
        "reason",
        "started",
        "starting",
        "stopped",
        "stopping",
        "taken_seconds",
        "told",
        "unhook",
        "watch",
    )

    def __init__(self, actor: Actor, watch: weakref.ref[Any]) -> None:
        self.actor = actor
        self.watch = watch
        self.envelope: Any = None  # the last one taken from the inbox
        self.message_kind = "unknown"  # of the message in hand, as are the next two
        self.taken_seconds = 0.0
        self.entered: Handling | None = None
        self.active_since: float | None = None  # when the handler that runs now was called
        self.handling: Handling | None = None  # of a failed tell: its context stays attached
        self.unhook: Callable[[], None] | None = None
        self.born_seconds: float | None = None
        self.reason = "unknown"
        self.starting = False  # on_start runs
        self.started = False  # ``started`` was recorded
        self.stopping = False  # on_stop runs
        self.stopped = False  # ``stopped`` was recorded
        self.draining = False  # pykka empties the inbox
        self.told: BaseException | None = None  # the last crash recorded that was no Exception

    @property
    def phase(self) -> str:
        if self.starting:
            return "start"
        return "stop" if self.stopping or self.stopped else "receive"


class Asked:
    """Who was asked, and what kind of thing. Neither the message nor the reference: both would be kept alive."""

    __slots__ = ("actor_class", "actor_urn", "message_type")

    def __init__(self, ref: Any, message_type: str) -> None:
        self.actor_class = ref.actor_class
        self.actor_urn = ref.actor_urn
        self.message_type = message_type


def stamped_envelope(
    base: Any,
    *,
    asking: dict[int, Any],
    asked: MutableMapping[Any, Asked],
    shutting: set[int],
    clock: Callable[[], float],
    guard: Guard,
) -> Any:
    """Return a subclass of pykka's envelope *base* that notes when, by which thread and in which trace it was made.

    Of an ask that is waited for in ``ask`` it is also where asker and actor meet: see ``is_second``.
    """
    base_init = base.__init__

    class Envelope(base):  # type: ignore[misc]
        __slots__ = ("answer", "context", "met", "reported", "sender", "sent_seconds", "target")

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            base_init(self, *args, **kwargs)
            try:
                thread = get_ident()
                unsent: Any = asking.get(thread)
                if is_unsent(unsent) and self.reply_to is not None:
                    ref, awaited = unsent
                    if awaited:
                        met: list[str] = []
                        self.target, self.met = ref, met
                    else:
                        asked[self.reply_to] = Asked(ref, type_name(self.message))
                    asking[thread] = self
                self.context = sender_context()
                self.sender = STOP_ALL if thread in shutting else thread
                self.sent_seconds = clock()
            except Exception:
                guard.failed("pykka.envelope")

    Envelope.__module__ = base.__module__
    Envelope.__qualname__ = base.__qualname__
    Envelope.__doc__ = base.__doc__
    return Envelope


def is_unsent(asking: Any) -> bool:
    """Say whether what is kept of an ask is not yet its envelope."""
    return type(asking) is tuple


def is_second(met: list[str], party: str) -> bool:
    """Note that the asker gave up, or that the actor answered; say whether the other had, before.

    Of two threads that come at the same time exactly one is the second: the list decides.
    """
    met.append(party)
    return len(met) > 1 and met[1] == party


class Never:
    """Stands where pykka lacks a class: nothing is an instance of it."""


ACTOR_REFS = "_actor_refs"
STOP_ALL = -1  # as sender of an envelope: no thread has this identity
_LOOP_FRAMES_MAX = 6


def type_name(thing: object) -> str:
    return qualified_name(type(thing))


def stop_reason(envelope: Any) -> str:
    sender = getattr(envelope, "sender", None)
    if sender is None:
        return "unknown"
    if sender == STOP_ALL:
        return "system_shutdown"
    return "self" if sender == get_ident() else "requested"


def waited_seconds(envelope: Any, begin_seconds: float) -> float | None:
    sent_seconds = getattr(envelope, "sent_seconds", None)
    return None if sent_seconds is None else begin_seconds - sent_seconds


def envelope_in_hand(message: Any) -> Any:
    """Return the envelope of *message* from the frame of pykka's loop, or None. Slow: for inboxes without hook."""
    frame = sys._getframe(1)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    for _ in range(_LOOP_FRAMES_MAX):
        if frame.f_back is None:
            return None
        frame = frame.f_back
        if frame.f_code.co_name == "_actor_loop_running":
            envelope = frame.f_locals.get("envelope")
            return envelope if getattr(envelope, "message", None) is message else None
    return None
