"""The verbs: what a runtime adapter, or a user's own code, says about its actors.

Each verb makes one fact and counts it. Verbs may raise (they call into the pipeline and read arbitrary
objects): whoever stands between them and an actor guards the call, see ``runtimes.guard``.
Thread-safe; every verb returns after the fact is durable or queued, and never waits for a network.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol, TypeAlias

from papyra_otel import semconv as s
from papyra_otel.config import Grouping, MessagePolicy, PayloadMode, SpanMode
from papyra_otel.payload import describe_exception, payload_text
from papyra_otel.pipeline.counters import Counters, Key, TypeCap

__all__ = ["Actor", "AuditSnapshot", "EventEmitter", "Recorder", "qualified_name"]


class EventEmitter(Protocol):
    """The part of the OTel Logs API's ``Logger`` that a recorder needs."""

    def emit(
        self,
        *,
        timestamp: int | None = None,
        severity_text: str | None = None,
        attributes: Mapping[str, Any] | None = None,
        event_name: str | None = None,
    ) -> None:
        """Record one event. *timestamp* in nanoseconds since the epoch."""


FactEmitter: TypeAlias = Callable[[str, int, str, str, str | None, dict[str, Any]], None]
"""``FactLogger.emit_fact``: an emitter that has it need not unpack what was packed for it, message after message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who a fact is about. *type* is the qualified class name or a declared name: bounded in number."""

    system: str
    type: str
    address: str
    name: str | None = None
    parent: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditSnapshot:
    """The state of one actor system at one moment. None means: this runtime cannot tell."""

    system: str
    actors_total: int | None = None
    actors_alive: int | None = None
    actors_stopping: int | None = None
    actors_restarting: int | None = None
    registry_size: int | None = None
    registry_orphans: Sequence[str] | None = None
    registry_dead: Sequence[str] | None = None
    dead_letters: int | None = None
    mailbox_depths: Mapping[str, int] | None = None
    reasons: Sequence[str] = ()
    unsupported: Sequence[str] = field(default=())


_BAD_OUTCOMES = frozenset(
    {"restart_limit_exceeded", "restart_failed", "retries_exhausted", "retry_failed", "lost"}
)
_REGISTRY_NAMES_MAX = 20
_MAILBOX_TOP_MAX = 10


def qualified_name(cls: type) -> str:
    """Return ``module.QualName`` of *cls*, without ``builtins.`` and ``__main__.``."""
    try:
        return _cached_name(cls)
    except Exception:  # a metaclass may make its classes unhashable
        return _name_of(cls)


def _name_of(cls: type) -> str:
    module = cls.__module__
    return cls.__qualname__ if module in {"builtins", "__main__"} else f"{module}.{cls.__qualname__}"


_cached_name = lru_cache(maxsize=1024)(_name_of)


