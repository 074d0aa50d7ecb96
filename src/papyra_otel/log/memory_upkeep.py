"""Looking after the log in memory: the same verbs and reports as for logs that last, over lists of lines.

A line that was taken out leaves an empty one in its place, so that places stay what they are. What is missing
for a known reason is remembered beside the lines.
"""

from __future__ import annotations

import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from papyra_otel import semconv
from papyra_otel.errors import ConfigError, LineDamaged, LogBusy, LogTooNew
from papyra_otel.facts import Fact, FactKind
from papyra_otel.log.codec import decode, encode
from papyra_otel.log.compaction import compacted_facts, refuse_wrong_clock
from papyra_otel.log.merge import Source, floors_of
from papyra_otel.log.retention import Retention
from papyra_otel.log.seqset import SeqSet
from papyra_otel.reports import (
    ANOMALIES_KEPT_MAX,
    Anomaly,
    CompactionReport,
    Progress,
    ProgressCallback,
    RecoveryReport,
    ScanReport,
    StreamCompaction,
    StreamScan,
)

__all__ = ["Kept", "Key", "Lines", "Store", "compact_store", "recover_store", "scan_store"]

Key = tuple[str, FactKind, str]  # system, kind, writer
_RANGE = re.compile(r"([0-9a-f]{16})-(event|audit|dead_letter)-(\d{1,19})\.\.(\d{1,19})", re.ASCII)
_MODES = ("ignore", "quarantine", "repair")
_LONGEST_SEQ = 2**63 - 1


@dataclass(slots=True)
class Lines:
    """One writer's lines of one kind. Places count from the first line there ever was.

    *first* is the place of the first that is left; *missing* are ranges of seqs that are not there for a known
    reason.
    """

    first: int = 0
    lines: list[bytes] = field(default_factory=list[bytes])
    missing: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])

    @property
    def end(self) -> int:
        """The place past the last line."""
        return self.first + len(self.lines)

    def at(self, place: int) -> bytes:
        """Return the line at *place*."""
        return self.lines[place - self.first]


@dataclass(frozen=True, slots=True)
class Kept:
    """A line that a recovery took out: where it was, and why."""

    key: Key
    place: int
    line: bytes
    anomaly: str


@dataclass(slots=True)
class Store:
    """What is shared by all who opened the same name."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    upkeep: threading.Lock = field(default_factory=threading.Lock)
    lines: dict[Key, Lines] = field(default_factory=dict[Key, Lines])
    quarantine: list[Kept] = field(default_factory=list[Kept])

    def of(self, system: str | None) -> dict[Key, Lines]:
        """Return the lines of *system*, or of all: what is there now."""
        with self.lock:
            return {key: lines for key, lines in self.lines.items() if system is None or key[0] == system}


# --- scanning ------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Found:
    """What is in one writer's lines: good facts by seq, bad places with what is wrong there."""

    scan: StreamScan = field(default_factory=StreamScan)
    seqs: SeqSet = field(default_factory=SeqSet)
    bad: list[tuple[int, str, str]] = field(default_factory=list[tuple[int, str, str]])
    newer: bool = False


def scan_store(store: Store, system: str | None, progress: ProgressCallback | None = None) -> ScanReport:
    """Verify every line. See ``FactLog.scan``."""
    begun = time.monotonic()
    held = store.of(system)
    found: dict[Key, _Found] = {}
    missing: defaultdict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    done = 0
    total = sum(len(line) for lines in held.values() for line in lines.lines)
    for key, lines in held.items():
        found[key] = _looked_at(lines, missing)
        missing[key[2], key[1]] += lines.missing
        done += found[key].scan.size_bytes
        if progress is not None:
            progress(Progress(done_bytes=done, total_bytes=max(total, done), place=_place(key)))
    anomalies = [each for key, one in found.items() for each in _anomalies(key, one, missing)]
    counts: dict[str, int] = {}
    kept: list[Anomaly] = []
    for each in anomalies:
        counts[each.type] = counts.get(each.type, 0) + 1
        if counts[each.type] <= ANOMALIES_KEPT_MAX:
            kept.append(each)
    streams = {
        kind: sum((one.scan for key, one in found.items() if key[1] is kind), StreamScan())
        for kind in FactKind
    }
    return ScanReport(
        backend="memory",
        counts=dict(sorted(counts.items())),
        anomalies=tuple(kept),
        streams=streams,
        systems=tuple(sorted({key[0] for key in held})),
        writers=len({key[2] for key in held}),
        places=len(held),
        read_bytes=done,
        duration_seconds=time.monotonic() - begun,
    )


