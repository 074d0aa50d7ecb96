"""A pipeline to a memory log, and stand-ins for logs and processors that fail on command."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest

from papyra_otel import Fact, LogUnavailable
from papyra_otel.log.memory import MemoryLog
from papyra_otel.pipeline.counters import Counters
from papyra_otel.pipeline.guard import Guard
from papyra_otel.pipeline.logger import FactLogger, FactLoggerProvider
from papyra_otel.pipeline.writer import FactWriter


class BreakableLog(MemoryLog):
    """A memory log that is away when told so, or refuses facts with a certain name for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.away: str | None = None
        self.refused_name: str | None = None
        self.attempts = 0

    def append(self, facts: Sequence[Fact], /) -> None:
        self.attempts += 1
        if self.away is not None:
            raise LogUnavailable("the disk is gone", error_type=self.away)
        if any(fact.name == self.refused_name for fact in facts):
            raise TypeError("cannot store this one")
        super().append(facts)

    def facts(self) -> list[Fact]:
        return [entry.fact for entry in self.read()]


class Pipeline:
    """Writer, provider and logger over a breakable log; no background thread unless asked for."""

    def __init__(self, **writer_options: object) -> None:
        self.log = BreakableLog()
        self.counters = Counters()
        self.guard = Guard(self.counters)
        options = {"background": False, **writer_options}
        self.writer = FactWriter(self.log, self.counters, **options)
        self.provider = self.new_provider()
        self.logger: FactLogger = self.provider.get_logger("papyra_otel")
        self.writer.tell = lambda attributes: self.logger.emit(
            severity_text="ERROR", attributes=attributes, event_name="papyra.fact.dropped"
        )

    def new_provider(self, **options: object) -> FactLoggerProvider:
        return FactLoggerProvider(self.writer, self.counters, self.guard, system="orders", **options)

    def emit(self, n: int = 0, name: str = "papyra.actor.started") -> None:
        self.logger.emit(
            timestamp=1_700_000_000_000_000_000 + n,
            severity_text="INFO",
            attributes={"papyra.system.id": "orders", "papyra.actor.address": f"orders/{n}", "n": n},
            event_name=name,
        )


@pytest.fixture
def make_pipeline() -> Callable[..., Pipeline]:
    return Pipeline


@pytest.fixture
def pipeline() -> Iterator[Pipeline]:
    made = Pipeline()
    yield made
    made.writer.close()
