"""Recovering a log in Redis: bad entries move into the quarantine, then what stands beside the streams is corrected.

Each step is one script, which changes all that belongs together and first sees that it is still what was examined.
After bad entries were moved the log is scanned again, and the rest goes by what is there then; so a run that dies
between two steps leaves nothing that the next one does not find and finish. What was done and is not on record yet
is counted in ``meta``, too. Writers go on all the time; who else recovers or compacts has to wait.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import redis

from papyra_otel import semconv
from papyra_otel.errors import ConfigError, LogBusy, LogUnavailable
from papyra_otel.facts import Fact, FactKind
from papyra_otel.log.redis.aside import put_aside, put_index_aside
from papyra_otel.log.redis.beside import beside
from papyra_otel.log.redis.keys import EntryId, Tag, index_key
from papyra_otel.log.redis.lock import UPKEEP_SECONDS, UpkeepLock
from papyra_otel.log.redis.meta import RECOVERED, SETTLED
from papyra_otel.log.redis.pages import StoredEntry, parse_entries
from papyra_otel.log.redis.repair import Decision, Mender, digest_of
from papyra_otel.log.redis.scan import Scanned
from papyra_otel.log.redis.scripts import run
from papyra_otel.log.redis.settle import Step, steps_of
from papyra_otel.log.redis.survey import Survey
from papyra_otel.log.redis.trail import Bad, StreamTrail
from papyra_otel.log.redis.trouble import unavailable
from papyra_otel.log.redis.wire import Reply, Wire
from papyra_otel.reports import Progress, ProgressCallback, RecoveryReport, ScanReport, Skipped

__all__ = ["BAD_MAX", "MODES", "Recovery", "Scan"]

MODES: Final = ("ignore", "quarantine", "repair")
BAD_MAX: Final = 100_000
"""Bad entries per stream that are remembered at once. If there are more, the log is scanned again for them."""
_FETCHED_MAX = 16
_BATCH_MAX = 100
_BATCH_BYTES_MAX = 1 << 20
_STEPS_MAX = 200
_KEYS_TOLD_MAX = 20
_ROUNDS_MAX = 1000

Record = Callable[[Sequence[Fact]], tuple[Fact, ...]]


class Scan(Protocol):
    """Scans the log anew."""

    def __call__(self, progress: ProgressCallback | None, /, *, bad_max: int) -> Scanned: ...  # noqa: D102


@dataclass(slots=True)
class _Done:
    """What was done, or would be, with the keys of one tag."""

    changed: dict[str, None] = field(default_factory=dict[str, None])
    kept_in: dict[str, None] = field(default_factory=dict[str, None])


@dataclass(slots=True, kw_only=True)
class Recovery:
    """One recovery. *record* appends facts about it; *ticks* are seconds of a clock that never steps."""

    wire: Wire
    survey: Survey
    prefix: str
    shown: str
    system: str | None
    mode: str
    dry_run: bool
    scan: Scan
    record: Record
    clock: Callable[[], int]
    bad_max: int
    ticks: Callable[[], float] = time.monotonic
    _lock: UpkeepLock | None = None
    _renewed: float = 0.0
    _done: defaultdict[Tag, _Done] = field(default_factory=lambda: defaultdict(_Done))
    _skipped: dict[Skipped, None] = field(default_factory=dict[Skipped, None])
    _spans: int = 0
    _bytes: int = 0
    _lines: int = 0
    _recorded: tuple[Fact, ...] = ()

    def run(self, progress: ProgressCallback | None) -> RecoveryReport:
        """Recover. See ``FactLog.recover``."""
        if self.mode not in MODES:
            raise ConfigError(f"mode={self.mode!r}: use {', '.join(MODES)}")
        begun = self.ticks()
        if self.mode == "ignore" or self.dry_run:
            found = remaining = self._only_looked(progress)
        else:
            found, remaining = self._recovered(progress)
        done = [each for _, each in sorted(self._done.items(), key=lambda item: item[0].name)]
        return RecoveryReport(
            mode=self.mode,
            dry_run=self.dry_run,
            found=found,
            remaining=remaining,
            rewritten=tuple(key for each in done for key in each.changed),
            kept_in=tuple(dict.fromkeys(key for each in done for key in each.kept_in)),
            quarantined_spans=self._spans,
            quarantined_bytes=self._bytes,
            repaired_lines=self._lines,
            skipped=tuple(self._skipped),
            recorded=self._recorded,
            duration_seconds=self.ticks() - begun,
        )

    def _only_looked(self, progress: ProgressCallback | None) -> ScanReport:
        """Scan; in a dry run, find out what would be done."""
        scanned = self.scan(progress, bad_max=0 if self.mode == "ignore" else self.bad_max)
        if self.mode != "ignore":
            self._aside(scanned)
            self._entries(scanned)
            self._beside(scanned)
        return scanned.report

    def _recovered(self, progress: ProgressCallback | None) -> tuple[ScanReport, ScanReport]:
        """Do what there is to do; return the scans before and after."""
        tags = self._tags()
        with ExitStack() as stack:
            for tag in tags:  # without meta there is no lock
                if name := put_aside(self.wire, self.shown, tag, tag.meta, "hash"):
                    self._changed(tag, tag.meta, name)
            self._lock = stack.enter_context(UpkeepLock(self.wire, self.shown, tags))
            self._renewed = self.ticks()
            found = now = self.scan(self._watched(progress), bad_max=self.bad_max)
            if self._aside(now):
                now = self.scan(self._watched(None), bad_max=self.bad_max)
            for _ in range(_ROUNDS_MAX):
                if not self._entries(now):
                    break
                now = self.scan(self._watched(None), bad_max=self.bad_max)
            if self._beside(now) or now is not found or self._done:
                now = self.scan(self._watched(None), bad_max=0)
            self._tell(now)
        return found.report, now.report

    def _tags(self) -> list[Tag]:
        """Return all tags that there are; those that are not in the index, too."""
        tags = [*self.survey.indexed(), *(tag for tag, _ in self.survey.keys())]  # noqa: SIM118 - no mapping
        return [tag for tag in dict.fromkeys(tags) if self.system is None or tag.is_of(self.system)]

    def _watched(self, progress: ProgressCallback | None) -> ProgressCallback:
        def told(found: Progress) -> None:
            self._keep_lock()
            if progress is not None:
                progress(found)

        return told

    def _keep_lock(self) -> None:
        if self._lock is not None and self.ticks() - self._renewed > UPKEEP_SECONDS / 3:
            self._lock.renew()
            self._renewed = self.ticks()

    # --- keys that hold something else, tags that nobody finds

    def _aside(self, scanned: Scanned) -> bool:
        before = {tag: list(done.changed) for tag, done in self._done.items()}
        for site in scanned.sites:
            for key, (_, wanted) in site.after.wrong_types().items():
                if self.dry_run:
                    self._changed(site.tag, key)
                    if any(site.tag.stream(kind) == key for _, kind in site.after.fence):
                        self._changed(site.tag, site.tag.fence)  # which knows of facts that are gone then
                elif name := put_aside(self.wire, self.shown, site.tag, key, wanted):
                    self._changed(site.tag, key, name)
        unlisted = [site.tag for site in scanned.sites if not site.listed]
        if unlisted:
            self._index(unlisted)
        return before != {tag: list(done.changed) for tag, done in self._done.items()}

    def _index(self, tags: Sequence[Tag]) -> None:
        key = index_key(self.prefix)
        if not self.dry_run:
            aside = put_index_aside(self.wire, self.shown, self.prefix)
            (reply,) = self.wire.send(key, [("SADD", key, *(tag.name for tag in tags))])
            self._checked(reply)
            if aside is not None:
                self._done[tags[0]].kept_in[aside] = None
        for tag in tags:
            self._changed(tag, key)

    # --- bad entries

    def _entries(self, scanned: Scanned) -> int:
        """Move bad entries away; return of how many something was changed."""
        done = 0
        for site in scanned.sites:
            for stream in site.streams.values():
                if stream.bad and not stream.unreadable:
                    mender = Mender(site, stream, scanned.explanations, self.mode == "repair")
                    for batch in _batches(self._decisions(stream, mender)):
                        done += self._move(stream, batch)
        return done

    def _decisions(self, stream: StreamTrail, mender: Mender) -> Iterator[Decision]:
        for entry, anomalies, behind in self._fetched(stream):
            decision = mender.decide(entry, anomalies, behind)
            if decision is not None and decision.skipped:
                self._skipped[Skipped(place=f"{stream.key} {entry.id}", reason=decision.skipped)] = None
            elif decision is not None:
                yield decision

    def _fetched(self, stream: StreamTrail) -> Iterator[tuple[StoredEntry, frozenset[str], EntryId | None]]:
        """Yield the bad entries that are still there, what is wrong with them, and which entry is behind each."""
        bad = _by_id(stream.bad)
        ids = sorted(bad)
        for start in range(0, len(ids), _FETCHED_MAX):
            self._keep_lock()
            some = ids[start : start + _FETCHED_MAX]
            commands: list[tuple[Any, ...]] = []
            for entry_id in some:
                commands.append(("XRANGE", stream.key, str(entry_id), str(entry_id)))
                commands.append(("XRANGE", stream.key, f"({entry_id}", "+", "COUNT", 1))
            replies = [parse_entries(self._checked(reply)) for reply in self.wire.send(stream.key, commands)]
            for entry_id, found, behind in zip(some, replies[::2], replies[1::2], strict=True):
                if found:
                    yield found[0], bad[entry_id], behind[0].id if behind else None

    def _move(self, stream: StreamTrail, batch: Sequence[Decision]) -> int:
        self._changed(stream.tag, stream.key)
        moved = [decision for decision in batch if not decision.settled]
        if self.dry_run or self._lock is None:
            self._count(stream.tag, len(moved), *_amounts(moved))
            return 0
        done = self._settled(
            stream.tag,
            [
                Step("note", f"{SETTLED}{stream.kind}:{decision.entry.id}", decision.anomaly)
                for decision in batch
                if decision.settled
            ],
        )
        if not moved:
            return done
        tag, arguments = stream.tag, self._right(stream.kind)
        for decision in moved:
            arguments += [
                bytes(decision.entry.id),
                digest_of(decision.entry),
                decision.anomaly,
                decision.field,
            ]
            arguments.append(len(decision.lines))
            for place, line in decision.lines:
                arguments += [bytes(place), line]
        reply, _ = run(self.wire, "quarantine", [stream.key, tag.quarantine, tag.fence, tag.meta], arguments)
        spans, size_bytes, lines = self._confirmed(reply)
        self._count(tag, spans, size_bytes, lines)
        return done + spans

    def _count(self, tag: Tag, spans: int, size_bytes: int, lines: int) -> None:
        self._spans += spans
        self._bytes += size_bytes
        self._lines += lines
        if spans:
            self._done[tag].kept_in[tag.quarantine] = None

    # --- what stands beside the streams

    def _beside(self, scanned: Scanned) -> int:
        done = 0
        for site in scanned.sites:
            if site.streams[FactKind.EVENT].newer and not scanned.told:
                reason = "events of a newer version may explain what is missing: upgrade papyra-otel"
                self._skipped[Skipped(place=site.tag.stream(FactKind.EVENT), reason=reason)] = None
            steps = steps_of(site, scanned.explanations, told=scanned.told)
            if not steps:
                continue
            if self.dry_run:
                self._changed(site.tag, site.tag.fence)
                continue
            made = 0
            for start in range(0, len(steps), _STEPS_MAX):
                made += self._settled(site.tag, steps[start : start + _STEPS_MAX])
            if made:
                self._changed(site.tag, site.tag.fence)
            done += made
        return done

    def _settled(self, tag: Tag, steps: Sequence[Step]) -> int:
        if not steps:
            return 0
        arguments = [*self._right(), *(word for step in steps for word in step)]
        reply, _ = run(self.wire, "settle", [tag.fence, tag.quarantine, tag.meta], arguments)
        (done,) = self._confirmed(reply)
        return done

    # --- the record of it

    def _tell(self, scanned: Scanned) -> None:
        """Record what was done, by this run or by one that died, and take what is on record off the count."""
        counted: dict[Tag, Mapping[str, int]] = {}
        systems: defaultdict[str, list[Tag]] = defaultdict(list)
        for site in scanned.sites:
            now = beside(self.wire, site.tag, self.shown)
            if now.meta.recovered or self._done.get(site.tag):
                counted[site.tag] = now.meta.recovered
                systems[now.system].append(site.tag)
        facts = [self._fact(system, tags, counted) for system, tags in sorted(systems.items())]
        try:
            self._recorded = self.record(facts) if facts else ()
        except LogUnavailable as error:
            reason = f"recovered, but that could not be recorded: {error}"
            self._skipped[Skipped(place="", reason=reason)] = None
            return
        for tag, amounts in counted.items():
            if amounts:
                fields = [f"{RECOVERED}{name}" for name in amounts]
                self.wire.send(tag.meta, [("HDEL", tag.meta, *fields)])

    def _fact(self, system: str, tags: Iterable[Tag], counted: Mapping[Tag, Mapping[str, int]]) -> Fact:
        tags = list(tags)
        keys = list(dict.fromkeys(key for tag in tags for key in self._done[tag].kept_in))
        streams = {key for tag in tags for key in self._done[tag].changed if tag.name in key}

        def total(name: str) -> int:
            return sum(counted[tag].get(name, 0) for tag in tags)

        return Fact(
            kind=FactKind.EVENT,
            name=semconv.LOG_RECOVERED,
            time_unix_nano=self.clock(),
            system=system,
            severity="WARN",
            attributes={
                semconv.RECOVERY_MODE: self.mode,
                semconv.RECOVERY_SEGMENTS: len(streams),
                semconv.RECOVERY_QUARANTINED_SPANS: total("spans"),
                semconv.RECOVERY_QUARANTINED_BYTES: total("bytes"),
                semconv.RECOVERY_REPAIRED_LINES: total("lines"),
                semconv.RECOVERY_FILES: keys[:_KEYS_TOLD_MAX],
            },
        )

    # --- what all steps share

    def _changed(self, tag: Tag, key: str, kept_in: str | None = None) -> None:
        self._done[tag].changed[key] = None
        if kept_in is not None:
            self._done[tag].kept_in[kept_in] = None

    def _right(self, *more: object) -> list[Any]:
        return [] if self._lock is None else [self._lock.token, self._lock.milliseconds, *more]

    def _checked(self, reply: Reply) -> Reply:
        if isinstance(reply, redis.RedisError):
            raise unavailable(self.shown, reply)
        return reply

    def _confirmed(self, reply: Reply) -> list[int]:
        """Return what a script says it did. Raises LogBusy when it did nothing, as the lock was lost."""
        word, *amounts = self._checked(reply)
        if word == b"busy":
            raise LogBusy(
                f"{self.shown}: the recovery took too long between two steps, and another process may have taken "
                f"over; run it again"
            )
        self._renewed = self.ticks()
        return [int(amount) for amount in amounts]


def _by_id(bad: Iterable[Bad]) -> dict[EntryId, frozenset[str]]:
    found: defaultdict[EntryId, set[str]] = defaultdict(set)
    for each in bad:
        found[each.id].add(each.anomaly)
    return {entry_id: frozenset(names) for entry_id, names in found.items()}


def _amounts(decisions: Iterable[Decision]) -> tuple[int, int]:
    """Return how many bytes are moved and how many lines put in their place."""
    size_bytes = lines = 0
    for decision in decisions:
        size_bytes += decision.size_bytes
        lines += len(decision.lines)
    return size_bytes, lines


def _batches(decisions: Iterable[Decision]) -> Iterator[list[Decision]]:
    """Cut what is to be moved so that no script runs for long."""
    batch: list[Decision] = []
    size_bytes = 0
    for decision in decisions:
        if batch and (len(batch) >= _BATCH_MAX or size_bytes + decision.size_bytes > _BATCH_BYTES_MAX):
            yield batch
            batch, size_bytes = [], 0
        batch.append(decision)
        size_bytes += decision.size_bytes
    if batch:
        yield batch
