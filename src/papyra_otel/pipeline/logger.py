"""Our implementation of the OTel Logs API: an emitted event is a durable fact before it is anything else.

Durable first, then forwarded, whatever the application's provider does: docs/decisions/0002 says why this
stands in front of the SDK and is not a processor inside it. ``emit`` never raises.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from papyra_otel import semconv
from papyra_otel.facts import FactKind
from papyra_otel.payload import describe_exception, jsonable
from papyra_otel.pipeline.counters import Counters
from papyra_otel.pipeline.forward import Forwarder
from papyra_otel.pipeline.guard import Guard
from papyra_otel.pipeline.limiter import Limiter
from papyra_otel.pipeline.otel import (
    Context,
    LogRecord,
    OtelLogger,
    OtelLoggerProvider,
    Scope,
    SeverityNumber,
    severity_text,
    trace_ids,
)
from papyra_otel.pipeline.writer import FactWriter

__all__ = ["FactLogger", "FactLoggerProvider"]

_KINDS = {
    semconv.DEAD_LETTER_CAPTURED: FactKind.DEAD_LETTER,
    semconv.AUDIT_COMPLETED: FactKind.AUDIT,
}
_UNNAMED = "log.record"


class FactLogger(OtelLogger):
    """Makes a fact of every event it is given. Thread-safe; never raises, never waits for a network.

    The event's ``papyra.system.id`` and ``papyra.actor.address`` become the fact's system and actor, its
    name decides the kind. *forwarder* None keeps facts on this machine.
    """

    def __init__(
        self, scope: Scope, writer: FactWriter, forwarder: Forwarder | None, guard: Guard, system: str
    ) -> None:
        super().__init__(scope.name, scope.version, scope.schema_url)
        self._writer = writer
        self._record = writer.record
        self._forwarder = forwarder
        self._guard = guard
        self._default_system = system

    def emit(
        self,
        record: LogRecord | None = None,
        *,
        timestamp: int | None = None,
        observed_timestamp: int | None = None,
        context: Context | None = None,
        severity_number: SeverityNumber | None = None,
        severity_text: str | None = None,
        body: Any = None,
        attributes: Mapping[str, Any] | None = None,
        event_name: str | None = None,
        exception: BaseException | None = None,
    ) -> None:
        """Record one event: durable when this returns (file log, write-through), then forwarded."""
        try:
            if record is not None:
                timestamp = record.timestamp or record.observed_timestamp
                context = record.context
                severity_number = record.severity_number
                severity_text = record.severity_text
                body = record.body
                attributes = record.attributes
                event_name = record.event_name
                exception = getattr(record, "exception", None)
            details = dict(attributes) if attributes else {}
            if body is not None:
                details[semconv.EVENT_BODY] = jsonable(body, redact=True)
            if exception is not None:
                _add_exception(details, exception)
            system = details.pop(semconv.SYSTEM_ID, None)
            self.emit_fact(
                event_name or _UNNAMED,
                timestamp or observed_timestamp or time.time_ns(),
                severity_text or _text_of(severity_number),
                self._default_system if system is None else system,
                details.pop(semconv.ACTOR_ADDRESS, None),
                details,
                context,
            )
        except Exception:
            self._guard.failed("emit")

    def emit_fact(
        self,
        name: str,
        time_unix_nano: int,
        severity: str,
        system: str,
        actor: str | None,
        attributes: dict[str, Any],
        context: Context | None = None,
    ) -> None:
        """Do as ``emit`` for who has it all at hand: *attributes* without system and actor, not to be changed later."""
        try:
            trace_id, span_id = trace_ids(context)
            fact = self._record(
                _KINDS.get(name, FactKind.EVENT),
                name if type(name) is str else str(name),
                time_unix_nano,
                system if type(system) is str else str(system),
                actor if actor is None or type(actor) is str else str(actor),
                severity if type(severity) is str else str(severity),
                trace_id,
                span_id,
                attributes,
            )
        except Exception:
            self._guard.failed("emit")
            return
        if self._forwarder is not None:
            try:
                self._forwarder.forward(fact, context)
            except Exception:
                self._guard.failed("forward")

    def without_forwarding(self) -> FactLogger:
        """Return the same logger for events that must stay here."""
        scope = Scope(self._name, self._version, self._schema_url)
        return FactLogger(scope, self._writer, None, self._guard, self._default_system)

    def enabled(
        self,
        *,
        context: Context | None = None,
        severity_number: SeverityNumber | None = None,
        event_name: str | None = None,
    ) -> bool:
        """Say that every event is wanted."""
        del context, severity_number, event_name
        return True


class FactLoggerProvider(OtelLoggerProvider):
    """Gives out fact loggers that share one writer, and one *limiter*. *system* is for events that name none."""

    def __init__(
        self,
        writer: FactWriter,
        counters: Counters,
        guard: Guard,
        *,
        system: str,
        forward: bool = True,
        limiter: Limiter | None = None,
        forward_messages: bool = False,
        forward_payload: bool = False,
    ) -> None:
        self._writer = writer
        self._counters = counters
        self._guard = guard
        self._system = system
        self._forward = forward
        self._limiter = limiter
        self._forward_messages = forward_messages
        self._forward_payload = forward_payload

    def get_logger(
        self,
        name: str,
        version: str | None = None,
        schema_url: str | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> FactLogger:
        """Return a logger for the scope *name*. Scope attributes are not kept."""
        del attributes
        scope = Scope(name, version, schema_url)
        forwarder = (
            Forwarder(
                self._counters,
                scope,
                limiter=self._limiter,
                messages=self._forward_messages,
                payload=self._forward_payload,
            )
            if self._forward
            else None
        )
        return FactLogger(scope, self._writer, forwarder, self._guard, self._system)


def _add_exception(details: dict[str, Any], error: BaseException) -> None:
    error_type, message, stacktrace = describe_exception(error)
    details.setdefault(semconv.EXCEPTION_TYPE, error_type)
    details.setdefault(semconv.EXCEPTION_MESSAGE, message)
    details.setdefault(semconv.EXCEPTION_STACKTRACE, stacktrace)


_text_of = severity_text
