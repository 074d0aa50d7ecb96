"""How fast, as ratios within this run; nox -s bench has the figures against their targets."""

from __future__ import annotations

import time

import pytest

from compare.sides import OurSide, PapyraSide, our_fact, papyra_event, run
from papyra_otel import FactKind

pytestmark = [pytest.mark.compare, pytest.mark.timeout(300)]

APPENDS = 400
STORED = 5000
ROUNDS = 5


def fastest(rounds: int, work) -> float:
    """Return the seconds of the fastest of *rounds* runs."""
    seconds = []
    for _ in range(rounds):
        begun = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begun)
    return min(seconds)


def test_append(told, tmp_path):
    papyra, ours = PapyraSide(tmp_path / "papyra"), OurSide(tmp_path / "ours")

    events, facts = [papyra_event(n) for n in range(APPENDS)], [[our_fact(n)] for n in range(APPENDS)]

    async def record():
        backend = papyra.open()
        for event in events:
            await backend.record_event(event)

    def append():
        for fact in facts:
            log.append(fact)

    with ours.open() as log:
        log.prepare()
        seconds = {"papyra": fastest(ROUNDS, lambda: run(record())), "ours": fastest(ROUNDS, append)}
    assert len(papyra.read()) == len(ours.read()) == APPENDS * ROUNDS
    ratio = seconds["papyra"] / seconds["ours"]
    assert ratio > 5
    told("append", papyra="1", ours=f"{ratio:.0f} times as many")


def test_the_newest_ten(told, tmp_path):
    papyra, ours = PapyraSide(tmp_path / "papyra"), OurSide(tmp_path / "ours")
    for side in (papyra, ours):
        side.write(range(STORED - 50))
        side.write(range(STORED - 50, STORED), letters=True)
    newest = list(range(STORED - 10, STORED))

    def ask_papyra():
        letters = run(papyra.open().list_dead_letters(limit=10))
        assert [letter.payload["n"] for letter in letters] == newest

    def ask_us():
        with ours.open() as log:
            found = log.read(kinds=FactKind.DEAD_LETTER, newest_first=True, limit=10)
            assert [entry.fact.attributes["n"] for entry in found] == newest[::-1]

    ratio = fastest(2, ask_papyra) / fastest(20, ask_us)
    assert ratio > 50
    told("last_ten", papyra="1", ours=f"1 / {ratio:,.0f}")
