"""The same record to the application's own OTel provider, whatever state that is in.

Nothing here can lose a fact: it is durable already. Nothing here may raise or recurse: a provider that is
missing, late, replaced, disabled, shut down, or whose processors raise, costs a count at most.
"""

from __future__ import annotations

import threading
import time

from papyra_otel import semconv
from papyra_otel.facts import Fact
from papyra_otel.pipeline.counters import Counters
from papyra_otel.pipeline.limiter import Limiter
from papyra_otel.pipeline.otel import (
    Context,
    LogRecord,
    OtelLogger,
    Scope,
    current_provider,
    forwarding_logger,
    severity_number,
)
from papyra_otel.pipeline.record import attributes_of, leaves

__all__ = ["Forwarder", "record_of"]


class _Busy(threading.local):
    """Whether this thread is forwarding right now."""

    forwarding = False


_busy = _Busy()


class Forwarder:
    """Hands facts to the application's provider as live OTel log records, in the caller's thread.

    *limiter* keeps storms of like events back. *messages*: also ``message.processed`` facts; *payload*: also message
    payloads. Both off by default: nothing bulky or private leaves the machine unasked.
    """

    def __init__(
        self,
        counters: Counters,
        scope: Scope,
        *,
        limiter: Limiter | None = None,
        messages: bool = False,
        payload: bool = False,
    ) -> None:
        self._counters = counters
        self._scope = scope
        self._limiter = limiter
        self._messages = messages
        self._payload = payload
        self._provider: object = None
        self._logger: OtelLogger | None = None

    def forward(self, fact: Fact, context: Context | None) -> None:
        """Emit *fact* to the provider that is global now. Raises what its processors raise."""
        if not leaves(fact, messages=self._messages):
            return
        provider = current_provider()
        if provider is not self._provider:
            self._logger = forwarding_logger(provider, self._scope)
            self._provider = provider
        if self._logger is None:
            return
        if _busy.forwarding:  # a processor of the application made this fact: no circles
            self._counters.add(semconv.EVENT_SUPPRESSED, ("reentrant",))
            return
        if self._limiter is not None and not self._limiter.passes(fact):
            return
        _busy.forwarding = True
        try:
            self._logger.emit(self._record(fact, context))
        finally:
            _busy.forwarding = False

    def _record(self, fact: Fact, context: Context | None) -> LogRecord:
        return record_of(fact, context, payload=self._payload)


def record_of(fact: Fact, context: Context | None, *, payload: bool) -> LogRecord:
    """Return the log record of *fact*; message payloads only if *payload*."""
    return LogRecord(
        timestamp=fact.time_unix_nano,
        observed_timestamp=time.time_ns(),
        context=context,
        severity_text=fact.severity,
        severity_number=severity_number(fact.severity),
        attributes=attributes_of(fact, payload=payload),
        event_name=fact.name,
    )
