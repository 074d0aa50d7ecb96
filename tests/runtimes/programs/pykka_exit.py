"""An actor that raises what pykka does not take for an error: everybody stops, and the process's code is kept."""

# As a user might write it; what it prints is compared.
# ruff: noqa: T201

import logging
import sys
import threading

import pykka

logging.getLogger("pykka").setLevel(logging.CRITICAL + 1)
threading.excepthook = lambda args: said.append(f"escaped {args.exc_type.__name__}")
said = []


def settle():
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join(20)


class Bystander(pykka.ThreadingActor):
    def on_stop(self):
        said.append("bystander stops")


class Exiting(pykka.ThreadingActor):
    def on_receive(self, message):
        raise message

    def on_stop(self):
        said.append("exiting stops")


class NeverBorn(pykka.ThreadingActor):
    def on_start(self):
        raise KeyboardInterrupt


class Idle(pykka.ThreadingActor):
    use_daemon_thread = True


for error in (SystemExit(5), KeyboardInterrupt()):
    Bystander.start()
    Exiting.start().tell(error)
    settle()
    print(len(pykka.ActorRegistry.get_all()))
zombie = NeverBorn.start()
settle()
print(zombie.is_alive(), zombie.tell("nobody is there"))
pykka.ActorRegistry.unregister(zombie)
Idle.start().tell("whatever")
print(said)
sys.exit(3)
