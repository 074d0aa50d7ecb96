"""The health of the log: is everything recorded, is it sound, and does it fit."""

from __future__ import annotations

from typing import Final

from papyra_otel import semconv as s
from papyra_otel.grafana import promql as q
from papyra_otel.grafana.model import Board, Kind, Panel, Query, Row, Source
from papyra_otel.grafana.names import label

__all__ = ["PERSISTENCE"]

_FAILED = q.matching(s.ERROR_TYPE, "", negated=True)
_APPENDS = q.matching(s.OPERATION, "append")
_KIND = f"{{{{{label(s.FACT_KIND)}}}}}"
_BACKEND = f"{{{{{label(s.BACKEND_TYPE)}}}}}"
_ERROR = f"{{{{{label(s.ERROR_TYPE)}}}}}"
_FAILED_APPENDS = q.per_second(s.OPERATION_DURATION, matchers=(_APPENDS, _FAILED), suffix="_count")
_STORED = q.per_second(s.PERSISTENCE_RECORDS)

_NOW = Row(
    1,
    "Now, and in the picked range",
    (
        Panel(
            id=2,
            kind=Kind.STAT,
            title="Anomalies now",
            description="Damage or loss that the last scans found and nobody recovered from. Red: see the "
            "runbook of "
            "PapyraAnomalyFound.",
            unit="short",
            queries=[Query(q.summed(q.picked(s.ANOMALY_COUNT)))],
            width=3,
            height=4,
            red_from=1,
        ),
        Panel(
            id=3,
            kind=Kind.STAT,
            title="Last scan",
            description="Age of the oldest of the processes' last scans.",
            unit="s",
            queries=[Query(q.summed(q.picked(s.SCAN_AGE), how="max"))],
            width=3,
            height=4,
            decimals=0,
        ),
        Panel(
            id=4,
            kind=Kind.STAT,
            title="Facts dropped",
            description="Facts that nothing could hold any more, in the picked range. Red: see the runbook "
            "of "
            "PapyraFactsDropped.",
            unit="short",
            queries=[Query(q.growth_in_range(s.PERSISTENCE_DROPPED))],
            width=3,
            height=4,
            red_from=1,
            empty="0",
        ),
        Panel(
            id=5,
            kind=Kind.STAT,
            title="Failed appends",
            description="Attempts to write to the log that failed, in the picked range. The facts waited "
            "in memory.",
            unit="short",
            queries=[
                Query(q.growth_in_range(s.OPERATION_DURATION, matchers=(_APPENDS, _FAILED), suffix="_count"))
            ],
            width=3,
            height=4,
            empty="0",
        ),
        Panel(
            id=6,
            kind=Kind.STAT,
            title="Queue filled",
            description="Facts waiting for the log, of those that can: the fullest queue. Red: facts will "
            "be lost; see the "
            "runbook of PapyraQueueSaturated.",
            unit="percentunit",
            queries=[Query(f"max({q.picked(s.QUEUE_SIZE)} / {q.picked(s.QUEUE_CAPACITY)})")],
            width=3,
            height=4,
            red_from=0.8,
            decimals=0,
        ),
        Panel(
            id=7,
            kind=Kind.STAT,
            title="Oldest unwritten",
            description="Age of the fact that has waited longest for the log.",
            unit="s",
            queries=[Query(q.summed(q.picked(s.QUEUE_OLDEST_AGE), how="max"))],
            width=3,
            height=4,
            decimals=0,
        ),
        Panel(
            id=8,
            kind=Kind.STAT,
            title="Stored",
            description="What the logs take: at their last scans, and what came since. Processes that "
            "share a log each "
            "count it; pick one instance then.",
            unit="bytes",
            queries=[Query(q.summed(q.picked(s.STORAGE_SIZE)))],
            width=3,
            height=4,
        ),
        Panel(
            id=9,
            kind=Kind.STAT,
            title="Undelivered",
            description="Age of the oldest fact that the collector has not got yet (forward=outbox).",
            unit="s",
            queries=[Query(q.summed(q.picked(s.DELIVERY_AGE), how="max"))],
            width=3,
            height=4,
            decimals=0,
            empty="no outbox",
        ),
    ),
)

