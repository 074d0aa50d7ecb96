"""The other direction: events that reach the application's OTel SDK become facts too.

What the entry point ``opentelemetry_logs_exporter = papyra`` names, for ``OTEL_LOGS_EXPORTER=papyra``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult

from papyra_otel import semconv
from papyra_otel.pipeline.otel import OtelLogger, context_of

__all__ = ["FactExporter"]

_MARKS = frozenset({semconv.LOG_OPENED, semconv.LOG_SEALED})  # the segments have them already
_logger = logging.getLogger("papyra_otel")


class FactExporter(LogRecordExporter):
    """Stores every *event* (a log record with an event name) as a fact; thread-safe, never raises.

    Facts of our own, forwarded to the SDK, come by here again: their ``log.record.uid`` tells, and they
    are not stored twice; nor is what a segment says of itself. Log records that are no events are not facts: they
    are passed over, which is said once. *logger* returns a fact logger that does not
    forward (or the record would come round again), or None when nothing is recorded.
    """

    def __init__(self, logger: Callable[[], OtelLogger | None]) -> None:
        self._find_logger = logger
        self._said = False

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        """Store *batch*. FAILURE only when nothing is recorded at all."""
        logger = self._find_logger()
        if logger is None:
            return LogRecordExportResult.FAILURE
        for readable in batch:
            record = readable.log_record
            attributes: dict[str, Any] = dict(record.attributes or {})
            if semconv.LOG_RECORD_UID in attributes and semconv.FACT_KIND in attributes:
                continue
            if record.event_name in _MARKS:
                continue
            if not record.event_name:
                self._say_once()
                continue
            logger.emit(
                timestamp=record.timestamp or record.observed_timestamp,
                context=context_of(record.trace_id, record.span_id),
                severity_text=record.severity_text,
                severity_number=record.severity_number,
                body=record.body,
                attributes=attributes,
                event_name=record.event_name,
            )
        return LogRecordExportResult.SUCCESS

    def shutdown(self) -> None:
        """Nothing of its own to end: the recording does that."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Nothing is held back."""
        del timeout_millis
        return True

    def _say_once(self) -> None:
        if not self._said:
            self._said = True
            _logger.warning("papyra_otel stores events; log records without an event name are passed over")
