"""The alerts about the log: what is lost, damaged, waiting, growing."""

from __future__ import annotations

from typing import Final

from papyra_otel import semconv as s
from papyra_otel.grafana.expressions import by_labels, first_or_more, growth, level, named, series_of, zero
from papyra_otel.grafana.promql import matching
from papyra_otel.grafana.rules import Alert, Conditions
from papyra_otel.grafana.thresholds import HOUR, MINUTE
from papyra_otel.reports import ANOMALY_SEVERITIES

__all__ = ["LOG_ALERTS"]

_PERSISTENCE: Final = "papyra-persistence"
_HARMLESS: Final = "|".join(
    sorted(name for name, severity in ANOMALY_SEVERITIES.items() if severity != "ERROR")
)
_UNTIDY: Final = "|".join(sorted(name for name, severity in ANOMALY_SEVERITIES.items() if severity == "WARN"))


def _queue_filled(c: Conditions) -> str:
    share = f"{series_of(s.QUEUE_SIZE)} / {series_of(s.QUEUE_CAPACITY)}"
    return f"max {by_labels(s.BACKEND_TYPE)} ({share}) > {c.limits.queue_filled:g}"


def _filling_up(c: Conditions) -> str:
    size = series_of(s.STORAGE_SIZE)
    window, ahead = c.windows(6 * HOUR), c.windows.limit(c.limits.storage_ahead)
    return (
        f"sum {by_labels(s.BACKEND_TYPE)} (predict_linear({size}[{window}], {ahead})) > {c.limits.storage_bytes}\n"
        f"  and sum {by_labels(s.BACKEND_TYPE)} (deriv({size}[{window}])) > 0"
    )


