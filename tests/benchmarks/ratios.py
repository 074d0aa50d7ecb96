"""Interleaved timing: only ratios within one run mean anything on a shared machine."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext


def best_seconds(
    variants: dict[str, Callable[[], object]],
    *,
    rounds: int = 15,
    clock: Callable[[], float] = time.process_time,
    around: Callable[[str], AbstractContextManager[object]] = nullcontext,
) -> dict[str, float]:
    """Run every variant in turn, *rounds* times; return the fastest time of each, in seconds.

    ``around(name)`` is entered before and left after each run, outside the time taken.

    The fastest of many short interleaved runs is what the code costs when nothing else disturbs it. The
    default clock counts this process's CPU time; give ``time.perf_counter`` where waiting is part of it.
    """
    best = dict.fromkeys(variants, float("inf"))
    for name, variant in variants.items():
        with around(name):
            variant()
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, variant in variants.items():
                with around(name):
                    begun = clock()
                    variant()
                    best[name] = min(best[name], clock() - begun)
    finally:
        gc.enable()
    return best
