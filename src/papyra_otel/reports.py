"""What looking after a log finds and does: plain frozen values, the same for every backend."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from papyra_otel.facts import Fact, FactKind

__all__ = [
    "ANOMALY_SEVERITIES",
    "Anomaly",
    "Check",
    "CompactionReport",
    "GroupHold",
    "Progress",
    "ProgressCallback",
    "RecoveryReport",
    "ScanReport",
    "Skipped",
    "StreamCompaction",
    "StreamScan",
]

# ERROR: facts are damaged or lost. WARN: nothing is lost, but somebody should look. INFO: good to know, healthy.
ANOMALY_SEVERITIES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "torn_tail": "WARN",
        "torn_inside": "ERROR",
        "nul_run": "ERROR",
        "lost_newline": "WARN",
        "crc_mismatch": "ERROR",
        "corrupt_line": "ERROR",
        "foreign_json": "ERROR",
        "schema_invalid": "ERROR",
        "future_version": "INFO",
        "oversize_line": "ERROR",
        "duplicate": "WARN",
        "fork_conflict": "ERROR",
        "gap": "ERROR",
        "out_of_order": "ERROR",
        "clock_jump": "INFO",
        "head_missing": "ERROR",
        "segment_missing": "ERROR",
        "segment_digest": "ERROR",
        "unclean_shutdown": "WARN",
        "tmp_leftover": "WARN",
        "unexpected_file": "WARN",
        "unreadable": "ERROR",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Anomaly:
    """One thing that is not as it should be.

    *type* is one of ``ANOMALY_SEVERITIES``. *place* is a path relative to the log's folder, or a key.
    *offset* and *length* are bytes (entries, in Redis) as stored; None where the whole place is meant.
    """

    type: str
    place: str
    detail: str
    offset: int | None = None
    length: int | None = None
    system: str | None = None
    kind: FactKind | None = None
    writer: str | None = None

    @property
    def severity(self) -> str:
        """``ERROR``, ``WARN`` or ``INFO``."""
        return ANOMALY_SEVERITIES[self.type]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a scan, a recovery or a compaction is. *total_bytes* is an estimate while writers run."""

    done_bytes: int
    total_bytes: int
    place: str


ProgressCallback = Callable[[Progress], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamScan:
    """What a scan found of one kind of fact: good records, and where every stored byte went.

    ``size_bytes == good_bytes + mark_bytes + newer_bytes + damaged_bytes + in_flight_bytes``: facts; segment
    headers and seals; lines of a newer version; bytes of no good line; the unfinished last line of a live writer.
    """

    records: int = 0
    size_bytes: int = 0
    good_bytes: int = 0
    mark_bytes: int = 0
    newer_bytes: int = 0
    damaged_bytes: int = 0
    in_flight_bytes: int = 0

    def __add__(self, other: StreamScan) -> StreamScan:
        return StreamScan(
            records=self.records + other.records,
            size_bytes=self.size_bytes + other.size_bytes,
            good_bytes=self.good_bytes + other.good_bytes,
            mark_bytes=self.mark_bytes + other.mark_bytes,
            newer_bytes=self.newer_bytes + other.newer_bytes,
            damaged_bytes=self.damaged_bytes + other.damaged_bytes,
            in_flight_bytes=self.in_flight_bytes + other.in_flight_bytes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanReport:
    """What a scan found.

    *counts* is exact; *anomalies* keeps the first ``ANOMALIES_KEPT_MAX`` of each type. *places* were
    looked at, of which *places_remembered* had been verified before and not changed since (only their size was
    looked at) and *places_unread* were left for lack of time (both only in an incremental scan). *risks* are what may
    lose facts from now on; they say nothing of what is stored.
    """

    backend: str
    counts: Mapping[str, int] = field(default_factory=dict[str, int])
    anomalies: tuple[Anomaly, ...] = ()
    streams: Mapping[FactKind, StreamScan] = field(default_factory=dict[FactKind, StreamScan])
    systems: tuple[str, ...] = ()
    writers: int = 0
    places: int = 0
    places_remembered: int = 0
    places_unread: int = 0
    read_bytes: int = 0
    duration_seconds: float = 0.0
    risks: tuple[Check, ...] = ()

    @property
    def healthy(self) -> bool:
        """True when there is nothing to look at: anomalies of severity INFO are healthy."""
        return all(ANOMALY_SEVERITIES[name] == "INFO" for name, count in self.counts.items() if count)

    @property
    def damaged(self) -> bool:
        """True when facts are damaged or lost: there is an anomaly of severity ERROR."""
        return any(ANOMALY_SEVERITIES[name] == "ERROR" for name, count in self.counts.items() if count)

    @property
    def complete(self) -> bool:
        """True when every byte was read now."""
        return self.places_remembered == self.places_unread == 0

    @property
    def unresolved(self) -> int:
        """How many anomalies need looking at: those of severity ERROR and WARN."""
        return sum(count for name, count in self.counts.items() if ANOMALY_SEVERITIES[name] != "INFO")


ANOMALIES_KEPT_MAX: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """What was left as it is, and why."""

    place: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryReport:
    """What a recovery did, or with *dry_run* would do.

    *found* is the scan before, *remaining* the one after (in a dry run, and with mode ``ignore``, the same).
    *kept_in* are the quarantine files written, relative to the log's folder. *recorded* are the facts about it
    that were appended.
    """

    mode: str
    dry_run: bool
    found: ScanReport
    remaining: ScanReport
    rewritten: tuple[str, ...] = ()
    kept_in: tuple[str, ...] = ()
    quarantined_spans: int = 0
    quarantined_bytes: int = 0
    repaired_lines: int = 0
    leftovers_removed: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    recorded: tuple[Fact, ...] = ()
    duration_seconds: float = 0.0

    @property
    def changed(self) -> bool:
        """True when anything stored was (in a dry run: would be) changed."""
        return bool(self.rewritten or self.kept_in or self.leftovers_removed)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamCompaction:
    """What a compaction removed of one stream. Sizes in bytes with line ends."""

    system: str
    kind: FactKind
    records_removed: int = 0
    records_kept: int = 0
    bytes_freed: int = 0
    segments_removed: int = 0
    segments_replaced: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupHold:
    """What a consumer group, or an outlet of a file log, still needed of a stream, among facts that retention hides.

    *unread* were never delivered to it, *pending* were, and are not acknowledged. They stay, and all that is stored
    behind them, unless forced: then the group has lost them (*lost*).
    """

    system: str
    kind: FactKind
    group: str
    unread: int
    pending: int
    lost: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactionReport:
    """What a compaction removed, or with *dry_run* would remove. *groups* are those that needed something hidden."""

    dry_run: bool
    streams: tuple[StreamCompaction, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    kept_in: tuple[str, ...] = ()
    recorded: tuple[Fact, ...] = ()
    groups: tuple[GroupHold, ...] = ()
    duration_seconds: float = 0.0

    @property
    def records_removed(self) -> int:
        """How many facts of all streams."""
        return sum(stream.records_removed for stream in self.streams)

    @property
    def bytes_freed(self) -> int:
        """How many bytes of all streams."""
        return sum(stream.bytes_freed for stream in self.streams)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing looked at before a start. *severity* is how bad it is if not *ok*: ``ERROR`` or ``WARN``.

    *detail* says what was found, *remedy* what to do about it.
    """

    name: str
    ok: bool
    detail: str
    severity: str = "ERROR"
    remedy: str | None = None

    @property
    def status(self) -> str:
        """``ok``, ``warn`` or ``FAIL``."""
        if self.ok:
            return "ok"
        return "warn" if self.severity == "WARN" else "FAIL"
