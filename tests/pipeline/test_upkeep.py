"""What looking after a log tells, counts and times; periodic scans; errands; and what a start does about damage."""

from __future__ import annotations

import logging
import queue
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from papyra_otel import Fact, FactKind, LogError, LogUnavailable
from papyra_otel import semconv as s
from papyra_otel.config import StartupMode
from papyra_otel.errors import LogBusy, LogDamaged
from papyra_otel.facts import Capabilities
from papyra_otel.log import FactLog
from papyra_otel.log.contract import Mark
from papyra_otel.log.memory import MemoryLog
from papyra_otel.pipeline import startup
from papyra_otel.pipeline.counters import Counters
from papyra_otel.pipeline.courier import ERRANDS_MAX, Courier
from papyra_otel.pipeline.guard import Guard
from papyra_otel.pipeline.scanner import Scanner, Throttle
from papyra_otel.pipeline.timed import ONE_IN, TimedLog
from papyra_otel.pipeline.upkeep import ANOMALIES_TOLD_MAX, ScanEnded, Telling, Upkeep, fact_of_mark
from papyra_otel.recorder import Recorder
from papyra_otel.reports import (
    ANOMALY_SEVERITIES,
    Anomaly,
    CompactionReport,
    Progress,
    RecoveryReport,
    ScanReport,
    StreamCompaction,
    StreamScan,
)
from papyra_otel.runtimes.auditor import Auditor

NOW = 1_700_000_000_000_000_000
EVENT = FactKind.EVENT
RECORDED = Fact(kind=EVENT, name=s.LOG_RECOVERED, time_unix_nano=NOW, system="orders", writer="a" * 16, seq=0)


def anomaly(number: int = 0, name: str = "crc_mismatch", **more: Any) -> Anomaly:
    return Anomaly(type=name, place="orders/events/one.ndjson", detail="broken", offset=number, **more)


def found(*anomalies: Anomaly, **more: Any) -> ScanReport:
    counts = Counter(each.type for each in anomalies)
    return ScanReport(
        **{
            "backend": "made",
            "counts": counts,
            "anomalies": anomalies,
            "systems": ("orders",),
            "places": 1,
            "streams": {EVENT: StreamScan(records=10, size_bytes=1000)},
            **more,
        }
    )


class MadeLog(MemoryLog):
    """Returns reports made by hand, or raises them, one after the other."""

    def __init__(self, *reports: Any, able: bool = True) -> None:
        super().__init__()
        self.reports = list(reports)
        self.able = able
        self.calls: list[tuple[Any, ...]] = []

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            backend="made", durable=False, shared_between_processes=False, scan=self.able, recover=self.able
        )

    def _next(self, *call: Any) -> Any:
        self.calls.append(call)
        report = self.reports.pop(0)
        if isinstance(report, BaseException):
            raise report
        return report

    def scan(self, progress=None, *, incremental=False, seconds_max=None):
        if progress is not None:
            progress(Progress(done_bytes=1, total_bytes=2, place="x"))
        return self._next("scan", incremental, seconds_max)

    def remember(self):
        self.calls.append(("remember",))

    def recover(self, mode="quarantine", *, dry_run=False, progress=None):
        return self._next("recover", mode, dry_run)

    def compact(self, retention=None, force=False, *, dry_run=False, progress=None):
        return self._next("compact", retention, force, dry_run)


class Kept:
    """An upkeep of a made log, and all it tells."""

    def __init__(self, pipeline: Any, *reports: Any, able: bool = True, system: str | None = None) -> None:
        self.pipeline = pipeline
        self.counters: Counters = pipeline.counters
        self.log = MadeLog(*reports, able=able)
        self.forwarded: list[Fact] = []
        self.timed: list[tuple[str, str]] = []
        self.appended: dict[tuple[str, FactKind], tuple[int, int]] = {}
        self.upkeep = Upkeep(
            self.log,
            self.counters,
            pipeline.guard,
            Telling(
                logger=pipeline.logger,
                forward=self.forwarded.append,
                timed=lambda operation, seconds, error: self.timed.append((operation, error)),
            ),
            appended=lambda: self.appended,
            system=system,
            clock=lambda: NOW,
        )

    def facts(self, name: str) -> list[Fact]:
        return [fact for fact in self.pipeline.log.facts() if fact.name == name]

    def counted(self, metric: str) -> dict[tuple[str, ...], int]:
        return {key: count for key, count in self.counters.read(metric) if count}


