"""Messages that succeed, fail, are tried again, given up, too old or for nobody; results, pipelines, groups."""

# As a user might write it; what it prints is compared.
# ruff: noqa: T201

import logging
import sys

import dramatiq
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import (
    AgeLimit,
    Callbacks,
    CurrentMessage,
    GroupCallbacks,
    Middleware,
    Pipelines,
    Retries,
    TimeLimit,
)
from dramatiq.rate_limits.backends import StubBackend as StubLimits
from dramatiq.results import ResultFailure, Results
from dramatiq.results.backends import StubBackend

logging.getLogger("dramatiq").setLevel(logging.CRITICAL + 1)
said = []


def plain(args):
    return tuple(sorted(arg) if isinstance(arg, dict) else arg for arg in args)


class Chronicle(Middleware):
    def before_enqueue(self, broker, message, delay):
        said.append(
            ("enqueue", message.actor_name, plain(message.args), delay is not None, sorted(message.options))
        )

    def before_process_message(self, broker, message):
        said.append(("process", message.actor_name, plain(message.args)))

    def after_process_message(self, broker, message, *, result=None, exception=None):
        said.append(("processed", message.actor_name, result, repr(exception), message.failed))

    def after_skip_message(self, broker, message):
        said.append(("skipped", message.actor_name, message.failed))

    def after_nack(self, broker, message):
        said.append(("nacked", message.actor_name))


results = StubBackend()
broker = StubBroker(
    middleware=[
        AgeLimit(),
        TimeLimit(),
        Callbacks(),
        Pipelines(),
        Retries(min_backoff=1, max_backoff=1, max_retries=2),
        CurrentMessage(),
        GroupCallbacks(StubLimits()),
        Results(backend=results, store_results=True),
    ]
)
broker.add_middleware(Chronicle(), before=Middleware)
dramatiq.set_broker(broker)
print([type(each).__name__ for each in broker.middleware], sorted(broker.actor_options))
try:
    broker.add_middleware(Chronicle(), after=StubBroker)
except ValueError as error:
    print(type(error).__name__)


@dramatiq.actor
def add(a, b):
    return a + b


@dramatiq.actor
def divide(a, b):
    return a / b


@dramatiq.actor(throws=LookupError)
def look(where):
    return {}[where]


@dramatiq.actor(store_results=False)
def note(*what):
    said.append(("noted", len(what)))


@dramatiq.actor(max_age=1000)
def hurry():
    return "in time"


worker = dramatiq.Worker(broker, worker_timeout=10, worker_threads=1)
worker.start()


def settle():
    broker.join("default", fail_fast=False, timeout=20_000)
    worker.join()


for message in (
    add.message(1, 2),
    divide.message(1, 0),
    look.message("nowhere"),
    hurry.message(),
    hurry.message().copy(message_timestamp=1),
    add.message_with_options(args=(3, 4), on_success=note),
    look.message_with_options(args=("here",), on_failure=note),
    add.message("unknown").copy(actor_name="nobody"),
):
    sent = broker.enqueue(message)
    print(sent is message, sent.options)
    settle()
    try:
        print(message.get_result(backend=results))
    except (ResultFailure, dramatiq.results.ResultMissing) as error:
        print(type(error).__name__, error)

pipe = add.message(1, 1) | add.message(2) | divide.message(0)
pipe.run()
settle()
print(pipe.completed_count)
print("\n".join(map(str, said)))
said.clear()
group = dramatiq.group([add.message(n, n) for n in range(3)])
group.add_completion_callback(note.message("group"))
group.run()
settle()
print(list(group.get_results()))
print([(letter.actor_name, letter.args) for letter in broker.dead_letters])
worker.stop()
print(sorted(map(str, said)))  # dramatiq 1 takes what waits in any order
try:
    broker.enqueue(add.message(1, 2).copy(queue_name="nowhere"))
except dramatiq.QueueNotFound as error:
    print(type(error).__name__, error)
sys.exit(4)
