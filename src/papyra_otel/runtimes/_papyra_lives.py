"""What is kept about papyra's systems and its running actors: plain records, and how to read them."""

from __future__ import annotations

import weakref
from time import perf_counter
from typing import Any, TypeVar

import anyio

from papyra_otel.recorder import Actor, qualified_name
from papyra_otel.runtimes.tracing import Context, Handling

__all__ = [
    "UNKNOWN",
    "Failure",
    "Life",
    "Names",
    "Nested",
    "Put",
    "Restart",
    "Start",
    "SystemState",
    "actor_of",
    "innermost",
    "remove",
    "running",
    "task_id",
]

UNKNOWN = "unknown"


class Names:
    """What of papyra the meaning of a message hangs on: imported once, by the adapter."""

    def __init__(self) -> None:
        from papyra._envelope import STOP, ActorTerminated  # noqa: PLC0415
        from papyra.exceptions import AskTimeout, MailboxClosed  # noqa: PLC0415
        from papyra.messages import ProxyCall, ProxyGetAttr, ProxySetAttr  # noqa: PLC0415
        from papyra.ref import ActorRef  # noqa: PLC0415
        from papyra.supervisor import SupervisorDecision  # noqa: PLC0415

        self.stop: Any = STOP
        self.ask_timeout: Any = AskTimeout
        self.mailbox_closed: Any = MailboxClosed
        self.decision: Any = SupervisorDecision
        self.proxy_code: Any = getattr(vars(ActorRef).get("proxy"), "__code__", None)
        self.kinds: dict[type, str] = dict.fromkeys((ProxyCall, ProxyGetAttr, ProxySetAttr), "proxy")
        self.kinds[ActorTerminated] = "system"


class SystemState:
    """One actor system, known weakly.

    *left_over*: how many messages of which mailbox were told of. *early*: why actors were stopped that
    have not begun yet.
    """

    __slots__ = ("announced", "early", "id", "left_over", "ref")

    def __init__(self, id_: str, ref: weakref.ref[Any]) -> None:
        self.id = id_
        self.ref = ref
        self.announced = False
        self.early: dict[int, str] = {}
        self.left_over: dict[int, int] = {}


class Nested:
    """Something papyra is doing to an actor, in this task."""

    __slots__ = ("task",)

    def __init__(self) -> None:
        self.task = task_id()


class Start(Nested):
    """A call of ``on_start``: the first, or of a restart."""

    __slots__ = ("failed", "first")

    def __init__(self, *, first: bool) -> None:
        super().__init__()
        self.first = first
        self.failed = False


class Restart(Nested):
    """A restart: refused, or with the start of the new incarnation."""

    __slots__ = ("incarnation", "outcome", "refused", "start")

    def __init__(self) -> None:
        super().__init__()
        self.refused = False
        self.start: Start | None = None
        self.incarnation = 0
        self.outcome: str | None = None


class Failure(Nested):
    """A failure under decision. *error* is the object papyra hands on, to ancestors too."""

    __slots__ = ("directive", "error", "escalated", "restart", "source", "stop_reason")

    def __init__(self, error: BaseException, directive: str, stop_reason: str) -> None:
        super().__init__()
        self.error = error
        self.directive = directive
        self.source = "policy"
        self.stop_reason = stop_reason
        self.restart: Restart | None = None
        self.escalated = False


Put = tuple[float, Context | None]
"""When a message was put, and in which trace."""


class Life:
    """One actor from the first step of its task to the last, restarts included."""

    __slots__ = (
        "_actor",
        "_cls",
        "active_since",
        "answered",
        "asked",
        "began",
        "detached",
        "failures",
        "handling",
        "incarnation",
        "put_at",
        "raised",
        "ready",
        "reason",
        "relied_upon",
        "restarts",
        "rt",
        "sender",
        "start_failed",
        "started",
        "starts",
        "system",
        "task",
        "wait",
    )

    def __init__(self, system: SystemState, rt: Any) -> None:
        self.system = system
        self.rt = rt
        self.task = task_id()
        self.began = perf_counter()
        self.incarnation = 0
        self.started = self.ready = self.start_failed = False
        self.reason: str | None = None
        self.relied_upon = False
        self.failures: list[Failure] = []
        self.restarts: list[Restart] = []
        self.starts: list[Start] = []
        self.raised: BaseException | None = None
        self.asked = False
        self.answered: tuple[str, Any] | None = None  # kind and answer, until the next message is asked for
        self.wait: float | None = None
        self.put_at: dict[int, Put] = {}
        self.sender: Context | None = None  # of the message in hand
        self.handling: Handling | None = None
        self.active_since: float | None = None
        self.detached = False  # from the context of whoever spawned it
        self._cls: type | None = None
        self._actor: Actor | None = None

    def actor(self) -> Actor:
        """Return who this is now: a factory may make another type at a restart."""
        if self._actor is None or type(self.rt.actor) is not self._cls:
            self._cls = type(self.rt.actor)
            self._actor = actor_of(self.system.id, self.rt)
        return self._actor

    @property
    def ending(self) -> bool:
        """The loop will not take another message."""
        return bool(self.rt.stopping or not self.rt.alive)


NESTED = TypeVar("NESTED", bound=Nested)


def task_id() -> int:
    return anyio.get_current_task().id


def innermost(stack: list[NESTED]) -> NESTED | None:
    if not stack:
        return None
    task = task_id()
    return next((nested for nested in reversed(stack) if nested.task == task), None)


def remove(stack: list[NESTED], nested: NESTED) -> None:
    stack[:] = [other for other in stack if other is not nested]


def actor_of(system: str, rt: Any) -> Actor:
    actor: object = rt.actor
    return Actor(
        system=system,
        type=qualified_name(type(actor)),
        address=str(rt.address),
        name=rt.name,
        parent=None if rt.parent is None else str(rt.parent.address),
    )


def running(rt: Any) -> bool:
    return bool(rt.alive and not rt.stopping)
