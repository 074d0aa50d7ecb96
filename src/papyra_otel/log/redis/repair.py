"""What becomes of a bad entry: which lines stand in its place afterwards. Pure, but for what was scanned before.

A whole line is never given up: one that lost its line end, or that something was glued to, is put back. With
``repair``, a single flipped bit is corrected as well, as far as ``mending`` is sure and the line is one that is
missing just there; lines longer than 1 KiB are not, as in a file without seal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from papyra_otel.log.codec import Outline, outline
from papyra_otel.log.explained import Explanations
from papyra_otel.log.mending import UNSEALED_LINE_BYTES_MAX, corrected
from papyra_otel.log.redis.examine import Look, look_at, whole_lines
from papyra_otel.log.redis.fence import field_of
from papyra_otel.log.redis.judge import SiteScan
from papyra_otel.log.redis.keys import EntryId
from papyra_otel.log.redis.pages import StoredEntry, line_of, writer_of
from papyra_otel.log.redis.trail import StreamTrail, Trail

__all__ = ["Decision", "Mender", "digest_of"]


class Decision(NamedTuple):
    """What is done with an entry: it is moved away, *lines* stand for it. *field* is the fence's that counts it.

    *skipped* says why it is left as it is instead; *settled* that what is wrong can only be noted.
    """

    entry: StoredEntry
    anomaly: str
    size_bytes: int
    field: str = ""
    lines: tuple[tuple[EntryId, bytes], ...] = ()
    skipped: str = ""
    settled: bool = False


def digest_of(entry: StoredEntry) -> str:
    """Return the digest by which a script knows that an entry is still what was looked at."""
    packed = b"".join(b"%d:%b" % (len(text), text) for text in entry.fields)
    return hashlib.sha1(packed, usedforsecurity=False).hexdigest()


@dataclass(slots=True)
class Mender:
    """Decides on the bad entries of one stream, in ascending order."""

    site: SiteScan
    stream: StreamTrail
    explanations: Explanations
    repair: bool
    _claimed: dict[str, list[tuple[int, EntryId]]] = field(
        default_factory=dict[str, list[tuple[int, EntryId]]]
    )

    def decide(
        self, entry: StoredEntry, anomalies: frozenset[str], room_until: EntryId | None
    ) -> Decision | None:
        """Return what is to be done with *entry*; None if nothing is. *room_until* is the entry behind it."""
        look = look_at(entry)
        if look.line is not None:
            return self._good(entry, look, look.line, anomalies)
        if look.anomaly == "future_version":
            return None
        data = line_of(entry)
        lines = [] if data is None else self._lines(data, entry.id)
        places = tuple(self._places(entry.id, len(lines), room_until))
        if len(places) < len(lines):
            reason = f"{len(lines)} whole lines are in it, and there is no room to put them side by side"
            return Decision(entry, look.anomaly or "", look.size_bytes, skipped=reason)
        return Decision(
            entry,
            look.anomaly or "corrupt_line",
            look.size_bytes,
            self._field(lines[0] if lines else data or b""),
            tuple(zip(places, lines, strict=True)),
        )

    def _good(
        self, entry: StoredEntry, look: Look, line: Outline, anomalies: frozenset[str]
    ) -> Decision | None:
        size_bytes = look.size_bytes
        if "fork_conflict" in anomalies:
            reason = "nobody knows which one is right, or why it is here; both are kept"
            return Decision(entry, "fork_conflict", size_bytes, skipped=reason)
        if "duplicate" in anomalies:
            return Decision(entry, "duplicate", size_bytes)
        if look.anomaly == "lost_newline":
            data = line_of(entry) or b""
            counted = field_of(line.writer, self.stream.kind)
            return Decision(entry, look.anomaly, size_bytes, counted, ((entry.id, data + b"\n"),))
        if "out_of_order" in anomalies:
            return Decision(entry, "out_of_order", size_bytes, settled=True)
        return None

    def _lines(self, data: bytes, entry_id: EntryId) -> list[bytes]:
        """Return the lines that are put back for the damaged *data*."""
        found = [line for line in whole_lines(data) if self._is_new(outline(line[:-1]), entry_id)]
        if found or not self.repair or len(data) > UNSEALED_LINE_BYTES_MAX or not data.endswith(b"\n"):
            return found
        change = corrected(data[:-1], partial(self._is_missing, entry_id))
        if change is None:
            return []
        offset, right, said = change
        self._claimed.setdefault(said.writer, []).append((said.seq, entry_id))
        return [data[:offset] + bytes([right]) + data[offset + 1 :]]

    def _is_new(self, said: Outline, entry_id: EntryId) -> bool:
        """Say whether a whole line belongs into this stream and is nowhere else in it."""
        trail = self.stream.trails.get(said.writer)
        claimed = self._claimed.setdefault(said.writer, [])
        seqs = {seq for seq, _ in claimed}
        if not self._belongs(said) or said.seq in seqs or (trail is not None and said.seq in trail.seqs):
            return False
        claimed.append((said.seq, entry_id))
        return True

    def _belongs(self, said: Outline) -> bool:
        stream = self.stream
        return said.kind == stream.kind.value and (
            said.system == stream.system or stream.tag.is_of(said.system)
        )

    def _is_missing(self, entry_id: EntryId, said: Outline) -> bool:
        """Say whether a corrected line is one that is missing at this very place."""
        fence = self.site.fence(said.writer, self.stream.kind)
        if fence is None or not self._belongs(said) or not fence.first <= entry_id <= fence.last:
            return False
        in_order = all(
            said.seq != seq and (said.seq < seq) == (entry_id < place)
            for seq, place in self._claimed.get(said.writer, ())
        )
        explained = self.explanations.of(said.writer, self.stream.kind)
        if not in_order or any(first <= said.seq <= last for first, last in explained):
            return False
        trail = self.stream.trails.get(said.writer) or Trail(said.writer)
        if said.seq > trail.seqs.last:
            return said.seq <= fence.seq and entry_id > trail.last
        return said.seq not in trail.seqs and any(
            hole.first <= said.seq <= hole.last and hole.before < entry_id < hole.behind
            for hole in trail.holes
        )

    def _field(self, line: bytes) -> str:
        """Return the fence's field that counts a line, as far as its writer can be told."""
        writer = writer_of(line).decode(errors="replace")
        known = self.site.fence(writer, self.stream.kind)
        return "" if known is None else field_of(writer, self.stream.kind)

    def _places(self, entry_id: EntryId, count: int, room_until: EntryId | None) -> Iterator[EntryId]:
        place = entry_id
        for _ in range(count):
            if room_until is not None and place >= room_until:
                return
            yield place
            place = place.next()
