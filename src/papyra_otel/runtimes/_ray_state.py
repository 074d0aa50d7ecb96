"""What the ray adapter needs, what it cannot tell and why, and the values its parts exchange."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from papyra_otel.runtimes.adapter import Ability

__all__ = ["KIND", "NEEDS", "NOTES", "ActorSeen", "Death", "LostTask", "is_told", "type_name"]

KIND: Final = "task"

_EXECUTOR = "FunctionActorManager._make_actor_method_executor"
_CONNECT = "worker.connect"
_DISCONNECT = "worker.disconnect"
_GET = "Worker.get_objects"
_ACTORS = "ActorInfoGcsServiceStub.GetAllActorInfo"
_TASKS = "TaskInfoGcsServiceStub.GetTaskEvents"

NEEDS: Final[Mapping[Ability, frozenset[str]]] = {
    Ability.SYSTEM: frozenset({_CONNECT, _DISCONNECT}),
    Ability.LIFECYCLE: frozenset({_CONNECT, _DISCONNECT, _EXECUTOR, _ACTORS}),
    Ability.CRASHED: frozenset({_CONNECT, _EXECUTOR}),
    Ability.RESTARTED: frozenset({_CONNECT, _EXECUTOR, _ACTORS}),
    Ability.DECIDED: frozenset({_CONNECT, _ACTORS}),
    Ability.PROCESSED: frozenset({_CONNECT, _EXECUTOR}),
    Ability.DEAD_TARGET: frozenset({_CONNECT, _ACTORS, _TASKS}),
    Ability.UNDRAINED: frozenset({_CONNECT, _ACTORS, _TASKS}),
    Ability.AUDIT: frozenset({_CONNECT, _ACTORS}),
    Ability.RESTARTING: frozenset({_CONNECT, _ACTORS}),
    Ability.LETTERS_KEPT: frozenset({_CONNECT, _ACTORS}),
    Ability.ASK_TIMED_OUT: frozenset({_CONNECT, _GET}),
    Ability.ACTIVE_AGE: frozenset({_CONNECT, _EXECUTOR}),
}

NOTES: Final[Mapping[Ability, str]] = {
    Ability.STOPPING: "ray's cluster knows actors that are alive and actors that are dead",
    Ability.ORPHANS: "ray takes the name away from an actor that is gone",
    Ability.DEAD_NAMES: "ray takes the name away from an actor that died for good",
    Ability.UNHANDLED: "ray refuses a method that an actor has not where it is called",
    Ability.GIVEN_UP: "what ray gave up to retry ends as a dead letter of a dead or unavailable actor",
    Ability.LATE_REPLY: "a result can be fetched again for as long as anybody refers to it",
    Ability.NO_SUBSCRIBER: "each call has its actor",
    Ability.BLOCKED_SENDERS: "ray refuses calls beyond max_pending_calls, it does not let callers wait",
    Ability.MAILBOX_DEPTH: "what waits for an actor waits in each of its callers, and ray does not tell how much",
    Ability.TRACE_CONTEXT: "calls have no room for it; where ray's own tracing is on, facts have its trace",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """Why an actor is dead, as ray tells it. *cause* is the name of the case, *error* what callers are told."""

    cause: str
    text: str
    error: Exception | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorSeen:
    """One actor as the cluster knows it. Times in ms since the epoch, 0 for never; *max_restarts* -1: no limit."""

    id: str
    type: str
    name: str | None
    state: str
    restarts: int
    max_restarts: int
    detached: bool
    start_ms: int
    end_ms: int
    death: Death | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LostTask:
    """A call of an actor's method that failed because the actor was dead or could not be reached.

    *sent*: it had left its caller. *attempt* counts from 0.
    """

    id: str
    attempt: int
    actor: str
    method: str
    error: str
    sent: bool


def is_told(method: str) -> bool:
    """Say whether calls of *method* are the program's: ``__init__``, and all without a leading underscore."""
    return method == "__init__" or not method.startswith("_")


def type_name(module: str, name: str) -> str:
    """Return what actors of the class *name* in *module* are called; ``__main__`` has the name of its file in ray.

    What the class is nested in is left out: a worker that got it by value does not know.
    """
    simple = name.rpartition(".")[2]
    return f"{module}.{simple}" if module and module != "__main__" else simple
