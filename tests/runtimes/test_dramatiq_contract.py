"""The adapter of dramatiq keeps the contract of adapters."""

from __future__ import annotations

import pytest

from papyra_otel import semconv as s
from papyra_otel.runtimes.dramatiq import DramatiqAdapter
from papyra_otel.testing import RuntimeContract

dramatiq = pytest.importorskip("dramatiq")

from runtimes.dramatiq_support import FAST, drain, new_broker, working  # noqa: E402 - it needs dramatiq, too


class TestDramatiq(RuntimeContract):
    def new_adapter(self, recorder, guard):
        return DramatiqAdapter(recorder, guard, "shop")

    def patched(self):
        from dramatiq import worker

        thread = getattr(worker, "WorkerThread", None) or worker._WorkerThread  # private until 2.0
        return [
            (dramatiq.Broker, "emit_before"),
            (dramatiq.Broker, "emit_after"),
            (thread, "process_message"),
        ]

    def play(self):
        broker, seen = new_broker(), []

        @dramatiq.actor(broker=broker, max_retries=1, **FAST)
        def divide(by):
            seen.append(by)
            seen.append(10 / by)

        with working(broker) as worker:
            for by in (5, 0):  # one by one: workers take what waits in any order
                divide.send(by)
                drain(broker, worker)
        dead = [message.args for message in broker.dead_letters]
        broker.close()
        return seen, dead

    def history(self):
        failed = [s.MESSAGE_PROCESSED, s.ACTOR_EXCEPTION, s.SUPERVISION_DECIDED]
        handled = [s.MESSAGE_PROCESSED]
        consumers = [s.ACTOR_STARTED] * 2 + [s.ACTOR_STOPPED] * 2  # of the queue, and of what is delayed
        return {
            "divide": [s.ACTOR_DECLARED, *handled, *failed, *failed, s.DEAD_LETTER_CAPTURED],
            "dramatiq.ConsumerThread": consumers,
            "dramatiq.WorkerThread": [s.ACTOR_STARTED, s.ACTOR_STOPPED],
        }