def _looked_at(lines: Lines, missing: Mapping[tuple[str, str], list[tuple[int, int]]]) -> _Found:
    found = _Found()
    by_seq: dict[int, bytes] = {}
    records = good = damaged = newer = 0
    for place in range(lines.first, lines.end):
        line = lines.at(place)
        if not line:
            continue
        try:
            fact = decode(line.removesuffix(b"\n"))
        except LineDamaged as error:
            found.bad.append((place, error.anomaly, error.detail))
            damaged += len(line)
            continue
        except LogTooNew:
            found.newer = True
            newer += len(line)
            continue
        seq = fact.seq or 0
        records += 1
        good += len(line)
        if found.seqs.add(seq):
            by_seq[seq] = line
        elif by_seq[seq] == line:
            found.bad.append((place, "duplicate", f"the fact with seq {seq} stands here again"))
        else:
            found.bad.append((place, "fork_conflict", f"another fact with seq {seq}"))
        for writer, kind, first, last in _explained_by(fact):
            missing[writer, kind].append((first, last))
    found.scan = StreamScan(
        records=records,
        size_bytes=good + damaged + newer,
        good_bytes=good,
        damaged_bytes=damaged,
        newer_bytes=newer,
    )
    return found


def _explained_by(fact: Fact) -> Iterator[tuple[str, str, int, int]]:
    if fact.name == semconv.FACT_DROPPED:
        texts = fact.attributes.get(semconv.DROPPED_RANGES) or ()
        for match in (_RANGE.fullmatch(str(text)) for text in texts):
            if match is not None:
                yield match[1], match[2], int(match[3]), int(match[4])


def _anomalies(
    key: Key, found: _Found, missing: Mapping[tuple[str, str], Iterable[tuple[int, int]]]
) -> Iterator[Anomaly]:
    def anomaly(name: str, detail: str, place: int | None = None) -> Anomaly:
        return Anomaly(
            type=name,
            place=_place(key),
            detail=detail,
            offset=place,
            length=None if place is None else 1,
            system=key[0],
            kind=key[1],
            writer=key[2],
        )

    for place, name, detail in found.bad:
        yield anomaly(name, detail, place)
    if found.newer:
        yield anomaly("future_version", "holds lines of a newer version")
        return
    for first, last in _holes(found.seqs, missing.get((key[2], key[1]), ())):
        yield anomaly("gap", f"seqs {first} to {last} missing, for no known reason")


