"""Our facts and reports as papyra's own types. Nothing here raises for what a log may hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from papyra.persistence.models import (
    CompactionReport,
    PersistedAudit,
    PersistedDeadLetter,
    PersistedEvent,
    PersistenceAnomaly,
    PersistenceAnomalyType,
    PersistenceScanReport,
)

from papyra_otel import reports
from papyra_otel import semconv as s
from papyra_otel.facts import Fact

__all__ = [
    "CRASHED",
    "RESTARTED",
    "STARTED",
    "STOPPED",
    "Compacted",
    "audit_of",
    "dead_letter_of",
    "event_of",
    "payload_of_event",
    "scan_report_of",
    "unreachable",
]

STARTED, STOPPED, CRASHED, RESTARTED = "ActorStarted", "ActorStopped", "ActorCrashed", "ActorRestarted"
_EVENT_TYPES = {
    s.ACTOR_STARTED: STARTED,
    s.ACTOR_STOPPED: STOPPED,
    s.ACTOR_EXCEPTION: CRASHED,
    s.ACTOR_RESTARTED: RESTARTED,
    s.PERSISTENCE_RECORDED: "",
}
_ANOMALY_TYPES = {
    "torn_tail": PersistenceAnomalyType.TRUNCATED_LINE,
    "lost_newline": PersistenceAnomalyType.TRUNCATED_LINE,
    "torn_inside": PersistenceAnomalyType.PARTIAL_WRITE,
    "nul_run": PersistenceAnomalyType.PARTIAL_WRITE,
    "gap": PersistenceAnomalyType.PARTIAL_WRITE,
    "head_missing": PersistenceAnomalyType.ORPHANED_ROTATED_FILE,
    "segment_missing": PersistenceAnomalyType.ORPHANED_ROTATED_FILE,
    "tmp_leftover": PersistenceAnomalyType.UNEXPECTED_FILE,
    "unexpected_file": PersistenceAnomalyType.UNEXPECTED_FILE,
}
# A process that was killed, or a fact that was stored twice and is read once: nothing to hold up a start.
_HARMLESS = {"unclean_shutdown", "duplicate"}


class Compacted(CompactionReport):
    """papyra's report. Its memory backend returns a dict instead, so this answers like one as well."""

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)


def payload_of_event(name: str, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the payload that papyra gives an event like this fact."""
    if name == s.ACTOR_STOPPED:
        reason = attributes.get(s.STOP_REASON)
        return {"reason": "stopped" if reason in {None, "unknown"} else reason}
    if name == s.ACTOR_EXCEPTION:
        error_type = str(attributes.get(s.EXCEPTION_TYPE, "")).rpartition(".")[2]
        text = f"{error_type}: {attributes.get(s.EXCEPTION_MESSAGE, '')}"
        return {"error": text, "reason": text}
    return {"reason": "actor restarted"} if name == s.ACTOR_RESTARTED else {}


def event_of(fact: Fact) -> PersistedEvent | None:
    """Return *fact* as papyra's, or None when papyra has no such event."""
    event_type = _EVENT_TYPES.get(fact.name)
    if event_type is None:
        return None
    kept = _kept(fact)
    address: Any = kept.get("address", fact.actor)
    return PersistedEvent(
        system_id=fact.system,
        actor_address=address,
        event_type=str(kept.get("event_type", event_type)),
        payload=kept["payload"] if "payload" in kept else payload_of_event(fact.name, fact.attributes),
        timestamp=_timestamp(fact, kept),
    )


def dead_letter_of(fact: Fact) -> PersistedDeadLetter | None:
    """Return *fact* as papyra's."""
    kept = _kept(fact)
    return PersistedDeadLetter(
        system_id=fact.system,
        target=kept.get("address", fact.actor),
        message_type=str(fact.attributes.get(s.MESSAGE_TYPE, "")).rpartition(".")[2],
        payload=_loaded(fact.attributes.get(s.MESSAGE_PAYLOAD)),
        timestamp=_timestamp(fact, kept),
    )


def audit_of(fact: Fact) -> PersistedAudit | None:
    """Return *fact* as papyra's; what its runtime could not tell is 0 there, as papyra has no other word for it."""
    kept, held = _kept(fact), fact.attributes
    return PersistedAudit(
        system_id=fact.system,
        timestamp=_timestamp(fact, kept),
        total_actors=held.get(s.AUDIT_ACTORS_TOTAL, 0),
        alive_actors=held.get(s.AUDIT_ACTORS_ALIVE, 0),
        stopping_actors=held.get(s.AUDIT_ACTORS_STOPPING, 0),
        restarting_actors=held.get(s.AUDIT_ACTORS_RESTARTING, 0),
        registry_size=held.get(s.AUDIT_REGISTRY_SIZE, 0),
        registry_orphans=_names(kept, held, "registry_orphans", s.AUDIT_REGISTRY_ORPHANS),
        registry_dead=_names(kept, held, "registry_dead", s.AUDIT_REGISTRY_DEAD),
        dead_letters_count=held.get(s.AUDIT_DEAD_LETTERS, 0),
    )


def _names(kept: Mapping[str, Any], held: Mapping[str, Any], field: str, attribute: str) -> tuple[str, ...]:
    names: Any = kept.get(field) or held.get(attribute) or ()
    return tuple(str(name) for name in names)


def _kept(fact: Fact) -> dict[str, Any]:
    kept = _loaded(fact.attributes.get(s.PERSISTED))
    return kept if isinstance(kept, dict) else {}  # pyright: ignore[reportUnknownVariableType]


def _loaded(text: Any) -> Any:
    if not isinstance(text, str):
        return text
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, ValueError):
        return text


def _timestamp(fact: Fact, kept: Mapping[str, Any]) -> float:
    own = kept.get("timestamp")
    return float(own) if isinstance(own, (int, float)) else fact.time_unix_nano / 1_000_000_000


# --- reports -----------------------------------------------------------------------------------------


def scan_report_of(report: reports.ScanReport) -> PersistenceScanReport:
    """Return what papyra's startup checks act on: damage and loss, not what is merely worth knowing."""
    return PersistenceScanReport(
        backend=report.backend,
        anomalies=tuple(
            PersistenceAnomaly(
                type=_ANOMALY_TYPES.get(anomaly.type, PersistenceAnomalyType.CORRUPTED_LINE),
                path=anomaly.place,
                detail=f"{anomaly.type}: {anomaly.detail}{_at(anomaly)}",
            )
            for anomaly in report.anomalies
            if anomaly.severity != "INFO" and anomaly.type not in _HARMLESS
        ),
    )


def unreachable(backend: str, error: BaseException) -> PersistenceScanReport:
    """Return the report of a log that could not be looked at: it must not pass for a sound one."""
    anomaly = PersistenceAnomaly(
        type=PersistenceAnomalyType.CORRUPTED_LINE,
        path="",
        detail=f"not scanned: {str(error) or type(error).__name__}",
    )
    return PersistenceScanReport(backend=backend, anomalies=(anomaly,))


def _at(anomaly: reports.Anomaly) -> str:
    return "" if anomaly.offset is None else f" (at {anomaly.offset})"
