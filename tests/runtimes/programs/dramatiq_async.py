"""Coroutines as actors: dramatiq runs them in an event loop of its own, in a thread of its own."""

# As a user might write it; what it prints is compared.
# ruff: noqa: T201

import asyncio
import contextvars
import logging
import sys
import threading

import dramatiq
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import AsyncIO, Retries, TimeLimit, TimeLimitExceeded

logging.getLogger("dramatiq").setLevel(logging.CRITICAL + 1)
said = []
caller = contextvars.ContextVar("caller", default="nobody")

broker = StubBroker(
    middleware=[TimeLimit(interval=10), Retries(max_retries=1, min_backoff=1, max_backoff=1), AsyncIO()]
)
broker.emit_after("process_boot")


@dramatiq.actor(broker=broker)
async def fetch(n):
    await asyncio.sleep(0.001)
    said.append(("fetched", n, caller.get(), threading.current_thread().name == "dramatiq-worker"))


@dramatiq.actor(broker=broker)
async def fail(n):
    said.append(("fails", n))
    raise ConnectionError(n)


@dramatiq.actor(broker=broker, time_limit=50, max_retries=0)
async def hang():
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        said.append("cancelled")
        raise


worker = dramatiq.Worker(broker, worker_timeout=10, worker_threads=1)
worker.start()
sends = [lambda: fetch.send(1), lambda: fail.send(2)]
if dramatiq.__version__ >= "2" or sys.version_info < (3, 12):
    sends.append(hang.send)  # dramatiq 1 cannot interrupt it on later Pythons
for send in sends:
    send()
    broker.join("default", fail_fast=False, timeout=20_000)
    worker.join()
worker.stop()
print(said)
print([(letter.actor_name, type(letter._exception).__name__) for letter in broker.dead_letters])
print(TimeLimitExceeded.__name__)
sys.exit(5)
