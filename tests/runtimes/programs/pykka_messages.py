"""Answers, errors, proxies, dead targets and unhandled messages: values, identities, order."""

# As a user might write it; what it prints is compared.
# ruff: noqa: T201, PLW0108

import logging
import queue
import threading

import pykka
from pykka.messages import ProxyCall

records = []


class Keep(logging.Handler):
    def emit(self, record):
        if record.levelno >= logging.WARNING:
            records.append((record.levelname, record.getMessage().split("(urn")[0], bool(record.exc_info)))


logging.getLogger("pykka").addHandler(Keep())
logging.getLogger("pykka").propagate = False
OBJECT, ERROR = object(), LookupError("the very same")


def settle():
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(20)


class Answering(pykka.ThreadingActor):
    number = 7

    def on_receive(self, message):
        if message is ERROR:
            raise message
        if isinstance(message, pykka.ActorRef):
            return message.ask("hello")
        return message

    def double(self, value, *, plus=0):
        return value * 2 + plus

    def fail(self):
        raise ERROR


class Silent(pykka.ThreadingActor):
    pass


class Calling(pykka.ThreadingActor):
    def on_receive(self, message):
        return super().on_receive(message)


class Simple(pykka.ThreadingActor):
    @staticmethod
    def _create_actor_inbox():
        return queue.SimpleQueue()

    def on_receive(self, message):
        return [message, sorted(vars(self))]


def attempt(name, call):
    try:
        value = call()
        print(name, "->", "OBJECT" if value is OBJECT else repr(value))
    except BaseException as error:
        text = repr(error).split("(urn")[0]
        print(name, "raised", text, error is ERROR, repr(error.__cause__), repr(error.__context__)[:20])


ref, dead = Answering.start(), Answering.start()
dead.stop()
proxy = ref.proxy()
attempt("ask", lambda: ref.ask(OBJECT))
attempt("ask keyword", lambda: ref.ask(message=OBJECT, block=True, timeout=20))
attempt("ask later", lambda: ref.ask(1, block=False).get(timeout=20))
attempt("ask error", lambda: ref.ask(ERROR))
attempt("ask error later", lambda: ref.ask(ERROR, block=False).get())
attempt("tell", lambda: ref.tell(2))
attempt("wrong call", lambda: ref.ask())
attempt("wrong keyword", lambda: ref.tell(1, nonsense=2))
attempt("method", lambda: proxy.double(4, plus=1).get())
attempt("method error", lambda: proxy.fail().get())
attempt("wrong method", lambda: proxy.nothing)
attempt("field", lambda: proxy.number.get())
attempt("set field", lambda: (setattr(proxy, "number", 8), proxy.number.get()))
attempt("call message", lambda: ref.ask(ProxyCall(attr_path=("double",), args=(1,), kwargs={})))
attempt("through", lambda: ref.ask(dead))
attempt("dead tell", lambda: dead.tell(1))
attempt("dead ask", lambda: dead.ask(1))
attempt("dead ask later", lambda: dead.ask(1, block=False).get())
attempt("dead proxy", dead.proxy)
attempt("dead stop", dead.stop)
attempt("timed out", lambda: pykka.ThreadingFuture().get(timeout=0))
for kind in (Silent, Calling, Simple):
    other = kind.start()
    attempt(kind.__name__, lambda other=other: other.ask("what"))
    attempt(kind.__name__, other.stop)
attempt("stop", ref.stop)
settle()
print(records)
