"""What one entry of a stream holds: a good line, a newer version's, or damage, and of what kind."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from papyra_otel.errors import LineDamaged, LogTooNew
from papyra_otel.facts import FactKind
from papyra_otel.log.codec import LINE_BYTES_MAX, Outline, outline
from papyra_otel.log.redis.keys import EntryId
from papyra_otel.log.redis.pages import StoredEntry, line_of

__all__ = ["DAMAGED", "FACT", "NEWER", "Look", "look_at", "whole_lines"]

FACT: Final = "fact"
NEWER: Final = "newer"
DAMAGED: Final = "damaged"

_KINDS = frozenset(kind.value for kind in FactKind)
_MARKER = re.compile(rb'\{"v":1,"writer":"[0-9a-f]{16}","seq":')
_BEGIN = b'{"v":1,"writer":"'
_NULS = re.compile(rb"\0{16,}|\A\0+\n?\Z")
_NAMES_TOLD_MAX = 5
_json = json.JSONDecoder(parse_int=len)  # only the length matters; making huge numbers raises


class Look(NamedTuple):
    """One entry as it was found.

    *anomaly* is the type of DAMAGED and NEWER entries; of a good one None, or ``lost_newline``. *line* is what a good
    one says, *detail* what is wrong with another.
    """

    id: EntryId
    size_bytes: int
    what: str
    anomaly: str | None
    line: Outline | None
    detail: str


def look_at(entry: StoredEntry) -> Look:
    """Verify *entry*. Never raises."""
    data = line_of(entry)
    size_bytes = sum(map(len, entry.fields)) if data is None else len(data)
    if data is None:
        return Look(entry.id, size_bytes, DAMAGED, "corrupt_line", None, _strange_fields(entry))
    try:
        if len(data) > LINE_BYTES_MAX:
            raise LineDamaged("oversize_line", f"longer than {LINE_BYTES_MAX} bytes")
        found = outline(data[:-1] if data.endswith(b"\n") else data)
        if found.kind not in _KINDS:
            raise LineDamaged("schema_invalid", f"{found.kind!r} is not a kind of fact")
    except LogTooNew as error:
        detail = f"written in line format {error.version}"
        return Look(entry.id, size_bytes, NEWER, "future_version", None, detail)
    except LineDamaged as error:
        return Look(entry.id, size_bytes, DAMAGED, *_fault(data, error))
    if not data.endswith(b"\n"):
        detail = "a whole line without its line end"
        return Look(entry.id, size_bytes, FACT, "lost_newline", found, detail)
    return Look(entry.id, size_bytes, FACT, None, found, "")


def whole_lines(data: bytes) -> Iterator[bytes]:
    """Yield the good lines of facts that *data*, which is no good line itself, holds; each with a line end."""
    found = _MARKER.search(data)
    text = data.decode("latin-1") if found else ""  # offsets stay, and what JSON is made of is ASCII
    while found is not None:
        start, end = found.start(), found.start() + 1
        try:
            _, json_end = _json.raw_decode(text, start)
            line = data[start:json_end]
            if len(line) < LINE_BYTES_MAX and outline(line).kind in _KINDS:
                yield line + b"\n"
                end = json_end
        except (ValueError, RecursionError, LineDamaged, LogTooNew):
            pass
        found = _MARKER.search(data, end)


def _strange_fields(entry: StoredEntry) -> str:
    names = [name.decode(errors="backslashreplace")[:100] for name in entry.fields[::2]]
    shown = ", ".join(map(repr, names[:_NAMES_TOLD_MAX]))
    more = f" and {len(names) - _NAMES_TOLD_MAX} more" if len(names) > _NAMES_TOLD_MAX else ""
    return f"its fields are {shown}{more}, where 'data' alone should be"


def _fault(data: bytes, error: LineDamaged) -> tuple[str, None, str]:
    """Return the anomaly of *data*, no line, and what is wrong with it."""
    if error.anomaly not in {"corrupt_line", "crc_mismatch", "foreign_json"}:
        return error.anomaly, None, error.detail
    if _NULS.search(data):
        return "nul_run", None, "NUL bytes where text should be"
    if next(whole_lines(data), None) is not None:
        return "torn_inside", None, "a whole line with something else glued to it"
    if error.anomaly == "corrupt_line" and data.startswith(_BEGIN) and not data.endswith(b"\n"):
        return "torn_inside", None, "a line cut short"
    return error.anomaly, None, error.detail
