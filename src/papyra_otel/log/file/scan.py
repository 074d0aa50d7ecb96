"""Scanning a log: every segment summarised, then judged together. Never writes; safe while writers run.

Events are read last: they explain what is missing elsewhere, and the explanation is written after the loss.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec

from papyra_otel.facts import FactKind
from papyra_otel.log.codec import signed
from papyra_otel.log.explained import Explanations, SeqRange, parse_range
from papyra_otel.log.file.continuity import judge, overlaps
from papyra_otel.log.file.examine import FACT, Span, examine
from papyra_otel.log.file.folder import LogFolder, StreamFolder
from papyra_otel.log.file.fs import FileStatus
from papyra_otel.log.file.layout import QUARANTINE, REMOVING, TMP, SegmentName
from papyra_otel.log.file.lines import lines_forward
from papyra_otel.log.file.strays import strays
from papyra_otel.log.file.summary import Summary, opened, repeats, summarise
from papyra_otel.log.file.verified import recall
from papyra_otel.log.seqset import SeqSet
from papyra_otel.log.tally import Tally
from papyra_otel.reports import Anomaly, Progress, ProgressCallback, ScanReport, StreamScan

__all__ = ["Scanned", "scan_log"]

_STEP_BYTES = 1 << 20
#: So long may it take, between making a file and locking it, until its maker counts as gone.
BIRTH_SECONDS = 1.0
_LISTINGS_MAX = 3  # segments begun while scanning are looked at, but a scan must end
_WORST_FIRST = ("ERROR", "WARN", "INFO")
_LAST = {FactKind.EVENT: 1}  # the rest first


@dataclass(frozen=True, slots=True, kw_only=True)
class Scanned:
    """A scan's report, and what recovery and later scans need of it: the summary of every segment."""

    report: ScanReport
    summaries: Sequence[Summary]
    explanations: Explanations


@dataclass(slots=True)
class _Work:
    """What is to be read and how far it is. *gone* are segments that were removed while we looked."""

    folder: LogFolder
    now: Callable[[], int]
    out_of_time: Callable[[], bool]
    progress: ProgressCallback | None
    remembered: Mapping[str, Mapping[str, Summary]]
    total_bytes: int = 0
    done_bytes: int = 0
    read_bytes: int = 0
    summaries: list[Summary] = field(default_factory=list[Summary])
    gone: list[Summary] = field(default_factory=list[Summary])
    known: set[tuple[str, SegmentName]] = field(default_factory=set[tuple[str, SegmentName]])
    tally: Tally = field(default_factory=Tally)

    def tell(self, place: str, more_bytes: int = 0) -> None:
        """Tell how far it is, with *more_bytes* of a segment that is not done."""
        if self.progress is not None:
            done_bytes = self.done_bytes + more_bytes
            self.progress(Progress(done_bytes=done_bytes, total_bytes=self.total_bytes, place=place))


class _Steps:
    """Tells of every MiB of a segment. An OSError of the one who is told must not look like one of the disk."""

    def __init__(self, work: _Work, place: str) -> None:
        self._work = work
        self._place = place
        self._read_bytes = 0
        self._told_bytes = 0
        self.refused: OSError | None = None

    def __call__(self, size_bytes: int) -> None:
        self._read_bytes += size_bytes
        if self._read_bytes - self._told_bytes >= _STEP_BYTES and self.refused is None:
            self._told_bytes = self._read_bytes
            try:
                self._work.tell(self._place, self._read_bytes)
            except OSError as error:
                self.refused = error


