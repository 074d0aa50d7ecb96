# ruff: noqa: T201
# (a program as users write them: printing is its job)
"""Does a bit of everything with papyra and prints all that a user can see of it.

Arguments: the way it is watched (bare, watched, broken) and the anyio backend.
"""

import sys

import anyio
from papyra import Actor, ActorSystem
from papyra.supervision import Strategy, SupervisionPolicy
from papyra.supervisor import SupervisorDecision


class Child(Actor):
    made = 0

    async def on_start(self):
        type(self).made += 1
        if self.made == 3:
            raise LookupError("no database")

    async def on_stop(self):
        raise OSError("cannot close")

    async def receive(self, message):
        if isinstance(message, BaseException):
            raise message
        return ("child", self.made, message)


class Parent(Actor):
    asked = 0

    async def on_start(self):
        self.child = self.context.spawn_child(Child)
        await self.context.watch(self.child)

    async def on_child_failure(self, child_ref, exc):
        type(self).asked += 1
        print("parent sees", type(exc).__name__, exc, flush=True)
        return {
            "restart": SupervisorDecision.RESTART,
            "ignore": SupervisorDecision.IGNORE,
        }.get(str(exc), SupervisorDecision.ESCALATE)

    async def receive(self, message):
        if message == "child":
            return self.child
        if message == "stop":
            await self.context.stop_self()
            return "stopping"
        print("parent got", type(message).__name__, flush=True)
        return message


class Hooks:
    async def on_event(self, event):
        print("hook", type(event).__name__, flush=True)

    def on_dead_letter(self, letter):
        print("hook dead letter", letter.message, letter.expects_reply)
        raise RuntimeError("a bad hook")

    def on_failure(self, failure):
        print("hook failure", type(failure.error).__name__, failure.supervisor_decision)

    def on_audit(self, report):
        print("hook audit", report.total_actors)


async def attempt(what, awaitable):
    try:
        print(what, "->", await awaitable)
    except BaseException as error:
        print(what, "!!", type(error).__name__, error, type(error.__cause__).__name__)
        if not isinstance(error, Exception):
            raise


class Slow(Actor):
    def __init__(self):
        self.gate = None

    async def receive(self, message):
        if isinstance(message, anyio.Event):
            await message.wait()
        return message

    def double(self, number):
        return 2 * number


async def main():
    boom = ValueError("restart")
    policy = SupervisionPolicy(strategy=Strategy.RESTART, max_restarts=1)
    async with ActorSystem(hooks=Hooks()) as system:
        parent = system.spawn(Parent, name="parent", policy=policy)
        child = await parent.ask("child")
        await attempt("ask", child.ask(1))
        await attempt("restart", child.ask(boom))
        print("the same error", boom.__traceback__ is not None)
        await attempt("again", child.ask(2))
        await attempt("third", child.ask(ValueError("restart")))
        await attempt("dead", child.ask(3))
        await attempt("parent", parent.ask("hello"))
        slow = system.spawn(Slow, mailbox_capacity=1)
        await attempt("proxy", slow.proxy().double(21))
        await attempt("no attribute", slow.proxy().missing())
        slow = system.spawn(Slow, mailbox_capacity=1)
        gate = anyio.Event()
        await attempt("timeout", slow.ask(gate, timeout=0.01))
        gate.set()
        with anyio.move_on_after(0.01) as scope:
            await slow.tell(1)
            await slow.ask(anyio.Event())
        print("cancelled", scope.cancelled_caught)
        print(system.audit().summary_lines())
        await attempt("stop", parent.ask("stop"))
        await attempt("tell", parent.tell("late"))
        for n in range(3):
            system.spawn(Slow, name=f"slow-{n}")
        await attempt("same name", anyio.lowlevel.checkpoint())
    for event in system.events():
        print("event", type(event).__name__, event.address["actor_id"], getattr(event, "reason", None))
    print("dead letters", [letter.message for letter in system.dead_letters.messages])
    await attempt("after", parent.tell("too late"))
    await attempt("start again", system.start())


async def fall():
    """A factory that raises at a restart: papyra lets it take the system down."""
    made = []

    def factory():
        if made:
            raise KeyError("no second one")
        made.append(1)
        return Slow()

    async with ActorSystem() as system:
        ref = system.spawn(factory, policy=SupervisionPolicy(strategy=Strategy.RESTART))
        other = system.spawn(Slow)
        with anyio.fail_after(2):
            await ref.ask("x")
            await ref.proxy().double.defer()
            await other.ask(anyio.Event())


def watch(way):
    if way == "bare":
        return
    from papyra_otel.config import SpanMode
    from papyra_otel.pipeline.counters import Counters
    from papyra_otel.pipeline.guard import Guard
    from papyra_otel.recorder import Recorder
    from papyra_otel.runtimes.papyra import PapyraAdapter

    facts = []

    class Emitter:
        def emit(self, **fact):
            facts.append(fact)

    class Broken:
        spans = SpanMode.SAMPLED

        def __getattr__(self, name):
            raise RuntimeError(f"broken {name}")

    if way == "watched":
        adapter = PapyraAdapter(Recorder(Emitter(), Counters()), Guard(Counters()), None)
    else:
        import logging

        logging.raiseExceptions = False
        logging.getLogger("papyra_otel").addHandler(logging.NullHandler())
        logging.getLogger("papyra_otel").propagate = False
        adapter = PapyraAdapter(Broken(), Guard(Broken()), None)
    adapter.install()
    if len(sys.argv) > 3:  # the tracker itself raises, in this method
        setattr(adapter._tracker, sys.argv[3], lambda *_, **__: 1 / 0)


if __name__ == "__main__":
    if sys.argv[2] == "trio":  # it shuffles tasks on purpose: shuffle alike in every run
        import trio._core._run as trio_run

        trio_run._ALLOW_DETERMINISTIC_SCHEDULING = True
        trio_run._r.seed(1)
    watch(sys.argv[1])
    anyio.run(main, backend=sys.argv[2])
    try:
        anyio.run(fall, backend=sys.argv[2])
    except BaseException as error:
        print("down with", type(error).__name__, [type(e).__name__ for e in getattr(error, "exceptions", ())])
        sys.exit(3)
