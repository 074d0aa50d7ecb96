"""The real collector, and gateways and agents of a test's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from collector.build import ASKED, collector, find_go
from collector.running import Collector
from conftest import missing
from delivery.receivers import HttpReceiver


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "program" in getattr(item, "fixturenames", ()) and Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.collector)
            item.add_marker(pytest.mark.timeout(900))  # the first one may have to build it


@pytest.fixture(scope="session")
def program() -> Path:
    """The collector itself, built by the first test that wants it if it is in no cache."""
    go = find_go()
    if go is None:
        missing(ASKED)
    return collector(str(go))


@pytest.fixture
def loki() -> Iterator[HttpReceiver]:
    """What the gateway takes for Loki: it keeps every request."""
    made = HttpReceiver()
    yield made
    made.close()


@pytest.fixture
def new_collector(program: Path, tmp_path: Path, loki: HttpReceiver) -> Iterator[Callable[..., Collector]]:
    """Make a collector with configurations of ours; it ends with the test."""
    with ExitStack() as made:

        def make(name: str, *configs: str, **more: str) -> Collector:
            at_loki = {"LOKI_OTLP": f"http://127.0.0.1:{loki.port}/otlp"}
            new = Collector(program, tmp_path / name, *configs, **(at_loki | more))
            made.callback(new.close)
            return new

        yield make


@pytest.fixture
def gateway(new_collector: Callable[..., Collector]) -> Collector:
    """A gateway that runs."""
    return new_collector("gateway", "gateway.yaml").start()
