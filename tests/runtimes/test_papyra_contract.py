"""The adapter of papyra keeps the contract of adapters."""

from __future__ import annotations

import anyio
import pytest

from papyra_otel import semconv as s
from papyra_otel.runtimes.papyra import PapyraAdapter
from papyra_otel.testing import RuntimeContract

papyra = pytest.importorskip("papyra")


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
