"""Every adapter of ours keeps the contract of adapters, as one of anybody else's would."""

from __future__ import annotations

import threading

import anyio
import pytest

from papyra_otel import semconv as s
from papyra_otel.runtimes.papyra import PapyraAdapter
from papyra_otel.runtimes.pykka import PykkaAdapter
from papyra_otel.testing import RuntimeContract

pykka = pytest.importorskip("pykka")
papyra = pytest.importorskip("papyra")


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


class PapyraWorker(papyra.Actor):
    async def receive(self, message):
        return 10 / message


class TestPapyra(RuntimeContract):
    def new_adapter(self, recorder, guard):
        return PapyraAdapter(recorder, guard, None)

    def patched(self):
        from papyra.mailbox import Mailbox
        from papyra.system import ActorSystem

        names = (
            "start",
            "aclose",
            "_run_actor",
            "_safe_on_start",
            "_handle_failure",
            "_handle_actor_message",
        )
        return [*((ActorSystem, name) for name in names), (Mailbox, "get")]

    def play(self):
        return anyio.run(self._play)

    async def _play(self):
        async with papyra.ActorSystem(system_id="shop") as system:
            ref = system.spawn(PapyraWorker)
            seen = [await ref.ask(5)]
            try:
                await ref.ask(0)
            except ZeroDivisionError as error:
                seen.append(str(error))
            await anyio.wait_all_tasks_blocked()
            try:
                await ref.tell(1)
            except papyra.exceptions.ActorStopped:
                seen.append("stopped")
        return seen

    def history(self):
        messages = [s.MESSAGE_PROCESSED] * 2
        failed = [s.ACTOR_EXCEPTION, s.SUPERVISION_DECIDED, s.ACTOR_STOPPED]
        return {f"{__name__}.PapyraWorker": [s.ACTOR_STARTED, *messages, *failed, s.DEAD_LETTER_CAPTURED]}
