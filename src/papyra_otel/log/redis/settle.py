"""What is to be corrected beside the streams, once bad entries are out of them. Pure: from a scan to steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from papyra_otel.errors import LineDamaged, LogTooNew
from papyra_otel.log.codec import outline
from papyra_otel.log.explained import Explanations, SeqRange
from papyra_otel.log.redis.fence import Fence, field_of
from papyra_otel.log.redis.judge import SiteScan, missing_of
from papyra_otel.log.redis.meta import HOLE, RESTORED
from papyra_otel.log.redis.trail import StreamTrail, Trail

__all__ = ["Step", "steps_of"]


class Step(NamedTuple):
    """One correction, as ``settle.lua`` takes it."""

    what: str
    field: Any  # str or bytes
    value: Any = ""
    new: Any = ""


def steps_of(site: SiteScan, explanations: Explanations, *, told: bool) -> list[Step]:
    """Return what is to be corrected of one tag. *told* says that all was read that may explain what is missing."""
    return [*_steps(site, explanations, told)]


def _steps(site: SiteScan, explanations: Explanations, told: bool) -> Iterator[Step]:
    renewed: dict[bytes, Fence] = {}
    for stream in site.streams.values():
        if not stream.whole or stream.unreadable:
            continue
        writers = {writer for writer, kind in site.after.fence if kind is stream.kind}
        for writer in sorted(writers | stream.trails.keys()):
            trail = stream.trails.get(writer) or Trail(writer)
            if told:
                for first, last in missing_of(site, stream, trail, explanations):
                    yield Step("note", f"{HOLE}{SeqRange(writer, stream.kind, first, last)}", "1")
            fence = site.fence(writer, stream.kind)
            if fence is not None:
                yield from _adjusted(site, stream, trail, fence)
            elif trail.records:
                renewed[field_of(writer, stream.kind).encode()] = _rebuilt(site, stream, trail)
    for name in site.after.strange:
        new = renewed.pop(name, None)
        yield Step("set", name, site.after.raw[name], b"" if new is None else bytes(new))
    for name, new in renewed.items():
        yield Step("set", name, "", bytes(new))
    yield from _sealed(site)
    yield from _unrestored(site)


def _adjusted(site: SiteScan, stream: StreamTrail, trail: Trail, fence: Fence) -> Iterator[Step]:
    """Yield what makes the fence agree with the stream. What was appended since it was read is left out of it."""
    before = site.before.fence.get((trail.writer, stream.kind))
    if before is None or before.low != fence.low:
        return
    still = before == fence
    records = (trail.records if still else trail.within) - before.records
    size_bytes = (trail.size_bytes if still else trail.within_bytes) - before.size_bytes
    wider = trail.records and (
        trail.seqs.last > fence.seq or not fence.first <= trail.first <= trail.last <= fence.last
    )
    if records or size_bytes or wider:
        seq, first, last = fence.seq, fence.first, fence.last
        if trail.records:
            seq, first, last = max(seq, trail.seqs.last), min(first, trail.first), max(last, trail.last)
        numbers = f"{seq} {first} {last} {records} {size_bytes}"
        yield Step("adjust", field_of(trail.writer, stream.kind), numbers)


def _rebuilt(site: SiteScan, stream: StreamTrail, trail: Trail) -> Fence:
    """Return what the fence should say of a writer that it does not know."""
    seen_ms = trail.last.milliseconds
    return Fence(
        writer=trail.writer,
        kind=stream.kind,
        seq=trail.seqs.last,
        records=trail.records,
        size_bytes=trail.size_bytes,
        first=trail.first,
        last=trail.last,
        low=0,
        sealed=not site.after.is_alive(seen_ms),
        seen_ms=seen_ms,
    )


def _sealed(site: SiteScan) -> Iterator[Step]:
    """Yield what notes that silent writers have ended. Those that live after all note the opposite by themselves."""
    for fence in site.after.fence.values():
        if not fence.sealed and not site.after.is_alive(fence.seen_ms):
            name = field_of(fence.writer, fence.kind)
            yield Step("seal", name, fence.seen_ms)


def _unrestored(site: SiteScan) -> Iterator[Step]:
    """Yield what takes lines out of the way that stand in the place of entries and are damaged themselves."""
    for kind, lines in site.after.meta.restored.items():
        for entry_id, line in lines:
            try:
                outline(line.removesuffix(b"\n"))
            except LineDamaged:
                yield Step("drop", f"{RESTORED}{kind}:{entry_id}", line)
            except LogTooNew:
                continue
