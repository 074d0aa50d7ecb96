"""Where the flipped bit is: every bit of short messages, samples of the longest there are."""

from __future__ import annotations

import random
import zlib

import pytest

from log.segments import flipped
from papyra_otel.log.syndrome import flipped_bit


def syndrome(data: bytes, bit: int) -> int:
    return zlib.crc32(data) ^ zlib.crc32(flipped(data, bit))


@pytest.mark.parametrize("size", [1, 2, 7, 100, 300])
def test_every_flipped_bit_of_a_short_message_is_found(size: int) -> None:
    data = random.Random(size).randbytes(size)
    for bit in range(8 * size):
        assert flipped_bit(syndrome(data, bit), size) == (bit // 8, 1 << bit % 8)


@pytest.mark.parametrize("size", [2047, 2048, 2049, 4096, 4097, 1 << 20])
def test_bits_are_found_across_stretches(size: int) -> None:
    rng = random.Random(size)
    data = rng.randbytes(size)
    for bit in [0, 7, 8, 8 * size - 8, 8 * size - 1, *(rng.randrange(8 * size) for _ in range(12))]:
        assert flipped_bit(syndrome(data, bit), size) == (bit // 8, 1 << bit % 8)


def test_a_right_checksum_accuses_no_bit() -> None:
    assert flipped_bit(0, 5000) is None


def test_a_bit_that_would_lie_before_the_message_is_no_answer() -> None:
    long = b"x" * 3000
    assert flipped_bit(syndrome(long, 5), 3000) == (0, 1 << 5)
    assert flipped_bit(syndrome(long, 5), 2999) is None


def test_two_flipped_bits_never_look_like_one_in_a_message_of_300_bytes() -> None:
    data = bytes(300)
    one = [syndrome(data, bit) for bit in range(8 * 300)]
    singles = set(one)
    assert len(singles) == len(one)
    assert not any(left ^ right in singles for left in one[::7] for right in one if left != right)