@pytest.fixture
def keep(pipeline: Any) -> Callable[..., Kept]:
    return lambda *reports, **more: Kept(pipeline, *reports, **more)


# --- scans -------------------------------------------------------------------------------------------------


def test_a_scan_is_told_in_one_fact_with_what_it_found(keep):
    kept = keep(
        found(
            anomaly(7, system="shop", length=3, writer="b" * 16),
            anomaly(name="clock_jump"),
            duration_seconds=0.5,
            places=4,
            places_remembered=2,
            places_unread=1,
        )
    )
    kept.upkeep.scan()
    (scanned,) = kept.facts(s.LOG_SCANNED)
    assert (scanned.system, scanned.severity) == ("orders", "WARN")
    assert scanned.attributes == {
        s.BACKEND_TYPE: "made",
        s.SCAN_ANOMALIES: 1,
        s.SCAN_ANOMALIES_UNTOLD: 0,
        s.SCAN_COUNTS: ["clock_jump=1", "crc_mismatch=1"],
        s.SCAN_RECORDS: 10,
        s.SCAN_BYTES: 1000,
        s.SCAN_PLACES: 4,
        s.SCAN_PLACES_REMEMBERED: 2,
        s.SCAN_PLACES_UNREAD: 1,
        s.SCAN_DURATION: 0.5,
    }
    (told,) = kept.facts(s.LOG_ANOMALY)
    assert (told.system, told.severity) == ("shop", "ERROR")
    assert told.attributes == {
        s.BACKEND_TYPE: "made",
        s.ANOMALY_TYPE: "crc_mismatch",
        s.ANOMALY_PLACE: "orders/events/one.ndjson",
        s.ANOMALY_DETAIL: "broken",
        s.ANOMALY_OFFSET: 7,
        s.ANOMALY_LENGTH: 3,
        s.FACT_WRITER: "b" * 16,
    }


def test_a_healthy_log_is_told_without_alarm_and_an_empty_one_not_at_all(keep):
    kept = keep(found(), ScanReport(backend="made"))
    kept.upkeep.scan()
    kept.upkeep.scan()
    assert [fact.severity for fact in kept.facts(s.LOG_SCANNED)] == ["INFO"]
    assert kept.counted(s.PERSISTENCE_SCANS) == {("made", ""): 2}


@pytest.mark.parametrize(
    ("named", "systems", "expected"),
    [
        ("mine", ("orders",), "mine"),
        (None, ("orders",), "orders"),
        (None, ("orders", "shop"), "default"),
        (None, (), "default"),
    ],
)
def test_a_scan_belongs_to_the_named_system_or_the_only_one(keep, named, systems, expected):
    kept = keep(found(anomaly(), systems=systems), system=named)
    kept.upkeep.scan()
    assert {fact.system for fact in kept.pipeline.log.facts()} == {expected}


def test_at_most_fifty_anomalies_get_facts_the_worst_first_and_the_rest_is_counted(keep):
    kept = keep(found(*[anomaly(n, "duplicate") for n in range(60)], anomaly(99)))
    kept.upkeep.scan()
    told = kept.facts(s.LOG_ANOMALY)
    assert len(told) == ANOMALIES_TOLD_MAX == 50
    assert Counter(fact.severity for fact in told) == {"WARN": 49, "ERROR": 1}
    (scanned,) = kept.facts(s.LOG_SCANNED)
    assert scanned.attributes[s.SCAN_ANOMALIES] == 61
    assert scanned.attributes[s.SCAN_ANOMALIES_UNTOLD] == 11


