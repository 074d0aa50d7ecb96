"""The instruments read plain integers at collection, with the documented names, units and attributes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from papyra_otel import Actor, FactKind, Recorder, semconv
from papyra_otel.log.outlet import Backlog
from papyra_otel.pipeline.counters import Counters, TypeCap
from papyra_otel.pipeline.metrics import DURATION_BUCKETS, Metrics, Source
from papyra_otel.pipeline.upkeep import Health
from papyra_otel.pipeline.zeros import Zeros
from papyra_otel.recorder import AuditSnapshot

NOW = 1_700_000_000_000_000_000


class Collected:
    health: Health | None = None
    backlog: Backlog | None = None

    def __init__(self, pipeline):
        self.reader = InMemoryMetricReader()
        self.metrics = Metrics(
            MeterProvider([self.reader], shutdown_on_exit=False), clock=lambda: NOW + 5_000_000_000
        )
        self.recorder = Recorder(pipeline.logger, pipeline.counters, clock=lambda: NOW)
        self.source = Source(
            backend="memory",
            counters=pipeline.counters,
            appended=pipeline.log.appended,
            waiting=pipeline.writer.waiting,
            last_audits=self.recorder.last_audits_unix_nano,
            health=lambda: self.health,
            backlog=lambda: self.backlog,
        )
        self.metrics.attach(self.source)

    def points(self) -> dict[str, list[tuple[dict, float]]]:
        data = self.reader.get_metrics_data()
        return {
            metric.name: [
                (dict(point.attributes), getattr(point, "value", point)) for point in metric.data.data_points
            ]
            for resource in (data.resource_metrics if data else [])
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def units(self) -> dict[str, str]:
        data = self.reader.get_metrics_data()
        return {m.name: m.unit for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics}


@pytest.fixture
def collected(pipeline):
    return Collected(pipeline)


ACTOR = Actor(system="orders", type="shop.Worker", address="orders/1")


def test_actors_are_counted_by_type(collected):
    for _ in range(3):
        collected.recorder.started(ACTOR)
    collected.recorder.stopped(ACTOR, reason="requested")
    points = collected.points()
    by_type = {semconv.SYSTEM_ID: "orders", semconv.ACTOR_TYPE: "shop.Worker"}
    assert points[semconv.ACTOR_STARTS] == [(by_type, 3)]
    assert points[semconv.ACTOR_STOPS] == [({**by_type, semconv.STOP_REASON: "requested"}, 1)]
    assert points[semconv.ACTOR_COUNT] == [({**by_type, semconv.ACTOR_STATE: "alive"}, 2)]


def test_an_actor_that_never_started_does_not_lower_the_number_of_actors(collected):
    collected.recorder.stopped(ACTOR, reason="start_failed", was_started=False)
    assert semconv.ACTOR_COUNT not in collected.points()


def test_records_and_bytes_are_those_of_the_log(collected, pipeline):
    pipeline.emit(0)
    pipeline.emit(1, name=semconv.AUDIT_COMPLETED)
    stats = pipeline.log.stats().streams
    points = collected.points()
    for name, field in ((semconv.PERSISTENCE_RECORDS, "records"), (semconv.PERSISTENCE_BYTES, "bytes")):
        measured = {attributes[semconv.FACT_KIND]: value for attributes, value in points[name]}
        assert measured == {
            "event": getattr(stats[FactKind.EVENT], field),
            "audit": getattr(stats[FactKind.AUDIT], field),
            "dead_letter": 0,
        }


def test_the_queue_is_measured(collected, pipeline):
    pipeline.log.away = "EIO"
    pipeline.emit(0)
    points = collected.points()
    assert points[semconv.QUEUE_SIZE] == [({semconv.BACKEND_TYPE: "memory"}, 1)]
    assert points[semconv.QUEUE_CAPACITY] == [({semconv.BACKEND_TYPE: "memory"}, 10_000)]
    assert points[semconv.QUEUE_OLDEST_AGE] == [({semconv.BACKEND_TYPE: "memory"}, 5.0)]


def test_what_is_not_delivered_is_told_by_the_one_that_delivers(collected, pipeline):
    pipeline.counters.observe_zero(semconv.DELIVERY_EXPORTED, [("",)])
    points = collected.points()
    assert semconv.DELIVERY_LAG not in points
    assert points[semconv.DELIVERY_EXPORTED] == [({}, 0)]
    collected.backlog = Backlog(records=12, oldest_unix_nano=NOW - 2_000_000_000)
    pipeline.counters.add(semconv.DELIVERY_EXPORTED, ("",), 30)
    pipeline.counters.add(semconv.DELIVERY_EXPORTED, ("400",), 1)
    points = collected.points()
    assert points[semconv.DELIVERY_LAG] == [({semconv.BACKEND_TYPE: "memory"}, 12)]
    assert points[semconv.DELIVERY_AGE] == [({semconv.BACKEND_TYPE: "memory"}, 7.0)]
    assert points[semconv.DELIVERY_EXPORTED] == [({}, 30), ({"error.type": "400"}, 1)]
    collected.backlog = Backlog(records=0, oldest_unix_nano=None)
    assert collected.points()[semconv.DELIVERY_AGE] == [({semconv.BACKEND_TYPE: "memory"}, 0.0)]
    assert collected.units()[semconv.DELIVERY_LAG] == "{record}"


def test_a_message_without_an_error_has_no_error_type(collected):
    collected.recorder.processed(ACTOR, message="x", kind="tell", duration_seconds=0.1)
    collected.recorder.processed(ACTOR, message="x", kind="tell", duration_seconds=0.1, error=KeyError())
    values = {
        attributes.get("error.type"): value
        for attributes, value in collected.points()[semconv.PROCESSED_MESSAGES]
    }
    assert values == {None: 1, "KeyError": 1}


def test_messages_that_are_not_kept_are_counted_all_the_same(pipeline):
    from papyra_otel.config import MessagePolicy

    recorder = Recorder(pipeline.logger, pipeline.counters, messages=MessagePolicy("off"))
    recorder.processed(ACTOR, message="x", kind="tell", duration_seconds=0.1)
    assert pipeline.log.facts() == []
    assert pipeline.counters.total(semconv.PROCESSED_MESSAGES) == 1


def test_the_age_of_the_last_audit_is_in_seconds(collected):
    collected.recorder.audit(AuditSnapshot(system="orders"))
    assert collected.points()[semconv.AUDIT_AGE] == [({semconv.SYSTEM_ID: "orders"}, 5.0)]


def test_the_state_of_the_log_is_measured_once_it_is_known(collected):
    unknown = collected.points().keys()
    names = {semconv.STORAGE_RECORDS, semconv.STORAGE_SIZE, semconv.ANOMALY_COUNT, semconv.SCAN_AGE}
    assert names & unknown == set()
    collected.health = Health(
        scanned_unix_nano=NOW, unresolved=3, storage={FactKind.EVENT: (10, 1000), FactKind.AUDIT: (0, 0)}
    )
    points = collected.points()
    backend = {semconv.BACKEND_TYPE: "memory"}
    events, audits = ({**backend, semconv.FACT_KIND: kind} for kind in ("event", "audit"))
    assert points[semconv.STORAGE_RECORDS] == [(events, 10), (audits, 0)]
    assert points[semconv.STORAGE_SIZE] == [(events, 1000), (audits, 0)]
    assert points[semconv.ANOMALY_COUNT] == [(backend, 3)]
    assert points[semconv.SCAN_AGE] == [(backend, 5.0)]
    units = collected.units()
    assert (units[semconv.STORAGE_RECORDS], units[semconv.STORAGE_SIZE]) == ("{record}", "By")


def test_durations_are_spread_over_the_advised_buckets(collected):
    for seconds in (0.0005, 0.004, 1000.0):
        collected.metrics.record_duration("memory", "scan", seconds, "")
    collected.metrics.record_duration("memory", "scan", 0.1, "EIO")
    well, failed = collected.points()[semconv.OPERATION_DURATION]
    assert well[0] == {semconv.BACKEND_TYPE: "memory", semconv.OPERATION: "scan"}
    assert failed[0] == {**well[0], semconv.ERROR_TYPE: "EIO"}
    assert well[1].explicit_bounds == DURATION_BUCKETS
    assert (DURATION_BUCKETS[0], DURATION_BUCKETS[-1]) == (0.001, 300.0)
    assert [n for n, count in enumerate(well[1].bucket_counts) if count] == [0, 2, len(DURATION_BUCKETS)]


def test_durations_before_any_recording_are_nobodys():
    Metrics().record_duration("memory", "scan", 1.0, "")


def test_units_are_those_of_the_conventions(collected, pipeline):
    collected.recorder.started(ACTOR)
    collected.metrics.record_duration("memory", "scan", 1.0, "")
    pipeline.emit()
    units = collected.units()
    assert units[semconv.ACTOR_STARTS] == "{start}"
    assert units[semconv.PERSISTENCE_BYTES] == "By"
    assert units[semconv.QUEUE_OLDEST_AGE] == "s"
    assert units[semconv.OPERATION_DURATION] == "s"
    assert "1" not in units.values()


def test_a_detached_source_reports_nothing(collected):
    collected.recorder.started(ACTOR)
    collected.metrics.detach(collected.source)
    assert collected.points() == {}


def test_attaching_again_makes_no_second_instrument(collected, caplog):
    collected.metrics.detach(collected.source)
    collected.metrics.attach(collected.source)
    collected.recorder.started(ACTOR)
    assert len(collected.points()[semconv.ACTOR_STARTS]) == 1
    assert caplog.records == []


def test_what_was_counted_before_is_added_to_what_is_counted_next(collected, make_pipeline):
    collected.recorder.started(ACTOR)
    collected.recorder.crashed(ACTOR, ValueError("x"), phase="receive")
    collected.metrics.detach(collected.source)
    collected.metrics.detach(collected.source)
    next_one = make_pipeline()
    source = replace(collected.source, counters=next_one.counters, appended=next_one.log.appended)
    collected.metrics.attach(source)
    Recorder(next_one.logger, next_one.counters).started(ACTOR)
    by_type = {semconv.SYSTEM_ID: "orders", semconv.ACTOR_TYPE: "shop.Worker"}
    points = collected.points()
    assert points[semconv.ACTOR_STARTS] == [(by_type, 2)]
    assert [value for _, value in points[semconv.ACTOR_FAILURES]] == [1]
    assert points[semconv.ACTOR_COUNT] == [({**by_type, semconv.ACTOR_STATE: "alive"}, 1)]
    stored = {
        attributes[semconv.FACT_KIND]: value for attributes, value in points[semconv.PERSISTENCE_RECORDS]
    }
    assert stored == {"event": 3, "audit": 0, "dead_letter": 0}


def test_a_forked_child_counts_only_what_is_its_own(collected, pipeline):
    pipeline.counters.expect(Zeros("memory", spills=False))
    collected.recorder.started(ACTOR)
    collected.metrics.detach(collected.source)
    collected.metrics.attach(collected.source)
    collected.metrics.after_fork_in_child()
    pipeline.counters.reset()
    points = collected.points()
    assert semconv.ACTOR_STARTS not in points
    assert {value for _, value in points[semconv.INSTRUMENTATION_ERRORS]} == {0}
    collected.recorder.started(ACTOR)
    points = collected.points()
    assert [value for _, value in points[semconv.ACTOR_STARTS]] == [1]
    assert [value for _, value in points[semconv.ACTOR_RESTARTS]] == [0]


def test_what_alerts_read_is_counted_from_0(collected, pipeline):
    pipeline.counters.expect(Zeros("file", spills=True))
    assert {name for name, points in collected.points().items() for _, value in points if value == 0} >= {
        semconv.INSTRUMENTATION_ERRORS,
        semconv.EVENT_SUPPRESSED,
        semconv.ATTRIBUTE_OVERFLOW,
    }
    collected.recorder.started(ACTOR)
    other = replace(ACTOR, system="stock")
    collected.recorder.started(other)
    zeros = collected.points()
    of_reasons = [attributes[semconv.STOP_REASON] for attributes, _ in zeros[semconv.ACTOR_STOPS]]
    assert Counter(of_reasons) == {"restart_limit": 2, "start_failed": 2}
    outcomes = [
        attributes[semconv.SUPERVISION_OUTCOME] for attributes, _ in zeros[semconv.SUPERVISION_DECISIONS]
    ]
    assert Counter(outcomes) == {"restart_limit_exceeded": 4, "restart_failed": 4}
    full = {"papyra.backend.type": "file", "papyra.fact.kind": "audit", "error.type": "ENOSPC"}
    assert ({**full, semconv.SYSTEM_ID: "stock"}, 0) in zeros[semconv.PERSISTENCE_DROPPED]
    assert len(zeros[semconv.PERSISTENCE_SPILLED]) == 6
    collected.recorder.decided(ACTOR, directive="restart", source="policy", outcome="restart_limit_exceeded")
    collected.recorder.stopped(ACTOR, reason="restart_limit")
    points = collected.points()
    for name in (semconv.ACTOR_STOPS, semconv.SUPERVISION_DECISIONS):
        assert len(points[name]) == len(zeros[name]), "the first one is an increase, not a new series"
        assert sum(value for _, value in points[name]) == 1


def test_the_zeros_of_an_actor_type_are_few():
    beside = list(Zeros("redis", spills=True).beside(semconv.ACTOR_STARTS, ("orders", "shop.Worker")))
    of_the_type = [metric for metric, key in beside if "shop.Worker" in key]
    assert (len(of_the_type), len(beside) - len(of_the_type)) == (7, 21)


def test_attribute_values_are_bounded_and_the_rest_is_counted():
    counters = Counters()
    cap = TypeCap(counters, "papyra.actor.type", 2)
    assert [cap(value) for value in "abcda"] == ["a", "b", "_OTHER", "_OTHER", "a"]
    assert counters.read(semconv.ATTRIBUTE_OVERFLOW) == [(("papyra.actor.type",), 2)]


def test_every_metric_says_its_system_where_it_has_one(collected, pipeline):
    collected.recorder.started(ACTOR)
    collected.recorder.crashed(ACTOR, ValueError("x"), phase="receive")
    collected.recorder.decided(ACTOR, directive="restart", source="policy", outcome="restarted")
    collected.recorder.restarted(ACTOR, incarnation=1)
    collected.recorder.dead_letter(ACTOR, message="x", reason="actor_stopped", kind="tell")
    of_actors = {name: points for name, points in collected.points().items() if ".persistence." not in name}
    assert len(of_actors) == 6
    assert all(semconv.SYSTEM_ID in attributes for points in of_actors.values() for attributes, _ in points)
