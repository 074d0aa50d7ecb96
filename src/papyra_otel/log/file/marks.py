"""What segment headers and seals say, read back as values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from papyra_otel import semconv
from papyra_otel.facts import FactKind
from papyra_otel.log.codec import Outline
from papyra_otel.log.explained import texts_of
from papyra_otel.log.file.layout import SegmentName, folder_of_system

__all__ = ["Header", "Seal"]


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """A segment's first line. *previous* is the number of the writer's segment before, *predecessor* its digest."""

    writer: str
    system: str
    kind: str
    first_seq: int
    number: int | None
    previous: int | None
    predecessor: str | None
    rewritten: str | None

    @classmethod
    def of(cls, line: Outline) -> Header:
        """Read a header; what it does not say, or says in a wrong type, is None."""
        details = line.details()
        return cls(
            writer=line.writer,
            system=line.system,
            kind=_text(details, semconv.FACT_KIND) or "",
            first_seq=line.seq,
            number=_number(details, semconv.SEGMENT_INDEX),
            previous=_number(details, semconv.SEGMENT_PREVIOUS),
            predecessor=_text(details, semconv.SEGMENT_PREDECESSOR),
            rewritten=_text(details, semconv.SEGMENT_REWRITTEN),
        )

    def not_of(self, name: SegmentName, kind: FactKind, system_folder: str) -> list[str]:
        """Return what is another's than that of the segment called *name* there. Empty if it is its header."""
        said = {"writer": self.writer, "number": self.number, "kind": self.kind}
        true = {"writer": name.writer, "number": name.number, "kind": kind.value}
        wrong = [what for what, value in said.items() if value != true[what]]
        return wrong if folder_of_system(self.system) == system_folder else [*wrong, "system"]

    def announces(self, line: Outline) -> bool:
        """Say whether *line* is of the writer, the kind and the system that this segment is to hold facts of."""
        return (line.writer, line.kind, line.system) == (self.writer, self.kind, self.system)


class Seal(msgspec.Struct, frozen=True, kw_only=True):
    """A segment's last line: how many facts, the last one's seq, bytes and digest of all before the seal.

    *replaces* are the digests of the seals that earlier versions of the segment had.
    """

    records: int | None
    last_seq: int | None
    size_bytes: int | None
    digest: str | None
    replaces: tuple[str, ...]
    rewritten: str | None

    @classmethod
    def of(cls, line: Outline) -> Seal:
        """Read a seal; what it does not say, or says in a wrong type, is None."""
        details = line.details()
        return cls(
            records=_number(details, semconv.SEGMENT_RECORDS),
            last_seq=_number(details, semconv.SEGMENT_LAST_SEQ),
            size_bytes=_number(details, semconv.SEGMENT_BYTES),
            digest=_text(details, semconv.SEGMENT_DIGEST),
            replaces=tuple(texts_of(details, semconv.SEGMENT_REPLACES)),
            rewritten=_text(details, semconv.SEGMENT_REWRITTEN),
        )


def _text(details: Mapping[str, Any], attribute: str) -> str | None:
    value = details.get(attribute)
    return value if isinstance(value, str) else None


def _number(details: Mapping[str, Any], attribute: str) -> int | None:
    value = details.get(attribute)
    return value if type(value) is int else None