_RED = Row(
    10,
    "Writing: rate, errors, duration",
    (
        Panel(
            id=11,
            kind=Kind.LINES,
            title="Facts stored",
            description="Facts that reached the log, per second.",
            unit="cps",
            queries=[Query(q.per_second(s.PERSISTENCE_RECORDS, s.FACT_KIND), _KIND)],
            stacked=True,
        ),
        Panel(
            id=12,
            kind=Kind.LINES,
            title="Bytes stored",
            description="Bytes of facts that reached the log, per second.",
            unit="Bps",
            queries=[Query(q.per_second(s.PERSISTENCE_BYTES, s.FACT_KIND), _KIND)],
            stacked=True,
        ),
        Panel(
            id=13,
            kind=Kind.LINES,
            title="Bytes per fact",
            description="Mean length of a stored line. Payloads make dead letters long.",
            unit="bytes",
            queries=[
                Query(
                    f"{q.per_second(s.PERSISTENCE_BYTES, s.FACT_KIND)} / "
                    f"{q.per_second(s.PERSISTENCE_RECORDS, s.FACT_KIND)}",
                    _KIND,
                )
            ],
        ),
        Panel(
            id=14,
            kind=Kind.LINES,
            title="Failed operations",
            description="Operations on the log that failed, per second, by operation and error.",
            unit="cps",
            queries=[
                Query(
                    q.per_second(
                        s.OPERATION_DURATION, s.OPERATION, s.ERROR_TYPE, matchers=(_FAILED,), suffix="_count"
                    ),
                    f"{{{{{label(s.OPERATION)}}}}} {_ERROR}",
                )
            ],
        ),
        Panel(
            id=15,
            kind=Kind.LINES,
            title="Failed appends per fact",
            description="Failed attempts to append, for each fact that was stored or tried. 0 is as it "
            "should be; 100 % "
            "means that nothing is stored.",
            unit="percentunit",
            maximum=1,
            queries=[Query(f"{_FAILED_APPENDS} / ({_FAILED_APPENDS} + {_STORED})", "failed")],
        ),
        Panel(
            id=16,
            kind=Kind.LINES,
            title="Duration of operations",
            description="How long the log took, by operation. Of appends that went well one in 128 is "
            "measured.",
            unit="s",
            queries=[
                Query(
                    q.quantile(0.5, s.OPERATION_DURATION, s.OPERATION), f"p50 {{{{{label(s.OPERATION)}}}}}"
                ),
                Query(
                    q.quantile(0.99, s.OPERATION_DURATION, s.OPERATION), f"p99 {{{{{label(s.OPERATION)}}}}}"
                ),
            ],
        ),
    ),
)

_USE = Row(
    20,
    "Waiting: for the log, on the disk, for the collector",
    (
        Panel(
            id=21,
            kind=Kind.LINES,
            title="Facts waiting in memory",
            description="Facts that wait for the log, and how many can.",
            unit="short",
            queries=[
                Query(q.summed(q.picked(s.QUEUE_SIZE), s.BACKEND_TYPE), f"waiting ({_BACKEND})"),
                Query(q.summed(q.picked(s.QUEUE_CAPACITY), s.BACKEND_TYPE), f"capacity ({_BACKEND})"),
            ],
        ),
        Panel(
            id=22,
            kind=Kind.LINES,
            title="Oldest unwritten fact",
            description="What a crash of the process would lose, in time.",
            unit="s",
            queries=[Query(q.summed(q.picked(s.QUEUE_OLDEST_AGE), s.BACKEND_TYPE, how="max"), _BACKEND)],
        ),
        Panel(
            id=23,
            kind=Kind.LINES,
            title="Facts dropped, by reason",
            description="Facts that nothing could hold any more, per second.",
            unit="cps",
            queries=[Query(q.per_second(s.PERSISTENCE_DROPPED, s.ERROR_TYPE), _ERROR)],
        ),
        Panel(
            id=24,
            kind=Kind.LINES,
            title="Waiting on the local disk",
            description="What the spill folder holds for a log that is away, and facts spilled per second.",
            unit="bytes",
            queries=[
                Query(q.summed(q.picked(s.SPILL_SIZE), how="max"), "waiting"),
                Query(q.per_second(s.PERSISTENCE_SPILLED), "spilled"),
            ],
            on_the_right="spilled",
            right_unit="cps",
        ),
        Panel(
            id=25,
            kind=Kind.LINES,
            title="Waiting for the collector",
            description="Stored facts that the collector has not got yet, and the age of the oldest "
            "(forward=outbox).",
            unit="short",
            queries=[
                Query(q.summed(q.picked(s.DELIVERY_LAG)), "facts"),
                Query(q.summed(q.picked(s.DELIVERY_AGE), how="max"), "age"),
            ],
            on_the_right="age",
            right_unit="s",
        ),
        Panel(
            id=26,
            kind=Kind.LINES,
            title="Delivered to the collector",
            description="Facts that the outbox handed over, per second, and failures by error "
            "(forward=outbox).",
            unit="cps",
            queries=[Query(q.per_second(s.DELIVERY_EXPORTED, s.ERROR_TYPE), f"delivered {_ERROR}")],
        ),
    ),
)

