"""Observable instruments over the plain integers of this process's recordings, and one histogram.

Instruments cannot be taken back in OTel, so they are made once per meter provider and read whatever
sources are attached at collection; with none attached they report nothing. A counter never goes back: what a
source had counted when it was detached is added to what the next one counts.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from opentelemetry.metrics import CallbackOptions, Histogram, MeterProvider, Observation, get_meter_provider

from papyra_otel import semconv as s
from papyra_otel.facts import FactKind
from papyra_otel.log.outlet import Backlog
from papyra_otel.pipeline.counters import Counters, Key
from papyra_otel.pipeline.gauges import GAUGES, Gauge, RuntimeGauges
from papyra_otel.pipeline.upkeep import Health

__all__ = ["DURATION_BUCKETS", "Metrics", "Source"]

_NANOS = 1_000_000_000
DURATION_BUCKETS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0),
)
MESSAGE_BUCKETS = (
    *(0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01),
    *(0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
PROCESSED = (s.SYSTEM_ID, s.ACTOR_TYPE, s.MESSAGE_KIND, s.ERROR_TYPE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What one recording offers to be read at collection. Callables are quick and take no lock for long.

    *appended* returns (records, bytes) by (system, kind); *waiting* (size, capacity, oldest ns or None), itself None
    without a queue; *last_audits* the time of the last audit by system, in nanoseconds since the epoch; *health* what
    is known of the log's state; *spill_bytes* how much waits on the disk, None without a spill; *gauges* what the
    runtimes show; *backlog* what is not delivered.
    """

    backend: str
    counters: Counters
    appended: Callable[[], dict[tuple[str, FactKind], tuple[int, int]]]
    waiting: Callable[[], tuple[int, int, int | None]] | None
    last_audits: Callable[[], dict[str, int]]
    health: Callable[[], Health | None]
    spill_bytes: Callable[[], int] | None = None
    gauges: Callable[[], Iterable[RuntimeGauges]] | None = None
    backlog: Callable[[], Backlog | None] | None = None


@dataclass(frozen=True, slots=True)
class _Counted:
    """One metric that is a plain count: its name, unit, and the attributes its key holds, in order."""

    name: str
    unit: str
    attributes: tuple[str, ...]
    description: str
    up_down: bool = False


