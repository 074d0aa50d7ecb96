"""Scanning: every stream read to its end, then judged by what stands beside it. Never writes; safe while others do.

Fence and meta are read before a stream and again after all of them. Events are read last: they explain what is missing
elsewhere, and the explanation is written after the loss.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from papyra_otel.errors import LineDamaged, LogTooNew, LogUnavailable
from papyra_otel.facts import FactKind
from papyra_otel.log.codec import outline
from papyra_otel.log.explained import Explanations
from papyra_otel.log.redis.beside import beside
from papyra_otel.log.redis.examine import FACT, look_at
from papyra_otel.log.redis.judge import SiteScan, judge, seqs_beside
from papyra_otel.log.redis.keys import KINDS, EntryId, Tag, index_key, is_own
from papyra_otel.log.redis.meta import RESTORED
from papyra_otel.log.redis.survey import Survey
from papyra_otel.log.redis.trail import StreamTrail
from papyra_otel.log.redis.verified import recall, to_keep
from papyra_otel.log.redis.walk import Extent, extent_of, walk
from papyra_otel.log.redis.wire import Wire
from papyra_otel.log.tally import Tally
from papyra_otel.log.times import format_time
from papyra_otel.reports import Anomaly, Progress, ProgressCallback, ScanReport, StreamScan

__all__ = ["Scanned", "Scanner"]

_FUTURE_NANOS_MAX: Final = 86_400_000_000_000
_ORDER = (FactKind.DEAD_LETTER, FactKind.AUDIT, FactKind.EVENT)
_WORST_FIRST = ("ERROR", "WARN", "INFO")
_MISSING = frozenset({"gap", "head_missing", "segment_missing"})
_encoder = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scanned:
    """A scan's report, and what recovery and later scans need of it."""

    report: ScanReport
    sites: Sequence[SiteScan]
    explanations: Explanations
    told: bool


