"""The public API as a typed program uses it. Not run: mypy and pyright read it, both strict."""

from __future__ import annotations

from datetime import datetime, timezone

from typing_extensions import assert_type

import papyra_otel
from papyra_otel import (
    ConfigError,
    Entry,
    Fact,
    FactKind,
    FactLog,
    LogTooNew,
    LogUnavailable,
    PapyraOtelError,
)
from papyra_otel.facts import StreamStats
from papyra_otel.log.retention import KindRetention, Retention, parse_retention


def facts() -> None:
    crash = Fact(
        kind=FactKind.EVENT,
        name="papyra.actor.exception",
        time_unix_nano=1_795_377_765_123_456_789,
        system="orders",
        actor="orders/worker-12",
        severity="ERROR",
        attributes={"exception.type": "ValueError", "papyra.actor.incarnation": 2},
    )
    assert_type(crash.kind, FactKind)
    assert_type(crash.actor, "str | None")
    assert_type(crash.uid, "str | None")
    assert_type(crash.identified("9f2c41d07be3a815", 1042), Fact)
    assert_type(FactKind.DEAD_LETTER.plural, str)


def writing_and_reading(crash: Fact) -> str | None:
    cursor = None
    with papyra_otel.open_log("file:papyra-facts", system="orders", retention="events=7d") as log:
        assert_type(log, FactLog)
        log.append([crash])
        since = datetime(2026, 11, 22, tzinfo=timezone.utc)
        for entry in log.read(
            kinds=FactKind.EVENT, since=since, until=2**62, actor="orders/worker-12", limit=10
        ):
            assert_type(entry, Entry)
            assert_type(entry.fact, Fact)
            cursor = entry.cursor
        for _ in log.read(kinds=[FactKind.AUDIT, FactKind.DEAD_LETTER], after=cursor, newest_first=True):
            pass
        stats = log.stats()
        assert_type(stats.streams[FactKind.EVENT], StreamStats)
        assert_type(stats.streams[FactKind.EVENT].oldest_unix_nano, "int | None")
        assert_type(stats.writers, int)
        assert_type(log.capabilities.durable, bool)
        log.flush()
    return cursor


def looking_after(log: FactLog) -> None:
    report = log.scan(incremental=True, seconds_max=5)
    assert_type(report, papyra_otel.ScanReport)
    assert_type(report.healthy, bool)
    assert_type(report.streams[FactKind.EVENT].damaged_bytes, int)
    for anomaly in report.anomalies:
        assert_type(anomaly, papyra_otel.Anomaly)
        assert_type(anomaly.severity, str)
    if not report.healthy:
        assert_type(log.recover("repair", dry_run=True).remaining, papyra_otel.ScanReport)
    try:
        assert_type(log.compact("events=7d", force=False).records_removed, int)
    except (papyra_otel.CompactionRefused, papyra_otel.LogBusy) as error:
        assert_type(str(error), str)


def retention() -> Retention:
    try:
        limits = parse_retention("events=7d,1GiB;dead_letters=90d;audits=100000")
    except ConfigError:
        limits = Retention({FactKind.EVENT: KindRetention(max_records=1000)})
    assert_type(limits.of(FactKind.EVENT).max_age_seconds, "float | None")
    return limits


def errors(error: PapyraOtelError) -> str:
    if isinstance(error, LogUnavailable):
        return error.error_type
    if isinstance(error, LogTooNew):
        assert_type(error.version, int)
    return str(error)


def this_process() -> None:
    assert_type(papyra_otel.current(), "papyra_otel.Recording | None")
