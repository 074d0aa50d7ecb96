"""What the entry points name: one instrumentor per runtime, and the exporter.

Loaded by ``opentelemetry-instrument`` and by declarative configuration
(``instrumentation/development: python: papyra: {...}``).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined] # untyped upstream

from papyra_otel import plugin
from papyra_otel.pipeline.exporter import FactExporter
from papyra_otel.pipeline.logger import FactLogger
from papyra_otel.runtimes.ray_processes import belongs_to_ray

__all__ = [
    "INSTRUMENTORS",
    "DramatiqInstrumentor",
    "FactLogExporter",
    "PapyraInstrumentor",
    "PykkaInstrumentor",
    "RayInstrumentor",
    "RecordingConfiguration",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingConfiguration:
    """The keys of ``instrumentation/development: python: <runtime>:``; the meaning is that of the variables."""

    log: str | None = None
    system: str | None = None
    startup: str | None = None
    retention: str | None = None
    fsync: str | None = None
    write: str | None = None
    spill: str | None = None
    messages: str | None = None
    payload: str | None = None
    forward: str | None = None
    forward_messages: bool | None = None
    forward_payload: bool | None = None
    spans: str | None = None
    group: str | None = None
    exit_timeout: str | float | None = None
    metrics_socket: bool | None = None
    audit_interval: str | float | None = None
    scan_interval: str | float | None = None


class _RuntimeInstrumentor(BaseInstrumentor):  # type: ignore[misc] # untyped upstream
    """Instruments one runtime. Instrumenting twice is silently once; nothing but a missing module escapes."""

    configuration: ClassVar[type[RecordingConfiguration]] = RecordingConfiguration
    runtime: ClassVar[str]
    requirement: ClassVar[str]

    def instrumentation_dependencies(self) -> Collection[str]:
        """Return the versions of the runtime that are instrumented."""
        return (self.requirement,)

    def instrument(self, **kwargs: Any) -> None:
        """Instrument, unless it is already. After ``papyra_otel.disable()`` it is not."""
        if self.is_instrumented_by_opentelemetry and not plugin.is_instrumented(self.runtime):
            self._is_instrumented_by_opentelemetry = False
        if not self.is_instrumented_by_opentelemetry:
            super().instrument(**kwargs)

    def uninstrument(self, **kwargs: Any) -> None:
        """Restore, if instrumented."""
        if self.is_instrumented_by_opentelemetry:
            super().uninstrument(**kwargs)

    def _instrument(self, **kwargs: Any) -> None:
        if belongs_to_ray():  # which inherits the environment; a worker is told by its driver what to record
            return
        known = {field.name for field in fields(RecordingConfiguration)}
        overrides = {name: value for name, value in kwargs.items() if name in known}
        configuration = kwargs.get("configuration")
        if isinstance(configuration, RecordingConfiguration):
            overrides |= {field.name: getattr(configuration, field.name) for field in fields(configuration)}
        plugin.instrument(self.runtime, overrides)

    def _uninstrument(self, **kwargs: Any) -> None:
        del kwargs
        plugin.uninstrument(self.runtime)


class DramatiqInstrumentor(_RuntimeInstrumentor):
    """dramatiq."""

    runtime = "dramatiq"
    requirement = "dramatiq >= 1.17"


class PapyraInstrumentor(_RuntimeInstrumentor):
    """papyra."""

    runtime = "papyra"
    requirement = "papyra >= 0.2"


class PykkaInstrumentor(_RuntimeInstrumentor):
    """pykka."""

    runtime = "pykka"
    requirement = "pykka >= 4.0"


class RayInstrumentor(_RuntimeInstrumentor):
    """ray."""

    runtime = "ray"
    requirement = "ray >= 2.40"


INSTRUMENTORS: tuple[type[_RuntimeInstrumentor], ...] = (
    PapyraInstrumentor,
    PykkaInstrumentor,
    DramatiqInstrumentor,
    RayInstrumentor,
)


class FactLogExporter(FactExporter):
    """What ``OTEL_LOGS_EXPORTER=papyra`` makes: stores the application's OTel events in the same log."""

    def __init__(self) -> None:
        super().__init__(_store)


plugin.seal_last()  # this module is loaded before the SDK makes the provider that exports to us


def _store() -> FactLogger | None:
    recording = plugin.current() or plugin.enable(runtimes=())
    return recording.store
