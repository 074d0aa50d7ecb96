"""A small shop on pykka, written by somebody who never heard of papyra_otel. It serves until stdin closes.

Its history: 4 actors start, one crashes, three are stopped; five messages find nobody.
"""

# ruff: noqa: T201 - what it prints is what the tests compare

import logging
import sys
import threading

import pykka

logging.getLogger("pykka").setLevel(logging.CRITICAL + 1)


class Till(pykka.ThreadingActor):
    def __init__(self):
        super().__init__()
        self.cents = 0

    def pay(self, cents):
        if cents < 0:
            raise ValueError(f"nobody pays {cents}")
        self.cents += cents
        return self.cents


class Printer(pykka.ThreadingActor):
    def on_receive(self, message):
        if message == "jam":
            raise RuntimeError("paper jam")
        if isinstance(message, tuple):
            stopping, gate = message
            self.stop()
            stopping.set()
            gate.wait()
        return f"printed {message}"


class Bell(pykka.ThreadingActor):
    """Has no on_receive."""


def main():
    till, printer, jammed = Till.start(), Printer.start(), Printer.start()
    bell = Bell.start()
    print([till.proxy().pay(n).get() for n in (5, 7)])
    try:
        till.proxy().pay(-1).get()
    except ValueError as error:
        print("refused:", error)
    print(jammed.ask("hello"))
    jammed.tell("jam")
    jammed.actor_stopped.wait()
    for send in (jammed.tell, jammed.ask):
        try:
            send({"order": 7, "password": "hunter2"})
        except pykka.ActorDeadError:
            print("nobody at the printer")
    bell.tell("ring")
    stopping, gate = threading.Event(), threading.Event()
    printer.tell((stopping, gate))
    stopping.wait()
    printer.tell("never printed")
    printer.tell("nor this")
    gate.set()
    printer.actor_stopped.wait()
    print("serving", flush=True)
    sys.stdin.read()
    bell.stop()
    print(till.ask(None), till.stop(), len(pykka.ActorRegistry.get_all()))
    print("closing", file=sys.stderr)
    return 3


if __name__ == "__main__":
    sys.exit(main())
