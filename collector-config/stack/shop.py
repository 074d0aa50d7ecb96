"""A shop on pykka that is busy for ever, and whose worker fails now and then: something to look at."""

# ruff: noqa: INP001, S311 - a program on its own, and nothing secret

import itertools
import logging
import random
import time

import pykka

TOO_HEAVY = 49  # of each fifty

logging.getLogger("pykka").setLevel(logging.CRITICAL)  # the facts tell it better


class Worker(pykka.ThreadingActor):
    """Packs orders; one in fifty is too heavy, and it crashes."""

    def on_receive(self, message: dict[str, int]) -> str:
        """Pack an order."""
        time.sleep(random.uniform(0.001, 0.02))
        if message["order"] % 50 == TOO_HEAVY:
            raise ValueError("too heavy")
        return "packed"


def main() -> None:
    """Send orders; whoever sends to the crashed worker is told, and hires a new one."""
    worker = Worker.start()
    for order in itertools.count():
        try:
            worker.tell({"order": order})
        except pykka.ActorDeadError:
            worker = Worker.start()
        time.sleep(0.1)


if __name__ == "__main__":
    main()
