"""One process of the bad day: a shop under light load, with one incident that begins and ends when it is told to.

``shop.py INCIDENT PORT LOG``: metrics are on PORT for Prometheus; commands come on standard input, one a line:
``begin``, ``end``, ``pause``. After each it says so; after ``pause`` it is at rest, and says as JSON what it did by its
own count. The end of the input ends it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path

import papyra
from opentelemetry._logs import set_logger_provider
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import set_meter_provider
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from papyra.address import ActorAddress
from papyra.supervision import Strategy, SupervisionPolicy
from prometheus_client import start_http_server

import papyra_otel

done = Counter()
letters = Counter()  # by address
known = {}  # addresses by name


def say(what: str) -> None:
    """Say one line to whoever started us."""
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


class Till(papyra.Actor):
    """Does its work."""

    async def receive(self, message):
        done["handled"] += 1
        if message == "slowly":
            await asyncio.sleep(0.002)


class Bank(papyra.Actor):
    """Says no to everything."""

    async def receive(self, message):
        done["handled"] += 1
        done["failed"] += 1
        raise ConnectionError("the bank is away")


class Scale(papyra.Actor):
    """Cannot be switched on."""

    async def on_start(self):
        done["failed"] += 1
        raise OSError("no power")

    async def receive(self, message):
        """Never reached."""


class Clerk(papyra.Actor):
    """Works on one thing until it is told that it is over."""

    def __init__(self, over: asyncio.Event) -> None:
        self.over = over

    async def receive(self, message):
        await self.over.wait()
        done["handled"] += 1


class Sloth(papyra.Actor):
    """Takes its time."""

    async def receive(self, message):
        done["handled"] += 1
        await asyncio.sleep(0.02)


class Shop:
    """What an incident needs to hand."""

    def __init__(self, recording, system, log: Path | None) -> None:
        self.recording, self.system, self.log = recording, system, log
        self.till = system.spawn(Till)
        self.over = asyncio.Event()
        self.per_round, self.goods, self.rests = 1, "quickly", False

    async def trade(self) -> None:
        """Sell a little, again and again."""
        while not self.rests:
            for _ in range(self.per_round):
                await self.till.tell(self.goods)
            await self.till.ask("slowly")
            await asyncio.sleep(0.04)

    async def send_into_the_void(self, ref, message) -> None:
        with suppress(papyra.ActorStopped):
            await ref.tell(message)
        done["dead"] += 1
        letters[str(ref.address)] += 1


# --- incidents: a coroutine that runs from ``begin`` to ``end``, then what puts things right ---------------------


async def healthy(shop):
    await asyncio.to_thread(shop.recording.compact, "events=10")  # of what yesterday left; ours is still open


async def crash_loop(shop):
    often = SupervisionPolicy(strategy=Strategy.RESTART, max_restarts=100_000)
    once = SupervisionPolicy(strategy=Strategy.RESTART, max_restarts=1)
    hopeless = shop.system.spawn(Bank, policy=once)
    known["hopeless"] = str(hopeless.address)
    for _ in range(2):
        with suppress(ConnectionError):
            await hopeless.ask("pay")
    done["restarted"] += 1
    shop.system.spawn(Scale)
    bank = shop.system.spawn(Bank, policy=often)
    while not shop.over.is_set():
        with suppress(ConnectionError):
            await bank.ask("pay")
        done["restarted"] += 1
        await asyncio.sleep(0.03)


async def storm(shop):
    poor = shop.system.spawn(Bank)  # who fails is stopped: what is behind it in the mailbox is lost
    await asyncio.gather(*(poor.tell("pay") for _ in range(3)))
    done["dead"] += 2
    letters[str(poor.address)] += 2
    target = shop.system.spawn(Till)
    await shop.system.stop(target)
    for number in range(60):
        await shop.send_into_the_void(target, type(f"Order{number}", (), {})())
    while not shop.over.is_set():
        for _ in range(5):
            await shop.send_into_the_void(target, "hello?")
        await asyncio.sleep(0.05)


async def disk_full(shop):
    ballast = shop.log.parent / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    for _ in range(24):
        for _ in range(500):
            await shop.till.tell("quickly")
        await shop.till.ask("slowly")
    await shop.over.wait()
    ballast.unlink()
    while shop.recording._writer.waiting()[0]:  # noqa: ASYNC110 - the writer's thread has no event to wait for
        await asyncio.sleep(0.1)
    await asyncio.to_thread(shop.recording.recover)
    await asyncio.to_thread(shop.recording.scan)


async def damaged(shop):
    old = max((shop.log / "yesterday/events").glob("*.ndjson"), key=lambda path: path.stat().st_size)
    with old.open("r+b") as file:
        middle = old.stat().st_size // 2
        file.seek(middle)
        byte = file.read(1)
        file.seek(middle)
        file.write(bytes([byte[0] ^ 1]))
    stranger = shop.log / "notes.txt"
    stranger.write_text("not ours")
    await shop.over.wait()
    stranger.unlink()
    await asyncio.to_thread(shop.recording.recover, "repair")
    await asyncio.to_thread(shop.recording.scan)


async def elsewhere(shop):
    """The fault is in somebody else's process."""
    await shop.over.wait()


