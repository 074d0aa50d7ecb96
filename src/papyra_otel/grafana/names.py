"""What Prometheus and Loki call our names.

Prometheus, by OpenTelemetry's default translation: dots become underscores, the unit is spelt out at the end, and a
counter ends in ``_total``. Loki: dots become underscores. A test compares this with what the exporter really says.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from papyra_otel import semconv as s

__all__ = ["METRICS", "label", "metric"]

_COUNTERS: Final = (
    s.PERSISTENCE_RECORDS,
    s.PERSISTENCE_BYTES,
    s.PERSISTENCE_DROPPED,
    s.PERSISTENCE_SPILLED,
    s.PERSISTENCE_SCANS,
    s.PERSISTENCE_ANOMALIES,
    s.PERSISTENCE_RECOVERIES,
    s.PERSISTENCE_COMPACTIONS,
    s.DELIVERY_EXPORTED,
    s.ACTOR_STARTS,
    s.ACTOR_STOPS,
    s.ACTOR_RESTARTS,
    s.ACTOR_FAILURES,
    s.SUPERVISION_DECISIONS,
    s.PROCESSED_MESSAGES,
    s.DEAD_LETTER_MESSAGES,
    s.INSTRUMENTATION_ERRORS,
    s.EVENT_SUPPRESSED,
    s.ATTRIBUTE_OVERFLOW,
)
_PLAIN: Final = (
    s.ANOMALY_COUNT,
    s.STORAGE_RECORDS,
    s.QUEUE_SIZE,
    s.QUEUE_CAPACITY,
    s.DELIVERY_LAG,
    s.ACTOR_COUNT,
    s.MAILBOX_COUNT,
    s.MAILBOX_MAX,
    s.BLOCKED_SENDERS,
    s.REGISTRY_ENTRIES,
)
_SECONDS: Final = (
    s.OPERATION_DURATION,
    s.SCAN_AGE,
    s.QUEUE_OLDEST_AGE,
    s.DELIVERY_AGE,
    s.PROCESS_DURATION,
    s.ACTIVE_MAX_AGE,
    s.AUDIT_AGE,
)
_BYTES: Final = (s.STORAGE_SIZE, s.SPILL_SIZE)


def label(name: str) -> str:
    """Return what an attribute is called as a label of Prometheus or Loki."""
    return name.replace(".", "_")


METRICS: Final[Mapping[str, str]] = MappingProxyType(
    {
        **{name: f"{label(name)}_total" for name in _COUNTERS},
        **{name: label(name) for name in _PLAIN},
        **{name: f"{label(name)}_seconds" for name in _SECONDS},
        **{name: f"{label(name)}_bytes" for name in _BYTES},
    }
)
"""Each metric's name in Prometheus. A histogram's series end in ``_bucket``, ``_sum`` and ``_count`` "
"beyond that."""


def metric(name: str) -> str:
    """Return what the metric *name* is called in Prometheus. Raises KeyError for one that is not ours."""
    return METRICS[name]
