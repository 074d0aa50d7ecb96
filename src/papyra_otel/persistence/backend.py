"""papyra's ``PersistenceBackend`` on top of any of our logs: ``ActorSystem(persistence=PapyraPersistence(url))``."""

from __future__ import annotations

import itertools
import logging
import threading
import weakref
from collections.abc import Callable, Iterator
from types import CoroutineType
from typing import Any, TypeVar

import anyio
from anyio import to_thread
from papyra.persistence.backends.retention import RetentionPolicy
from papyra.persistence.base import PersistenceBackend
from papyra.persistence.metrics import PersistenceMetrics
from papyra.persistence.models import (
    PersistedAudit,
    PersistedDeadLetter,
    PersistedEvent,
    PersistenceRecoveryMode,
    PersistenceRecoveryReport,
    PersistenceScanReport,
)

from papyra_otel import plugin
from papyra_otel.config import Settings
from papyra_otel.errors import LogError
from papyra_otel.facts import Fact, FactKind
from papyra_otel.log import FactLog, open_log
from papyra_otel.log.memory import forget
from papyra_otel.log.retention import KindRetention, Retention
from papyra_otel.payload import redact_url
from papyra_otel.persistence import incoming, outgoing
from papyra_otel.persistence.incoming import Event, Known
from papyra_otel.persistence.watching import in_hand, install
from papyra_otel.runtimes.adapter import Ability
from papyra_otel.runtimes.papyra import PapyraAdapter

__all__ = ["PapyraPersistence"]

_logger = logging.getLogger("papyra_otel")
_memory_names = itertools.count(1)
_T = TypeVar("_T")
_ABILITIES = {
    outgoing.STARTED: Ability.LIFECYCLE,
    outgoing.STOPPED: Ability.LIFECYCLE,
    outgoing.CRASHED: Ability.CRASHED,
    outgoing.RESTARTED: Ability.RESTARTED,
}
_MODES = {
    PersistenceRecoveryMode.IGNORE: "ignore",
    PersistenceRecoveryMode.QUARANTINE: "quarantine",
    PersistenceRecoveryMode.REPAIR: "repair",
    PersistenceRecoveryMode.REBUILD: "repair",
}


