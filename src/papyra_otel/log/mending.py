"""Correcting single flipped bits in damaged lines. Pure: bytes in, suggested changes out.

A line's checksum tells where one flipped bit must be (see ``syndrome``), its closing member and its digits are
known text, and a line end that was hit joins two lines, one that came to be splits one. A correction is
believed only if

* there is exactly one, over all those ways of being hit;
* the line then verifies, parses, and encoding what it says gives the same bytes (what we write is
  canonical; hardly any other text is);
* it fits: it is the very line that is missing between its neighbours (``fits``).

That is proof enough where a seal's digest confirms the whole segment. Where there is none, something else
than one flipped bit may look like one: for a line of *n* bytes about ``8 * n / 2**32`` of all damage does. Lines up to
``UNSEALED_LINE_BYTES_MAX`` = 1024 bytes are corrected then: at most 1 in 520,000 of damaged lines would be
suggested a wrong change at all, before parsing, canonical form and sequence throw most of these out; two flipped bits
never are, up to 11 KiB. Longer lines are set aside. A byte lost or added shifts the rest, which no single
bit explains: never corrected.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final, NamedTuple, Protocol

from papyra_otel.errors import LineDamaged, LogTooNew
from papyra_otel.log.codec import Outline, encode_line, outline, parse
from papyra_otel.log.syndrome import flipped_bit

__all__ = ["UNSEALED_LINE_BYTES_MAX", "Fits", "Found", "corrected", "mended"]

UNSEALED_LINE_BYTES_MAX: Final = 1024

_CLOSING = b',"crc":"00000000"}'
_DIGITS = slice(8, 16)
_HEX = frozenset(b"0123456789abcdef")
_NEWLINE = 0x0A


class Fits(Protocol):
    """Says whether a line is the one missing there; *before* and *behind* it are so many lines of the same damage."""

    def __call__(self, said: Outline, /, *, before: int, behind: int) -> bool:  # noqa: D102
        ...


class Found(NamedTuple):
    """In some damaged bytes, *length* of them at *offset*: a line, or what to give up (*line* None).

    *change* is the (offset, byte) that makes the line right; None if it is right as it is.
    """

    offset: int
    length: int
    line: Outline | None = None
    change: tuple[int, int] | None = None


def corrected(line: bytes, fits: Callable[[Outline], bool]) -> tuple[int, int, Outline] | None:
    """Return (offset, right byte, what the line then says) for *line*, without line end; None if unsure."""
    found: tuple[int, int, Outline] | None = None
    for offset, mask in _suspects(line):
        right = line[offset] ^ mask
        said = _canonical(line[:offset] + bytes([right]) + line[offset + 1 :])
        if said is None or not fits(said):
            continue
        if found is not None:
            return None
        found = offset, right, said
    return found


def mended(data: bytes, *, unended: bool, fits: Fits, line_bytes_max: int) -> list[Found]:
    """Return what covers all of *data*, damaged bytes between two good lines, in order.

    *unended* says that the line before has no line end: then the first byte may have been it (that is a change
    without a line, of length 1). Each line includes its line end.
    """
    found: list[Found] = []
    begin = 0
    if unended and data and _one_bit(data[0] ^ _NEWLINE):
        found.append(Found(0, 1, None, (0, _NEWLINE)))
        begin = 1
    ends = _line_ends(data, begin)
    lines = taken = 0
    while taken < len(ends):
        near = ends[taken : taken + 2]
        line = _mend_first(data, begin, near, len(ends) - taken, partial(fits, before=lines), line_bytes_max)
        found.append(line)
        begin += line.length
        taken += 1 if begin == near[0] else 2
        lines += 1
    if begin < len(data):
        found.append(Found(begin, len(data) - begin))
    return found


def _mend_first(
    data: bytes, begin: int, near: list[int], left: int, fits: Callable[..., bool], line_bytes_max: int
) -> Found:
    """Return the line that begins at *begin* and ends at the first of *near*, or at the second if those two were one.

    Of two lines that were one, only the line end between them can be wrong, or it would not become one line.
    """
    for behind, end in zip((left - 1, left - 2), near, strict=False):
        if end - begin > line_bytes_max:
            break
        change = corrected(data[begin : end - 1], partial(fits, behind=behind))
        if change is not None:
            offset, right, said = change
            return Found(begin, end - begin, said, (begin + offset, right))
    return Found(begin, near[0] - begin, _verified(data[begin : near[0] - 1]))


def _line_ends(data: bytes, start: int) -> list[int]:
    ends: list[int] = []
    end = data.find(b"\n", start) + 1
    while end:
        ends.append(end)
        end = data.find(b"\n", end) + 1
    return ends


def _verified(line: bytes) -> Outline | None:
    try:
        return outline(line)
    except (LineDamaged, LogTooNew):
        return None


def _suspects(line: bytes) -> Iterator[tuple[int, int]]:
    """Yield (offset, mask) of each bit that alone, if it was flipped, would explain everything about the checksum."""
    closing_at = len(line) - len(_CLOSING)
    if closing_at <= 0:
        return
    closing = line[closing_at:]
    wrong = [
        (at, have ^ want)
        for at, (have, want) in enumerate(zip(closing, _CLOSING, strict=True))
        if have != want and not _DIGITS.start <= at < _DIGITS.stop
    ]
    if wrong:
        at, mask = wrong[0]
        if len(wrong) == 1 and _one_bit(mask):
            yield closing_at + at, mask
        return
    checksum = zlib.crc32(b"}", zlib.crc32(memoryview(line)[:closing_at]))
    digits = closing[_DIGITS]
    wrong = [
        (at, have ^ want)
        for at, (have, want) in enumerate(zip(digits, b"%08x" % checksum, strict=True))
        if have != want
    ]
    if len(wrong) == 1 and _one_bit(wrong[0][1]):
        yield closing_at + _DIGITS.start + wrong[0][0], wrong[0][1]
    if _HEX.issuperset(digits):
        place = flipped_bit(checksum ^ int(digits, 16), closing_at + 1)
        if place is not None and place[0] < closing_at:
            yield place


def _one_bit(mask: int) -> bool:
    return mask != 0 and mask & (mask - 1) == 0


def _canonical(line: bytes) -> Outline | None:
    """Return what *line* says if it is good and exactly as we would write it."""
    try:
        said = outline(line)
        return said if encode_line(parse(line)) == line + b"\n" else None
    except (LineDamaged, LogTooNew):
        return None
