"""Recovering a log: each dead segment with something wrong is planned, kept evidence of, and replaced.

Per segment, in this order: its lock is taken; what is to be taken out goes into a quarantine file, durably; the
segment is replaced atomically. A crash in between leaves a quarantine file and the segment as it was: the
next run makes the same plan and the same file again. Nothing is ever changed in place. Before all that it is noted
that no fact tells of it yet (see ``untold``); the note goes when the fact is on the disk.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace

from papyra_otel import semconv
from papyra_otel.errors import ConfigError, LineDamaged, LogBusy, LogUnavailable
from papyra_otel.facts import Fact, FactKind
from papyra_otel.log.explained import SeqRange, parse_range
from papyra_otel.log.file.folder import LogFolder
from papyra_otel.log.file.fs import error_name
from papyra_otel.log.file.layout import QUARANTINE, RECOVERING, system_of_folder
from papyra_otel.log.file.losses import Losses
from papyra_otel.log.file.plan import Plan, plan_segment
from papyra_otel.log.file.quarantine import (
    KeptEdit,
    KeptSegment,
    edited,
    quarantine_lines,
    quarantine_name,
    read_quarantine,
)
from papyra_otel.log.file.replace import remove_leftover, replace_file
from papyra_otel.log.file.scan import Scanned, scan_log
from papyra_otel.log.file.strays import strays
from papyra_otel.log.file.summary import Summary, opened
from papyra_otel.log.file.survey import Site, TooNew
from papyra_otel.log.file.untold import forget, kept_in, note, noted, quarantined
from papyra_otel.reports import (
    ANOMALY_SEVERITIES,
    Progress,
    ProgressCallback,
    RecoveryReport,
    ScanReport,
    Skipped,
)

__all__ = ["recover_log"]

_MODES = ("ignore", "quarantine", "repair")
_FILES_TOLD_MAX = 20

Record = Callable[[Sequence[Fact]], tuple[Fact, ...]]


def recover_log(
    folder: LogFolder,
    clock: Callable[[], int],
    mode: str,
    *,
    dry_run: bool,
    progress: ProgressCallback | None,
    record: Record,
    ticks: Callable[[], float] = time.monotonic,
) -> RecoveryReport:
    """Recover the log in *folder*. See ``FactLog.recover``; *record* appends facts about it, durably.

    Raises OSError when the log's folder cannot be listed, LogBusy, ConfigError.
    """
    if mode not in _MODES:
        raise ConfigError(f"recovery mode {mode!r} is not one of {', '.join(_MODES)}")
    begun = ticks()
    changes = mode != "ignore" and not dry_run
    with ExitStack() as stack:
        recovery = _Recovery(folder, mode, dry_run=dry_run)
        if changes:
            recovery.lock_all(stack)
        found = scan_log(folder, clock, progress)
        if mode != "ignore":
            recovery.run(found, progress)
        changed = changes and recovery.changed
        remaining = scan_log(folder, clock, progress).report if changed else found.report
        recorded = recovery.recorded(found.summaries, clock, record) if changed else ()
    return recovery.report(found.report, remaining, recorded, ticks() - begun)


@dataclass(slots=True)
class _Done:
    """What was done in one system."""

    rewritten: list[str] = field(default_factory=list[str])
    kept_in: list[str] = field(default_factory=list[str])
    leftovers: list[str] = field(default_factory=list[str])
    spans: int = 0
    size_bytes: int = 0
    lines: int = 0

    @property
    def changed(self) -> bool:
        return bool(self.rewritten or self.kept_in or self.leftovers)

    def copy(self) -> _Done:
        """Return an equal one that may be added to."""
        return replace(self, rewritten=[*self.rewritten], kept_in=[*self.kept_in])

    def take(self, system_folder: str, name: str, kept: KeptSegment | None, *, rewrites: bool) -> None:
        """Add what the quarantine file *name* of an earlier recovery says."""
        self.kept_in.append(f"{system_folder}/{QUARANTINE}/{name}")
        if kept is not None:
            self.rewritten += [f"{system_folder}/{kept.segment}"] if rewrites else []
            self.spans += kept.taken_spans
            self.size_bytes += kept.taken_bytes
            self.lines += kept.repaired_lines


class _Recovery:
    def __init__(self, folder: LogFolder, mode: str, *, dry_run: bool) -> None:
        self._folder = folder
        self._fs = folder.fs
        self._mode = mode
        self._dry_run = dry_run
        self._done: defaultdict[str, _Done] = defaultdict(_Done)
        self._skipped: list[Skipped] = []
        self._locked: set[str] = {""}  # the log's own folder needs no lock
        self._stack = ExitStack()
        self._told: dict[str, frozenset[str]] = {}  # where there is a note: the quarantine files of before
        self._resumed: set[str] = set()  # systems with the note of an earlier recovery

    # --- the log as a whole

    def lock_all(self, stack: ExitStack) -> None:
        """Take every system's lock for as long as *stack* lives, or raise LogBusy before anything is changed."""
        self._stack = stack
        for system_folder in self._folder.system_folders():
            path = os.path.join(self._folder.root, system_folder)
            if not self._fs.is_folder(path):
                continue
            try:
                lock = self._fs.lock_folder(path)
            except OSError as error:
                self._skip(system_folder, error)
                continue
            if lock is None:
                raise LogBusy(
                    f"system {system_of_folder(system_folder)!r} is being recovered or compacted by another "
                    f"process; try again when that is done"
                )
            stack.callback(self._fs.close, lock)
            self._locked.add(system_folder)
            told = noted(self._fs, path)
            if told is not None:
                self._told[system_folder] = told
                self._resumed.add(system_folder)

    def run(self, scanned: Scanned, progress: ProgressCallback | None) -> None:
        """Do what there is to do, or find out what it would be."""
        for system_folder in sorted(self._resumed):
            self._hold_note(os.path.join(self._folder.root, system_folder))
        self._remove_leftovers()
        work = [each for each in self._work(scanned) if self._may_touch(each[0].system_folder)]
        total = sum(summary.size_bytes for summary, _, _ in work)
        done = 0
        for number, (summary, group, at) in enumerate(work, 1):
            rest = number == len(work) or work[number][1] is not group
            self._recover(summary, group, group.site(at, rest=rest))
            done += summary.size_bytes
            if progress is not None:
                progress(Progress(done_bytes=done, total_bytes=total, place=summary.place))

    @property
    def changed(self) -> bool:
        """Say whether anything was changed, or would be."""
        return bool(self._resumed) or any(done.changed for done in self._done.values())

    def recorded(
        self, summaries: Iterable[Summary], clock: Callable[[], int], record: Record
    ) -> tuple[Fact, ...]:
        """Record one fact for each system that was changed, and what earlier recoveries could not record.

        Where that is not possible, say so in the report: the note stays, and the next recovery tells.
        """
        names = {each.system_folder: each.system for each in summaries if each.system is not None}
        facts = [
            self._fact(names.get(system_folder) or system_of_folder(system_folder), mode, done, clock())
            for system_folder in sorted({*self._done, *self._told} - {""})
            for mode, done in self._to_tell(system_folder).items()
        ]
        try:
            recorded = record(facts) if facts else ()
        except LogUnavailable as error:
            reason = f"recovered, but that could not be recorded yet: {error}"
            self._skipped.append(Skipped(place="", reason=reason))
            return ()
        for system_folder in sorted(self._told):
            forget(self._fs, os.path.join(self._folder.root, system_folder))
            if system_folder in self._resumed:
                self._done[system_folder].leftovers.append(f"{system_folder}/{RECOVERING}")
        return recorded

    def _to_tell(self, system_folder: str) -> dict[str, _Done]:
        """Return what was done in a system and is not recorded, by mode."""
        now = self._done[system_folder]
        found = {self._mode: now} if now.changed else {}
        told = self._told.get(system_folder)
        if told is None:
            return found
        path = os.path.join(self._folder.root, system_folder)
        told |= {os.path.basename(place) for place in now.kept_in}
        for name in sorted(quarantined(self._fs, path) - told):
            kept, rewrites = kept_in(self._fs, path, name)
            if kept is None or kept.mode in _MODES:  # else it is a compaction's
                done = found.setdefault(self._mode if kept is None else kept.mode, _Done())
                if done is now:
                    done = found[self._mode] = now.copy()
                done.take(system_folder, name, kept, rewrites=rewrites)
        return found

    def report(
        self, found: ScanReport, remaining: ScanReport, recorded: tuple[Fact, ...], duration_seconds: float
    ) -> RecoveryReport:
        """Return the report."""
        all_done = [done for _, done in sorted(self._done.items())]
        return RecoveryReport(
            mode=self._mode,
            dry_run=self._dry_run,
            found=found,
            remaining=remaining,
            rewritten=tuple(place for done in all_done for place in done.rewritten),
            kept_in=tuple(place for done in all_done for place in done.kept_in),
            quarantined_spans=sum(done.spans for done in all_done),
            quarantined_bytes=sum(done.size_bytes for done in all_done),
            repaired_lines=sum(done.lines for done in all_done),
            leftovers_removed=tuple(place for done in all_done for place in done.leftovers),
            skipped=tuple(self._skipped),
            recorded=recorded,
            duration_seconds=duration_seconds,
        )

    def _fact(self, system: str, mode: str, done: _Done, now_unix_nano: int) -> Fact:
        return Fact(
            kind=FactKind.EVENT,
            name=semconv.LOG_RECOVERED,
            time_unix_nano=now_unix_nano,
            system=system,
            severity="WARN",
            attributes={
                semconv.RECOVERY_MODE: mode,
                semconv.RECOVERY_SEGMENTS: len(done.rewritten),
                semconv.RECOVERY_QUARANTINED_SPANS: done.spans,
                semconv.RECOVERY_QUARANTINED_BYTES: done.size_bytes,
                semconv.RECOVERY_REPAIRED_LINES: done.lines,
                semconv.RECOVERY_FILES: sorted(done.kept_in)[:_FILES_TOLD_MAX],
            },
        )

    def _remove_leftovers(self) -> None:
        folders: set[str] = set()
        for stray in list(strays(self._folder)):
            system_folder = stray.place.partition("/")[0] if "/" in stray.place else ""
            if stray.type != "tmp_leftover" or not self._may_touch(system_folder):
                continue
            if os.path.basename(stray.place) == RECOVERING and not self._dry_run:
                continue  # it goes when what it tells of is recorded
            path = os.path.join(self._folder.root, stray.place)
            try:
                if self._dry_run or remove_leftover(self._fs, path):
                    self._done[system_folder].leftovers.append(stray.place)
                    folders.add(os.path.dirname(path))
            except OSError as error:
                self._skip(stray.place, error)
        if not self._dry_run:
            for path in sorted(folders):
                with suppress(OSError):  # what comes back after a power cut is removed again
                    self._fs.fsync_folder(path)

    def _work(self, scanned: Scanned) -> Iterator[tuple[Summary, Losses, int]]:
        """Yield the segments to look into: with its group, and its place there."""
        by_writer: defaultdict[tuple[str, FactKind, str], list[Summary]] = defaultdict(list)
        for summary in scanned.summaries:
            by_writer[summary.system_folder, summary.kind, summary.name.writer].append(summary)
        facts_explain = [
            each for summary in scanned.summaries for each in (*summary.explained, *summary.low_marks)
        ]
        kept: dict[str, dict[str, list[SeqRange]]] = {}
        for (system_folder, _, _), segments in sorted(by_writer.items()):
            if system_folder not in kept:
                kept[system_folder] = self._kept_seqs(system_folder)
            segments.sort(key=lambda summary: summary.name.number)
            group = Losses(segments, facts_explain, kept[system_folder])
            unexplained = group.unexplained(scanned.explanations)
            for at, summary in enumerate(segments):
                if summary.alive:
                    if _questionable(summary):
                        reason = "its writer is running; recover again when that has ended"
                        self._skipped.append(Skipped(place=summary.place, reason=reason))
                elif unexplained or summary.seal is None or _questionable(summary):
                    yield summary, group, at

    def _may_touch(self, system_folder: str) -> bool:
        return self._dry_run or system_folder in self._locked

    def _kept_seqs(self, system_folder: str) -> dict[str, list[SeqRange]]:
        """Return what each quarantine file of a system explains; of a damaged one, what comes before the damage."""
        path = os.path.join(self._folder.root, system_folder, QUARANTINE)
        kept: dict[str, list[SeqRange]] = {}
        if not self._fs.is_folder(path):
            return kept
        for name in self._fs.names(path):
            found = kept[name] = []
            with suppress(LineDamaged, OSError):
                for each in read_quarantine(self._fs, os.path.join(path, name)):
                    if isinstance(each, KeptEdit):
                        found.extend(filter(None, map(parse_range, each.seqs)))
        return kept

    def _skip(self, place: str, error: OSError) -> None:
        reason = f"{error.strerror or error} ({error_name(error)}); left as it is"
        self._skipped.append(Skipped(place=place, reason=reason))

    # --- one segment

    def _recover(self, summary: Summary, group: Losses, site: Site) -> None:
        path = os.path.join(self._folder.root, summary.place)
        try:
            with opened(self._fs, path) as fd:
                free = not self._fs.locked(fd) if self._dry_run else self._fs.lock(fd)
                if not free:
                    self._skipped.append(Skipped(place=summary.place, reason="somebody holds it now"))
                    return
                plan = plan_segment(self._fs, fd, site, self._mode)
                group.corrected(plan.corrected)
                if plan.edits:
                    self._apply(summary, plan, fd, path)
                group.told(plan.lost, plan.reach)
        except TooNew:
            self._skipped.append(
                Skipped(place=summary.place, reason="written by a newer version: nothing of it is touched")
            )
        except OSError as error:
            self._skip(summary.place, error)

    def _apply(self, summary: Summary, plan: Plan, fd: int, path: str) -> None:
        kinds = summary.kind.plural
        name = quarantine_name(kinds, summary.name, plan.digest)
        quarantine = os.path.join(self._folder.root, summary.system_folder, QUARANTINE)
        kept = KeptSegment(
            v=1,
            segment=f"{kinds}/{summary.name}",
            size_bytes=plan.size_bytes,
            digest=plan.digest,
            mode=self._mode,
            taken_spans=plan.quarantined_spans,
            taken_bytes=plan.quarantined_bytes,
            repaired_lines=plan.repaired_lines,
        )

        def read(size: int, offset: int) -> bytes:
            return self._fs.pread(fd, size, offset)

        if not plan.rewrites and self._has_evidence(os.path.join(quarantine, name), plan):
            return
        if not self._dry_run:
            try:
                self._make_quarantine(summary.system_folder, quarantine)
                replace_file(self._fs, quarantine, name, quarantine_lines(kept, plan.edits, read))
                if plan.rewrites:
                    replace_file(self._fs, *os.path.split(path), edited(read, plan.size_bytes, plan.edits))
            except OSError as error:
                if not plan.rewrites:
                    raise
                if self._fs.linked(fd):
                    with suppress(OSError):  # it would keep what was not taken out
                        self._fs.unlink(os.path.join(quarantine, name))
                    raise
                reason = f"recovered, but the disk did not confirm it: {error.strerror or error}"
                self._skipped.append(Skipped(place=summary.place, reason=reason))
        done = self._done[summary.system_folder]
        done.kept_in.append(f"{summary.system_folder}/{QUARANTINE}/{name}")
        if plan.rewrites:
            done.rewritten.append(summary.place)
        done.spans += plan.quarantined_spans
        done.size_bytes += plan.quarantined_bytes
        done.lines += plan.repaired_lines

    def _make_quarantine(self, system_folder: str, path: str) -> None:
        """Make a system's quarantine folder and the note that what comes there is untold, durably."""
        self._fs.make_folder(path)
        if system_folder not in self._told:
            system_path = os.path.dirname(path)
            self._fs.fsync_folder(system_path)
            told = quarantined(self._fs, system_path)
            note(self._fs, system_path, told)
            self._told[system_folder] = told
            self._hold_note(system_path)

    def _hold_note(self, system_path: str) -> None:
        """Lock a note: it is no leftover while we live."""
        with suppress(OSError):
            self._fs.lock(self._stack.enter_context(opened(self._fs, os.path.join(system_path, RECOVERING))))

    def _has_evidence(self, path: str, plan: Plan) -> bool:
        """Say whether a quarantine file has all the evidence already."""
        wanted = {text for edit in plan.edits for text in edit.seqs}
        try:
            had = {
                text
                for each in read_quarantine(self._fs, path)
                if isinstance(each, KeptEdit)
                for text in each.seqs
            }
        except (OSError, LineDamaged):
            return False
        return wanted <= had


def _questionable(summary: Summary) -> bool:
    return any(ANOMALY_SEVERITIES[name] != "INFO" for name in summary.tally.counts)