class PapyraPersistence(PersistenceBackend):
    """Records what papyra says of itself as facts, and shows a log's facts as papyra's own types.

    *log* is a log URL, by default that of the environment; *settings* are those of ``papyra_otel.enable``.
    *retention_policy* holds for each kind of fact by itself, and replaces ``retention``. *system* restricts reading to
    one system, and names the system of what is recorded. papyra's start-up mode is what looks for old damage here,
    so ``startup`` is not used. Raises ConfigError for a wrong URL or setting, and nothing else: a log that cannot be
    written is said on stderr, and every scan then reports it.

    ``record_*`` records when called, before it is awaited, in microseconds (a log behind a network: queued), and
    never raises. What else reads or writes the log does so in a thread. Use it from any thread, on asyncio and trio.
    """

    def __init__(
        self,
        log: str | None = None,
        *,
        retention_policy: RetentionPolicy | None = None,
        system: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(retention_policy=retention_policy)
        chosen = {**settings, "log": log, "system": system, "startup": "ignore"}
        if retention_policy is not None:
            chosen["retention"] = _retention_of(retention_policy)
        url = Settings.load(chosen).log
        if url == "memory:":  # shared by who writes and who reads, and by nobody else
            url = f"memory:papyra-persistence-{next(_memory_names)}"
            weakref.finalize(self, forget, url.partition(":")[2])
        self._chosen = {**chosen, "log": url}
        self._settings = Settings.load(self._chosen)
        self._url = url
        self._system = system
        self._backend = _open(self._settings, None).capabilities.backend
        self._lock = threading.Lock()
        self._held: plugin.Recording | None = None
        self._closed = False
        self._seen_bytes = self._seen_lost = 0
        install(PapyraPersistence)
        self._recording()

    def __bool__(self) -> bool:
        return True  # papyra takes another backend where this is false

    def __repr__(self) -> str:
        return f"PapyraPersistence({redact_url(self._url)!r})"

    @property
    def closed(self) -> bool:
        """Say whether ``aclose`` was called. What is recorded later opens the log again."""
        return self._closed

    # --- recording --------------------------------------------------------------------------------

    def record_event(self, event: Any) -> CoroutineType[Any, Any, None]:
        """Record a lifecycle event: papyra's own, or anything like it."""
        self._accept("event", event)
        return _nothing_more()

    def record_audit(self, report: Any) -> CoroutineType[Any, Any, None]:
        """Record an audit: papyra's own, or anything like it."""
        self._accept("audit", report)
        return _nothing_more()

    def record_dead_letter(self, dead_letter: Any) -> CoroutineType[Any, Any, None]:
        """Record a message that could not be delivered: papyra's own, or anything like it."""
        self._accept("dead_letter", dead_letter)
        return _nothing_more()

    def _accept(self, kind: str, record: object) -> None:
        try:
            self.take(kind, record, in_hand(kind, self, record))
        except Exception:
            self.note_failure(f"persistence.{kind}")

    def take(self, kind: str, record: object, known: Known | None) -> None:
        """Record *record*, unless the instrumentor does so with more detail. Never raises."""
        try:
            recording = self._recording()
            if not recording.active:
                self._metrics.write_errors += 1
                return
            if known is None or not self._told(kind, known):
                recording.emitter.emit(**_members(self._event(kind, record, known, recording)))
            self._metrics.records_written += 1
        except Exception:
            self.note_failure(f"persistence.{kind}")

    def note_failure(self, what: str) -> None:
        """Count, and log now and then, the exception that is being handled."""
        self._metrics.write_errors += 1
        held = self._held
        if held is not None:
            held.guard.failed(what)

    def _event(self, kind: str, record: object, known: Known | None, recording: plugin.Recording) -> Event:
        system = self._settings.system
        try:
            if kind == "event":
                return incoming.lifecycle(record, known, system)
            if kind == "audit":
                return incoming.audit(record, known, system)
            return incoming.dead_letter(record, known, system, self._settings.payload.value)
        except Exception as error:
            recording.guard.failed(f"persistence.{kind}")
            return incoming.unreadable(kind, system, error)

    def _told(self, kind: str, known: Known) -> bool:
        """Say whether the instrumentor records this happening into the same log: it knows more."""
        process = plugin.current()
        if process is None or process.settings is None or process.settings.log != self._url:
            return False
        adapter = process.adapter("papyra")
        if not isinstance(adapter, PapyraAdapter):
            return False
        if kind != "event":
            ability = Ability.AUDIT if kind == "audit" else Ability.DEAD_TARGET
            return adapter.tells(ability, known.subject)
        name = type(known.subject).__name__
        if name not in _ABILITIES or known.runtime is None:
            return False
        return adapter.tells(_ABILITIES[name], known.runtime, ends=name == outgoing.STOPPED)

    def _recording(self) -> plugin.Recording:
        """Return what to record into; it is opened again after ``aclose``."""
        held = self._held
        if held is not None and held.active:
            return held
        with self._lock:
            if self._held is None or not self._held.active:
                self._held = plugin.lease(self._chosen, again=self._closed)
                self._seen_bytes, self._seen_lost = self._held.stored_bytes(), self._held.lost()
            return self._held

    async def aclose(self) -> None:
        """Store what waits and close the log, unless somebody else in this process records there too."""
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(self._give_back)

    def _give_back(self) -> None:
        with self._lock:
            self._closed = True
            self._count_stored()
            held, self._held = self._held, None
        if held is not None and plugin.release(held):
            held.flush()

    # --- reading ----------------------------------------------------------------------------------

    async def list_events(
        self, *, limit: int | None = None, since: float | None = None
    ) -> tuple[PersistedEvent, ...]:
        """Return the newest *limit* lifecycle events not before *since* (seconds since the epoch), oldest first.

        Also those that the instrumentor recorded; what papyra has no event type for is left out. Raises LogError when
        the log cannot be read: no events and no answer are not the same. So do the other lists.
        """
        return await to_thread.run_sync(self._listed, FactKind.EVENT, outgoing.event_of, limit, since)

    async def list_audits(
        self, *, limit: int | None = None, since: float | None = None
    ) -> tuple[PersistedAudit, ...]:
        """Return the newest *limit* audits not before *since*, oldest first. See ``list_events``."""
        return await to_thread.run_sync(self._listed, FactKind.AUDIT, outgoing.audit_of, limit, since)

    async def list_dead_letters(
        self, *, limit: int | None = None, since: float | None = None
    ) -> tuple[PersistedDeadLetter, ...]:
        """Return the newest *limit* dead letters not before *since*, oldest first. See ``list_events``."""
        return await to_thread.run_sync(
            self._listed, FactKind.DEAD_LETTER, outgoing.dead_letter_of, limit, since
        )

    @property
    def events(self) -> tuple[PersistedEvent, ...]:
        """All lifecycle events, as papyra's backend in memory has them. Reads the log here and now: it may block."""
        return self._listed(FactKind.EVENT, outgoing.event_of, None, None)

    @property
    def audits(self) -> tuple[PersistedAudit, ...]:
        """All audits; see ``events``."""
        return self._listed(FactKind.AUDIT, outgoing.audit_of, None, None)

    @property
    def dead_letters(self) -> tuple[PersistedDeadLetter, ...]:
        """All dead letters; see ``events``."""
        return self._listed(FactKind.DEAD_LETTER, outgoing.dead_letter_of, None, None)

    def _listed(
        self, kind: FactKind, shown: Callable[[Fact], _T | None], limit: int | None, since: float | None
    ) -> tuple[_T, ...]:
        self._settle()
        with _open(self._settings, self._system) as log:
            found = _newest(log, kind, shown, since)
            return tuple(itertools.islice(found, None if limit is None else max(limit, 0)))[::-1]

    def _settle(self) -> None:
        """See to it that what was recorded can be read: a log behind a network has it a moment later."""
        held = self._held
        if held is not None:
            held.flush()

    # --- looking after it -------------------------------------------------------------------------

    async def scan(self) -> PersistenceScanReport:
        """Scan the whole log and report damage and loss. Never raises: a log out of reach is an anomaly.

        Changes nothing in the log, and records nothing.
        """
        self._metrics.scans += 1
        report, failed = await to_thread.run_sync(self._scanned)
        self._metrics.scan_errors += failed
        self._metrics.anomalies_detected += len(report.anomalies)
        return report

    def _scanned(self) -> tuple[PersistenceScanReport, bool]:
        try:
            if not self._recording().active:
                raise self._recording().error or LogError("nothing is recorded")
            self._settle()
            with _open(self._settings, self._system) as log:
                return outgoing.scan_report_of(log.scan()), False
        except Exception as error:
            _logger.warning("papyra_otel could not scan %s", redact_url(self._url), exc_info=True)
            return outgoing.unreachable(self._backend, error), True

    async def recover(self, config: Any = None) -> PersistenceRecoveryReport:
        """Take damage out of the way, by papyra's *config*; without one, damaged bytes are moved to quarantine.

        ``REBUILD`` is ``REPAIR``. A ``quarantine_dir`` is not used: the log keeps its own, where the damaged bytes stay
        with it. Never raises: where it failed, the report's scan says so.
        """
        self._metrics.recoveries += 1
        asked: Any = getattr(config, "mode", None)
        mode = next((mode for theirs, mode in _MODES.items() if theirs is asked), "quarantine")
        report, failed = await to_thread.run_sync(self._recovered, mode)
        self._metrics.recovery_errors += failed
        return report

    def _recovered(self, mode: str) -> tuple[PersistenceRecoveryReport, bool]:
        try:
            self._settle()
            done = self._recording().recover(mode)
        except Exception as error:
            _logger.warning("papyra_otel could not recover %s", redact_url(self._url), exc_info=True)
            found = outgoing.unreachable(self._backend, error)
            return PersistenceRecoveryReport(backend=self._backend, scan=found), True
        return PersistenceRecoveryReport(
            backend=self._backend,
            scan=outgoing.scan_report_of(done.found),
            repaired_files=done.rewritten,
            quarantined_files=done.kept_in,
        ), False

    async def compact(self) -> outgoing.Compacted | None:
        """Remove what retention hides, while recording goes on. Never raises: None when it failed.

        Why it failed is logged.
        """
        self._metrics.compactions += 1
        report = await to_thread.run_sync(self._compacted)
        self._metrics.compaction_errors += report is None
        return report

    def _compacted(self) -> outgoing.Compacted | None:
        try:
            self._settle()
            recording = self._recording()
            with _open(self._settings, None) as log:
                before = log.stats().streams.values()
            records, size = sum(one.records for one in before), sum(one.bytes for one in before)
            done = recording.compact(self._settings.retention)
        except Exception:
            _logger.warning("papyra_otel could not compact %s", redact_url(self._url), exc_info=True)
            return None
        return outgoing.Compacted(
            backend=self._backend,
            before_records=records,
            after_records=records - done.records_removed,
            before_bytes=size,
            after_bytes=size - done.bytes_freed,
        )

    # --- metrics ----------------------------------------------------------------------------------

    @property
    def metrics(self) -> PersistenceMetrics:
        """The counts of this backend as papyra keeps them; bytes and losses are those of this process there."""
        self._count_stored()
        return self._metrics

    def _count_stored(self) -> None:
        held = self._held
        if held is not None and held.active:
            stored, lost = held.stored_bytes(), held.lost()
            self._metrics.bytes_written += max(0, stored - self._seen_bytes)
            self._metrics.write_errors += max(0, lost - self._seen_lost)
            self._seen_bytes, self._seen_lost = stored, lost


def _nothing_more() -> CoroutineType[Any, Any, None]:
    return _done()  # type: ignore[return-value]  # mypy gives every coroutine the abstract type


async def _done() -> None:
    """Be awaited: what was to be done is done."""


def _members(event: Event) -> dict[str, Any]:
    return {
        "timestamp": event.time_unix_nano,
        "severity_text": event.severity,
        "attributes": event.attributes,
        "event_name": event.name,
    }


def _open(settings: Settings, system: str | None) -> FactLog:
    return open_log(settings.log, system=system, retention=settings.retention)


def _newest(
    log: FactLog, kind: FactKind, shown: Callable[[Fact], _T | None], since: float | None
) -> Iterator[_T]:
    """Yield what papyra has a type for, newest first."""
    for entry in log.read(kinds=kind, since=incoming.since_unix_nano(since), newest_first=True):
        record: Any = shown(entry.fact)
        if record is not None and (since is None or record.timestamp >= since):
            yield record


def _retention_of(policy: RetentionPolicy) -> Retention:
    """Return papyra's limits for each kind: dead letters are not pushed out by events. 0 is no limit, as there."""
    limits = KindRetention(
        max_records=policy.max_records or None,
        max_age_seconds=policy.max_age_seconds,
        max_bytes=policy.max_total_bytes or None,
    )
    return Retention(dict.fromkeys(FactKind, limits))
