"""The adapter of pykka keeps the contract of adapters."""

from __future__ import annotations

import threading

import pytest

from papyra_otel import semconv as s
from papyra_otel.runtimes.pykka import PykkaAdapter
from papyra_otel.testing import RuntimeContract

pykka = pytest.importorskip("pykka")


class PykkaWorker(pykka.ThreadingActor):
    use_daemon_thread = True

    def on_receive(self, message):
        return 10 / message


class TestPykka(RuntimeContract):
    def new_adapter(self, recorder, guard):
        return PykkaAdapter(recorder, guard, "shop")

    def patched(self):
        loop = ("_actor_loop", "_actor_loop_setup", "_actor_loop_teardown", "_stop", "_handle_failure")
        return [(pykka.Actor, name) for name in (*loop, "_handle_receive")]

    def play(self):
        ref = PykkaWorker.start()
        seen = [ref.ask(5)]
        try:
            ref.ask(0)
        except ZeroDivisionError as error:
            seen.append(str(error))
        ref.tell(0)
        assert ref.actor_stopped.wait(20)
        for thread in threading.enumerate():
            if thread.name.startswith("PykkaWorker"):
                thread.join(20)
        try:
            ref.tell(1)
        except pykka.ActorDeadError:
            seen.append("dead")
        return seen

    def history(self):
        messages = [s.MESSAGE_PROCESSED] * 3
        ends = [s.ACTOR_EXCEPTION, s.ACTOR_STOPPED, s.DEAD_LETTER_CAPTURED]
        return {f"{__name__}.PykkaWorker": [s.ACTOR_STARTED, *messages, *ends]}