@dataclass(slots=True, kw_only=True)
class Scanner:
    """One scan. *ticks* are seconds of a clock that never steps; *bad_max* how many bad entries are kept per stream."""

    wire: Wire
    survey: Survey
    prefix: str
    shown: str
    system: str | None
    clock: Callable[[], int]
    progress: ProgressCallback | None = None
    incremental: bool = False
    seconds_max: float | None = None
    ticks: Callable[[], float] = time.monotonic
    bad_max: int = 0
    _begun: float = 0.0
    _future: str = ""
    _read_bytes: int = 0
    _total_bytes: int = 0
    _sites: list[SiteScan] = field(default_factory=list[SiteScan])
    _tally: Tally = field(default_factory=Tally)

    def run(self) -> Scanned:
        """Scan. Raises LogUnavailable when the server cannot be reached, and what *progress* raises."""
        self._begun = self.ticks()
        self._future = format_time(self.clock() + _FUTURE_NANOS_MAX)
        self._look_around()
        for kind in _ORDER:
            for site in self._sites:
                self._read(site, kind)
        explanations, told, between = self._judged()
        tally = self._tally
        for site in self._sites:
            for stream in site.streams.values():
                for anomaly in self._repeats(stream):
                    stream.tally.add(anomaly)
                tally.add_all(stream.tally)
        for anomaly in between:
            tally.add(anomaly)
        return Scanned(report=self._report(), sites=self._sites, explanations=explanations, told=told)

    # --- what there is

    def _look_around(self) -> None:
        indexed = [tag for tag in self.survey.indexed() if self.system is None or tag.is_of(self.system)]
        tags = dict.fromkeys(indexed, True)
        if not self.incremental or not tags:
            for tag, what in self._keys():
                if not is_own(what):
                    key = tag.key(what)
                    detail = "a key that is none of ours, under a name of ours"
                    self._tally.add(
                        Anomaly(type="unexpected_file", place=key, detail=detail, system=tag.system)
                    )
                else:
                    tags.setdefault(tag, False)
        if not all(tags.values()):  # just begun, perhaps: a tag is put into the index first
            tags |= dict.fromkeys((tag for tag in self.survey.indexed() if tag in tags), True)
        for tag, listed in tags.items():
            now = beside(self.wire, tag, self.shown)
            self._total_bytes += sum(fence.size_bytes for fence in now.fence.values())
            self._sites.append(SiteScan(tag=tag, before=now, after=now, listed=listed))
            if not listed:
                index = index_key(self.prefix)
                detail = f"does not name {tag.name!r}, whose keys are there: readers may not see it"
                self._tally.add(
                    Anomaly(type="unexpected_file", place=index, detail=detail, system=now.system)
                )

    def _keys(self) -> Iterator[tuple[Tag, str]]:
        """Yield all keys that look like ours, each once; none if we may not look."""
        found: set[tuple[Tag, str]] = set()
        try:
            for tag, what in self.survey.keys():  # noqa: SIM118 - no mapping
                if self.system is None or tag.is_of(self.system):
                    found.add((tag, what))
        except LogUnavailable as error:
            if error.error_type != "permission":
                raise
        yield from sorted(found, key=lambda each: (each[0].name, each[1]))

    # --- one stream

    def _new_stream(self, site: SiteScan, kind: FactKind) -> StreamTrail:
        stream = StreamTrail(
            tag=site.tag,
            kind=kind,
            system=site.before.system,
            future=self._future,
            settled=frozenset(site.before.meta.settled.get(kind, ())),
            bad_max=self.bad_max,
        )
        site.streams[kind] = stream
        return stream

    def _read(self, site: SiteScan, kind: FactKind) -> None:
        fences = [fence for fence in site.before.fence.values() if fence.kind is kind]
        stream = self._new_stream(site, kind)
        try:
            extent = extent_of(self.wire, stream.key, self.shown)
            known = recall(stream, site.before.meta.verified.get(kind)) if self.incremental else None
            stream.expect(fences)
            self._read_on(stream, extent)
            if known is not None and stream.whole and (stream.entries, stream.first) != extent[:2]:
                stream = self._new_stream(site, kind)  # something was removed: what was verified says nothing
                stream.expect(fences)
                self._read_on(stream, extent)
        except LogUnavailable as error:
            if error.error_type != "wrong_type":
                raise
            stream = self._new_stream(site, kind)
            stream.unreadable = stream.whole = True
            found = site.before.types.get(stream.key, "none")
            stream.report("unreadable", f"holds a {found}, not a stream")
        stream.there = bool(stream.entries or stream.unreadable or any(fence.records for fence in fences))
        stream.kept = to_keep(stream)

    def _read_on(self, stream: StreamTrail, extent: Extent) -> None:
        """Read what comes after what is known, to the end that the stream had when we asked."""
        if extent.last is None:
            stream.whole = True
            return
        if self._out_of_time():
            return
        after = stream.until if stream.entries else None
        for entries in walk(self.wire, stream.key, self.shown, after, extent.last):
            before = stream.read_bytes
            stream.first = stream.first or entries[0].id
            stream.take(map(look_at, entries))
            self._read_bytes += stream.read_bytes - before
            self._tell(stream.key)
            if stream.until != extent.last and self._out_of_time():
                return
        stream.whole = True

    def _out_of_time(self) -> bool:
        """Say whether to stop. Something is always read: each scan gets further than the one before."""
        if self.seconds_max is None or not self._read_bytes:
            return False
        return self.ticks() - self._begun >= self.seconds_max

    def _tell(self, place: str) -> None:
        if self.progress is not None:
            done = self._read_bytes
            self.progress(Progress(done_bytes=done, total_bytes=max(done, self._total_bytes), place=place))

    # --- all of it

    def _judged(self) -> tuple[Explanations, bool, list[Anomaly]]:
        """Judge; if something is missing, once more with what was written while we read."""
        found = self._judged_now()
        if any(anomaly.type in _MISSING for anomaly in found[2]):
            for site in self._sites:
                stream = site.streams[FactKind.EVENT]
                if stream.whole and not stream.unreadable:
                    self._catch_up(stream)
            found = self._judged_now()
        return found

    def _catch_up(self, stream: StreamTrail) -> None:
        after = stream.until if stream.entries else None
        for entries in walk(self.wire, stream.key, self.shown, after):
            for entry in entries:
                line = look_at(entry).line
                if line is not None:
                    stream.tell(line)

    def _judged_now(self) -> tuple[Explanations, bool, list[Anomaly]]:
        damaged: list[Anomaly] = []
        for site in self._sites:
            site.after = beside(self.wire, site.tag, self.shown)
            damaged += self._restored(site)
        explained = [each for site in self._sites for each in seqs_beside(site)]
        streams = [stream for site in self._sites for stream in site.streams.values()]
        explanations = Explanations([*explained, *(each for stream in streams for each in stream.explained)])
        told = all(
            stream.whole and not (stream.unreadable or stream.newer)
            for stream in streams
            if stream.kind is FactKind.EVENT
        )
        found = [each for site in self._sites for each in judge(site, explanations, told=told)]
        return explanations, told, damaged + found

    @staticmethod
    def _restored(site: SiteScan) -> Iterator[Anomaly]:
        """Take into account the lines that repairs put in the place of entries. Yield those that are damaged."""
        for kind, stream in site.streams.items():
            for entry_id, data in site.after.meta.restored.get(kind, ()):
                try:
                    line = outline(data.removesuffix(b"\n"))
                except LogTooNew:
                    continue
                except LineDamaged as error:
                    place = f"{site.tag.meta} {RESTORED}{kind}:{entry_id}"
                    yield site.anomaly(error.anomaly, place, error.detail)
                    continue
                if entry_id not in stream.restored:
                    stream.restored.add(entry_id)
                    stream.restore(entry_id, line, len(data))

    def _repeats(self, stream: StreamTrail) -> Iterator[Anomaly]:
        """Read a stream again for facts with an identity that came before: equal, or not."""
        wanted = {writer: trail.repeated for writer, trail in stream.trails.items() if trail.repeated}
        if not wanted or stream.unreadable:
            return
        seen: dict[tuple[str, int], bytes] = {}
        for entries in walk(self.wire, stream.key, self.shown, None, stream.until):
            for look in map(look_at, entries):
                line = look.line
                if look.what is not FACT or line is None or line.kind != stream.kind.value:
                    continue
                if line.writer not in wanted or line.seq not in wanted[line.writer]:
                    continue
                digest = hashlib.blake2b(_encoder.encode(line), digest_size=16).digest()
                first = seen.setdefault((line.writer, line.seq), digest)
                if first is not digest:
                    yield self._repeat(stream, look.id, line.writer, line.seq, same=first == digest)

    @staticmethod
    def _repeat(stream: StreamTrail, entry_id: EntryId, writer: str, seq: int, *, same: bool) -> Anomaly:
        name = "duplicate" if same else "fork_conflict"
        detail = (
            f"the fact with seq {seq} stands here again"
            if same
            else f"another fact with seq {seq}: two processes wrote under one identity"
        )
        stream.note(entry_id, name)
        return stream.anomaly(name, detail, entry_id, writer)

    def _report(self) -> ScanReport:
        streams = [stream for site in self._sites for stream in site.streams.values()]
        there = [stream for stream in streams if stream.there]
        sites = [site for site in self._sites if any(stream.there for stream in site.streams.values())]
        writers = {
            (site.system, trail.writer)
            for site in sites
            for stream in site.streams.values()
            for trail in stream.trails.values()
            if trail.records or trail.known_records
        }
        return ScanReport(
            backend="redis",
            counts=dict(sorted(self._tally.counts.items())),
            anomalies=tuple(sorted(self._tally.kept, key=_order)),
            streams={
                kind: sum((stream.scan for stream in streams if stream.kind is kind), StreamScan())
                for kind in KINDS
            },
            systems=tuple(sorted({site.system for site in sites})),
            writers=len(writers),
            places=len(there),
            places_remembered=sum(stream.remembered for stream in there),
            places_unread=sum(not stream.whole for stream in there),
            read_bytes=self._read_bytes,
            duration_seconds=self.ticks() - self._begun,
        )


def _order(anomaly: Anomaly) -> tuple[int, str]:
    """Sort the worst first, then by place."""
    return _WORST_FIRST.index(anomaly.severity), anomaly.place
