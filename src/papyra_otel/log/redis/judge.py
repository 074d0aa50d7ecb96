"""What no entry shows alone: facts that are not there, a fence that tells something else, writers that ended badly.

What the fence knew before a stream was read must be found in it, unless what stands beside the stream afterwards
explains why not: compaction, recovery, drop facts. A living writer may explain yet what it never stored; but how
many facts it stored the fence knows, so what was stored and is gone is told at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from papyra_otel.facts import FactKind
from papyra_otel.log.explained import Explanations, SeqRange, gaps, parse_range, union
from papyra_otel.log.redis.beside import Beside
from papyra_otel.log.redis.fence import Fence
from papyra_otel.log.redis.keys import Tag
from papyra_otel.log.redis.trail import StreamTrail, Trail
from papyra_otel.reports import Anomaly

__all__ = ["SiteScan", "judge", "missing_of", "seqs_beside"]


@dataclass(slots=True, kw_only=True)
class SiteScan:
    """One tag: what stood beside its streams before they were read and afterwards, and what is in them."""

    tag: Tag
    before: Beside
    after: Beside
    listed: bool = True
    streams: dict[FactKind, StreamTrail] = field(default_factory=dict[FactKind, StreamTrail])

    @property
    def system(self) -> str:
        """The system's name."""
        return self.after.system if self.after.meta.system is not None else self.before.system

    def anomaly(self, name: str, place: str, detail: str, writer: str | None = None) -> Anomaly:
        """Return an anomaly of a key beside the streams."""
        return Anomaly(type=name, place=place, detail=detail, system=self.system, writer=writer)

    def fence(self, writer: str, kind: FactKind) -> Fence | None:
        """Return what the fence says of a writer now."""
        return self.after.fence.get((writer, kind))


def seqs_beside(site: SiteScan) -> Iterator[SeqRange]:
    """Yield what fence and meta explain: what was compacted away, what a recovery took note of."""
    for now in (site.before, site.after):
        for fence in now.fence.values():
            if fence.low > 0:
                yield SeqRange(fence.writer, fence.kind, 0, fence.low - 1)
        yield from filter(None, map(parse_range, now.meta.holes))


def judge(site: SiteScan, explanations: Explanations, *, told: bool) -> Iterator[Anomaly]:
    """Yield what is wrong. *told* says that all was read that may explain what is missing."""
    for key, (found, wanted) in site.after.wrong_types().items():
        if not any(stream.unreadable and stream.key == key for stream in site.streams.values()):
            yield site.anomaly("unreadable", key, f"holds a {found}, not a {wanted}")
    for name in set(site.before.strange) & set(site.after.strange):
        shown = name[:100].decode(errors="backslashreplace")
        yield site.anomaly(
            "segment_digest", site.tag.fence, f"field {shown!r} is none of ours, or its value makes no sense"
        )
    for stream in site.streams.values():
        if stream.whole and not stream.unreadable:
            for trail in _trails(site, stream):
                missing = missing_of(site, stream, trail, explanations) if told else []
                yield from _gone(site, stream, trail, missing)
                yield from _contradiction(site, stream, trail)
    yield from _ended_badly(site)


def missing_of(
    site: SiteScan, stream: StreamTrail, trail: Trail, explanations: Explanations
) -> list[tuple[int, int]]:
    """Return the seqs of one writer that are missing for no known reason, ascending."""
    before, after = site.before.fence.get((trail.writer, stream.kind)), site.fence(trail.writer, stream.kind)
    end = max(trail.seqs.last, -1 if before is None else before.seq)
    known = union([*trail.seqs.ranges(), *explanations.of(trail.writer, stream.kind)])
    missing = list(gaps(known, end))
    if missing and _may_explain(site, trail, before, after):
        return []
    return missing


