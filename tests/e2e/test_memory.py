"""The recorder's memory does not grow with what it records, whether its log is there or away."""

from __future__ import annotations

from pathlib import Path

import pytest

from e2e.harness import run_code, stored

pytestmark = pytest.mark.slow

MEASURE = """
import gc, logging, os, sys, threading
logging.getLogger("papyra_otel").addHandler(logging.NullHandler())
logging.getLogger("papyra_otel").propagate = False
import papyra_otel
from papyra_otel import Actor

def resident():
    gc.collect()
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

recording = papyra_otel.enable(sys.argv[1], runtimes=())
def some(count):
    for n in range(count):
        recording.recorder.started(Actor(system="s", type=f"T{n % 500}", address=f"s/{n}", name="n" * 200))
"""


def test_300_000_facts_leave_memory_as_it_was(tmp_path: Path) -> None:
    code = MEASURE + (
        "some(60_000); before = resident()\nsome(240_000)\nprint(resident() - before)\n"
        "print(recording._counters.total('papyra.actor.starts'))\n"
    )
    grown, count = map(int, run_code(code, f"file:{tmp_path}/facts", cwd=tmp_path).stdout.split())
    assert count == 300_000
    assert grown < 4 << 20


def test_while_the_log_is_away_memory_is_bounded_and_the_loss_is_told_afterwards(tmp_path: Path) -> None:
    root = tmp_path / "facts"
    code = MEASURE + (
        "some(1)\n"
        "from papyra_otel.errors import LogUnavailable\n"
        "log = recording._log\n"
        "def away(facts, /): raise LogUnavailable('the disk is gone', error_type='EIO')\n"
        "log.append = log.write = away\n"
        "some(40_000); before = resident()\nsome(160_000); print(resident() - before)\n"
        "print(recording._writer.waiting()[0])\n"
        "del log.append, log.write\n"
    )
    grown, waiting = map(int, run_code(code, f"file:{root}", cwd=tmp_path).stdout.split())
    assert waiting == 10_000
    assert grown < 8 << 20
    kept = [fact for fact in stored(root) if fact.name == "papyra.actor.started"]
    told = [fact for fact in stored(root) if fact.name == "papyra.fact.dropped"]
    lost = sum(fact.attributes["papyra.fact.dropped.count"] for fact in told)
    assert len(kept) + lost == 200_001
    assert lost == 190_000