COUNTED = (
    _Counted(s.ACTOR_STARTS, "{start}", (s.SYSTEM_ID, s.ACTOR_TYPE), "Actors that became ready for messages"),
    _Counted(
        s.ACTOR_STOPS, "{stop}", (s.SYSTEM_ID, s.ACTOR_TYPE, s.STOP_REASON), "Actors that ended for good"
    ),
    _Counted(s.ACTOR_RESTARTS, "{restart}", (s.SYSTEM_ID, s.ACTOR_TYPE), "New incarnations of actors"),
    _Counted(
        s.ACTOR_FAILURES,
        "{failure}",
        (s.SYSTEM_ID, s.ACTOR_TYPE, s.FAILURE_PHASE, s.ERROR_TYPE),
        "Exceptions that an actor did not handle",
    ),
    _Counted(
        s.ACTOR_COUNT,
        "{actor}",
        (s.SYSTEM_ID, s.ACTOR_TYPE, s.ACTOR_STATE),
        "Actors now, by state",
        up_down=True,
    ),
    _Counted(
        s.SUPERVISION_DECISIONS,
        "{decision}",
        (s.SYSTEM_ID, s.ACTOR_TYPE, s.SUPERVISION_DIRECTIVE, s.SUPERVISION_SOURCE, s.SUPERVISION_OUTCOME),
        "What was decided about failed actors",
    ),
    _Counted(
        s.PROCESSED_MESSAGES,
        "{message}",
        PROCESSED,
        "Messages that actors handled",
    ),
    _Counted(
        s.DEAD_LETTER_MESSAGES,
        "{message}",
        (s.SYSTEM_ID, s.ACTOR_TYPE, s.MESSAGE_TYPE, s.MESSAGE_KIND, s.DEAD_LETTER_REASON),
        "Messages that could not be delivered",
    ),
    _Counted(
        s.PERSISTENCE_DROPPED,
        "{record}",
        (s.BACKEND_TYPE, s.FACT_KIND, s.ERROR_TYPE, s.SYSTEM_ID),
        "Facts that nobody accepted",
    ),
    _Counted(
        s.PERSISTENCE_SPILLED,
        "{record}",
        (s.BACKEND_TYPE, s.FACT_KIND, s.SYSTEM_ID),
        "Facts kept on the local disk while the log was away",
    ),
    _Counted(s.PERSISTENCE_SCANS, "{scan}", (s.BACKEND_TYPE, s.ERROR_TYPE), "Scans of the log"),
    _Counted(
        s.PERSISTENCE_ANOMALIES,
        "{anomaly}",
        (s.BACKEND_TYPE, s.ANOMALY_TYPE),
        "Anomalies that scans found, each once",
    ),
    _Counted(
        s.PERSISTENCE_RECOVERIES,
        "{recovery}",
        (s.BACKEND_TYPE, s.RECOVERY_MODE, s.ERROR_TYPE),
        "Recoveries of the log",
    ),
    _Counted(
        s.PERSISTENCE_COMPACTIONS, "{compaction}", (s.BACKEND_TYPE, s.ERROR_TYPE), "Compactions of the log"
    ),
    _Counted(
        s.DELIVERY_EXPORTED, "{record}", (s.ERROR_TYPE,), "Facts that a receiver took, or refused for good"
    ),
    _Counted(s.INSTRUMENTATION_ERRORS, "{error}", (s.WHAT,), "Failures of the instrumentation itself"),
    _Counted(s.EVENT_SUPPRESSED, "{event}", (s.WHAT,), "Events kept in the log but not forwarded"),
    _Counted(s.ATTRIBUTE_OVERFLOW, "{value}", (s.WHAT,), "Attribute values folded into _OTHER"),
)
_BY_FACT = (s.BACKEND_TYPE, s.FACT_KIND, s.SYSTEM_ID)
_APPENDED = (
    (_Counted(s.PERSISTENCE_RECORDS, "{record}", _BY_FACT, "Facts stored"), 0),
    (_Counted(s.PERSISTENCE_BYTES, "By", _BY_FACT, "Bytes of facts stored"), 1),
)


