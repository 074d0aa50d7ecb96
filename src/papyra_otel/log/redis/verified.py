"""What earlier scans found sound, so that a start need not read a large log again. Only an optimisation.

A stream only grows at its end, and what is removed makes it shorter: so as long as as many entries as were verified,
from the same first one, stand before those that came since, nothing of them has changed. Field ``verified:<kind>`` of
``meta`` holds how far a scan came and what it has to know to go on. What makes no sense is as if it were not there.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Final

import msgspec

from papyra_otel.errors import LogUnavailable
from papyra_otel.facts import FactKind
from papyra_otel.log.explained import SeqRange
from papyra_otel.log.redis.keys import EntryId, Tag
from papyra_otel.log.redis.meta import VERIFIED
from papyra_otel.log.redis.trail import StreamTrail, Trail
from papyra_otel.log.redis.wire import Wire
from papyra_otel.reports import StreamScan

__all__ = ["SIZE_BYTES_MAX", "recall", "remember", "to_keep"]

SIZE_BYTES_MAX: Final = 256 << 10
"""A stream about which more would have to be known is read anew each time: it has very many writers, or holes."""
_VERSION = 1


class _Writer(msgspec.Struct, array_like=True):
    writer: str
    ranges: list[tuple[int, int]]
    records: int
    size_bytes: int
    first: EntryId
    last: EntryId
    latest: str


class _Verified(msgspec.Struct, kw_only=True):
    v: int
    first: EntryId
    until: EntryId
    entries: int
    scan: StreamScan
    writers: list[_Writer]
    explained: list[SeqRange]


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(_Verified)


def recall(stream: StreamTrail, kept: bytes | None) -> StreamTrail | None:
    """Return *stream*, of which nothing was read yet, as it was *kept*; None if that makes no sense. Never raises."""
    if kept is None:
        return None
    try:
        known = _decoder.decode(kept)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    if known.v != _VERSION:
        return None
    for each in known.writers:
        trail = stream.trails[each.writer] = Trail(each.writer)
        for first, last in each.ranges:
            trail.seqs.append_range(first, last)
        trail.records, trail.size_bytes, trail.latest = each.records, each.size_bytes, each.latest
        trail.first, trail.last = each.first, each.last
    stream.scan = known.scan
    stream.explained = known.explained
    stream.first, stream.until = known.first, known.until
    stream.entries = known.entries
    stream.remembered = True
    return stream


def to_keep(stream: StreamTrail) -> bytes | None:
    """Return what is to be kept of *stream* as far as it was read, before anything else is taken into account."""
    if stream.first is None or not stream.sound:
        return None
    body = _encoder.encode(
        _Verified(
            v=_VERSION,
            first=stream.first,
            until=stream.until,
            entries=stream.entries,
            scan=stream.scan,
            writers=[
                _Writer(
                    trail.writer,
                    trail.seqs.ranges(),
                    trail.records,
                    trail.size_bytes,
                    trail.first,
                    trail.last,
                    trail.latest,
                )
                for trail in stream.trails.values()
                if trail.records
            ],
            explained=stream.explained,
        )
    )
    return body if len(body) <= SIZE_BYTES_MAX else None


def remember(wire: Wire, tag: Tag, kept: Mapping[FactKind, bytes | None]) -> None:
    """Keep what was found sound of a tag. Never raises: what cannot be kept is read again."""
    commands = [
        ("HDEL", tag.meta, f"{VERIFIED}{kind}")
        if body is None
        else ("HSET", tag.meta, f"{VERIFIED}{kind}", body)
        for kind, body in kept.items()
    ]
    if commands:
        with suppress(LogUnavailable):
            wire.send(tag.meta, commands)
