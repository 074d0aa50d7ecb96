"""Trace context across mailboxes: carried with a message, attached around its handling, so that facts tell the truth.

A message that was sent inside a trace is handled inside it, and one that was not, outside of any: an actor never goes
on in the context of whoever spawned it. Where the sender's trace is sampled the handling is a span: of an ask a child
of the sender's; of a tell the root of a trace of its own, linked to the sender's, because nobody waits for it.

All this is for an actor's path: without a trace it costs some dict lookups. Thread-safe. What the application's SDK
raises passes through: guard the calls.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import Token
from typing import Final

from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode

from papyra_otel import semconv as s
from papyra_otel.config import SpanMode
from papyra_otel.recorder import Actor, qualified_name

__all__ = ["Context", "Handling", "Tracing", "context_from", "inject", "sender_context"]

_EMPTY: Final = Context()
_OPERATION: Final = "process"


def sender_context() -> Context | None:
    """Return the context to carry with a message that is sent now, None outside of any trace."""
    current = otel.get_current()
    if not current:  # nothing at all, as mostly: at a third of the cost
        return None
    return current if trace.get_current_span(current).get_span_context().is_valid else None


def inject(carrier: dict[str, str], context: Context | None) -> None:
    """Write *context* into *carrier* as the application's propagators do, for a message to another process."""
    if context is not None:
        from opentelemetry import propagate  # noqa: PLC0415 - looks for propagators when it is imported

        propagate.inject(carrier, context)


def context_from(carrier: Mapping[str, str]) -> Context | None:
    """Return the context that *carrier* brought, None if it brought no trace."""
    from opentelemetry import propagate  # noqa: PLC0415 - looks for propagators when it is imported

    context = propagate.extract(carrier, _EMPTY)
    return context if trace.get_current_span(context).get_span_context().is_valid else None


class Handling:
    """What is attached while one message is handled. Belongs to one thread, or task."""

    __slots__ = ("span", "token")

    def __init__(self, token: Token[Context], span: Span | None) -> None:
        self.token: Token[Context] | None = token
        self.span: Span | None = span


class Tracing:
    """Begins and ends the handling of messages of one runtime; *mode* says when that is a span.

    *told* is the kind of message that nobody waits for.
    """

    def __init__(self, mode: SpanMode, runtime: str, *, told: str = "tell") -> None:
        self._told = told
        self._mode = mode
        self._runtime = runtime

    def involves(self, sender: Context | None) -> bool:
        """Say whether ``begin`` has anything to do, at less cost than asking it."""
        return sender is not None or self._mode is SpanMode.ALWAYS or bool(otel.get_current())

    def begin(self, sender: Context | None, actor: Actor, message: object, *, asked: bool) -> Handling | None:
        """Attach what *sender* was in, or nothing at all; None if that is how it is. *asked*: somebody waits."""
        if sender is None and self._mode is not SpanMode.ALWAYS:
            return Handling(otel.attach(_EMPTY), None) if otel.get_current() else None
        context = _EMPTY if sender is None else sender
        span = self._span(context, actor, message, asked=asked)
        if span is not None:
            context = trace.set_span_in_context(span, context)
        return Handling(otel.attach(context), span)

    @staticmethod
    def forget_inherited() -> None:
        """Leave, for good, the context that this thread or task began in."""
        if otel.get_current():
            otel.attach(_EMPTY)

    def finish(self, handling: Handling, error: BaseException | None = None) -> None:
        """End the span, if it is one, but stay in its context: what comes of *error* belongs to it."""
        span, handling.span = handling.span, None
        if span is None:
            return
        if error is not None:
            span.set_attribute(s.ERROR_TYPE, qualified_name(type(error)))
            span.set_status(Status(StatusCode.ERROR))
        span.end()

    def leave(self, handling: Handling) -> None:
        """Go back to the context of before; a second time does nothing. In the thread, or task, of ``begin``."""
        token, handling.token = handling.token, None
        if token is not None:
            otel.detach(token)

    def _span(self, context: Context, actor: Actor, message: object, *, asked: bool) -> Span | None:
        sender = trace.get_current_span(context).get_span_context()
        if self._mode is SpanMode.OFF or (self._mode is SpanMode.SAMPLED and not sender.trace_flags.sampled):
            return None
        tracer = trace.get_tracer(s.SCOPE_NAME, schema_url=s.SCHEMA_URL)
        attributes = {
            s.SYSTEM_ID: actor.system,
            s.ACTOR_TYPE: actor.type,
            s.ACTOR_ADDRESS: actor.address,
            s.MESSAGE_TYPE: qualified_name(type(message)),
            s.MESSAGE_KIND: "ask" if asked else self._told,
            s.MESSAGING_SYSTEM: self._runtime,
            s.MESSAGING_OPERATION_TYPE: _OPERATION,
            s.MESSAGING_OPERATION_NAME: _OPERATION,
            s.MESSAGING_DESTINATION: actor.type,
        }
        linked = sender.is_valid and not asked
        span = tracer.start_span(
            f"{_OPERATION} {actor.type}",
            context=_EMPTY if linked else context,
            kind=SpanKind.CONSUMER,
            attributes=attributes,
            links=[Link(sender)] if linked else None,
        )
        return span if span.get_span_context().is_valid else None  # without an SDK there are no new spans