def test_what_was_found_before_is_neither_told_nor_counted_again(keep):
    kept = keep(found(anomaly(1)), found(anomaly(1), anomaly(2)), found(anomaly(2)), found(anomaly(1)))
    seen = []
    for _ in range(4):
        kept.upkeep.scan()
        seen.append((len(kept.facts(s.LOG_ANOMALY)), kept.counters.total(s.PERSISTENCE_ANOMALIES)))
    assert seen == [(1, 1), (2, 2), (2, 2), (3, 3)]  # what went away and came again is new


def test_what_was_not_read_this_time_is_still_known_the_next(keep):
    kept = keep(found(anomaly(1)), found(places_unread=1), found(anomaly(1)))
    for _ in range(3):
        kept.upkeep.scan()
    assert kept.counters.total(s.PERSISTENCE_ANOMALIES) == 1


def test_anomalies_that_a_report_does_not_list_are_counted_once_too(keep):
    listed = [anomaly(n) for n in range(3)]
    kept = keep(
        found(*listed, counts={"crc_mismatch": 5000}),
        found(*listed, counts={"crc_mismatch": 5000}),
        found(*listed, counts={"crc_mismatch": 5002}),
    )
    totals = []
    for _ in range(3):
        kept.upkeep.scan()
        totals.append(kept.counters.total(s.PERSISTENCE_ANOMALIES))
    assert totals == [5000, 5000, 5002]
    untold = [fact.attributes[s.SCAN_ANOMALIES_UNTOLD] for fact in kept.facts(s.LOG_SCANNED)]
    assert untold == [4997, 0, 2]


def test_a_scan_that_fails_is_counted_by_error_type_and_raised(keep):
    kept = keep(LogUnavailable("away", error_type="EIO"), ValueError("a bug"))
    with pytest.raises(LogUnavailable):
        kept.upkeep.scan()
    with pytest.raises(ValueError, match="a bug"):
        kept.upkeep.scan()
    assert kept.counted(s.PERSISTENCE_SCANS) == {("made", "EIO"): 1, ("made", "ValueError"): 1}
    assert kept.timed == [("scan", "EIO"), ("scan", "ValueError")]
    assert kept.upkeep.health() is None


@pytest.mark.parametrize("ending", [ScanEnded(), KeyboardInterrupt()])
def test_a_scan_that_is_ended_is_no_scan(keep, ending):
    kept = keep(ending)
    with pytest.raises(type(ending)):
        kept.upkeep.scan()
    assert (kept.counted(s.PERSISTENCE_SCANS), kept.timed) == ({}, [])


def test_every_known_combination_is_seen_as_zero_from_the_start_and_after_a_fork(keep):
    kept = keep()
    for _ in range(2):
        assert dict(kept.counters.read(s.PERSISTENCE_SCANS)) == {("made", ""): 0}
        assert dict(kept.counters.read(s.PERSISTENCE_ANOMALIES)) == {
            ("made", name): 0 for name in ANOMALY_SEVERITIES
        }
        assert dict(kept.counters.read(s.PERSISTENCE_RECOVERIES)) == {
            ("made", "quarantine", ""): 0,
            ("made", "repair", ""): 0,
        }
        assert dict(kept.counters.read(s.PERSISTENCE_COMPACTIONS)) == {("made", ""): 0}
        kept.counters.reset()
        kept.upkeep.after_fork_in_child()


# --- health ------------------------------------------------------------------------------------------------


def test_storage_is_that_of_the_scan_and_what_was_appended_since(keep):
    kept = keep(found(anomaly(), anomaly(name="clock_jump")))
    kept.appended = {("orders", EVENT): (3, 300)}
    assert kept.upkeep.health() is None
    kept.upkeep.scan()
    kept.appended = {
        ("orders", EVENT): (4, 420),
        ("shop", EVENT): (1, 80),
        ("shop", FactKind.AUDIT): (2, 50),
    }
    health = kept.upkeep.health()
    assert (health.unresolved, health.scanned_unix_nano) == (1, NOW)
    assert health.storage == {EVENT: (12, 1200), FactKind.AUDIT: (2, 50)}


