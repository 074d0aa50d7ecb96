"""Looking after the log of a recording: scans, recoveries, compactions, and what becomes known of them.

The log does the work and records what it changed; here that is forwarded and counted, and what scans found becomes
facts (docs/decisions/0017). The log used here is opened for this purpose: it appends as a writer of its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from papyra_otel import semconv
from papyra_otel.facts import Capabilities, Fact, FactKind
from papyra_otel.log import FactLog
from papyra_otel.log.contract import Mark
from papyra_otel.log.retention import Retention
from papyra_otel.pipeline.counters import Counters
from papyra_otel.pipeline.guard import Guard
from papyra_otel.reports import (
    ANOMALY_SEVERITIES,
    Anomaly,
    Check,
    CompactionReport,
    ProgressCallback,
    RecoveryReport,
    ScanReport,
)

__all__ = ["ANOMALIES_TOLD_MAX", "Health", "ScanEnded", "Telling", "Upkeep", "error_type_of", "fact_of_mark"]

ANOMALIES_TOLD_MAX = 50
_MODES = ("quarantine", "repair")
_OTHERWISE = "default"

_Report = TypeVar("_Report")
_Amounts = Mapping[FactKind, tuple[int, int]]


class ScanEnded(Exception):
    """What a progress callback raises to end a scan that is not wanted any more: that is no failure."""


class Emitter(Protocol):
    """The part of the OTel Logs API's ``Logger`` that is needed here."""

    def emit(
        self,
        *,
        severity_text: str | None = None,
        attributes: Mapping[str, object] | None = None,
        event_name: str | None = None,
    ) -> None:
        """Tell one event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Telling:
    """How what is found and done becomes known. None of these raises.

    *logger* stores and forwards events (or forwards them only); *forward* hands on facts that are stored already;
    *timed* is told of each operation's duration in seconds and its error type, "" when it went well.
    """

    logger: Emitter
    forward: Callable[[Fact], None]
    timed: Callable[[str, float, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What the last scan found, with what was appended and removed since added up.

    *unresolved* counts the anomalies that need looking at. *storage* is (records, bytes) by kind: of all that is
    stored by any process, except that what others appended since the scan is not known.
    """

    scanned_unix_nano: int
    unresolved: int
    storage: _Amounts


@dataclass(slots=True)
class _Known:
    """What was found so far: for what is new in the next scan, and for what is observed until then."""

    keys: set[tuple[str, str, int | None]] = field(default_factory=set[tuple[str, str, int | None]])
    unlisted: dict[str, int] = field(default_factory=dict[str, int])
    health: Health | None = None
    appended: _Amounts = field(default_factory=dict[FactKind, tuple[int, int]])


