"""A killed process loses no fact that ``emit`` returned for; the SDK's batch processor beside it does."""

from __future__ import annotations

import random
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from e2e.harness import PROGRAMS, run, segments, stored

ENOUGH_ROUNDS_TO_LOSE = 5


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "rounds", [pytest.param(200, marks=pytest.mark.slow), pytest.param(3000, marks=pytest.mark.long)]
)
def test_killed_writers_lose_nothing_and_the_batch_processor_beside_them_does(
    rounds: int, tmp_path: Path
) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")  # noqa: T201 - how to run the same again
    root, other = tmp_path / "facts", tmp_path / "other.txt"
    done = run(
        [sys.executable, str(PROGRAMS / "killed.py"), str(root), str(other), str(rounds), str(seed)],
        cwd=tmp_path,
        seconds=1100,
    )
    assert done.returncode == 0, done.stderr
    lives = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert [(round_, code) for round_, _, _, code in lives] == [(n, -9) for n in range(rounds)]

    found: defaultdict[int, Counter[int]] = defaultdict(Counter)
    for fact in stored(root, name="tick"):
        found[fact.attributes["round"]][fact.attributes["n"]] += 1
    theirs: defaultdict[int, set[int]] = defaultdict(set)
    for line in other.read_text("utf-8").splitlines():
        numbers = [*map(int, line.split())]
        if len(numbers) == 2:  # else a kill in the middle of a write has glued lines: they are lost
            theirs[numbers[0]].add(numbers[1])

    ours_lost = sum(n not in found[round_] for round_, acked, _, _ in lives for n in range(acked))
    sdk_lost = sum(n not in theirs[round_] for round_, _, acked, _ in lives for n in range(acked))
    emitted = sum(acked for _, acked, _, _ in lives)
    print(f"of {emitted} facts in {rounds} killed processes lost: ours {ours_lost}, SDK {sdk_lost}")  # noqa: T201
    assert ours_lost == 0
    assert {count for counts in found.values() for count in counts.values()} == {1}
    for round_, acked, _, _ in lives:  # at most the one fact under way when it died is there beyond those
        assert len(found[round_]) - acked in {0, 1}
    assert sdk_lost > 0
    assert emitted > rounds * ENOUGH_ROUNDS_TO_LOSE

    sealed = list(segments(root).values())
    assert (sealed.count(True), sealed.count(False)) == (1, rounds)  # the parent ended in order
    assert len(stored(root, name="before")) == rounds