def scan_log(
    folder: LogFolder,
    clock: Callable[[], int],
    progress: ProgressCallback | None = None,
    *,
    incremental: bool = False,
    seconds_max: float | None = None,
    ticks: Callable[[], float] = time.monotonic,
) -> Scanned:
    """Scan the log in *folder*. See ``FactLog.scan``; *ticks* are seconds of a clock that never steps.

    Raises OSError when the log's folder cannot be listed.
    """
    begun = ticks()
    system_folders = folder.system_folders()
    half_made = {_identity(folder, anomaly) for anomaly in strays(folder) if anomaly.type == "tmp_leftover"}
    work = _Work(
        folder=folder,
        now=clock,
        out_of_time=lambda: seconds_max is not None and ticks() - begun >= seconds_max,
        progress=progress,
        remembered={name: recall(folder, name) for name in system_folders} if incremental else {},
    )
    for _ in range(_LISTINGS_MAX):
        fresh = _listed(work)
        if not fresh:
            break
        for stream, name in fresh:
            _read(work, stream, name)
    work.gone += _being_removed(folder)
    evidence = [each for name in system_folders for each in _evidence(folder, name, work.tally)]
    explanations, between = _judged(work, evidence)
    for summary in work.summaries:
        work.tally.add_all(summary.tally)
    for anomaly in (*between, *_repeated(folder, work.summaries), *_strays(work, half_made)):
        work.tally.add(anomaly)
    report = _report(work, system_folders, ticks() - begun)
    return Scanned(report=report, summaries=work.summaries, explanations=explanations)


def _identity(folder: LogFolder, anomaly: Anomaly) -> tuple[str, FileStatus | None]:
    try:
        return anomaly.place, folder.fs.status(os.path.join(folder.root, anomaly.place))
    except OSError:
        return anomaly.place, None


def _strays(work: _Work, half_made: Container[tuple[str, FileStatus | None]]) -> Iterator[Anomaly]:
    """Yield strays. What is left over was there, unchanged, when we began, and no living writer's.

    A file that is being born is not locked for a moment, and a busy machine can make that moment long: what was made
    just now is looked at again when it is older.
    """
    found = list(_left_over(work, half_made))
    wait_seconds = max(
        (BIRTH_SECONDS - _age_seconds(status) for _, status in found if status is not None), default=0.0
    )
    if wait_seconds > 0:
        time.sleep(wait_seconds)
        found = list(_left_over(work, {(anomaly.place, status) for anomaly, status in found}))
    return (anomaly for anomaly, _ in found)


def _age_seconds(status: FileStatus) -> float:
    """Return how long ago the file changed, as the kernel's clock says; infinity when that is in the future."""
    nanos = time.time_ns() - status.changed_unix_nano
    return nanos / 1e9 if nanos >= 0 else float("inf")


def _left_over(
    work: _Work, half_made: Container[tuple[str, FileStatus | None]]
) -> Iterator[tuple[Anomaly, FileStatus | None]]:
    """Yield strays, and for half-made files that were in *half_made* what they are now."""
    living = {summary.name.writer for summary in work.summaries if summary.alive}
    for anomaly in strays(work.folder):
        if anomaly.type != "tmp_leftover":
            yield anomaly, None
            continue
        segment = SegmentName.parse(os.path.basename(anomaly.place).removesuffix(TMP))
        born = segment is not None and segment.writer in living
        place, status = _identity(work.folder, anomaly)
        if not born and (place, status) in half_made:
            yield anomaly, status


def _judged(work: _Work, evidence: Sequence[SeqRange]) -> tuple[Explanations, list[Anomaly]]:
    """Return what explains holes, and what is wrong between segments.

    A hole that nothing explains may be explained by what was written since its events were read: who removes or
    drops facts says so in an event. If there is one, events are read up to now.
    """
    explanations, found = _judged_now(work, evidence)
    if any(anomaly.type in {"gap", "segment_missing"} for anomaly in found):
        before = {summary.place: summary for summary in work.summaries}
        for stream, name in _listed(work):
            if stream.kind is FactKind.EVENT:
                _read(work, stream, name)
        for summary in before.values():
            if summary.kind is FactKind.EVENT and summary.alive:
                _read_again(work, summary)
        explanations, found = _judged_now(work, evidence)
    return explanations, found


def _judged_now(work: _Work, evidence: Sequence[SeqRange]) -> tuple[Explanations, list[Anomaly]]:
    told = (each for summary in work.summaries for each in (*summary.explained, *summary.low_marks))
    explanations = Explanations([*evidence, *told])
    return explanations, list(judge([*work.summaries, *work.gone], explanations))


