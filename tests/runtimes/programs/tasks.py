"""What a user gives to the program ``dramatiq``: actors at a Redis broker. Each call is noted in a file."""

import os

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import CurrentMessage

broker = RedisBroker(url=os.environ["SHOP_REDIS"])
broker.add_middleware(CurrentMessage())
dramatiq.set_broker(broker)


def note(text):
    file = os.open(os.environ["SHOP_NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{text}\n".encode())
    os.close(file)


def quick(**options):
    return dramatiq.actor(min_backoff=1, max_backoff=1, **options)


@quick(max_retries=2)
def fine(n):
    note("fine ok")


@quick(max_retries=2)
def flaky(n):
    if "retries" not in CurrentMessage.get_current_message().options:
        note("flaky ConnectionError")
        raise ConnectionError(n)
    note("flaky ok")


@quick(max_retries=1)
def doomed(n):
    note("doomed ValueError")
    raise ValueError(n)


@quick(throws=KeyError)
def strict(n):
    note("strict KeyError")
    raise KeyError(n)


@quick(max_age=1000)
def stale(n):
    note("stale ok")


@quick(max_retries=0)
def hang(n):
    note("hang begins")
    while True:
        pass
