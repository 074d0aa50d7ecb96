"""Facts to read, and what a command line did."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from papyra_otel import Fact, FactKind
from papyra_otel.facts import Capabilities
from papyra_otel.log.memory import MemoryLog
from papyra_otel.reports import (
    Anomaly,
    Check,
    CompactionReport,
    Progress,
    ProgressCallback,
    RecoveryReport,
    ScanReport,
)

NANOS = 1_000_000_000
NOON = 1_795_348_800 * NANOS  # 2026-11-22T12:00:00Z


def fact(seconds: float = 0, name: str = "papyra.actor.started", **members: Any) -> Fact:
    """A fact so many seconds after noon."""
    kind = members.pop("kind", FactKind.EVENT)
    system = members.pop("system", "shop")
    return Fact(kind=kind, name=name, time_unix_nano=NOON + int(seconds * NANOS), system=system, **members)


@dataclass
class Done:
    code: int
    out: str
    err: str

    @property
    def objects(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


DAY: Sequence[Fact] = (
    fact(
        0,
        "papyra.system.started",
        attributes={"papyra.runtime.name": "papyra", "papyra.runtime.version": "0.3"},
    ),
    fact(60, actor="shop:1", attributes={"papyra.actor.type": "app.Clerk", "papyra.actor.name": "anna"}),
    fact(
        120,
        "papyra.actor.exception",
        actor="shop:1",
        severity="ERROR",
        trace_id="4bf92f3577b34da6a3ce929d0e0e4736",
        span_id="00f067aa0ba902b7",
        attributes={
            "papyra.actor.type": "app.Clerk",
            "error.type": "ValueError",
            "exception.message": "no such article",
            "papyra.failure.phase": "receive",
        },
    ),
    fact(
        180,
        "papyra.dead_letter.captured",
        kind=FactKind.DEAD_LETTER,
        actor="urn:uuid:1c9e0a52-7b1d-4c55-9a3e-2f1f0c6d8e11",
        severity="WARN",
        system="store",
        attributes={
            "papyra.actor.type": "Robot",
            "papyra.message.type": "Pick",
            "papyra.message.kind": "tell",
            "papyra.dead_letter.reason": "actor_stopped",
        },
    ),
    fact(
        240,
        "papyra.audit.completed",
        kind=FactKind.AUDIT,
        attributes={
            "papyra.audit.healthy": False,
            "papyra.audit.reasons": ["1 dead actor in the registry"],
            "papyra.audit.actors.alive": 1,
            "papyra.audit.actors.total": 2,
            "papyra.audit.dead_letters": 1,
        },
    ),
    fact(86_400, "order.placed", attributes={"order": 7}),
)


class HandMadeLog(MemoryLog):
    """A log that reports what it was given, after telling *steps* of progress; a report that is an error is raised."""

    def __init__(self, **reports: Any) -> None:
        super().__init__()
        self.reports = reports
        self.asked: list[tuple[Any, ...]] = []
        self.steps: Sequence[Progress] = ()

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(backend="hand", durable=True, shared_between_processes=True)

    def scan(self, progress: ProgressCallback | None = None, **options: Any) -> ScanReport:
        return self._report("scan", progress, options)

    def recover(
        self, *modes: str, progress: ProgressCallback | None = None, **options: Any
    ) -> RecoveryReport:
        return self._report("recover", progress, modes, options)

    def compact(
        self, *limits: Any, progress: ProgressCallback | None = None, **options: Any
    ) -> CompactionReport:
        return self._report("compact", progress, limits, options)

    def close(self) -> None:
        return  # it is opened many times

    def preflight(self) -> tuple[Check, ...]:
        return self.reports.get("preflight", ())

    def _report(self, verb: str, progress: ProgressCallback | None, *asked: Any) -> Any:
        self.asked.append((verb, *asked))
        for step in self.steps:
            if progress is not None:
                progress(step)
        report = self.reports[verb]
        if isinstance(report, BaseException):
            raise report
        return report


def report_of(*types: str, **members: Any) -> ScanReport:
    """A report with one anomaly of each of *types*."""
    anomalies = tuple(
        Anomaly(type=name, place=f"shop/events/{index}.ndjson", detail=f"why {index}", offset=index, length=7)
        for index, name in enumerate(types)
    )
    counts = {name: types.count(name) for name in types}
    return ScanReport(
        **{"backend": "hand", "systems": ("shop",), "counts": counts, "anomalies": anomalies, **members}
    )
