"""What ``papyra-otel demo`` records: a shop on papyra, its warehouse on pykka, and a bad day for both.

An ordinary program: nothing in it records anything but the two lines in ``main``. Read it next to the
timeline it leaves behind. It waits for events and answers only, so every run records the same facts.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import anyio
import papyra
import pykka
from papyra.supervision import Strategy, SupervisionPolicy

import papyra_otel

LIMIT_EUROS = 1000


@dataclass(frozen=True)
class Charge:
    """Take the money for an order. What is called a token or a password is masked before it is recorded."""

    order: int
    euros: int
    token: str = "tok-4242"  # noqa: S105 - to be masked


@dataclass(frozen=True)
class Receipt:
    """Print what was paid."""

    order: int


@dataclass(frozen=True)
class Pick:
    """Fetch an article from its shelf."""

    article: str


class CardDeclined(Exception):
    """The bank said no."""


class Payments(papyra.Actor):
    """Charges cards. Its supervision policy restarts it once, then gives up."""

    async def receive(self, message: Charge) -> str:
        """Charge the card, or crash."""
        if message.euros > LIMIT_EUROS:
            raise CardDeclined(f"order {message.order}: {message.euros} euros are too many")
        return f"order {message.order} is paid"


class Printer(papyra.Actor):
    """Prints receipts, one after the other."""

    def __init__(self, paper: anyio.Event) -> None:
        self.paper = paper

    async def receive(self, message: Receipt) -> None:  # noqa: ARG002 - papyra gives it
        """Print it as soon as there is paper."""
        await self.paper.wait()


async def open_shop(recording: papyra_otel.Recording) -> None:
    """Sell until the shop closes."""
    once = SupervisionPolicy(strategy=Strategy.RESTART, max_restarts=1)
    paper = anyio.Event()
    async with papyra.ActorSystem(system_id="shop") as system:
        payments = system.spawn(Payments, name="payments", policy=once)
        printer = system.spawn(lambda: Printer(paper), name="printer")

        await payments.ask(Charge(order=1, euros=20))
        for order in (2, 3):  # the first crash is answered with a restart, the second is one too many
            with suppress(CardDeclined):
                await payments.ask(Charge(order=order, euros=5000))
        with suppress(papyra.ActorStopped):
            await payments.tell(Charge(order=4, euros=30))  # nobody is there any more: a dead letter

        await printer.tell(Receipt(order=1))
        with suppress(papyra.AskTimeout):
            await printer.ask(Receipt(order=4), timeout=0.01)
        recording.audit()
        paper.set()  # too late for the second receipt: left in the mailbox when the shop closes, a dead letter


class Robot(pykka.ThreadingActor):
    """Picks articles. pykka restarts nobody: who fails is gone."""

    def on_receive(self, message: Any) -> Any:
        """Pick one article; wait first, if the message is an event."""
        if isinstance(message, threading.Event):
            return message.wait()
        if message.article == "anvil":
            raise OverflowError("an anvil is too heavy")
        return f"{message.article} is on its way"


def open_warehouse(strong: pykka.ActorRef[Robot], weak: pykka.ActorRef[Robot]) -> None:
    """Pick what was sold."""
    strong.ask(Pick("lamp"))

    weak.tell(Pick("anvil"))
    weak.actor_stopped.wait()
    with suppress(pykka.ActorDeadError):
        weak.tell(Pick("chair"))

    lunch_is_over = threading.Event()
    strong.tell(lunch_is_over)
    strong.stop(block=False)
    strong.tell(Pick("table"))  # behind the order to stop: left in the mailbox
    lunch_is_over.set()
    for thread in threading.enumerate():
        if thread.name.startswith("Robot-"):
            thread.join()


def main(log: str) -> None:
    """Record both into the log at URL *log*."""
    logging.getLogger("pykka").addHandler(logging.NullHandler())  # it logs each crash; here, facts are enough
    recording = papyra_otel.enable(log=log)
    robots: list[pykka.ActorRef[Robot]] = [Robot.start(), Robot.start()]  # pyright: ignore[reportUnknownMemberType] - pykka's
    asyncio.run(open_shop(recording))
    open_warehouse(*robots)
    papyra_otel.disable()


if __name__ == "__main__":
    main(sys.argv[1])