def _listed(work: _Work) -> list[tuple[StreamFolder, SegmentName]]:
    """Return segments not seen before: events last, within a kind the newest first."""
    folder = work.folder
    fresh: list[tuple[StreamFolder, SegmentName]] = []
    for stream in folder.streams():
        try:
            names = folder.segments(stream)
        except OSError as error:
            _unlisted(work, stream, error)
            continue
        fresh += [(stream, name) for name in names if (stream.place, name) not in work.known]
    fresh.sort(key=lambda each: each[1], reverse=True)
    fresh.sort(key=lambda each: _LAST.get(each[0].kind, 0))
    for stream, name in fresh:
        work.known.add((stream.place, name))
        work.total_bytes += _size(folder, stream, name)
    return fresh


def _being_removed(folder: LogFolder) -> Iterator[Summary]:
    """Yield what stands for segments that a compaction on a full disk began to remove: they accuse nobody."""
    for stream in folder.streams():
        with suppress(OSError):
            for file_name in folder.fs.names(stream.path):
                name = SegmentName.parse(file_name.removesuffix(REMOVING))
                if name is not None and file_name.endswith(REMOVING):
                    yield _nothing_of(stream, name)


def _unlisted(work: _Work, stream: StreamFolder, error: OSError) -> None:
    nothing = _nothing_of(stream, SegmentName("", "", 0))
    if nothing not in work.gone:
        work.gone.append(nothing)
        detail = f"cannot be listed: {error.strerror}"
        work.tally.add(Anomaly(type="unreadable", place=stream.place, detail=detail, kind=stream.kind))


def _read(work: _Work, stream: StreamFolder, name: SegmentName) -> None:
    summary = _summary(work, stream, name)
    if summary is None:
        work.gone.append(_nothing_of(stream, name))
        return
    work.summaries.append(summary)
    work.done_bytes += summary.size_bytes
    work.read_bytes += 0 if summary.remembered or summary.unread else summary.size_bytes
    work.tell(summary.place)


def _summary(work: _Work, stream: StreamFolder, name: SegmentName) -> Summary | None:
    """Return the remembered summary of an unchanged segment, a new one, or one that knows nothing for lack of time.

    One segment is always read: each scan gets further than the one before. None when it was removed meanwhile.
    """
    known = work.remembered.get(stream.system_folder, {}).get(f"{stream.place}/{name}")
    if known is not None and _status(work.folder, stream, name) == known.status:
        known.remembered = True
        return known
    if work.read_bytes and work.out_of_time():
        nothing = _nothing_of(stream, name)
        nothing.size_bytes = _size(work.folder, stream, name)
        return nothing
    steps = _Steps(work, f"{stream.place}/{name}")
    summary = summarise(work.folder, stream, name, work.now(), steps)
    if steps.refused is not None:
        raise steps.refused
    return summary


def _read_again(work: _Work, summary: Summary) -> None:
    """Read a segment that has grown since it was read."""
    stream = StreamFolder(
        os.path.dirname(os.path.join(work.folder.root, summary.place)), summary.system_folder, summary.kind
    )
    if _size(work.folder, stream, summary.name) != summary.size_bytes:
        work.summaries.remove(summary)
        work.done_bytes -= summary.size_bytes
        _read(work, stream, summary.name)


def _status(folder: LogFolder, stream: StreamFolder, name: SegmentName) -> FileStatus | None:
    try:
        return folder.fs.status(os.path.join(stream.path, str(name)))
    except OSError:
        return None


def _size(folder: LogFolder, stream: StreamFolder, name: SegmentName) -> int:
    status = _status(folder, stream, name)
    return 0 if status is None else status.size_bytes


def _nothing_of(stream: StreamFolder, name: SegmentName) -> Summary:
    """Return the summary of a segment that nothing is known of but its name."""
    place = f"{stream.place}/{name}"
    return Summary(place=place, system_folder=stream.system_folder, kind=stream.kind, name=name, unread=True)