_STORAGE = Row(
    30,
    "Storage and integrity",
    (
        Panel(
            id=31,
            kind=Kind.LINES,
            title="Stored, by kind",
            description="What the logs take, by kind of fact.",
            unit="bytes",
            queries=[Query(q.summed(q.picked(s.STORAGE_SIZE), s.FACT_KIND), _KIND)],
            stacked=True,
        ),
        Panel(
            id=32,
            kind=Kind.LINES,
            title="Stored, and in seven days",
            description="What the logs take, and what they will in a week if they grow as they did in the "
            "last six hours.",
            unit="bytes",
            queries=[
                Query(q.summed(q.picked(s.STORAGE_SIZE)), "now"),
                Query(
                    q.summed(f"predict_linear({q.picked(s.STORAGE_SIZE)}[6h], {7 * 86_400})"), "in seven days"
                ),
            ],
        ),
        Panel(
            id=33,
            kind=Kind.LINES,
            title="Facts stored, by kind",
            description="How many facts the logs hold.",
            unit="short",
            queries=[Query(q.summed(q.picked(s.STORAGE_RECORDS), s.FACT_KIND), _KIND)],
            stacked=True,
        ),
        Panel(
            id=34,
            kind=Kind.BARS,
            title="Anomalies found, by type",
            description="In the picked range; each is counted once by each process that scans. What a type "
            "means: "
            "docs/integrity.md.",
            unit="short",
            queries=[
                Query(
                    q.found_in_range(s.PERSISTENCE_ANOMALIES, s.ANOMALY_TYPE),
                    f"{{{{{label(s.ANOMALY_TYPE)}}}}}",
                    instant=True,
                )
            ],
        ),
        Panel(
            id=35,
            kind=Kind.LINES,
            title="Anomalies not recovered from",
            description="At the last scan of each process.",
            unit="short",
            queries=[Query(q.summed(q.picked(s.ANOMALY_COUNT), s.BACKEND_TYPE), _BACKEND)],
            red_from=1,
            decimals=0,
        ),
        Panel(
            id=36,
            kind=Kind.BARS,
            title="Scans, recoveries, compactions",
            description="In the picked range, those that failed included.",
            unit="short",
            queries=[
                Query(q.growth_in_range(s.PERSISTENCE_SCANS), "scans", instant=True),
                Query(q.growth_in_range(s.PERSISTENCE_RECOVERIES), "recoveries", instant=True),
                Query(q.growth_in_range(s.PERSISTENCE_COMPACTIONS), "compactions", instant=True),
            ],
        ),
    ),
)

_FACTS = Row(
    40,
    "The facts",
    (
        Panel(
            id=41,
            kind=Kind.LOGS,
            title="What was found and done",
            description="Scans that found something, anomalies, recoveries, compactions, losses, risks, newest first.",
            unit="short",
            queries=[
                Query(
                    q.facts(
                        q.events(
                            s.LOG_SCANNED,
                            s.LOG_ANOMALY,
                            s.LOG_RECOVERED,
                            s.LOG_COMPACTED,
                            s.LOG_RISK,
                            s.FACT_DROPPED,
                        ),
                        q.NO_GOOD_SCANS,
                        q.line(
                            s.ANOMALY_TYPE,
                            s.ANOMALY_PLACE,
                            s.SCAN_COUNTS,
                            s.RECOVERY_MODE,
                            s.DROPPED_COUNT,
                            s.ERROR_TYPE,
                            s.RISK_DETAIL,
                        ),
                    ),
                    source=Source.LOKI,
                )
            ],
            width=24,
            height=9,
        ),
    ),
)

PERSISTENCE: Final = Board(
    uid="papyra-persistence",
    title="Papyra / Persistence",
    description="The log of facts: is everything recorded, is it sound, does it fit, does it reach the "
    "collector.",
    rows=(_NOW, _RED, _USE, _STORAGE, _FACTS),
)