def test_a_compaction_lowers_what_is_stored_and_its_facts_are_forwarded_only(keep):
    streams = (
        StreamCompaction(system="a", kind=EVENT, records_removed=4, bytes_freed=400),
        StreamCompaction(system="b", kind=EVENT, records_removed=9, bytes_freed=500),
    )
    kept = keep(found(), CompactionReport(dry_run=False, streams=streams, recorded=(RECORDED,)))
    kept.upkeep.scan()
    kept.upkeep.compact("events=1d", force=True)
    assert kept.log.calls[-1] == ("compact", "events=1d", True, False)
    assert kept.upkeep.health().storage == {EVENT: (0, 100)}  # never below nothing
    assert kept.forwarded == [RECORDED]
    assert kept.counted(s.PERSISTENCE_COMPACTIONS) == {("made", ""): 1}
    assert kept.timed[-1] == ("compact", "")


def test_a_recovery_counts_what_it_found_first_and_leaves_the_state_after(keep):
    report = RecoveryReport(
        mode="quarantine",
        dry_run=False,
        found=found(anomaly(1), anomaly(2)),
        remaining=found(anomaly(2), streams={EVENT: StreamScan(records=9, size_bytes=900)}),
        recorded=(RECORDED,),
    )
    kept = keep(found(anomaly(1)), report, found(anomaly(2)))
    kept.upkeep.scan()
    kept.upkeep.recover()
    assert kept.counters.total(s.PERSISTENCE_ANOMALIES) == 2
    assert [fact.attributes[s.ANOMALY_OFFSET] for fact in kept.facts(s.LOG_ANOMALY)] == [1, 2]
    assert kept.counted(s.PERSISTENCE_RECOVERIES) == {("made", "quarantine", ""): 1}
    assert kept.forwarded == [RECORDED]
    health = kept.upkeep.health()
    assert (health.unresolved, health.storage) == (1, {EVENT: (9, 900)})
    kept.upkeep.scan()
    assert kept.counters.total(s.PERSISTENCE_ANOMALIES) == 2


def test_trying_out_changes_no_figure(keep):
    report = RecoveryReport(mode="quarantine", dry_run=True, found=found(anomaly()), remaining=found())
    kept = keep(report, report, CompactionReport(dry_run=True))
    kept.upkeep.recover(dry_run=True)
    kept.upkeep.recover("ignore")
    kept.upkeep.compact(dry_run=True)
    assert kept.timed == []
    assert kept.upkeep.health() is None
    assert sum(map(kept.counters.total, (s.PERSISTENCE_RECOVERIES, s.PERSISTENCE_COMPACTIONS))) == 0


def test_maintenance_that_fails_is_counted_and_raised(keep):
    kept = keep(LogBusy("later"), LogUnavailable("full", error_type="ENOSPC"))
    with pytest.raises(LogBusy):
        kept.upkeep.recover("repair")
    with pytest.raises(LogUnavailable):
        kept.upkeep.compact()
    assert kept.counted(s.PERSISTENCE_RECOVERIES) == {("made", "repair", "LogBusy"): 1}
    assert kept.counted(s.PERSISTENCE_COMPACTIONS) == {("made", "ENOSPC"): 1}


def test_a_provider_that_raises_does_not_undo_a_compaction(keep, pipeline):
    kept = keep(CompactionReport(dry_run=False, recorded=(RECORDED,)))

    def broken(_: Fact) -> None:
        raise RuntimeError("their processor")

    telling = Telling(logger=pipeline.logger, forward=broken, timed=lambda *_: None)
    upkeep = Upkeep(kept.log, kept.counters, pipeline.guard, telling, appended=dict)
    assert upkeep.compact().recorded == (RECORDED,)
    assert kept.counted(s.INSTRUMENTATION_ERRORS) == {("forward",): 1}