def _holes(seqs: SeqSet, explained: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield what is missing below the highest seq and not explained."""
    at = 0
    for first, last in sorted([*seqs.ranges(), *explained]):
        if first > seqs.last:
            return
        if first > at:
            yield at, first - 1
        at = max(at, last + 1)


def _place(key: Key) -> str:
    return f"{key[1].plural}/{key[2]}"


# --- recovering ----------------------------------------------------------------------------------------

Record = Callable[[Sequence[Fact]], tuple[Fact, ...]]


def recover_store(
    store: Store,
    system: str | None,
    mode: str,
    *,
    dry_run: bool,
    progress: ProgressCallback | None,
    record: Record,
    now: Callable[[], int],
) -> RecoveryReport:
    """Take bad lines out of the way of readers. See ``FactLog.recover``; ``repair`` corrects nothing here."""
    if mode not in _MODES:
        raise ConfigError(f"mode={mode!r}: use {', '.join(_MODES)}")
    begun = time.monotonic()
    if not store.upkeep.acquire(blocking=False):
        raise LogBusy("this log is being recovered or compacted now; try again when that is done")
    try:
        before = scan_store(store, system, progress)
        bad = [each for each in before.anomalies if each.offset is not None]
        bad = [each for each in bad if each.type != "fork_conflict"]  # which one is right nobody knows
        todo = mode != "ignore" and bool(bad or "gap" in before.counts)
        places = tuple(sorted({each.place for each in before.anomalies})) if todo else ()
        taken_bytes = 0
        recorded: tuple[Fact, ...] = ()
        if todo:
            taken_bytes = sum(_taken_out(store, each, dry_run=dry_run) for each in bad)
        if todo and not dry_run:
            _acknowledge_holes(store, system)
            recorded = record(
                [
                    Fact(
                        kind=FactKind.EVENT,
                        name=semconv.LOG_RECOVERED,
                        time_unix_nano=now(),
                        system=each,
                        severity="WARN",
                        attributes={
                            semconv.RECOVERY_MODE: mode,
                            semconv.RECOVERY_QUARANTINED_SPANS: len(bad),
                            semconv.RECOVERY_QUARANTINED_BYTES: taken_bytes,
                        },
                    )
                    for each in sorted({str(each.system) for each in before.anomalies})
                ]
            )
        return RecoveryReport(
            mode=mode,
            dry_run=dry_run,
            found=before,
            remaining=scan_store(store, system) if todo and not dry_run else before,
            rewritten=places,
            quarantined_spans=len(bad) if todo else 0,
            quarantined_bytes=taken_bytes,
            recorded=recorded,
            duration_seconds=time.monotonic() - begun,
        )
    finally:
        store.upkeep.release()


def _taken_out(store: Store, bad: Anomaly, *, dry_run: bool) -> int:
    key = str(bad.system), FactKind(str(bad.kind)), str(bad.writer)
    with store.lock:
        lines = store.lines[key]
        index = (bad.offset or 0) - lines.first
        line = lines.lines[index]
        if not dry_run:
            store.quarantine.append(Kept(key, bad.offset or 0, line, bad.type))
            lines.lines[index] = b""
        return len(line)


def _acknowledge_holes(store: Store, system: str | None) -> None:
    """Note what is missing now, so that later scans know."""
    held = store.of(system)
    missing: defaultdict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    found = {key: _looked_at(lines, missing) for key, lines in held.items()}
    for key, lines in held.items():
        explained = [*missing[key[2], key[1]], *lines.missing]
        lines.missing += list(_holes(found[key].seqs, explained))


# --- compacting ----------------------------------------------------------------------------------------


def compact_store(
    store: Store,
    system: str | None,
    sources: Callable[[str], Sequence[Source]],
    limits: Retention,
    now_unix_nano: int,
    *,
    force: bool,
    dry_run: bool,
    progress: ProgressCallback | None,
    record: Record,
) -> CompactionReport:
    """Remove what *limits* hide. See ``FactLog.compact``; *sources* gives those of one system."""
    begun = time.monotonic()
    if not store.upkeep.acquire(blocking=False):
        raise LogBusy("this log is being recovered or compacted now; try again when that is done")
    try:
        systems = sorted({key[0] for key in store.of(system)})
        if not force:
            for name in systems:
                refuse_wrong_clock(sources(name), limits, now_unix_nano)
        streams: list[StreamCompaction] = []
        recorded: list[Fact] = []
        for name in systems:
            compaction = _Compaction(store, name, limits, now_unix_nano, sources)
            compaction.plan()
            streams += compaction.streams()
            if progress is not None:
                size_bytes = sum(stream.bytes_freed for stream in streams)
                progress(Progress(done_bytes=size_bytes, total_bytes=size_bytes, place=name))
            if not dry_run:
                recorded += compaction.carry_out(record)
        return CompactionReport(
            dry_run=dry_run,
            streams=tuple(streams),
            recorded=tuple(recorded),
            duration_seconds=time.monotonic() - begun,
        )
    finally:
        store.upkeep.release()


class _Compaction:
    """One system's part. What goes, per writer and kind, is everything before a place."""

    def __init__(
        self,
        store: Store,
        system: str,
        limits: Retention,
        now: int,
        sources: Callable[[str], Sequence[Source]],
    ) -> None:
        self._store = store
        self._system = system
        self._limits = limits
        self._now = now
        self._sources = sources
        self._held = store.of(system)
        self._cuts: dict[Key, int] = {}

    def plan(self) -> None:
        self._cuts = self._places(self._limits)
        facts = self._facts()
        if not facts:
            self._cuts = {}
            return
        own = self._limits.of(FactKind.EVENT)
        size_bytes = sum(len(encode(fact.identified("0" * 16, _LONGEST_SEQ))) for fact in facts)
        reduced = replace(
            own,
            max_records=None if own.max_records is None else max(own.max_records - len(facts), 0),
            max_bytes=None if own.max_bytes is None else max(own.max_bytes - size_bytes, 0),
        )
        self._cuts = self._places(Retention({**self._limits.by_kind, FactKind.EVENT: reduced}))

    def _places(self, limits: Retention) -> dict[Key, int]:
        cuts: dict[Key, int] = {}
        for kind in FactKind:
            own = [source for source in self._sources(self._system) if source.kind is kind]
            if own and not limits.of(kind).unlimited:
                floors, _ = floors_of(own, limits.of(kind), self._now)
                for source in own:
                    key = self._system, kind, source.writer
                    if source.id in floors and key in self._held:
                        cuts[key] = min(floors[source.id][0], self._held[key].end)
        return {key: place for key, place in cuts.items() if any(self._gone(key, place))}

    def _gone(self, key: Key, place: int) -> list[bytes]:
        lines = self._held[key]
        return [line for line in lines.lines[: place - lines.first] if line]

    def _facts(self) -> list[Fact]:
        """Return the facts that say what goes; none if there is nothing but earlier ones of these."""
        gone = {key: self._decoded(self._gone(key, place)) for key, place in self._cuts.items()}
        if all(fact.name == semconv.LOG_COMPACTED for facts in gone.values() for fact in facts):
            return []
        marks = {key: max((fact.seq or 0 for fact in facts), default=-1) + 1 for key, facts in gone.items()}
        return compacted_facts(
            self._system,
            self._now,
            low_marks=[f"{key[2]}-{key[1]}-{mark}" for key, mark in sorted(marks.items())],
            explained=(),  # what is missing is remembered beside the lines
            records=sum(map(len, gone.values())),
            size_bytes=sum(len(line) for key, place in self._cuts.items() for line in self._gone(key, place)),
        )

    def carry_out(self, record: Record) -> tuple[Fact, ...]:
        facts = self._facts()
        if not facts:
            return ()
        recorded = record(facts)
        true = self._places(self._limits)
        for key, planned in self._cuts.items():
            place = min(planned, true.get(key, self._held[key].first))
            for fact in self._decoded(self._gone(key, place)):
                for writer, kind, first, last in _explained_by(fact):
                    lines = self._store.lines.get((self._system, FactKind(kind), writer))
                    if lines is not None:
                        lines.missing.append((first, last))
            self._cut(key, place)
        return recorded

    def _cut(self, key: Key, place: int) -> None:
        with self._store.lock:
            lines = self._store.lines[key]
            gone = place - lines.first
            if gone <= 0:
                return
            for at, line in enumerate(lines.lines[:gone], start=lines.first):
                if line and not self._decoded([line]):
                    self._store.quarantine.append(Kept(key, at, line, "corrupt_line"))
            seqs = [fact.seq or 0 for fact in self._decoded(lines.lines[:gone])]
            low = [(0, max(seqs))] if seqs else []
            self._store.lines[key] = Lines(place, lines.lines[gone:], low + lines.missing)

    @staticmethod
    def _decoded(lines: Iterable[bytes]) -> list[Fact]:
        facts: list[Fact] = []
        for line in lines:
            try:
                facts.append(decode(line.removesuffix(b"\n")))
            except LineDamaged:
                continue
        return facts

    def streams(self) -> Iterator[StreamCompaction]:
        for kind in FactKind:
            held = {key: lines for key, lines in self._held.items() if key[1] is kind}
            if self._limits.of(kind).unlimited or not held:
                continue
            gone = [line for key in held if key in self._cuts for line in self._gone(key, self._cuts[key])]
            total = sum(1 for lines in held.values() for line in lines.lines if line)
            yield StreamCompaction(
                system=self._system,
                kind=kind,
                records_removed=len(gone),
                records_kept=total - len(gone),
                bytes_freed=sum(map(len, gone)),
            )