LOG_ALERTS: Final = (
    Alert(
        name="PapyraAnomalyFound",
        severity="critical",
        expr=first_or_more(
            s.PERSISTENCE_ANOMALIES,
            s.ANOMALY_TYPE,
            matchers=(matching(s.ANOMALY_TYPE, _HARMLESS, negated=True),),
        ),
        keeps=5 * MINUTE,
        summary=f"{{{{ $labels.instance }}}}: a scan found {named(s.ANOMALY_TYPE)} in the log of facts",
        description="Facts may be damaged or lost. Run papyra-otel scan on that log to see where, copy the "
        "log aside, then "
        "papyra-otel recover --dry-run. Look at the disk and at who writes there.",
        dashboard=_PERSISTENCE,
        panel=34,
        runbook="anomaly-found",
    ),
    Alert(
        name="PapyraLogUntidy",
        severity="warning",
        expr=first_or_more(
            s.PERSISTENCE_ANOMALIES, s.ANOMALY_TYPE, matchers=(matching(s.ANOMALY_TYPE, _UNTIDY),)
        ),
        keeps=5 * MINUTE,
        summary=f"{{{{ $labels.instance }}}}: a scan found {named(s.ANOMALY_TYPE)} in the log of facts; "
        "nothing is lost",
        description="Most often a process was killed or lost its power: find out why. papyra-otel scan "
        "shows where, "
        "papyra-otel recover tidies up.",
        dashboard=_PERSISTENCE,
        panel=34,
        runbook="log-untidy",
    ),
    Alert(
        name="PapyraAnomaliesUnresolved",
        severity="warning",
        expr=level(s.ANOMALY_COUNT, s.BACKEND_TYPE, over=zero),
        stays=HOUR,
        summary="{{ $labels.instance }}: {{ $value }} anomalies in the log of facts are not recovered from",
        description="The last scan still found them an hour ago. Run papyra-otel recover, then papyra-otel "
        "scan.",
        dashboard=_PERSISTENCE,
        panel=35,
        runbook="anomalies-unresolved",
    ),
    Alert(
        name="PapyraFactsDropped",
        severity="critical",
        expr=first_or_more(s.PERSISTENCE_DROPPED, s.FACT_KIND, s.ERROR_TYPE),
        keeps=5 * MINUTE,
        summary=f"{{{{ $labels.instance }}}}: facts of kind {named(s.FACT_KIND)} are lost "
        f"({named(s.ERROR_TYPE)})",
        description="The log could not be written for so long that memory was full. Put right what the "
        "error says (disk, "
        "permissions, server). For a log behind a network set a spill folder.",
        dashboard=_PERSISTENCE,
        panel=23,
        runbook="facts-dropped",
    ),
    Alert(
        name="PapyraAppendErrors",
        severity="warning",
        expr=growth(
            s.OPERATION_DURATION,
            s.BACKEND_TYPE,
            s.ERROR_TYPE,
            window=5 * MINUTE,
            over=zero,
            matchers=(matching(s.OPERATION, "append"), matching(s.ERROR_TYPE, "", negated=True)),
            suffix="_count",
        ),
        stays=MINUTE,
        summary=f"{{{{ $labels.instance }}}}: the log of facts cannot be written ({named(s.ERROR_TYPE)})",
        description="Facts wait in memory and are written when the log is back. Look at the disk or the "
        "server before the "
        "queue is full; papyra-otel doctor says what is wrong.",
        dashboard=_PERSISTENCE,
        panel=14,
        runbook="append-errors",
    ),
    Alert(
        name="PapyraDurabilityLag",
        severity="warning",
        expr=level(s.QUEUE_OLDEST_AGE, s.BACKEND_TYPE, over=lambda c: c.windows.limit(c.limits.fact_waits)),
        stays=MINUTE,
        summary="{{ $labels.instance }}: a fact has waited {{ $value | humanizeDuration }} for the log",
        description="A crash of the process now would lose all that waits. Look at the disk or the server; "
        "do not restart "
        "the process before the log is back.",
        dashboard=_PERSISTENCE,
        panel=22,
        runbook="durability-lag",
    ),
    Alert(
        name="PapyraQueueSaturated",
        severity="critical",
        expr=_queue_filled,
        stays=MINUTE,
        summary="{{ $labels.instance }}: {{ $value | humanizePercentage }} of the memory for waiting facts "
        "is used",
        description="Facts will be dropped soon, processed messages first. Bring the log back, or make the "
        "process record "
        "less (messages=failed).",
        dashboard=_PERSISTENCE,
        panel=21,
        runbook="queue-saturated",
    ),
    Alert(
        name="PapyraDeliveryLag",
        severity="warning",
        expr=level(s.DELIVERY_AGE, over=lambda c: c.windows.limit(c.limits.undelivered)),
        stays=5 * MINUTE,
        summary="{{ $labels.instance }}: the collector is {{ $value | humanizeDuration }} behind the log",
        description="Facts are safe in the log and are delivered when the collector is back. Look at the "
        "collector, and "
        "compact with care until then.",
        dashboard=_PERSISTENCE,
        panel=25,
        runbook="delivery-lag",
    ),
    Alert(
        name="PapyraScanStale",
        severity="info",
        expr=level(s.SCAN_AGE, s.BACKEND_TYPE, over=lambda c: c.windows.limit(c.limits.scan_age)),
        stays=10 * MINUTE,
        summary="{{ $labels.instance }}: the log of facts was last scanned {{ $value | humanizeDuration }} "
        "ago",
        description="Damage since then is not known. Set OTEL_PYTHON_PAPYRA_SCAN_INTERVAL, or run "
        "papyra-otel scan from "
        "cron.",
        dashboard=_PERSISTENCE,
        panel=3,
        runbook="scan-stale",
    ),
    Alert(
        name="PapyraStorageFillingUp",
        severity="warning",
        expr=_filling_up,
        stays=30 * MINUTE,
        summary="{{ $labels.instance }}: the log of facts will take {{ $value | humanize1024 }}B in four "
        "days",
        description="Set a retention and compact: papyra-otel compact --retention 'events=7d' --dry-run "
        "says what would go. "
        "If the log may be as large as that, raise the threshold.",
        dashboard=_PERSISTENCE,
        panel=32,
        runbook="storage-filling-up",
    ),
)
