"""Telemetry of a command that looks after a log and ends: exported once, at its end, in bounded time.

The SDK's exporters, with the settings that they read from the environment; but none of the SDK's threads and exit
handlers, which could delay the end (docs/decisions/0057).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

from opentelemetry.sdk._logs import LoggerProvider, ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricExportResult
from opentelemetry.sdk.resources import Resource

from papyra_otel import semconv
from papyra_otel.facts import Fact, FactKind
from papyra_otel.log import FactLog
from papyra_otel.pipeline.counters import Counters
from papyra_otel.pipeline.forward import record_of
from papyra_otel.pipeline.guard import Guard
from papyra_otel.pipeline.metrics import Metrics, Source
from papyra_otel.pipeline.resource import own_scope
from papyra_otel.pipeline.upkeep import Telling, Upkeep

__all__ = ["Once"]

_EXPORTERS = "opentelemetry.exporter.otlp.proto"
_PATHS = {
    "logs": ("{}._log_exporter", "OTLPLogExporter"),
    "metrics": ("{}.metric_exporter", "OTLPMetricExporter"),
}


class Once:
    """Looks after *log* by its ``upkeep``, and exports what comes of that by ``export``. For one thread.

    *protocols* is ``grpc`` or ``http/protobuf`` by signal (``logs``, ``metrics``); a signal that is not there is not
    exported. *stored*: facts that the log has stored are exported, too. *seconds_max* bounds ``export``. Nothing raises
    but what *log* raises in ``upkeep``.
    """

    def __init__(
        self,
        log: FactLog,
        protocols: Mapping[str, str],
        resource: Mapping[str, str],
        *,
        system: str | None,
        stored: bool,
        seconds_max: float,
    ) -> None:
        self._seconds_max = seconds_max
        self._problems: list[str] = []
        logging.getLogger("opentelemetry").addHandler(
            logging.NullHandler()
        )  # the problem is told once, by us
        self._logs = self._made("logs", protocols)
        self._metrics = exporter = self._made("metrics", protocols)
        told = Resource.create({"service.name": "papyra-otel", **resource})
        self._kept = _Kept()
        self._logger = LoggerProvider(told, shutdown_on_exit=False)
        self._logger.add_log_record_processor(SimpleLogRecordProcessor(self._kept))
        self._reader = InMemoryMetricReader(
            preferred_temporality=getattr(exporter, "_preferred_temporality", None),
            preferred_aggregation=getattr(exporter, "_preferred_aggregation", None),
        )
        metrics = Metrics(MeterProvider([self._reader], resource=told, shutdown_on_exit=False))
        backend = log.capabilities.backend
        counters = Counters()
        self.upkeep: Upkeep = Upkeep(
            log,
            counters,
            Guard(counters),
            Telling(
                logger=_Unstored(self._forward),
                forward=self._forward if stored else lambda _: None,
                timed=lambda operation, seconds, failed: metrics.record_duration(
                    backend, operation, seconds, failed
                ),
            ),
            appended=log.appended,
            system=system,
        )
        metrics.attach(
            Source(
                backend=backend,
                counters=counters,
                appended=log.appended,
                waiting=None,
                last_audits=dict[str, int],
                health=self.upkeep.health,
            )
        )

    def _made(self, signal: str, protocols: Mapping[str, str]) -> Any:
        """Return the SDK's exporter of *signal*, None where it is not wanted or its settings are wrong."""
        if signal not in protocols:
            return None
        module, name = _PATHS[signal]
        try:
            folder = {"grpc": "grpc", "http/protobuf": "http"}[protocols[signal]]
            exporter: Callable[..., Any] = getattr(
                import_module(module.format(f"{_EXPORTERS}.{folder}")), name
            )
            return exporter(timeout=self._seconds_max)
        except KeyError:
            self._problems.append(
                f"{signal}: the protocol {protocols[signal]!r} is not grpc or http/protobuf"
            )
        except Exception as error:
            self._problems.append(f"{signal}: {type(error).__name__}: {error}")
        return None

    # --- what is exported -----------------------------------------------------------------------------

    def _forward(self, fact: Fact) -> None:
        scope = own_scope()
        logger = self._logger.get_logger(scope.name, scope.version, scope.schema_url)
        logger.emit(record_of(fact, None, payload=False))

    def export(self) -> Sequence[str]:
        """Export it all, and return what did not work, one line each. Takes no longer than it may."""
        answered: list[str] = []
        thread = threading.Thread(target=self._export, args=(answered,), daemon=True)
        try:
            thread.start()
        except RuntimeError:
            return [*self._problems, "no thread could be started"]
        thread.join(self._seconds_max)
        wanted = {"logs": self._logs, "metrics": self._metrics}
        late = [
            signal for signal, exporter in wanted.items() if exporter is not None and signal not in answered
        ]
        problems = [*self._problems]
        return problems + ([f"{' and '.join(late)}: no answer in {self._seconds_max:g} s"] if late else [])

    def _export(self, answered: list[str]) -> None:
        if self._metrics is not None:
            self._attempt("metrics", self._export_metrics, answered)
        if self._logs is not None:
            self._attempt("logs", self._export_logs, answered)

    def _attempt(self, signal: str, work: Callable[[], bool], answered: list[str]) -> None:
        try:
            if not work():
                self._problems.append(f"{signal}: they were not taken")
        except Exception as error:
            self._problems.append(f"{signal}: {type(error).__name__}: {error}")
        answered.append(signal)

    def _export_metrics(self) -> bool:
        data = self._reader.get_metrics_data()
        if self._metrics is None or data is None:
            return True
        return bool(self._metrics.export(data, self._seconds_max * 1000) is MetricExportResult.SUCCESS)

    def _export_logs(self) -> bool:
        if self._logs is None or not self._kept.records:
            return True
        return bool(self._logs.export(self._kept.records) is LogRecordExportResult.SUCCESS)


class _Unstored:
    """Exports events without storing them: looking is no reason to write to the log."""

    def __init__(self, forward: Callable[[Fact], None]) -> None:
        self._forward = forward

    def emit(
        self,
        *,
        severity_text: str | None = None,
        attributes: Mapping[str, object] | None = None,
        event_name: str | None = None,
    ) -> None:
        """Export one event. It has no identity, as it is not in the log."""
        details = dict(attributes or {})
        self._forward(
            Fact(
                kind=FactKind.EVENT,
                name=event_name or "",
                time_unix_nano=time.time_ns(),
                system=str(details.pop(semconv.SYSTEM_ID, "")),
                severity=severity_text or "INFO",
                attributes=details,
            )
        )


class _Kept(LogRecordExporter):
    """Keeps records until they are exported, all at once."""

    def __init__(self) -> None:
        self.records: list[ReadableLogRecord] = []

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        """Keep *batch*."""
        self.records += batch
        return LogRecordExportResult.SUCCESS

    def force_flush(self, timeout_millis: int = 10_000) -> bool:
        """Say that nothing waits."""
        del timeout_millis
        return True

    def shutdown(self) -> None:
        """Nothing has to be ended."""
