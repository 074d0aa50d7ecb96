"""What a process knows of one stream that it writes: its segments, its place in the sequence, what is forced."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator

from papyra_otel import semconv
from papyra_otel.facts import FactKind
from papyra_otel.log.file.segment import Segment

__all__ = ["Stream", "force_all", "is_precious", "seq_of"]

_HOLES_MAX = 1000
_SEQ = re.compile(rb'"seq":(\d+)')
_DROPPED = b'"name":"%b"' % semconv.FACT_DROPPED.encode()


class Stream:
    """One system's stream of one kind, as written by this process: its open segment, if any.

    *ended* segments wait to be forced and closed. *owed* are lines that were in a segment that could not be
    forced: the next segment begins with them. *writes* counts what changed, *forced* how much of that the disk has.
    """

    __slots__ = (
        "digest",
        "ended",
        "folder",
        "folders_forced",
        "forced",
        "forcing",
        "holes",
        "kind",
        "looked_unix_nano",
        "next_seq",
        "number",
        "owed",
        "previous",
        "records",
        "segment",
        "size_bytes",
        "system",
        "unknown_to",
        "writes",
    )

    def __init__(self, system: str, kind: FactKind, folder: str) -> None:
        self.system: str = system
        self.kind: FactKind = kind
        self.folder: str = folder
        self.folders_forced: bool = False
        self.segment: Segment | None = None
        self.ended: list[Segment] = []
        self.owed: list[bytes] = []
        self.number: int = 0
        self.previous: int | None = None
        self.looked_unix_nano: int = 0
        self.digest: str | None = None
        self.records: int = 0
        self.size_bytes: int = 0
        self.next_seq: int = 0
        self.holes: list[tuple[int, int]] = []
        self.unknown_to: int = -1  # of what comes up to here some may be missing
        self.writes: int = 0
        self.forced: int = 0
        self.forcing: threading.Lock = threading.Lock()

    def has(self, seq: int) -> bool:
        """Say whether the fact with *seq* was written before: who appends it again need not double it."""
        return self.unknown_to < seq < self.next_seq and not any(
            first <= seq <= last for first, last in self.holes
        )

    def jumped(self, first_seq: int, last_seq: int) -> None:
        """Take note of facts that were not the next ones."""
        if first_seq < self.next_seq:
            self.holes = list(_without(self.holes, first_seq, last_seq))
        else:
            self.holes.append((self.next_seq, first_seq - 1))
            if len(self.holes) > _HOLES_MAX:
                self.unknown_to = self.holes.pop(0)[1]
        self.next_seq = max(self.next_seq, last_seq + 1)


def _without(holes: Iterable[tuple[int, int]], first: int, last: int) -> Iterator[tuple[int, int]]:
    for begin, end in holes:
        if begin < first:
            yield begin, min(end, first - 1)
        if end > last:
            yield max(begin, last + 1), end


def is_precious(stream: Stream, data: bytes) -> bool:
    """Say whether the reserve is for this: dead letters, audits, and what explains a loss."""
    return stream.kind is not FactKind.EVENT or _DROPPED in data


def force_all(segments: Iterable[Segment]) -> tuple[Segment, OSError] | None:
    """Force *segments*, in order, up to the first that fails; return which and why."""
    for segment in segments:
        try:
            segment.force()
        except OSError as error:
            return segment, error
    return None


def seq_of(line: bytes) -> int:
    """Return the seq of a line of ours."""
    found = _SEQ.search(line)
    return int(found[1]) if found is not None else 0
