"""What the fence would say, when there is none: found out by going through the streams."""

from __future__ import annotations

from collections.abc import Sequence

from papyra_otel.errors import LineDamaged, LogTooNew, LogUnavailable
from papyra_otel.facts import FactKind
from papyra_otel.log.codec import outline
from papyra_otel.log.redis.examine import look_at
from papyra_otel.log.redis.fence import Fence
from papyra_otel.log.redis.keys import EntryId, Tag
from papyra_otel.log.redis.walk import walk
from papyra_otel.log.redis.wire import Wire

__all__ = ["rebuilt_fence"]


def rebuilt_fence(
    wire: Wire, tag: Tag, kind: FactKind, shown: str, restored: Sequence[tuple[EntryId, bytes]] = ()
) -> list[Fence]:
    """Return how far each writer of a stream came, going by the stream alone. Raises LogUnavailable.

    Nothing is stored: appending writers notice by themselves that the fence is gone, a recovery puts it back.
    """
    found: dict[str, Fence] = {}

    def count(writer: str, seq: int, entry_id: EntryId, size_bytes: int) -> None:
        fence = found.get(writer)
        if fence is None:
            fence = Fence(writer, kind, seq, 0, 0, entry_id, entry_id, 0, sealed=False, seen_ms=0)
        found[writer] = fence._replace(
            seq=max(fence.seq, seq),
            records=fence.records + 1,
            size_bytes=fence.size_bytes + size_bytes,
            first=min(fence.first, entry_id),
            last=max(fence.last, entry_id),
        )

    try:
        for entries in walk(wire, tag.stream(kind), shown):
            for look in map(look_at, entries):
                if look.line is not None and look.line.kind == kind.value:
                    count(look.line.writer, look.line.seq, look.id, look.size_bytes)
    except LogUnavailable as error:
        if error.error_type != "wrong_type":
            raise
    for entry_id, line in restored:
        try:
            said = outline(line.removesuffix(b"\n"))
        except (LineDamaged, LogTooNew):
            continue
        count(said.writer, said.seq, entry_id, len(line))
    return [found[writer] for writer in sorted(found)]
