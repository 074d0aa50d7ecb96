"""How far each writer came: the fence that makes appending idempotent, and the index that readers find writers by.

One field of the fence for each writer and kind, ``<writer>-<kind>``; its value is eight numbers and identifiers with
spaces between them, written by scripts only:

    <seq> <records> <bytes> <first> <last> <low> <sealed> <seen>

*seq* is the last that was stored, *records* and *bytes* are stored now, between the entries *first* and *last*.
Compaction removed everything below seq *low*. *sealed* is 1 when the writer ended in order. *seen* is the server's
time of the last sign of life, in milliseconds since the epoch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from papyra_otel.facts import FactKind
from papyra_otel.log.redis.keys import EntryId

__all__ = ["Fence", "field_of", "parse_fence"]

_FIELD = re.compile(rb"([0-9a-f]{16})-(event|audit|dead_letter)")
_VALUE = re.compile(rb"(-?\d+) (\d+) (\d+) (\d+-\d+) (\d+-\d+) (\d+) ([01]) (\d+)")


class Fence(NamedTuple):
    """How far one writer came in one stream; see the beginning of this module."""

    writer: str
    kind: FactKind
    seq: int
    records: int
    size_bytes: int
    first: EntryId
    last: EntryId
    low: int
    sealed: bool
    seen_ms: int

    def __bytes__(self) -> bytes:
        """Return the value as it is stored."""
        return b"%d %d %d %b %b %d %d %d" % (
            self.seq,
            self.records,
            self.size_bytes,
            bytes(self.first),
            bytes(self.last),
            self.low,
            self.sealed,
            self.seen_ms,
        )


def field_of(writer: str, kind: FactKind) -> str:
    """Return the field of *writer* and *kind*."""
    return f"{writer}-{kind}"


def parse_fence(fields: Mapping[bytes, bytes]) -> tuple[list[Fence], list[bytes]]:
    """Read a whole fence; return what it says, and the fields that are none of ours or whose values make no sense."""
    known: list[Fence] = []
    strange: list[bytes] = []
    for field, value in fields.items():
        name, numbers = _FIELD.fullmatch(field), _VALUE.fullmatch(value)
        if name is None or numbers is None:
            strange.append(field)
            continue
        seq, records, size_bytes, first, last, low, sealed, seen = numbers.groups()
        known.append(
            Fence(
                writer=name[1].decode(),
                kind=FactKind(name[2].decode()),
                seq=int(seq),
                records=int(records),
                size_bytes=int(size_bytes),
                first=EntryId.parse(first),
                last=EntryId.parse(last),
                low=int(low),
                sealed=sealed == b"1",
                seen_ms=int(seen),
            )
        )
    return known, strange
