"""Every way into and out of an actor's life; what it prints must not depend on who watches."""

# As a user might write it; what it prints is compared.
# ruff: noqa: T201

import logging
import threading

import pykka

logging.getLogger("pykka").setLevel(logging.CRITICAL + 1)
said = []
lock = threading.Lock()


def say(*words):
    with lock:
        said.append(" ".join(map(str, words)))


def settle():
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(20)


class Worker(pykka.ThreadingActor):
    def __init__(self, *trouble):
        super().__init__()
        self.trouble = trouble

    def fail_at(self, place):
        say(place, threading.current_thread() is not threading.main_thread())
        if place in self.trouble:
            raise ValueError(place)

    def on_start(self):
        self.fail_at("start")

    def on_stop(self):
        self.fail_at("stop")

    def on_failure(self, exception_type, exception_value, traceback):
        say("failure", exception_type.__name__, repr(exception_value), traceback is not None)
        self.fail_at("failure")

    def on_receive(self, message):
        if message == "hello":
            return message
        say("got", message)
        if message == "enough":
            self.stop()
        if message == "boom":
            raise KeyError(message)
        return message


for trouble in [(), ("start",), ("stop",), ("failure",), ("start", "stop", "failure")]:
    for message in ["fine", "enough", "boom"]:
        say("--", trouble, message)
        ref = Worker.start(*trouble)
        try:
            if "start" in trouble:
                ref.actor_stopped.wait(20)
            told = ref.tell(message)
        except pykka.ActorDeadError as error:
            told = repr(error).replace(ref.actor_urn, "URN")
        stopped = (ref.stop(), ref.stop()) if message == "fine" else None
        settle()
        say("told", told, stopped)
        say(ref.is_alive(), ref in pykka.ActorRegistry.get_all())

refs = [Worker.start() for _ in range(3)]
say([ref.ask("hello") for ref in refs])
say(pykka.ActorRegistry.stop_all(), [ref.is_alive() for ref in refs])
settle()
print("\n".join(said))