# --- at the start ----------------------------------------------------------------------------------------------


def recovered(*remaining: Anomaly) -> RecoveryReport:
    return RecoveryReport(
        mode="quarantine",
        dry_run=False,
        found=found(anomaly()),
        remaining=found(*remaining),
        kept_in=("orders/quarantine/one.ndjson",),
    )


SCANNED = [("scan", True, startup.SCAN_SECONDS_MAX), ("remember",)]
RECOVERED = ("recover", "quarantine", False)
WARNING, ERROR = anomaly(name="unclean_shutdown"), anomaly()


@pytest.mark.parametrize(
    ("mode", "reports", "calls", "said"),
    [
        ("ignore", [], [], None),
        ("scan", [found()], SCANNED, None),
        ("scan", [found(anomaly(name="clock_jump"))], SCANNED, None),
        (
            "scan",
            [found(WARNING)],
            SCANNED,
            "has 1 anomaly (1 unclean_shutdown). Look: papyra-otel scan --log",
        ),
        ("scan", [found(ERROR, WARNING)], SCANNED, "2 anomalies (1 crc_mismatch, 1 unclean_shutdown)"),
        ("scan", [LogUnavailable("no such")], SCANNED[:1], "could not be scanned: no such. Recording begins"),
        ("scan", [ZeroDivisionError()], SCANNED[:1], "could not be scanned: ZeroDivisionError."),
        ("recover", [found()], SCANNED, None),
        ("recover", [found(ERROR), recovered()], [*SCANNED, RECOVERED], "one.ndjson: none left."),
        (
            "recover",
            [found(WARNING), recovered(WARNING)],
            [*SCANNED, RECOVERED],
            "(1 unclean_shutdown) left.",
        ),
        ("recover", [found(ERROR), LogBusy("later")], [*SCANNED, RECOVERED], "another process is recovering"),
        (
            "recover",
            [found(ERROR), LogUnavailable("full")],
            [*SCANNED, RECOVERED],
            "could not be recovered: full. Look: papyra-otel scan",
        ),
        ("recover", [LogUnavailable("no such")], SCANNED[:1], "could not be scanned"),
        ("fail", [found()], SCANNED, None),
        ("fail", [found(WARNING)], SCANNED, "1 unclean_shutdown"),
    ],
)
def test_a_start_does_what_was_asked_and_says_it_in_one_line(keep, mode, reports, calls, said):
    kept = keep(*reports)
    lines: list[str] = []
    startup.start(kept.upkeep, StartupMode(mode), "file:/var/my facts", lines.append)
    assert kept.log.calls == calls
    if said is None:
        assert lines == []
    else:
        (line,) = lines
        assert said in line
        assert line.startswith("file:/var/my facts ")
        assert "\n" not in line
        if "--log" in line:
            assert "--log 'file:/var/my facts'" in line


@pytest.mark.parametrize(
    ("report", "said"),
    [
        (found(ERROR, WARNING), "has 2 anomalies (1 crc_mismatch, 1 unclean_shutdown)"),
        (LogUnavailable("no permission"), "could not be scanned: no permission."),
    ],
)
def test_a_start_that_is_refused_says_why_and_leaves_no_fact(keep, report, said):
    kept = keep(report)
    lines: list[str] = []
    with pytest.raises(LogDamaged) as refused:
        startup.start(kept.upkeep, StartupMode.FAIL, "file:facts", lines.append)
    assert said in str(refused.value)
    assert (lines, kept.pipeline.log.facts()) == ([], [])
    assert isinstance(refused.value, LogError)


@pytest.mark.parametrize(("mode", "said"), [("scan", 0), ("ignore", 0), ("recover", 1), ("fail", 1)])
def test_a_log_that_cannot_be_scanned_is_told_only_to_who_asked_for_more(keep, mode, said):
    kept = keep(able=False)
    lines: list[str] = []
    startup.start(kept.upkeep, StartupMode(mode), "memory:", lines.append)
    assert (len(lines), kept.log.calls) == (said, [])