async def neglected(shop):
    over = asyncio.Event()
    clerk = shop.system.spawn(lambda: Clerk(over))
    await clerk.tell("first")
    await asyncio.to_thread(shop.recording.audit)
    shop.system._registry["nobody"] = ActorAddress(shop.system.system_id, 999)
    await shop.over.wait()
    del shop.system._registry["nobody"]
    over.set()
    shop.caring = asyncio.create_task(look_after(shop))


async def look_after(shop) -> None:
    while True:
        await asyncio.to_thread(shop.recording.audit)
        await asyncio.to_thread(shop.recording.scan)
        await asyncio.sleep(0.5)


async def impatient(shop):
    shop.system._registry["nobody"] = ActorAddress(shop.system.system_id, 999)
    while not shop.over.is_set():
        sloth = shop.system.spawn(Sloth)
        with suppress(papyra.AskTimeout):
            await sloth.ask("hurry", timeout=0.002)
        # papyra cannot deliver its answer then: a dead letter, and a failure of the actor, which ends it
        done["failed"] += 1
        done["dead"] += 1
        letters[str(sloth.address)] += 1
        await asyncio.sleep(0.08)
    del shop.system._registry["nobody"]


async def growing(shop):
    shop.per_round, shop.goods = 8, type("Order" * 800, (), {})()  # facts of more than 4 KiB
    await shop.over.wait()
    shop.per_round, shop.goods = 1, "quickly"
    await asyncio.sleep(0.2)
    await asyncio.to_thread(shop.recording.compact, "events=100", force=True)


async def obey(shop, incident, trading) -> None:
    """Follow the commands until there are no more."""
    running: asyncio.Task[None] | None = None
    while True:
        command = (await asyncio.to_thread(sys.stdin.readline)).strip()
        if command == "begin":
            running = asyncio.create_task(incident(shop))
        elif command == "end" and running is not None:
            shop.over.set()
            await running
        elif command == "pause":
            shop.rests = True
            await trading  # its last message is a question that was answered, so all before it is handled
            say(command)
            say(json.dumps({**done, **known, "letters": letters}))
            continue
        else:
            return
        say(command)


async def main(name: str, log: str) -> None:
    recording = papyra_otel.enable(log, runtimes=["papyra"])
    async with papyra.ActorSystem(system_id=name.replace("_", "-")) as system:
        path = Path(log.removeprefix("file://")) if log.startswith("file:") else None
        shop = Shop(recording, system, path)
        trading = asyncio.create_task(shop.trade())
        say("ready")
        await obey(shop, globals()[name], trading)
        trading.cancel()


def with_a_past(log: str) -> None:
    """Let there be a sealed segment of an earlier writer."""
    from papyra_otel.testing import make_fact

    with papyra_otel.open_log(log) as old:
        old.append([make_fact(number, system="yesterday") for number in range(20)])


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)  # what fails here is meant to
    _, chosen, port, where = sys.argv
    set_meter_provider(MeterProvider([PrometheusMetricReader()]))
    provider = LoggerProvider()
    provider.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter()))
    set_logger_provider(provider)
    start_http_server(int(port), "127.0.0.1")
    if chosen in ("healthy", "damaged"):
        with_a_past(where)
    asyncio.run(main(chosen, where))
    papyra_otel.disable()
    provider.shutdown()
