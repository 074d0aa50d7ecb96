"""Which of papyra's names the adapter needs, most of them private, and which of those this papyra lacks."""

from __future__ import annotations

import inspect
from typing import Any, Final

from papyra_otel.runtimes.adapter import Ability

__all__ = ["NEEDS", "NOTES", "gone_beside"]

NOTES: Final[dict[Ability, str]] = {
    Ability.UNHANDLED: "papyra hands every message to receive(); one it does not know is a crash there",
    Ability.NO_SUBSCRIBER: "each message has its actor: papyra has no topics",
    Ability.GIVEN_UP: "papyra gives each message to its actor once",
}
_FIELDS = ("alive", "stopping", "restarting", "actor", "address", "mailbox", "name", "parent", "rid")
_ATTRIBUTES = ("_actors", "_by_id", "_closed", "_registry", "_tg")
_RUNTIME = tuple(f"_ActorRuntime.{name}" for name in _FIELDS)
_BUFFER = ("Mailbox._recv", "MemoryObjectReceiveStream._state.buffer")
_SYSTEM = ("ActorSystem._actors", "ActorSystem._by_id", "ActorSystem._closed")
_STARTING = ("ActorSystem._run_actor", "ActorSystem._safe_on_start", *_RUNTIME, *_SYSTEM)
_FAILING = (
    *_STARTING,
    "ActorSystem._handle_failure",
    "ActorSystem._handle_actor_message",
    "_ActorRuntime.policy",
    "_ActorRuntime.children",
)
_RESTARTING = (
    *_FAILING,
    "ActorSystem._restart_actor",
    "ActorSystem._check_restart_limits",
    "_ActorRuntime.restart_timestamps",
)
_AUDIT = ("ActorSystem.audit", "ActorSystem._registry", *_RUNTIME, *_SYSTEM)
NEEDS: Final[dict[Ability, tuple[str, ...]]] = {
    Ability.SYSTEM: ("ActorSystem.start", "ActorSystem.aclose", "ActorSystem._tg", "ActorSystem._closed"),
    Ability.LIFECYCLE: (*_FAILING, "ActorSystem._stop_runtime"),
    Ability.CRASHED: _FAILING,
    Ability.RESTARTED: _RESTARTING,
    Ability.DECIDED: (*_RESTARTING, "ActorSystem._apply_supervisor_decision"),
    Ability.PROCESSED: (
        "ActorSystem._run_actor",
        "ActorSystem._handle_actor_message",
        "Mailbox.get",
        *_RUNTIME,
    ),
    Ability.DEAD_TARGET: ("DeadLetterMailbox.push", *_RUNTIME, *_SYSTEM),
    Ability.UNDRAINED: ("ActorSystem._run_actor", *_BUFFER, *_RUNTIME, *_SYSTEM),
    Ability.LATE_REPLY: (*_FAILING, "Mailbox.get"),
    Ability.AUDIT: _AUDIT,
    Ability.STOPPING: _AUDIT,
    Ability.RESTARTING: _AUDIT,
    Ability.ORPHANS: _AUDIT,
    Ability.DEAD_NAMES: _AUDIT,
    Ability.LETTERS_KEPT: _AUDIT,
    Ability.MAILBOX_DEPTH: ("Mailbox._recv", *_RUNTIME, *_SYSTEM),
    Ability.BLOCKED_SENDERS: ("Mailbox._recv", *_RUNTIME, *_SYSTEM),
    Ability.ASK_TIMED_OUT: ("ActorRef.ask", *_RUNTIME, *_SYSTEM),
    Ability.ACTIVE_AGE: ("ActorSystem._run_actor", "ActorSystem._handle_actor_message", *_RUNTIME, *_SYSTEM),
    Ability.TRACE_CONTEXT: (
        "ActorSystem._run_actor",
        "ActorSystem._handle_actor_message",
        "Mailbox.get",
        "Mailbox.put",
    ),
}


def gone_beside(system: Any, mailbox: Any) -> list[str]:
    """Return which names this papyra lacks that are not patched but read."""
    import anyio  # noqa: PLC0415

    send, receive = anyio.create_memory_object_stream[Any](1)
    send.close()
    receive.close()
    runtime = getattr(getattr(system, "_ActorRuntime", None), "__dataclass_fields__", {})
    code = getattr(inspect.unwrap(system.ActorSystem.__init__), "__code__", None)
    attributes: tuple[str, ...] = () if code is None else code.co_names
    readable = "system_id" in attributes  # else somebody stands in front of it, and nothing can be told
    return [
        *(
            f"_ActorRuntime.{n}"
            for n in (*_FIELDS, "policy", "children", "restart_timestamps")
            if n not in runtime
        ),
        *(f"ActorSystem.{n}" for n in _ATTRIBUTES if readable and n not in attributes),
        *(["Mailbox._recv"] if "_recv" not in getattr(mailbox.Mailbox, "__dataclass_fields__", {}) else []),
        *([] if hasattr(getattr(receive, "_state", None), "buffer") else [_BUFFER[1]]),
    ]
