"""Records 3,000 dead letters through ``PapyraPersistence`` and then waits to be killed. Argument: the log's URL."""

import sys
import threading

import anyio
from papyra import Actor, ActorSystem
from papyra._envelope import DeadLetter

from papyra_otel import PapyraPersistence

COUNT = 3000


class Quiet(Actor):
    async def receive(self, message):
        return message


async def main():
    async with ActorSystem(persistence=PapyraPersistence(sys.argv[1], forward="off")) as system:
        ref = system.spawn(Quiet)
        for n in range(COUNT):
            system.dead_letters.push(DeadLetter(target=ref, message=n, expects_reply=False))
        sys.stdout.write(f"{COUNT}\n")
        sys.stdout.flush()
        threading.Event().wait(600)  # no turn for the loop: what was to be stored must be stored by now


anyio.run(main)