class Upkeep:
    """Scans, recovers and compacts *log*; counts it, times it, and tells it. Thread-safe.

    *appended* returns what this process appended, as ``FactLog.appended``. *system* is whose facts scans become;
    None takes the log's only system. The three verbs raise what the log raises, after counting it.
    """

    def __init__(
        self,
        log: FactLog,
        counters: Counters,
        guard: Guard,
        telling: Telling,
        *,
        appended: Callable[[], Mapping[tuple[str, FactKind], tuple[int, int]]],
        system: str | None = None,
        clock: Callable[[], int] = time.time_ns,
        ticks: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._log = log
        self._backend = log.capabilities.backend
        self._counters = counters
        self._guard = guard
        self._telling = telling
        self._appended = appended
        self._system = system
        self._clock = clock
        self._ticks = ticks
        self.after_fork_in_child()

    def after_fork_in_child(self) -> None:
        """Know nothing: what the parent found is the parent's to tell. The counters are back at zero."""
        self._lock = threading.Lock()
        self._known = _Known()
        self._observe_zeros()

    @property
    def capabilities(self) -> Capabilities:
        """What the log can do."""
        return self._log.capabilities

    def health(self) -> Health | None:
        """Return what is known of the log's state; None before the first scan. Cheap."""
        with self._lock:
            health, base = self._known.health, self._known.appended
        if health is None:
            return None
        return Health(
            scanned_unix_nano=health.scanned_unix_nano,
            unresolved=health.unresolved,
            storage=_sum(health.storage, _difference(self._appended_by_kind(), base)),
        )

    # --- the verbs ------------------------------------------------------------------------------------

    def scan(
        self,
        progress: ProgressCallback | None = None,
        *,
        incremental: bool = False,
        seconds_max: float | None = None,
        silent: Callable[[ScanReport], bool] = lambda _: False,
    ) -> ScanReport:
        """Scan the log, and tell what was found that was not known before, unless that is to be *silent*."""
        appended = self._appended_by_kind()
        report = self._timed(
            semconv.PERSISTENCE_SCANS,
            "scan",
            (),
            lambda: self._log.scan(progress, incremental=incremental, seconds_max=seconds_max),
        )
        fresh, count = self._learn(report, report, appended)
        if not silent(report):
            with self._guard("scan.facts"):
                self._tell(report, fresh, count)
        return report

    def remember(self) -> None:
        """Keep what the last scan found sound for later incremental scans. Never raises."""
        with self._guard("remember"):
            self._log.remember()

    def recover(
        self, mode: str = "quarantine", *, dry_run: bool = False, progress: ProgressCallback | None = None
    ) -> RecoveryReport:
        """Recover the log. Its own scan may find what was not known before: that is told too."""
        if dry_run or mode not in _MODES:
            return self._log.recover(mode, dry_run=dry_run, progress=progress)
        appended = self._appended_by_kind()
        report = self._timed(
            semconv.PERSISTENCE_RECOVERIES,
            "recover",
            (mode,),
            lambda: self._log.recover(mode, progress=progress),
        )
        fresh, _ = self._learn(report.found, report.remaining, appended)
        with self._guard("recover.facts"):
            self._tell_anomalies(fresh, self._system_of(report.found))
        self._forward(report.recorded)
        return report

    def compact(
        self,
        retention: Retention | str | None = None,
        force: bool = False,
        *,
        dry_run: bool = False,
        progress: ProgressCallback | None = None,
    ) -> CompactionReport:
        """Compact the log: by default, with the retention it was opened with."""
        if dry_run:
            return self._log.compact(retention, force, dry_run=True, progress=progress)
        report = self._timed(
            semconv.PERSISTENCE_COMPACTIONS,
            "compact",
            (),
            lambda: self._log.compact(retention, force, progress=progress),
        )
        self._subtract(report)
        self._forward(report.recorded)
        return report

    def risks(self) -> tuple[Check, ...]:
        """Return what the log says could lose facts without a word. Raises LogUnavailable."""
        return self._log.risks()

    def tell_risk(self, risk: Check) -> None:
        """Make a fact of *risk*. Never raises."""
        optional = {} if risk.remedy is None else {semconv.RISK_REMEDY: risk.remedy}
        self._telling.logger.emit(
            severity_text=risk.severity,
            event_name=semconv.LOG_RISK,
            attributes={
                semconv.SYSTEM_ID: self._system or _OTHERWISE,
                semconv.BACKEND_TYPE: self._backend,
                semconv.RISK_NAME: risk.name,
                semconv.RISK_DETAIL: risk.detail,
                **optional,
            },
        )

    def beat(self) -> None:
        """Show that this process lives. Never raises."""
        self._log.beat()

    def seal(self) -> None:
        """End what was opened for writing. Never raises."""
        self._log.seal()

    def close(self) -> None:
        """Close the log that is used here. Never raises."""
        self._log.close()

    # --- counting -------------------------------------------------------------------------------------

    def _observe_zeros(self) -> None:
        """Let every count be seen as 0 before it is 1, or an alert misses the first one."""
        backend = self._backend
        for metric, keys in (
            (semconv.PERSISTENCE_SCANS, [(backend, "")]),
            (semconv.PERSISTENCE_ANOMALIES, [(backend, name) for name in ANOMALY_SEVERITIES]),
            (semconv.PERSISTENCE_RECOVERIES, [(backend, mode, "") for mode in _MODES]),
            (semconv.PERSISTENCE_COMPACTIONS, [(backend, "")]),
        ):
            self._counters.observe_zero(metric, keys)

    def _timed(
        self, metric: str, operation: str, key: tuple[str, ...], work: Callable[[], _Report]
    ) -> _Report:
        begun = self._ticks()
        try:
            report = work()
        except ScanEnded:
            raise
        except Exception as error:
            self._note(metric, operation, key, begun, error_type_of(error))
            raise
        self._note(metric, operation, key, begun, "")
        return report

    def _note(self, metric: str, operation: str, key: tuple[str, ...], begun: float, failed: str) -> None:
        self._counters.add(metric, (self._backend, *key, failed))
        self._telling.timed(operation, self._ticks() - begun, failed)

    def _learn(self, found: ScanReport, state: ScanReport, appended: _Amounts) -> tuple[list[Anomaly], int]:
        """Count what *found* has that was not known; return what of it needs looking at, listed, and how much in all.

        *state* is how the log is now, and was when *appended* was what this process had appended.
        """
        with self._lock:
            known = self._known
            fresh = [anomaly for anomaly in found.anomalies if _key(anomaly) not in known.keys]
            # a report lists only so many of a type; of the others, what exceeds the others of before is new
            others = _unlisted(found)
            new = {name: max(0, count - known.unlisted.get(name, 0)) for name, count in others.items()}
            keys, unlisted = {_key(anomaly) for anomaly in state.anomalies}, _unlisted(state)
            if state.places_unread:  # what is known of these still stands
                keys |= known.keys
                unlisted = {name: max(n, known.unlisted.get(name, 0)) for name, n in unlisted.items()}
            self._known = _Known(keys, unlisted, self._health_in(state), appended)
        for anomaly in fresh:
            new[anomaly.type] = new.get(anomaly.type, 0) + 1
        for name, count in new.items():
            if count:
                self._counters.add(semconv.PERSISTENCE_ANOMALIES, (self._backend, name), count)
        needing = [anomaly for anomaly in fresh if anomaly.severity != "INFO"]
        return needing, sum(count for name, count in new.items() if ANOMALY_SEVERITIES[name] != "INFO")

    def _health_in(self, report: ScanReport) -> Health:
        return Health(
            scanned_unix_nano=self._clock(),
            unresolved=report.unresolved,
            storage={kind: (stream.records, stream.size_bytes) for kind, stream in report.streams.items()},
        )

    def _subtract(self, report: CompactionReport) -> None:
        removed: dict[FactKind, tuple[int, int]] = {}
        for stream in report.streams:
            removed = dict(_sum(removed, {stream.kind: (stream.records_removed, stream.bytes_freed)}))
        with self._lock:
            health = self._known.health
            if health is not None:
                self._known.health = Health(
                    scanned_unix_nano=health.scanned_unix_nano,
                    unresolved=health.unresolved,
                    storage=_difference(health.storage, removed),
                )

    def _appended_by_kind(self) -> _Amounts:
        amounts: dict[FactKind, tuple[int, int]] = {}
        for (_, kind), (records, size_bytes) in self._appended().items():
            known = amounts.get(kind, (0, 0))
            amounts[kind] = known[0] + records, known[1] + size_bytes
        return amounts

    # --- telling --------------------------------------------------------------------------------------

    def _tell(self, report: ScanReport, fresh: list[Anomaly], count: int) -> None:
        if not report.places and not report.counts:
            return  # nothing was ever recorded there: nothing to tell, and no reason to begin a file
        system = self._system_of(report)
        told = self._tell_anomalies(fresh, system)
        streams = report.streams.values()
        self._telling.logger.emit(
            severity_text="WARN" if report.unresolved else "INFO",
            event_name=semconv.LOG_SCANNED,
            attributes={
                semconv.SYSTEM_ID: system,
                semconv.BACKEND_TYPE: self._backend,
                semconv.SCAN_ANOMALIES: report.unresolved,
                semconv.SCAN_ANOMALIES_UNTOLD: count - told,
                semconv.SCAN_COUNTS: [f"{name}={n}" for name, n in sorted(report.counts.items()) if n],
                semconv.SCAN_RECORDS: sum(stream.records for stream in streams),
                semconv.SCAN_BYTES: sum(stream.size_bytes for stream in streams),
                semconv.SCAN_PLACES: report.places,
                semconv.SCAN_PLACES_REMEMBERED: report.places_remembered,
                semconv.SCAN_PLACES_UNREAD: report.places_unread,
                semconv.SCAN_DURATION: report.duration_seconds,
            },
        )

    def _tell_anomalies(self, fresh: list[Anomaly], system: str) -> int:
        """Tell the first few, the worst first; return how many."""
        worst_first = sorted(fresh, key=lambda anomaly: anomaly.severity != "ERROR")
        for anomaly in worst_first[:ANOMALIES_TOLD_MAX]:
            optional = {
                semconv.ANOMALY_OFFSET: anomaly.offset,
                semconv.ANOMALY_LENGTH: anomaly.length,
                semconv.FACT_WRITER: anomaly.writer,
            }
            self._telling.logger.emit(
                severity_text=anomaly.severity,
                event_name=semconv.LOG_ANOMALY,
                attributes={
                    semconv.SYSTEM_ID: anomaly.system or system,
                    semconv.BACKEND_TYPE: self._backend,
                    semconv.ANOMALY_TYPE: anomaly.type,
                    semconv.ANOMALY_PLACE: anomaly.place,
                    semconv.ANOMALY_DETAIL: anomaly.detail,
                    **{name: value for name, value in optional.items() if value is not None},
                },
            )
        return min(len(fresh), ANOMALIES_TOLD_MAX)

    def _system_of(self, report: ScanReport) -> str:
        return self._system or (report.systems[0] if len(report.systems) == 1 else _OTHERWISE)

    def _forward(self, facts: Iterable[Fact]) -> None:
        for fact in facts:
            with self._guard("forward"):
                self._telling.forward(fact)


def error_type_of(error: Exception) -> str:
    """Return what a metric calls *error*."""
    named = getattr(error, "error_type", None)
    return named if isinstance(named, str) else type(error).__name__


def fact_of_mark(mark: Mark) -> Fact:
    """Return *mark* in the shape that is forwarded. It has no identity: it is stored only as the segment's own line."""
    attributes = {**mark.attributes, semconv.FACT_WRITER: mark.writer, semconv.FACT_SEQ: mark.seq}
    attributes.pop(semconv.SEGMENT_RESOURCE, None)  # whoever forwards it says that anyway
    return Fact(
        kind=mark.kind,
        name=mark.name,
        time_unix_nano=mark.time_unix_nano,
        system=mark.system,
        severity="DEBUG",
        attributes=attributes,
    )


def _unlisted(report: ScanReport) -> dict[str, int]:
    unlisted = dict(report.counts)
    for anomaly in report.anomalies:
        unlisted[anomaly.type] = unlisted.get(anomaly.type, 1) - 1
    return unlisted


def _key(anomaly: Anomaly) -> tuple[str, str, int | None]:
    return anomaly.type, anomaly.place, anomaly.offset


def _sum(some: _Amounts, more: _Amounts) -> _Amounts:
    return {
        kind: (
            some.get(kind, (0, 0))[0] + more.get(kind, (0, 0))[0],
            some.get(kind, (0, 0))[1] + more.get(kind, (0, 0))[1],
        )
        for kind in {**some, **more}
    }


def _difference(some: _Amounts, less: _Amounts) -> _Amounts:
    """Subtract, but not below nothing: what another process did in between is not known here."""
    return {
        kind: (
            max(0, records - less.get(kind, (0, 0))[0]),
            max(0, size_bytes - less.get(kind, (0, 0))[1]),
        )
        for kind, (records, size_bytes) in some.items()
    }
