"""Where the one flipped bit is: a CRC-32 tells it, without trying every bit.

A CRC is linear: the checksums of two equally long messages differ by the checksum of their difference
alone, here called the syndrome. One flipped bit that has *d* bits behind it makes the syndrome ``x**(d+32)``
modulo the polynomial. That polynomial is primitive: all bits of a message up to 512 MiB have different
syndromes, so there is at most one answer. It is found by a table for the bits of a stretch and one
linear step from stretch to stretch, in a time that hardly grows with the message.

What it cannot know is that only one bit was flipped. More flipped bits look like one with a probability of
``bits / 2**32`` (up to 11 KiB never if it was two, up to 371 bytes never if it was three: the Hamming
distance of CRC-32 is 4 and 5 there). So an answer is a suggestion, for its user to check.
"""

from __future__ import annotations

import zlib
from functools import lru_cache

__all__ = ["flipped_bit"]

_STRETCH_BYTES = 2048
_ONES = 0xFFFFFFFF


def flipped_bit(syndrome: int, size_bytes: int) -> tuple[int, int] | None:
    """Return (offset of the byte, mask of the bit) whose flip alone causes *syndrome* in a message so long.

    *syndrome* is the checksum there is, exclusive-or the checksum there should be. None if no bit does.
    """
    table = _stretch()
    step = _step_back()
    passed = 0
    while passed < size_bytes:
        found = table.get(syndrome)
        if found is not None:
            behind, mask = found
            offset = size_bytes - 1 - passed - behind
            return (offset, mask) if offset >= 0 else None
        syndrome = (
            step[0][syndrome & 0xFF]
            ^ step[1][syndrome >> 8 & 0xFF]
            ^ step[2][syndrome >> 16 & 0xFF]
            ^ step[3][syndrome >> 24]
        )
        passed += _STRETCH_BYTES
    return None


@lru_cache(maxsize=1)
def _byte_table() -> list[int]:
    """Return what one byte of difference does to the checksum, for all 256 differences."""
    same = zlib.crc32(b"\0")
    return [zlib.crc32(bytes([difference])) ^ same for difference in range(256)]


@lru_cache(maxsize=1)
def _stretch() -> dict[int, tuple[int, int]]:
    """Return for each bit of the last stretch: syndrome -> (bytes behind it, mask)."""
    forward = _byte_table()
    table: dict[int, tuple[int, int]] = {}
    for bit in range(8):
        syndrome = forward[1 << bit]
        for behind in range(_STRETCH_BYTES):
            table[syndrome] = behind, 1 << bit
            syndrome = forward[syndrome & 0xFF] ^ syndrome >> 8  # as if one more byte followed
    return table


@lru_cache(maxsize=1)
def _step_back() -> list[list[int]]:
    """Return four tables which, joined, undo what a stretch of bytes behind the flipped bit does to a syndrome."""
    by_top = {value >> 24: (index, value) for index, value in enumerate(_byte_table())}
    powers: list[int] = []
    for bit in range(32):
        syndrome = 1 << bit
        for _ in range(_STRETCH_BYTES):
            index, value = by_top[syndrome >> 24]
            syndrome = (syndrome ^ value) << 8 & _ONES | index
        powers.append(syndrome)
    return [[_combined(powers[8 * byte : 8 * byte + 8], bits) for bits in range(256)] for byte in range(4)]


def _combined(powers: list[int], bits: int) -> int:
    result = 0
    for bit, power in enumerate(powers):
        if bits >> bit & 1:
            result ^= power
    return result