def test_what_there_was_no_time_for_is_said_to_the_diagnostics(keep, caplog):
    kept = keep(found(places=10, places_unread=3))
    with caplog.at_level(logging.INFO, "papyra_otel"):
        startup.start(kept.upkeep, StartupMode.SCAN, "file:facts", pytest.fail)
    (record,) = caplog.records
    assert (record.levelno, "7 of 10 files" in record.getMessage()) == (logging.INFO, True)


# --- now and then ----------------------------------------------------------------------------------------------


class Waits:
    """Stands for waiting: keeps how long, and says after *count* of them that it is over."""

    def __init__(self, count: int) -> None:
        self.left = count
        self.seconds: list[float] = []

    def __call__(self, seconds: float) -> bool:
        self.seconds.append(seconds)
        self.left -= 1
        return self.left < 0


def test_scans_are_full_and_come_after_an_interval_that_differs_a_little(keep, pipeline):
    kept = keep(found(), found(), found())
    shares = iter([0.0, 0.5, 1.0, 0.0])
    intervals: list[float] = []

    def wait(seconds: float) -> bool:
        if seconds > 1:
            intervals.append(seconds)
        return len(intervals) > 3

    Scanner(kept.upkeep, pipeline.guard, 100.0, jitter=lambda: next(shares), wait=wait).run()
    assert kept.log.calls == [("scan", False, None)] * 3
    assert intervals == pytest.approx([90.0, 100.0, 110.0, 90.0])


def test_a_scan_that_raises_is_counted_and_the_next_one_comes(keep, pipeline):
    kept = keep(LogError("odd"), found())
    seconds = iter([False, False, False, False, True])
    Scanner(kept.upkeep, pipeline.guard, 100.0, wait=lambda _: next(seconds)).run()
    assert len(kept.log.calls) == 2
    assert kept.counted(s.INSTRUMENTATION_ERRORS) == {("scan",): 1}


def test_a_log_that_is_away_is_a_scan_that_failed_and_no_error_of_ours_and_is_said_once(
    keep, pipeline, caplog
):
    away = LogUnavailable("gone fishing", error_type="connection")
    kept = keep(away, away, found(), away)
    scans = iter([False] * 4 + [True])
    Scanner(kept.upkeep, pipeline.guard, 100.0, wait=lambda seconds: seconds > 1 and next(scans)).run()
    assert len(kept.log.calls) == 4
    assert kept.counted(s.INSTRUMENTATION_ERRORS) == {}
    assert kept.counted(s.PERSISTENCE_SCANS)["made", "connection"] == 3
    said = [record.getMessage() for record in caplog.records if "gone fishing" in record.getMessage()]
    assert said == ["papyra_otel cannot scan its log: gone fishing. It tries again by itself"] * 2


def test_a_scan_ends_when_it_is_not_wanted_any_more(keep, pipeline):
    kept = keep(found())
    Scanner(kept.upkeep, pipeline.guard, 100.0, wait=Waits(1)).run()
    assert kept.log.calls == []
    assert kept.counted(s.INSTRUMENTATION_ERRORS) == {}


def test_stopping_ends_the_thread_at_once_and_a_forked_child_has_none(keep, pipeline):
    scanner = Scanner(keep().upkeep, pipeline.guard, 3600.0)
    scanner.start()
    (thread,) = [each for each in threading.enumerate() if each.name == "papyra-otel-scan"]
    scanner.stop()
    assert not thread.is_alive()
    child = Scanner(keep().upkeep, pipeline.guard, 3600.0)
    child.after_fork_in_child()
    child.start()
    assert [each for each in threading.enumerate() if each.name == "papyra-otel-scan"] == []


