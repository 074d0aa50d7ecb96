"""300 kills of three writers, beside a reader that follows and a janitor that compacts and recovers.

No fact that ``append`` returned for is lost, none is altered or read twice, a scan at any moment finds nothing
but what a killed process leaves, and the log is healthy at the end. What retention hides is out of the question.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import pytest

import papyra_otel
from e2e.harness import PROGRAMS, run

TORN_TAILS_MIN = 50


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "kills", [pytest.param(300, marks=pytest.mark.exhaustive), pytest.param(3000, marks=pytest.mark.long)]
)
def test_a_storm_of_kills_loses_nothing_that_was_acknowledged(kills: int, tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")  # noqa: T201 - how to run the same again
    done = run(
        [sys.executable, str(PROGRAMS / "storm.py"), str(tmp_path / "facts"), str(kills), str(seed)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(papyra_otel.__file__).parents[1])},  # the very one that is tested here
        seconds=1700,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    told = json.loads(done.stdout)
    counts = told["counts"]
    print(counts)  # noqa: T201
    assert told["wrong"] == []
    assert counts["kills"] + counts["janitor kills"] >= kills
    assert counts["torn by the kernel"] + counts["torn by a short write"] >= TORN_TAILS_MIN
    assert counts["acknowledged"] > kills
    assert counts["removed"] > 0
    assert counts["mended"] > 0