class Recorder:
    """Turns what happened into facts and counts. See the module's text for threads and errors."""

    def __init__(
        self,
        emitter: EventEmitter,
        counters: Counters,
        *,
        messages: MessagePolicy | None = None,
        payload: PayloadMode = PayloadMode.REDACTED,
        spans: SpanMode = SpanMode.SAMPLED,
        group: Grouping | None = None,
        measure: Callable[[float, Key], None] | None = None,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.spans = spans
        self._measure = measure
        self._emit = emitter.emit
        self._emit_fact: FactEmitter = getattr(emitter, "emit_fact", self._emit_as_event)
        self._counters = counters
        self._messages = messages or MessagePolicy()
        self._payload = payload
        self._clock = clock
        self._capped_actor_type = TypeCap(counters, s.ACTOR_TYPE, s.ACTOR_TYPES_MAX, group)
        self._capped_message_type = TypeCap(counters, s.MESSAGE_TYPE, s.MESSAGE_TYPES_MAX)
        self._last_audit_unix_nano: dict[str, int] = {}

    # --- lifecycle ------------------------------------------------------------------------------

    def system_started(self, system: str, *, runtime: str, version: str | None = None) -> None:
        """Record that the runtime is up."""
        attributes: dict[str, Any] = {s.SYSTEM_ID: system, s.RUNTIME_NAME: runtime}
        if version is not None:
            attributes[s.RUNTIME_VERSION] = version
        self._event(s.SYSTEM_STARTED, "INFO", attributes)

    def system_stopped(self, system: str, *, runtime: str) -> None:
        """Record that the runtime is down."""
        self._event(s.SYSTEM_STOPPED, "INFO", {s.SYSTEM_ID: system, s.RUNTIME_NAME: runtime})

    def declared(self, actor: Actor, *, mailbox: str | None = None) -> None:
        """Record that *actor* is known here by its name; *mailbox* is the queue that its messages go to."""
        self._event(s.ACTOR_DECLARED, "INFO", _about(actor, {s.MAILBOX_NAME: mailbox}))

    def started(self, actor: Actor, *, incarnation: int | None = None) -> None:
        """Record that *actor* is ready for messages. *incarnation* counts its restarts, from 0."""
        key = (actor.system, self._capped_actor_type(actor.type))
        self._counters.add(s.ACTOR_STARTS, key)
        self._counters.add(s.ACTOR_COUNT, (*key, "alive"))
        self._event(s.ACTOR_STARTED, "INFO", _about(actor, {s.ACTOR_INCARNATION: incarnation}))

    def stopped(
        self,
        actor: Actor,
        *,
        reason: str,
        lifetime_seconds: float | None = None,
        incarnation: int | None = None,
        was_started: bool = True,
    ) -> None:
        """Record that *actor* has ended for good. *was_started*: a ``started`` was recorded for it."""
        key = (actor.system, self._capped_actor_type(actor.type))
        self._counters.add(s.ACTOR_STOPS, (*key, reason))
        if was_started:
            self._counters.add(s.ACTOR_COUNT, (*key, "alive"), -1)
        severity = "WARN" if reason in {"restart_limit", "start_failed"} else "INFO"
        detail = {
            s.STOP_REASON: reason,
            s.ACTOR_LIFETIME: lifetime_seconds,
            s.ACTOR_INCARNATION: incarnation,
        }
        self._event(s.ACTOR_STOPPED, severity, _about(actor, detail))

    def crashed(
        self, actor: Actor, error: BaseException, *, phase: str, incarnation: int | None = None
    ) -> None:
        """Record that *actor* raised *error* while in *phase* (start, receive, reply, stop): once per failure."""
        error_type, message, stacktrace = describe_exception(error)
        self._counters.add(
            s.ACTOR_FAILURES, (actor.system, self._capped_actor_type(actor.type), phase, error_type)
        )
        detail = {
            s.FAILURE_PHASE: phase,
            s.ERROR_TYPE: error_type,
            s.EXCEPTION_TYPE: error_type,
            s.EXCEPTION_MESSAGE: message,
            s.EXCEPTION_STACKTRACE: stacktrace,
            s.ACTOR_INCARNATION: incarnation,
        }
        self._event(s.ACTOR_EXCEPTION, "ERROR", _about(actor, detail))

    def restarted(self, actor: Actor, *, incarnation: int) -> None:
        """Record that a new incarnation of *actor* runs."""
        self._counters.add(s.ACTOR_RESTARTS, (actor.system, self._capped_actor_type(actor.type)))
        self._event(s.ACTOR_RESTARTED, "WARN", _about(actor, {s.ACTOR_INCARNATION: incarnation}))

    def decided(
        self,
        actor: Actor,
        *,
        directive: str,
        source: str,
        outcome: str,
        restart_count: int | None = None,
        restart_limit: int | None = None,
        restart_window_seconds: float | None = None,
    ) -> None:
        """Record what was decided about the failed *actor*, by whom, and what came of it."""
        key = (actor.system, self._capped_actor_type(actor.type), directive, source, outcome)
        self._counters.add(s.SUPERVISION_DECISIONS, key)
        severity = "ERROR" if outcome in _BAD_OUTCOMES else "WARN"
        detail = {
            s.SUPERVISION_DIRECTIVE: directive,
            s.SUPERVISION_SOURCE: source,
            s.SUPERVISION_OUTCOME: outcome,
            s.RESTART_COUNT: restart_count,
            s.RESTART_LIMIT: restart_limit,
            s.RESTART_WINDOW: restart_window_seconds,
        }
        self._event(s.SUPERVISION_DECIDED, severity, _about(actor, detail))

    # --- messages -------------------------------------------------------------------------------

    def processed(
        self,
        actor: Actor,
        *,
        message: object = None,
        message_type: str | None = None,
        kind: str,
        duration_seconds: float,
        wait_seconds: float | None = None,
        error: BaseException | None = None,
    ) -> None:
        """Record that *actor* handled *message*, or one of *message_type*, and how long it took.

        *error* is what its handler raised.
        """
        error_type = "" if error is None else qualified_name(type(error))
        key = (actor.system, self._capped_actor_type(actor.type), kind, error_type)
        self._counters.add(s.PROCESSED_MESSAGES, key)
        if self._messages.keeps(failed=error is not None):
            attributes: dict[str, Any] = {
                s.ACTOR_TYPE: actor.type,
                s.MESSAGE_TYPE: message_type or qualified_name(type(message)),
                s.MESSAGE_KIND: kind,
                s.MESSAGE_DURATION: duration_seconds,
            }
            if wait_seconds is not None:
                attributes[s.MESSAGE_WAIT] = wait_seconds
            if error_type:
                attributes[s.ERROR_TYPE] = error_type
            self._emit_fact(
                s.MESSAGE_PROCESSED, self._clock(), "DEBUG", actor.system, actor.address, attributes
            )
        if self._measure is not None:  # last: an SDK that raises here costs no fact
            self._measure(duration_seconds, key)

    def ask_timed_out(
        self,
        actor: Actor,
        *,
        message: object = None,
        message_type: str | None = None,
        timeout_seconds: float,
    ) -> None:
        """Record that a caller gave up waiting for the answer of *actor* to *message*, or to one of *message_type*."""
        detail = {
            s.MESSAGE_TYPE: message_type or qualified_name(type(message)),
            s.MESSAGE_KIND: "ask",
            s.MESSAGE_DURATION: timeout_seconds,
        }
        self._event(s.ASK_TIMED_OUT, "WARN", _about(actor, detail))

    def dead_letter(
        self,
        actor: Actor,
        *,
        message: object = None,
        message_type: str | None = None,
        reason: str,
        kind: str,
        stopping: bool = False,
    ) -> None:
        """Record that *message*, or one of *message_type*, could not be delivered to *actor*.

        *stopping*: its system is going down. A message that is known by its type only has no payload to tell.
        """
        payload = None if message_type else payload_text(message, mode=self._payload.value)
        message_type = message_type or qualified_name(type(message))
        key = (
            actor.system,
            self._capped_actor_type(actor.type),
            self._capped_message_type(message_type),
            kind,
            reason,
        )
        self._counters.add(s.DEAD_LETTER_MESSAGES, key)
        detail = {
            s.MESSAGE_TYPE: message_type,
            s.MESSAGE_KIND: kind,
            s.DEAD_LETTER_REASON: reason,
            s.MESSAGE_PAYLOAD: payload,
        }
        self._event(s.DEAD_LETTER_CAPTURED, "DEBUG" if stopping else "WARN", _about(actor, detail))

    # --- audits ---------------------------------------------------------------------------------

    def audit(self, snapshot: AuditSnapshot) -> None:
        """Record the state of a system. It is healthy when *snapshot.reasons* is empty."""
        self._last_audit_unix_nano[snapshot.system] = self._clock()
        healthy = not snapshot.reasons
        attributes = _without_none(
            {
                s.SYSTEM_ID: snapshot.system,
                s.AUDIT_ACTORS_TOTAL: snapshot.actors_total,
                s.AUDIT_ACTORS_ALIVE: snapshot.actors_alive,
                s.AUDIT_ACTORS_STOPPING: snapshot.actors_stopping,
                s.AUDIT_ACTORS_RESTARTING: snapshot.actors_restarting,
                s.AUDIT_REGISTRY_SIZE: snapshot.registry_size,
                s.AUDIT_REGISTRY_ORPHANS: _first(snapshot.registry_orphans),
                s.AUDIT_REGISTRY_DEAD: _first(snapshot.registry_dead),
                s.AUDIT_DEAD_LETTERS: snapshot.dead_letters,
                s.AUDIT_MAILBOX_TOTAL: _total(snapshot.mailbox_depths),
                s.AUDIT_MAILBOX_TOP: _top(snapshot.mailbox_depths),
                s.AUDIT_HEALTHY: healthy,
                s.AUDIT_REASONS: list(snapshot.reasons) or None,
                s.AUDIT_UNSUPPORTED: list(snapshot.unsupported) or None,
            }
        )
        self._event(s.AUDIT_COMPLETED, "INFO" if healthy else "WARN", attributes)

    def last_audits_unix_nano(self) -> dict[str, int]:
        """Return when each system was last audited."""
        return dict(self._last_audit_unix_nano)

    def counted_as(self, actor_type: str) -> str:
        """Return the name under which metrics count actors of *actor_type*: its group, or ``_OTHER`` for too many."""
        return self._capped_actor_type(actor_type)

    # --- inside ---------------------------------------------------------------------------------

    def _emit_as_event(
        self,
        name: str,
        time_unix_nano: int,
        severity: str,
        system: str,
        actor: str | None,
        attributes: dict[str, Any],
    ) -> None:
        everything = {s.SYSTEM_ID: system, s.ACTOR_ADDRESS: actor, **attributes}
        self._emit(timestamp=time_unix_nano, severity_text=severity, attributes=everything, event_name=name)

    def _event(self, name: str, severity: str, attributes: dict[str, Any]) -> None:
        self._emit(timestamp=self._clock(), severity_text=severity, attributes=attributes, event_name=name)


def _about(actor: Actor, detail: Mapping[str, Any]) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        s.SYSTEM_ID: actor.system,
        s.ACTOR_TYPE: actor.type,
        s.ACTOR_ADDRESS: actor.address,
    }
    if actor.name is not None:
        attributes[s.ACTOR_NAME] = actor.name
    if actor.parent is not None:
        attributes[s.ACTOR_PARENT] = actor.parent
    attributes.update(_without_none(detail))
    return attributes


def _without_none(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None}


def _first(names: Sequence[str] | None) -> list[str] | None:
    return None if names is None else sorted(names)[:_REGISTRY_NAMES_MAX]


def _total(depths: Mapping[str, int] | None) -> int | None:
    return None if depths is None else sum(depths.values())


def _top(depths: Mapping[str, int] | None) -> list[str] | None:
    if depths is None:
        return None
    busiest = sorted(((-depth, address) for address, depth in depths.items() if depth))
    return [f"{address}={-depth}" for depth, address in busiest[:_MAILBOX_TOP_MAX]]
