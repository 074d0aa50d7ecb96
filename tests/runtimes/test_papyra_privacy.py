"""What recording papyra keeps of messages, and how many types of actors it counts, with no setting changed."""

from __future__ import annotations

import anyio
import pytest

import papyra_otel
from papyra_otel import semconv as s
from papyra_otel.pipeline.counters import Counters
from papyra_otel.pipeline.guard import Guard
from papyra_otel.recorder import Recorder
from papyra_otel.runtimes.papyra import PapyraAdapter
from papyra_otel.testing import CapturingEmitter
from runtimes.privacy_support import DOCUMENTED, TYPES, assert_capped, mark, places

papyra = pytest.importorskip("papyra")


class Clerk(papyra.Actor):
    async def receive(self, message):
        local = mark("local")
        if message.get("fail"):
            raise ValueError(mark("raised"))
        return len(local)


def test_a_log_has_of_messages_what_is_documented_and_no_more(tmp_path):
    async def main():
        async with papyra.ActorSystem() as system:
            ref = system.spawn(Clerk)
            await ref.ask({"order": mark("handled"), "password": mark("password")})
            with pytest.raises(ValueError, match=mark("raised")):
                await ref.ask({"order": mark("argument"), "fail": True})
            with anyio.fail_after(20):
                while not any(type(event).__name__ == "ActorStopped" for event in system.events()):
                    await anyio.lowlevel.checkpoint()
            with pytest.raises(papyra.ActorStopped):
                await ref.tell({"order": mark("letter"), "password": mark("password")})

    papyra_otel.enable(f"file://{tmp_path}/facts", runtimes=["papyra"])
    try:
        anyio.run(main)
    finally:
        papyra_otel.disable()
    assert places(tmp_path / "facts", DOCUMENTED) == DOCUMENTED


def test_a_thousand_types_of_actors_are_counted_as_the_first_and_others():
    async def main():
        async with papyra.ActorSystem() as system:
            for n in range(TYPES):
                await system.spawn(type(f"Clerk{n}", (Clerk,), {})).ask({})

    counters = Counters()
    adapter = PapyraAdapter(Recorder(CapturingEmitter(), counters), Guard(counters), "shop")
    adapter.install()
    try:
        anyio.run(main)
    finally:
        adapter.uninstall()
    for metric in (s.ACTOR_STARTS, s.ACTOR_STOPS, s.PROCESSED_MESSAGES):
        assert_capped(counters, metric)
