"""The append-only log of facts: one contract, several backends. Knows nothing of OpenTelemetry."""

from papyra_otel.log.contract import FactLog, LogOptions
from papyra_otel.log.url import open_log

__all__ = ["FactLog", "LogOptions", "open_log"]
