"""Tools for tests: of programs that record facts, and of log backends.

    with capture_facts() as captured:
        run_my_actors()
    assert captured.named("papyra.actor.exception")

Nothing here needs pytest, except running ``LogContract`` and ``RuntimeContract``: the tests that every log backend, and
every adapter of an actor runtime, passes.
"""

from papyra_otel.testing.capture import CapturedFacts, CapturingEmitter, capture_facts, make_fact
from papyra_otel.testing.contract import LogContract, MakeLog
from papyra_otel.testing.runtime_contract import RuntimeContract

__all__ = [
    "CapturedFacts",
    "CapturingEmitter",
    "LogContract",
    "MakeLog",
    "RuntimeContract",
    "capture_facts",
    "make_fact",
]
