"""Damage to what is stored: single bits, torn tails, cuts anywhere. Who notices, what is lost, what comes back."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from compare.sides import OurSide, PapyraSide

pytestmark = [pytest.mark.compare, pytest.mark.timeout(300)]

FLIPS = 1000
RECORDS = 40
FEW = 4


def file_of(side) -> Path:
    return side.path if isinstance(side, PapyraSide) else side.segment()


def answer(ask):
    """Return what *ask* returns, or the exception that it raises."""
    try:
        return ask()
    except Exception as error:
        return error


def verdict(side, before: list) -> str:
    """Say how a damaged log of *before* answers a scan and a reading."""
    noticed = answer(side.noticed)
    if isinstance(noticed, Exception):
        return "the scan raises"
    if noticed:
        return "noticed"
    after = answer(side.records)
    if after == before:
        return "unchanged"
    known = set(map(repr, before))
    strange = isinstance(after, Exception) or any(repr(record) not in known for record in after)
    return "altered" if strange else "gone"


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_random_single_bits(told, tmp_path):
    counts, restored = {}, {}
    for kind in (PapyraSide, OurSide):
        side = kind(tmp_path / kind.name)
        side.write(range(RECORDS))
        before, path = side.records(), file_of(side)
        data = path.read_bytes()
        dice = random.Random(20_261_122)
        counts[kind.name], restored[kind.name] = Counter(), 0
        for _ in range(FLIPS):
            path.write_bytes(flipped(data, dice.randrange(len(data) * 8)))
            counts[kind.name][verdict(side, before)] += 1
            answer(side.repair)
            restored[kind.name] += answer(side.records) == before
            forget(side, path)
    papyra, ours = counts["papyra"], counts["ours"]
    assert ours == {"noticed": FLIPS}
    assert restored["ours"] >= FLIPS * 0.999
    assert papyra["altered"] > FLIPS * 0.3
    for row, outcome in (
        ("flips_altered", "altered"),
        ("flips_gone", "gone"),
        ("flips_crash", "the scan raises"),
        ("flips_noticed", "noticed"),
    ):
        told(row, papyra=share(papyra[outcome]), ours=share(ours[outcome]))
    told("flips_repaired", papyra=share(restored["papyra"]), ours=share(restored["ours"]))


def share(count: int) -> str:
    return f"{100 * count / FLIPS:.1f} %"


def forget(side, path: Path) -> None:
    """Remove what a repair left beside the file: the next damage is another story."""
    if isinstance(side, PapyraSide):
        return
    for each in side.root.rglob("*"):
        if each.is_file() and each != path:
            each.unlink()


def test_cuts_at_each_byte(told, tmp_path):
    found = {}
    for kind in (PapyraSide, OurSide):
        side = kind(tmp_path / kind.name)
        side.write(range(FEW))
        path, before = file_of(side), side.records()
        data = path.read_bytes()
        ends = [end for end in range(1, len(data) + 1) if data[end - 1 : end] == b"\n"]
        first = 0 if kind is PapyraSide else 1  # our first line is the segment's header
        counts = found[kind.name] = Counter(cuts=len(data))
        for cut in range(len(data)):
            path.write_bytes(data[:cut])
            expected = before[: max(sum(end <= cut for end in ends) - first, 0)]
            noticed = answer(side.noticed)
            counts["unnoticed"] += noticed is False
            after = answer(side.records)
            counts["raises"] += isinstance(after, Exception)
            answer(side.repair)
            mended = answer(side.records)
            lost = any(isinstance(each, Exception) or not_in(expected, each) for each in (after, mended))
            counts["lost"] += lost
            forget(side, path)
    papyra, ours = found["papyra"], found["ours"]
    assert (ours["unnoticed"], ours["raises"], ours["lost"]) == (0, 0, 0)
    assert papyra["unnoticed"] >= FEW
    assert papyra["raises"] > 0
    for row, what in (("cuts_unnoticed", "unnoticed"), ("cuts_crash", "raises"), ("cuts_lost", "lost")):
        told(
            row,
            papyra=f"{papyra[what]} of {papyra['cuts']:,}",
            ours=f"{ours[what]} of {ours['cuts']:,}",
        )


def not_in(expected: list, found: list) -> bool:
    return any(record not in found for record in expected)


def test_a_torn_tail_and_one_more_append(told, tmp_path):
    read, repaired = {}, {}
    for kind in (PapyraSide, OurSide):
        side = kind(tmp_path / kind.name)
        side.write(range(10))
        path = file_of(side)
        lines = path.read_bytes().splitlines(keepends=True)
        last = (
            9 if kind is PapyraSide else 10
        )  # the line of record 9; ours has a header before and a seal after
        path.write_bytes(b"".join(lines[:last]) + lines[last][: len(lines[last]) // 2])
        side.write([10])
        read[kind.name] = [record["n"] for record in side.read()]
        side.repair()
        repaired[kind.name] = [record["n"] for record in side.read()]
    whole = [*range(9), 10]
    assert (read["ours"], repaired["ours"]) == (whole, whole)
    assert 10 not in read["papyra"]
    assert 10 not in repaired["papyra"]
    there = {True: "there", False: "lost"}
    told("torn_append", papyra=there[10 in read["papyra"]], ours=there[10 in read["ours"]])
    told("torn_repair", papyra=there[10 in repaired["papyra"]], ours=there[10 in repaired["ours"]])