@pytest.mark.parametrize(
    ("worked", "passed", "paused"), [(1.0, 1.0, 9.0), (1.0, 4.0, 6.0), (1.0, 20.0, 0.0), (0.0, 0.0, 0.0)]
)
def test_a_throttled_thread_works_for_a_tenth_of_the_time(worked, passed, paused):
    times = {"working": 5.0, "passing": 100.0}
    waits = Waits(9)
    throttle = Throttle(waits, share=0.1, working=lambda: times["working"], passing=lambda: times["passing"])
    times["working"] += worked
    times["passing"] += passed
    throttle(Progress(done_bytes=1, total_bytes=2, place="x"))
    assert waits.seconds == pytest.approx([paused])
    times["passing"] += waits.seconds[0]
    throttle(Progress(done_bytes=1, total_bytes=2, place="x"))
    times["working"] += 1.0
    times["passing"] += 1.0
    throttle(Progress(done_bytes=1, total_bytes=2, place="x"))
    assert waits.seconds[1:] == pytest.approx([0.0, 9.0])  # each piece of work is paid for, once


# --- errands -----------------------------------------------------------------------------------------------


@pytest.fixture
def courier(pipeline):
    made = Courier(pipeline.counters, pipeline.guard)
    yield made
    made.stop()


def test_errands_are_run_in_order_by_a_thread_of_their_own(courier):
    done: list[str] = []
    over = threading.Event()
    courier.post(lambda: done.append(threading.current_thread().name))
    courier.post(over.set)
    assert done == []
    courier.start()
    assert over.wait(20)
    assert done == ["papyra-otel-courier"]


def test_an_errand_that_raises_does_not_end_the_thread(courier, pipeline):
    over = threading.Event()
    courier.start()
    courier.post(lambda: 1 / 0)
    courier.post(over.set)
    assert over.wait(20)
    assert pipeline.counters.read(s.INSTRUMENTATION_ERRORS) == [(("courier",), 1)]


def test_what_is_posted_after_the_end_waits_until_asked_for(courier):
    done: list[int] = []
    courier.start()
    courier.stop()
    courier.post(lambda: done.append(1))
    assert done == []
    courier.run_waiting()
    assert done == [1]


def test_too_many_errands_are_counted_instead_of_kept(courier, pipeline):
    done: list[int] = []
    for n in range(ERRANDS_MAX + 5):
        courier.post(lambda n=n: done.append(n))
    courier.run_waiting()
    assert done == list(range(ERRANDS_MAX))
    assert pipeline.counters.read(s.EVENT_SUPPRESSED) == [(("backlog",), 5)]


def test_a_forked_child_does_not_run_its_parents_errands(courier):
    done: list[int] = []
    courier.post(lambda: done.append(1))
    courier.after_fork_in_child()
    courier.run_waiting()
    assert done == []


def test_what_a_segment_says_of_itself_has_no_identity_and_all_its_attributes():
    mark = Mark(
        name=s.LOG_SEALED,
        system="orders",
        kind=FactKind.AUDIT,
        writer="c" * 16,
        seq=41,
        time_unix_nano=NOW,
        attributes={s.SEGMENT_RECORDS: 42},
    )
    fact = fact_of_mark(mark)
    assert (fact.uid, fact.severity, fact.kind, fact.system) == (None, "DEBUG", FactKind.AUDIT, "orders")
    assert fact.attributes == {s.SEGMENT_RECORDS: 42, s.FACT_WRITER: "c" * 16, s.FACT_SEQ: 41}


# --- how long it takes ---------------------------------------------------------------------------------------


class AwayLog(MemoryLog):
    away = False
    forces: Any = None

    def append(self, facts, /):
        if self.away:
            raise LogUnavailable("away", error_type="EIO")
        super().append(facts)

    def write(self, facts, /):
        self.append(facts)
        return self.forces


def one_fact(n: int = 0) -> Fact:
    return Fact(kind=EVENT, name="n", time_unix_nano=NOW + n, system="orders")


