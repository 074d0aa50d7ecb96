"""A set of sequence numbers in little room."""

from __future__ import annotations

from bisect import bisect_right

__all__ = ["SeqSet"]


class SeqSet:
    """Which sequence numbers were seen, as ranges: small as long as they are mostly consecutive."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []  # inclusive

    def __contains__(self, seq: int) -> bool:
        at = bisect_right(self._starts, seq) - 1
        return at >= 0 and seq <= self._ends[at]

    def __bool__(self) -> bool:
        return bool(self._starts)

    @property
    def last(self) -> int:
        """The highest number, -1 when there is none."""
        return self._ends[-1] if self._ends else -1

    def ranges(self) -> list[tuple[int, int]]:
        """Return (first, last) of each range, ascending; no two touch."""
        return list(zip(self._starts, self._ends, strict=True))

    def append_range(self, first: int, last: int) -> None:
        """Add *first* to *last*, all above what is there."""
        self.append(first)
        self._ends[-1] = last

    def append(self, seq: int) -> None:
        """Add *seq*, above what is there."""
        if self._ends and self._ends[-1] == seq - 1:
            self._ends[-1] = seq
        else:
            self._starts.append(seq)
            self._ends.append(seq)

    def add(self, seq: int) -> bool:
        """Add *seq*; say whether it is new."""
        at = bisect_right(self._starts, seq) - 1
        if at >= 0 and seq <= self._ends[at]:
            return False
        joins_left = at >= 0 and self._ends[at] == seq - 1
        joins_right = at + 1 < len(self._starts) and self._starts[at + 1] == seq + 1
        if joins_left and joins_right:
            self._ends[at] = self._ends.pop(at + 1)
            del self._starts[at + 1]
        elif joins_left:
            self._ends[at] = seq
        elif joins_right:
            self._starts[at + 1] = seq
        else:
            self._starts.insert(at + 1, seq)
            self._ends.insert(at + 1, seq)
        return True