def _may_explain(site: SiteScan, trail: Trail, before: Fence | None, after: Fence | None) -> bool:
    """Say whether a writer lives and everything it stored is there: what is missing then was never stored."""
    if after is None:
        return trail.records > 0 and site.after.is_alive(trail.last.milliseconds)
    if after.sealed or not site.after.is_alive(after.seen_ms):
        return False
    if before is None or after.records < before.records or after.low != before.low:
        return True  # somebody works on it, or it has just begun
    return trail.within >= before.records


def _trails(site: SiteScan, stream: StreamTrail) -> Iterator[Trail]:
    """Yield the writers of a stream: those in it, and those that only the fence knows."""
    known = {writer for writer, kind in site.after.fence if kind is stream.kind}
    for writer in sorted(known | stream.trails.keys()):
        yield stream.trails.get(writer) or Trail(writer)


def _gone(
    site: SiteScan, stream: StreamTrail, trail: Trail, missing: list[tuple[int, int]]
) -> Iterator[Anomaly]:
    ranges = trail.seqs.ranges()
    fence = site.before.fence.get((trail.writer, stream.kind))
    for first, last in missing:
        what = f"seq {first}" if first == last else f"seqs {first} to {last}"
        if not ranges:
            detail = f"{what}: nothing that the fence knows of is there; was the stream deleted, or evicted?"
            yield stream.anomaly("segment_missing", detail, None, trail.writer)
        elif first > ranges[-1][1]:
            detail = f"{what} missing at the end, for no known reason"
            yield stream.anomaly("gap", detail, None, trail.writer)
        elif last < ranges[0][0] and fence is not None and fence.first < trail.first:
            detail = f"{what} missing at the beginning: somebody else trimmed the stream"
            yield stream.anomaly("head_missing", detail, trail.first, trail.writer)
        else:
            hole = next((hole for hole in trail.holes if hole.first <= last and first <= hole.last), None)
            where = None if hole is None else hole.behind
            detail = f"{what} missing before this place, for no known reason"
            yield stream.anomaly("gap", detail, where, trail.writer)


def _contradiction(
    site: SiteScan,
    stream: StreamTrail,
    trail: Trail,
) -> Iterator[Anomaly]:
    """Yield where the fence would lead readers astray."""
    fence = site.fence(trail.writer, stream.kind)
    place = site.tag.fence

    def wrong(detail: str) -> Anomaly:
        return Anomaly(
            type="segment_digest",
            place=place,
            detail=detail,
            system=site.system,
            kind=stream.kind,
            writer=trail.writer,
        )

    if not trail.records:
        return
    if fence is None:
        yield wrong(f"knows nothing of a writer with {trail.records} facts: readers do not see them")
        return
    if trail.seqs.last > fence.seq or not fence.first <= trail.first <= trail.last <= fence.last:
        yield wrong(
            f"knows seqs up to {fence.seq} in entries {fence.first} to {fence.last}, but there are seqs up to "
            f"{trail.seqs.last} in entries {trail.first} to {trail.last}: readers do not see all of them"
        )
    elif fence == site.before.fence.get((trail.writer, stream.kind)) and (
        fence.records < trail.records or fence.size_bytes < trail.size_bytes
    ):
        yield wrong(
            f"counts {fence.records} facts of {fence.size_bytes} bytes, where {trail.records} of "
            f"{trail.size_bytes} bytes are: retention takes too little for too much"
        )


def _ended_badly(site: SiteScan) -> Iterator[Anomaly]:
    silent: dict[str, int] = {}
    for fence in site.after.fence.values():
        if not fence.sealed and not site.after.is_alive(fence.seen_ms):
            silent[fence.writer] = max(fence.seen_ms, silent.get(fence.writer, 0))
    for writer, seen_ms in sorted(silent.items()):
        seconds = (site.after.now_ms - seen_ms) // 1000
        detail = f"its writer did not end in order, and has been silent for {seconds} s"
        yield site.anomaly("unclean_shutdown", site.tag.fence, detail, writer)
