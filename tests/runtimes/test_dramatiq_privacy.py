"""What recording dramatiq keeps of messages, and how many types of actors it counts, with no setting changed."""

from __future__ import annotations

import pytest

import papyra_otel
from papyra_otel import semconv as s
from papyra_otel.pipeline.counters import Counters
from papyra_otel.pipeline.guard import Guard
from papyra_otel.recorder import Recorder
from papyra_otel.runtimes.dramatiq import DramatiqAdapter
from papyra_otel.testing import CapturingEmitter

dramatiq = pytest.importorskip("dramatiq")

from runtimes.dramatiq_support import FAST, new_broker, working  # noqa: E402 - it needs dramatiq, too
from runtimes.privacy_support import DOCUMENTED, TYPES, assert_capped, mark, places  # noqa: E402 - as above


def test_a_log_has_of_messages_what_is_documented_and_no_more(tmp_path):
    papyra_otel.enable(f"file://{tmp_path}/facts", runtimes=["dramatiq"])
    try:
        broker, done = new_broker(), []

        @dramatiq.actor(broker=broker, max_retries=1, **FAST)
        def clerk(order, *, fail, password):
            local = mark("local")
            done.append((order, password, local))
            if fail:
                raise ValueError(mark("raised"))

        clerk.send(mark("handled"), fail=False, password=mark("password"))
        clerk.send(mark("letter"), fail=True, password=mark("password"))
        with working(broker):
            pass
        broker.close()
    finally:
        papyra_otel.disable()
    assert len(done) == 3
    expected = {
        what: where for what, where in DOCUMENTED.items() if what != "argument"
    }  # what fails is a letter
    assert places(tmp_path / "facts", expected) == expected


def test_a_thousand_types_of_actors_are_counted_as_the_first_and_others():
    counters = Counters()
    adapter = DramatiqAdapter(Recorder(CapturingEmitter(), counters), Guard(counters), "shop")
    adapter.install()
    try:
        broker, done = new_broker(), []

        def note(n):
            done.append(n)

        for n in range(TYPES):
            dramatiq.actor(note, broker=broker, actor_name=f"clerk-{n}").send(n)
        with working(broker):
            pass
        broker.close()
    finally:
        adapter.uninstall()
    assert sorted(done) == list(range(TYPES))
    assert_capped(counters, s.PROCESSED_MESSAGES, taken=2)  # those of the worker's threads