@pytest.mark.parametrize("verb", ["append", "write"])
def test_one_append_in_128_is_timed_and_each_that_fails(verb):
    timed: list[tuple[str, str]] = []
    inner = AwayLog()
    log = TimedLog(inner, lambda operation, seconds, error: timed.append((operation, error)))
    for n in range(2 * ONE_IN + 1):
        getattr(log, verb)([one_fact(n)])
    assert timed == [("append", "")] * 3
    inner.away = True
    for _ in range(2):
        with pytest.raises(LogUnavailable):
            getattr(log, verb)([one_fact()])
    assert timed[3:] == [("append", "EIO")] * 2
    assert log.appended() == {("orders", EVENT): inner.appended()["orders", EVENT]}
    assert len(list(log.read())) == 2 * ONE_IN + 1


def test_waiting_for_the_disk_is_a_flush():
    timed: list[tuple[str, str]] = []
    inner = AwayLog()
    log = TimedLog(inner, lambda operation, seconds, error: timed.append((operation, error)))
    assert log.write([one_fact()]) is None
    waited: list[int] = []
    inner.forces = lambda: waited.append(1)
    wait = log.write([one_fact()])
    assert waited == []
    wait()
    log.flush()
    assert (waited, timed) == ([1], [("append", ""), ("flush", ""), ("flush", "")])

    def fails() -> None:
        raise LogUnavailable("no", error_type="EIO")

    inner.forces = fails
    with pytest.raises(LogUnavailable):
        log.write([one_fact()])()
    assert timed[-1] == ("flush", "EIO")


def test_a_timed_log_passes_on_everything_a_log_can():
    public = {name for name in vars(FactLog) if not name.startswith("_")}
    assert public - vars(TimedLog).keys() == {"read"}  # which is ``select`` with its arguments checked


def test_a_timed_log_passes_maintenance_on():
    made = MadeLog("scanned", "recovered", "compacted")
    log = TimedLog(made, lambda *_: None)
    assert (log.scan(incremental=True), log.recover("repair"), log.compact("1d", force=True)) == (
        "scanned",
        "recovered",
        "compacted",
    )
    log.remember()
    assert made.calls == [
        ("scan", True, None),
        ("recover", "repair", False),
        ("compact", "1d", True, False),
        ("remember",),
    ]
    assert log.preflight() == made.preflight()


def test_a_logger_that_fails_costs_a_count_and_not_the_scan(keep):
    kept = keep(found())

    class Broken:
        def emit(self, **_: Any) -> None:
            raise RuntimeError("no")

    counters = Counters()
    telling = Telling(logger=Broken(), forward=lambda _: None, timed=lambda *_: None)
    upkeep = Upkeep(kept.log, counters, Guard(counters), telling, appended=dict)
    assert upkeep.scan().healthy
    assert counters.read(s.INSTRUMENTATION_ERRORS) == [(("scan.facts",), 1)]


def test_where_no_thread_can_be_started_any_more_nothing_is_raised_and_errands_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Since Python 3.12 an interpreter that is ending starts no thread; an SDK's last batch comes just then."""

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    counters = Counters()
    courier = Courier(counters, Guard(counters))
    done: list[int] = []
    courier.start()
    courier.post(lambda: done.append(1))
    courier.stop()
    courier.run_waiting()
    assert done == [1]
    auditor = Auditor(Recorder(Nowhere(), counters), Guard(counters), list, 60.0)
    for thread in (auditor, Scanner(None, Guard(counters), 60.0)):  # type: ignore[arg-type]
        thread.start()
        thread.stop()


def test_a_forked_child_takes_the_queues_that_go_with_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """gevent replaces both at once; a thread of one kind that waits for a queue of the other blocks all of them."""

    class Replaced(queue.SimpleQueue[Any]):
        pass

    counters = Counters()
    courier = Courier(counters, Guard(counters))
    monkeypatch.setattr(queue, "SimpleQueue", Replaced)
    courier.after_fork_in_child()
    assert isinstance(courier._errands, Replaced)


class Nowhere:
    def emit(self, **event: Any) -> None:
        pass
