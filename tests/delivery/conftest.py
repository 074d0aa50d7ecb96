"""A file log with facts, receivers over both protocols, and a deliverer that never really waits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import papyra_otel
from delivery.receivers import RECEIVERS, Receiver
from papyra_otel import Fact
from papyra_otel.facts import FactKind
from papyra_otel.log.contract import LogOptions
from papyra_otel.pipeline.counters import Counters
from papyra_otel.pipeline.delivery.deliverer import Deliverer
from papyra_otel.pipeline.delivery.outbox import new_client, new_deliverer
from papyra_otel.pipeline.delivery.target import Target
from papyra_otel.pipeline.otel import Scope

RESOURCE = {"service.name": "shop", "service.instance.id": "shop-1", "process.pid": 7}
TIME = 1_700_000_000_000_000_000


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"file:{tmp_path}/facts"


def fact(n: int, **more) -> Fact:
    given = {
        "kind": FactKind.EVENT,
        "name": "papyra.actor.exception",
        "time_unix_nano": TIME + n,
        "system": "orders",
        "actor": f"orders/{n}",
        "severity": "ERROR",
        "trace_id": f"{n + 1:032x}",
        "span_id": f"{n + 1:016x}",
        "attributes": {"n": n, "papyra.actor.type": "Order", "texts": ["a", "b"], "share": 0.5},
    }
    return Fact(**{**given, **more})


def record(url: str, facts: range | list[Fact], resource: dict | None = RESOURCE) -> list[str]:
    """Append as a process of its own would; return the uids."""
    options = LogOptions(fsync="never", resource=None if resource is None else lambda: resource)
    with papyra_otel.log.open_log(url, options=options) as log:
        log.append([fact(each) if isinstance(each, int) else each for each in facts])
    with papyra_otel.open_log(url) as log:
        return [entry.fact.uid for entry in log.read()]


class Delivery:
    """One deliverer, as ``ship`` makes it; what it would have waited, and what it told."""

    def __init__(self, url: str, receiver: Receiver, *, environ: dict | None = None, **options) -> None:
        self.counters = Counters()
        self.told: list[str] = []
        self.waited: list[float] = []
        self.log = papyra_otel.open_log(url)
        self.target = Target.load({**receiver.environ(), **(environ or {})})
        self.client = new_client(self.target)
        self.deliverer: Deliverer = new_deliverer(
            self.log, self.client, self.target, self.counters, Scope("papyra_otel", "1"),
            told=self.told.append, **options,
        )  # fmt: skip
        self.deliverer._wait = self._wait
        self.shipper = self.deliverer.shipper

    def _wait(self, seconds: float) -> bool:
        self.waited.append(seconds)
        return self.deliverer._ended.is_set()

    def run(self) -> bool:
        return self.deliverer.run(follow=False)

    def close(self) -> None:
        self.client.close()
        self.log.close()


@pytest.fixture
def new_delivery(url: str) -> Iterator[Callable[..., Delivery]]:
    with ExitStack() as made:

        def make(receiver: Receiver, **options) -> Delivery:
            delivery = Delivery(url, receiver, **options)
            made.callback(delivery.close)
            return delivery

        yield make


@pytest.fixture(params=RECEIVERS)
def receiver(request: pytest.FixtureRequest) -> Iterator[Receiver]:
    made = RECEIVERS[request.param]()
    yield made
    made.close()
