"""64 threads, one inbox, actors that come and go: nothing lost, nothing twice, each sender's order kept."""

# As a user might write it; what it prints is compared.
# ruff: noqa: T201

import logging
import threading

import pykka

logging.getLogger("pykka").setLevel(logging.CRITICAL + 1)
SENDERS, EACH = 64, 40


class Collector(pykka.ThreadingActor):
    def __init__(self):
        super().__init__()
        self.seen = {}

    def on_receive(self, message):
        if message is None:
            return self.seen
        sender, number = message
        self.seen.setdefault(sender, []).append(number)
        return number


class Brief(pykka.ThreadingActor):
    def on_receive(self, message):
        if message == EACH - 1:
            raise RuntimeError(message)
        return message * 2


def send(sender, collector, wrong):
    for number in range(EACH):
        collector.tell((sender, number))
    if collector.ask((sender, EACH)) != EACH:
        wrong.append(sender)
    brief = Brief.start()
    if [brief.ask(number) for number in range(3)] != [0, 2, 4]:
        wrong.append(sender)
    brief.tell(EACH - 1)
    brief.actor_stopped.wait(20)
    try:
        brief.tell(1)
        wrong.append(sender)
    except pykka.ActorDeadError:
        pass


collector, wrong = Collector.start(), []
threads = [threading.Thread(target=send, args=(n, collector, wrong)) for n in range(SENDERS)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join(30)
seen = collector.ask(None)
print(len(seen), all(numbers == list(range(EACH + 1)) for numbers in seen.values()), wrong)
print(collector.stop(), len(pykka.ActorRegistry.get_all()))
