"""Facts as an OTLP request: by the SDK's own encoder, so the very record that live forwarding would have sent.

A fact's own time is also its observed time: the same fact is the same bytes however often it is sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from papyra_otel.facts import Fact
from papyra_otel.log.outlet import Item
from papyra_otel.pipeline.otel import LogRecord, Scope, context_of, severity_number
from papyra_otel.pipeline.record import attributes_of

__all__ = ["Encoder"]

_RESOURCES_MAX = 1000


class Encoder:
    """Encodes items for one receiver. Not thread-safe.

    *payload*: also message payloads. *otherwise* is the resource of facts whose log does not tell theirs.
    """

    def __init__(self, scope: Scope, otherwise: Resource, *, payload: bool = False) -> None:
        self._scope = InstrumentationScope(scope.name, scope.version, scope.schema_url)
        self._otherwise = otherwise
        self._payload = payload
        self._resources: dict[str | None, Resource] = {}

    def request(self, items: Sequence[Item]) -> bytes:
        """Return a serialized ExportLogsServiceRequest with *items*, which may be none."""
        return encode_logs([self._readable(item) for item in items]).SerializeToString()

    def _readable(self, item: Item) -> ReadableLogRecord:
        return ReadableLogRecord(
            self._record(item.fact), self._resource(item), instrumentation_scope=self._scope
        )

    def _record(self, fact: Fact) -> LogRecord:
        return LogRecord(
            timestamp=fact.time_unix_nano,
            observed_timestamp=fact.time_unix_nano,
            context=context_of(_number(fact.trace_id), _number(fact.span_id)),
            severity_text=fact.severity,
            severity_number=severity_number(fact.severity),
            attributes=attributes_of(fact, payload=self._payload),
            event_name=fact.name,
        )

    def _resource(self, item: Item) -> Resource:
        """Return the resource of the process that recorded the fact."""
        known = self._resources.get(item.fact.writer)
        if known is None:
            if len(self._resources) >= _RESOURCES_MAX:
                self._resources.clear()
            told = item.resource()
            known = self._otherwise if told is None else Resource(cast("dict[str, Any]", told))
            self._resources[item.fact.writer] = known
        return known


def _number(hexadecimal: str | None) -> int | None:
    try:
        return None if hexadecimal is None else int(hexadecimal, 16)
    except ValueError:  # a fact that others wrote
        return None
