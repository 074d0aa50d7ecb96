"""A small shop on papyra, written by somebody who never heard of papyra_otel. It serves until stdin closes.

Its history: six actors; a worker is restarted once and refused the second time; a parent decides about its
child; messages find nobody, for three reasons.
"""

# ruff: noqa: T201 - what it prints is what the tests compare

import sys

import anyio
from papyra import Actor, ActorSystem
from papyra.exceptions import PapyraError
from papyra.supervision import Strategy, SupervisionPolicy
from papyra.supervisor import SupervisorDecision


class Worker(Actor):
    async def receive(self, message):
        if message == "break":
            raise ValueError("broken")
        return f"done {message}"


class Parent(Actor):
    async def on_start(self):
        self.child = self.context.spawn_child(Worker)

    async def on_child_failure(self, child_ref, exc):
        return SupervisorDecision.STOP

    async def receive(self, message):
        return self.child


class Slow(Actor):
    async def receive(self, message):
        if isinstance(message, anyio.Event):
            await message.wait()
            await self.context.stop_self()
        return message


async def attempt(what, awaitable):
    try:
        print(what, "->", await awaitable)
    except (PapyraError, ValueError) as error:
        print(what, "!!", type(error).__name__)


async def main():
    once = SupervisionPolicy(strategy=Strategy.RESTART, max_restarts=1, within_seconds=60.0)
    async with ActorSystem(system_id="shop") as system:
        worker = system.spawn(Worker, name="worker", policy=once)
        parent = system.spawn(Parent, name="parent")
        slow = system.spawn(Slow, name="slow")
        keeper = system.spawn(Worker, name="keeper")
        await attempt("work", worker.ask(1))
        await attempt("break", worker.ask("break"))
        await attempt("again", worker.ask(2))
        await attempt("break", worker.ask("break"))
        await attempt("dead", worker.ask({"order": 7, "password": "hunter2"}))
        await attempt("dead", worker.tell("late"))
        child = await parent.ask("child")
        await attempt("child", child.ask("break"))
        gate = anyio.Event()
        await slow.tell(gate)
        await slow.tell("left behind")
        gate.set()
        await attempt("keeper", keeper.ask(3))
        print("serving", flush=True)
        await anyio.to_thread.run_sync(sys.stdin.read)
        await attempt("keeper", keeper.ask(4))
        await system.stop(keeper)
    await attempt("closed", parent.tell("too late"))
    print("closing", file=sys.stderr)
    return 3


if __name__ == "__main__":
    sys.exit(anyio.run(main))
