"""The only module that imports ``opentelemetry._logs``: it still begins with an underscore.

What changes there between SDK 1.39 and the newest is met here and nowhere else.
"""

from __future__ import annotations

from typing import NamedTuple

from opentelemetry._logs import Logger as OtelLogger
from opentelemetry._logs import LoggerProvider as OtelLoggerProvider
from opentelemetry._logs import LogRecord, NoOpLogger, SeverityNumber, get_logger_provider
from opentelemetry.context import Context, get_current
from opentelemetry.trace import NonRecordingSpan, SpanContext, get_current_span, set_span_in_context

__all__ = [
    "Context",
    "LogRecord",
    "OtelLogger",
    "OtelLoggerProvider",
    "Scope",
    "SeverityNumber",
    "context_of",
    "current_provider",
    "forwarding_logger",
    "severity_number",
    "severity_text",
    "trace_ids",
]

_API_MODULE = "opentelemetry._logs"
_NUMBERS = {number.name: number for number in SeverityNumber}


class Scope(NamedTuple):
    """Who emits: the instrumentation scope."""

    name: str
    version: str | None = None
    schema_url: str | None = None


def current_provider() -> OtelLoggerProvider:
    """Return the application's logger provider of this moment."""
    return get_logger_provider()


def forwarding_logger(provider: OtelLoggerProvider, scope: Scope) -> OtelLogger | None:
    """Return the logger to forward to; None where that would go nowhere, or back to us.

    The API's own providers (no SDK yet, or none) and a disabled SDK's loggers swallow everything.
    """
    module = type(provider).__module__
    if module.startswith((_API_MODULE, __name__.rpartition(".")[0])):
        return None
    logger = provider.get_logger(scope.name, scope.version, scope.schema_url)
    return None if isinstance(logger, NoOpLogger) else logger


def severity_number(text: str) -> SeverityNumber:
    """Return the number of an OTel severity text such as ``WARN``; UNSPECIFIED for other texts."""
    return _NUMBERS.get(text, SeverityNumber.UNSPECIFIED)


def severity_text(number: SeverityNumber | None) -> str:
    """Return the text for *number*, ``INFO`` when there is none."""
    return "INFO" if number is None or number is SeverityNumber.UNSPECIFIED else number.name


def context_of(trace_id: int | None, span_id: int | None) -> Context:
    """Return a context whose current span has these ids; an empty one when there are none."""
    if not trace_id or not span_id:
        return Context()
    return set_span_in_context(NonRecordingSpan(SpanContext(trace_id, span_id, is_remote=True)), Context())


def trace_ids(context: Context | None) -> tuple[str | None, str | None]:
    """Return (trace id, span id) in hex of the span in *context* or, if None, of the current one."""
    if context is None:
        context = get_current()
    if not context:  # nothing at all, as mostly
        return None, None
    span = get_current_span(context).get_span_context()
    if not span.trace_id:
        return None, None
    return f"{span.trace_id:032x}", f"{span.span_id:016x}"