def _report(work: _Work, system_folders: Iterable[str], duration_seconds: float) -> ScanReport:
    streams = {kind: StreamScan() for kind in FactKind}
    for summary in work.summaries:
        streams[summary.kind] = streams[summary.kind] + summary.scan
    systems = {
        folder: next(
            (s.system for s in work.summaries if s.system_folder == folder and s.system is not None), folder
        )
        for folder in system_folders
    }
    return ScanReport(
        backend="file",
        counts=dict(sorted(work.tally.counts.items())),
        anomalies=tuple(sorted(work.tally.kept, key=_order)),
        streams=streams,
        systems=tuple(sorted(systems.values())),
        writers=len({summary.name.writer for summary in work.summaries}),
        places=len(work.summaries),
        places_remembered=sum(summary.remembered for summary in work.summaries),
        places_unread=sum(summary.unread for summary in work.summaries),
        read_bytes=work.read_bytes,
        duration_seconds=duration_seconds,
    )


def _order(anomaly: Anomaly) -> tuple[int, str, int]:
    """Sort the worst first, then by place."""
    return _WORST_FIRST.index(anomaly.severity), anomaly.place, anomaly.offset or 0


# --- facts that stand in two segments -------------------------------------------------------------------


def _repeated(folder: LogFolder, summaries: Iterable[Summary]) -> Iterator[Anomaly]:
    """Compare facts of the same identity in two segments: equal and announced is as it should be."""
    for earlier, later, common, announced in overlaps(summaries):
        seqs = SeqSet()
        for first, last in common:
            seqs.append_range(first, last)
        try:
            found = list(repeats(_both(folder, earlier, later), seqs, later))
        except OSError:  # told as unreadable where it was read first
            continue
        yield from (each for each in found if each.type == "fork_conflict" or not announced)


def _both(folder: LogFolder, earlier: Summary, later: Summary) -> Iterator[Span]:
    for summary in (earlier, later):
        with opened(folder.fs, os.path.join(folder.root, summary.place)) as fd:
            spans = examine(folder.fs, fd, folder.fs.size(fd), alive=summary.alive)
            seen = SeqSet()  # repeats within a segment were told already
            for span in spans:
                if span.what is FACT and span.outline is not None and seen.add(span.outline.seq):
                    yield span


# --- what recoveries left as evidence -------------------------------------------------------------------


class _Kept(msgspec.Struct):
    seqs: list[str] = []


_kept_decoder = msgspec.json.Decoder(_Kept)


def _evidence(folder: LogFolder, system_folder: str, tally: Tally) -> Iterator[SeqRange]:
    """Yield the ranges that quarantine files explain. A damaged quarantine file is an anomaly of its own."""
    path = os.path.join(folder.root, system_folder, QUARANTINE)
    if not folder.fs.is_folder(path):
        return
    try:
        names = folder.fs.names(path)
    except OSError as error:
        place = f"{system_folder}/{QUARANTINE}"
        tally.add(Anomaly(type="unreadable", place=place, detail=f"cannot be listed: {error.strerror}"))
        return
    for name in names:
        if not name.endswith(".ndjson"):
            continue
        place = f"{system_folder}/{QUARANTINE}/{name}"
        try:
            with opened(folder.fs, os.path.join(path, name)) as fd:
                for end, line in lines_forward(folder.fs, fd, 0):
                    kept = _kept(line)
                    if kept is None:
                        detail = "a line of a quarantine file is damaged: what it kept may be lost"
                        begin = end - len(line) - 1
                        tally.add(
                            Anomaly(
                                type="corrupt_line",
                                place=place,
                                detail=detail,
                                offset=begin,
                                length=len(line) + 1,
                            )
                        )
                    else:
                        yield from filter(None, map(parse_range, kept.seqs))
        except OSError as error:
            tally.add(Anomaly(type="unreadable", place=place, detail=f"cannot be read: {error.strerror}"))


def _kept(line: bytes) -> _Kept | None:
    if not signed(line):
        return None
    try:
        return _kept_decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