class Metrics:
    """The instruments of one meter provider. Thread-safe."""

    def __init__(
        self, provider: MeterProvider | None = None, clock: Callable[[], int] = time.time_ns
    ) -> None:
        self._provider = provider
        self._clock = clock
        self._lock = threading.Lock()
        self._sources: tuple[Source, ...] = ()
        self._ended: dict[str, dict[Key, int]] = {}
        self._made = False
        self._duration: Histogram | None = None
        self._process_duration: Histogram | None = None

    def attach(self, source: Source) -> None:
        """Let *source* be read from now on."""
        with self._lock:
            self._sources = (*self._sources, source)
            if not self._made:
                self._made = True
                self._make()

    def detach(self, source: Source) -> None:
        """Read *source* no more; remember what it counted. Not being attached it does nothing."""
        with self._lock:
            left = tuple(other for other in self._sources if other is not source)
            if len(left) == len(self._sources):
                return
            self._sources = left
            for metric in COUNTED:
                if not metric.up_down:
                    self._remember(metric.name, source.counters.read(metric.name))
            for metric, which in _APPENDED:
                self._remember(metric.name, _appended(source, metric, which))

    def _remember(self, name: str, counts: Iterable[tuple[Key, int]]) -> None:
        ended = self._ended.setdefault(name, {})
        for key, count in counts:
            ended[key] = ended.get(key, 0) + count

    def after_fork_in_child(self) -> None:
        """Forget what was counted before: that is the parent's. The sources begin again by themselves."""
        self._lock = threading.Lock()
        self._ended = {}

    def record_duration(self, backend: str, operation: str, seconds: float, error_type: str) -> None:
        """Add one measurement of *operation*; *error_type* is empty when it went well.

        Runs the application's SDK: not for an actor's path, nor where a lock of ours is held.
        """
        if self._duration is not None:
            names = (s.BACKEND_TYPE, s.OPERATION, s.ERROR_TYPE)
            self._duration.record(seconds, _named(names, (backend, operation, error_type)))

    def record_process_duration(self, seconds: float, key: Key) -> None:
        """Add one measurement of the handling of a message; *key* as that of ``papyra.message.processed``."""
        if self._process_duration is not None:
            self._process_duration.record(seconds, _named(PROCESSED, key))

    def _make(self) -> None:
        meter = (self._provider or get_meter_provider()).get_meter(s.SCOPE_NAME, schema_url=s.SCHEMA_URL)
        for metric in COUNTED:
            make = (
                meter.create_observable_up_down_counter if metric.up_down else meter.create_observable_counter
            )
            make(metric.name, [self._counting(metric, _counts)], metric.unit, metric.description)
        for metric, which in _APPENDED:
            reading = self._counting(metric, partial(_appended, which=which))
            meter.create_observable_counter(metric.name, [reading], metric.unit, metric.description)
        self._duration = meter.create_histogram(
            s.OPERATION_DURATION,
            "s",
            "How long the log took",
            explicit_bucket_boundaries_advisory=DURATION_BUCKETS,
        )
        self._process_duration = meter.create_histogram(
            s.PROCESS_DURATION,
            "s",
            "How long handling a message took: every one up to a rate, evenly chosen ones above it",
            explicit_bucket_boundaries_advisory=MESSAGE_BUCKETS,
        )
        for gauge in GAUGES:
            make_gauge = (
                meter.create_observable_up_down_counter if gauge.up_down else meter.create_observable_gauge
            )
            make_gauge(gauge.name, [self._reading(self._gauge, gauge)], gauge.unit, gauge.description)
        for which, (name, unit, description) in enumerate(
            (
                (s.STORAGE_RECORDS, "{record}", "Facts in the log: at the last scan, and what came since"),
                (s.STORAGE_SIZE, "By", "Bytes in the log: at the last scan, and what came since"),
            )
        ):
            meter.create_observable_up_down_counter(
                name, [self._reading(self._storage, which)], unit, description
            )
        for name, unit, description, read in (
            (s.ANOMALY_COUNT, "{anomaly}", "Anomalies that were there at the last scan", self._anomaly_count),
            (s.SCAN_AGE, "s", "Time since the last scan", self._scan_age),
            (s.QUEUE_SIZE, "{record}", "Facts waiting for the log", self._queue_size),
            (s.QUEUE_CAPACITY, "{record}", "How many facts can wait", self._queue_capacity),
            (
                s.QUEUE_OLDEST_AGE,
                "s",
                "Age of the fact that waits longest, 0 when none does",
                self._queue_age,
            ),
            (s.SPILL_SIZE, "By", "What waits on the local disk for the log", self._spill_size),
            (s.DELIVERY_LAG, "{record}", "Facts in the log that are not delivered", self._delivery_lag),
            (s.DELIVERY_AGE, "s", "Age of the oldest fact that is not delivered", self._delivery_age),
            (s.AUDIT_AGE, "s", "Time since the last audit", self._audit_age),
        ):
            meter.create_observable_gauge(name, [self._reading(read, None)], unit, description)

    def _reading(
        self, read: Callable[..., Iterable[Observation]], argument: object
    ) -> Callable[[CallbackOptions], Sequence[Observation]]:
        def callback(options: CallbackOptions) -> Sequence[Observation]:
            del options
            return [each for source in self._sources for each in read(source, argument)]

        return callback

    def _counting(
        self, metric: _Counted, read: Callable[[Source, _Counted], Iterable[tuple[Key, int]]]
    ) -> Callable[[CallbackOptions], Sequence[Observation]]:
        def callback(options: CallbackOptions) -> Sequence[Observation]:
            del options
            if not self._sources:
                return []
            with self._lock:
                counts = dict(self._ended.get(metric.name, {}))
            for source in self._sources:
                for key, count in read(source, metric):
                    counts[key] = counts.get(key, 0) + count
            return [Observation(count, _named(metric.attributes, key)) for key, count in counts.items()]

        return callback

    @staticmethod
    def _gauge(source: Source, gauge: Gauge) -> Iterable[Observation]:
        for state in source.gauges() if source.gauges is not None else ():
            yield from gauge.read(state)

    @staticmethod
    def _storage(source: Source, which: int) -> Iterable[Observation]:
        health = source.health()
        for kind, amounts in health.storage.items() if health is not None else ():
            yield Observation(amounts[which], {s.BACKEND_TYPE: source.backend, s.FACT_KIND: kind.value})

    @staticmethod
    def _anomaly_count(source: Source, _: object) -> Iterable[Observation]:
        health = source.health()
        if health is not None:
            yield Observation(health.unresolved, {s.BACKEND_TYPE: source.backend})

    def _scan_age(self, source: Source, _: object) -> Iterable[Observation]:
        health = source.health()
        if health is not None:
            age = max(self._clock() - health.scanned_unix_nano, 0) / _NANOS
            yield Observation(age, {s.BACKEND_TYPE: source.backend})

    @staticmethod
    def _queue_size(source: Source, _: object) -> Iterable[Observation]:
        if source.waiting is not None:
            yield Observation(source.waiting()[0], {s.BACKEND_TYPE: source.backend})

    @staticmethod
    def _queue_capacity(source: Source, _: object) -> Iterable[Observation]:
        if source.waiting is not None:
            yield Observation(source.waiting()[1], {s.BACKEND_TYPE: source.backend})

    def _queue_age(self, source: Source, _: object) -> Iterable[Observation]:
        if source.waiting is not None:
            oldest = source.waiting()[2]
            age = 0.0 if oldest is None else max(self._clock() - oldest, 0) / _NANOS
            yield Observation(age, {s.BACKEND_TYPE: source.backend})

    @staticmethod
    def _spill_size(source: Source, _: object) -> Iterable[Observation]:
        if source.spill_bytes is not None:
            yield Observation(source.spill_bytes(), {s.BACKEND_TYPE: source.backend})

    @staticmethod
    def _delivery_lag(source: Source, _: object) -> Iterable[Observation]:
        backlog = None if source.backlog is None else source.backlog()
        if backlog is not None:
            yield Observation(backlog.records, {s.BACKEND_TYPE: source.backend})

    def _delivery_age(self, source: Source, _: object) -> Iterable[Observation]:
        backlog = None if source.backlog is None else source.backlog()
        if backlog is not None:
            oldest = backlog.oldest_unix_nano
            age = 0.0 if oldest is None else max(self._clock() - oldest, 0) / _NANOS
            yield Observation(age, {s.BACKEND_TYPE: source.backend})

    def _audit_age(self, source: Source, _: object) -> Iterable[Observation]:
        for system, moment in source.last_audits().items():
            yield Observation(max(self._clock() - moment, 0) / _NANOS, {s.SYSTEM_ID: system})


def _counts(source: Source, metric: _Counted) -> Iterable[tuple[Key, int]]:
    return source.counters.read(metric.name)


def _appended(source: Source, _: _Counted, which: int) -> Iterator[tuple[Key, int]]:
    """Yield what was stored, of every kind for each system that has stored anything."""
    appended = source.appended()
    for system in dict.fromkeys(system for system, _ in appended):
        for kind in FactKind:
            yield (source.backend, kind.value, system), appended.get((system, kind), (0, 0))[which]


def _named(names: tuple[str, ...], key: Key) -> dict[str, str]:
    """Pair attribute names with a key's values; an empty value means the attribute is absent (``error.type``)."""
    return {name: value for name, value in zip(names, key, strict=True) if value}
