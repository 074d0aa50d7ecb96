"""What recording pykka keeps of messages, and how many types of actors it counts, with no setting changed."""

from __future__ import annotations

import pytest

import papyra_otel
from papyra_otel import semconv as s
from papyra_otel.pipeline.counters import Counters
from papyra_otel.pipeline.guard import Guard
from papyra_otel.recorder import Recorder
from papyra_otel.runtimes.pykka import PykkaAdapter
from papyra_otel.testing import CapturingEmitter
from runtimes.privacy_support import DOCUMENTED, TYPES, assert_capped, mark, places

pykka = pytest.importorskip("pykka")


class Clerk(pykka.ThreadingActor):
    use_daemon_thread = True

    def on_receive(self, message):
        local = mark("local")
        if message.get("fail"):
            raise ValueError(mark("raised"))
        return len(local)


def test_a_log_has_of_messages_what_is_documented_and_no_more(tmp_path):
    papyra_otel.enable(f"file://{tmp_path}/facts", runtimes=["pykka"])
    try:
        ref = Clerk.start()
        ref.ask({"order": mark("handled"), "password": mark("password")})
        ref.tell({"order": mark("argument"), "fail": True})
        assert ref.actor_stopped.wait(20)
        with pytest.raises(pykka.ActorDeadError):
            ref.tell({"order": mark("letter"), "password": mark("password")})
    finally:
        papyra_otel.disable()
    assert places(tmp_path / "facts", DOCUMENTED) == DOCUMENTED


def test_a_thousand_types_of_actors_are_counted_as_the_first_and_others():
    counters = Counters()
    adapter = PykkaAdapter(Recorder(CapturingEmitter(), counters), Guard(counters), "shop")
    adapter.install()
    try:
        for n in range(TYPES):
            ref = type(f"Clerk{n}", (Clerk,), {}).start()
            ref.ask({})
            ref.stop()
    finally:
        adapter.uninstall()
    for metric in (s.ACTOR_STARTS, s.ACTOR_STOPS, s.PROCESSED_MESSAGES):
        assert_capped(counters, metric)
