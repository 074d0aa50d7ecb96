"""A recording in trouble, real but for its log and the application's SDK: what no program may notice."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn
from unittest import mock

from papyra_otel import semconv
from papyra_otel.facts import Fact
from papyra_otel.log.memory import MemoryLog
from papyra_otel.pipeline import forward
from papyra_otel.pipeline.counters import Counters
from papyra_otel.pipeline.guard import Guard
from papyra_otel.pipeline.logger import FactLoggerProvider
from papyra_otel.pipeline.otel import OtelLogger, OtelLoggerProvider
from papyra_otel.pipeline.writer import FactWriter
from papyra_otel.recorder import Recorder

__all__ = ["Recorded", "TroubledLog", "recording_into", "sdk_that_raises"]


class TroubledLog(MemoryLog):
    """A log of this process that refuses every fact with *error*, or lets whoever appends wait until ``let_go``."""

    def __init__(self, error: Exception | None = None, *, holds: bool = False) -> None:
        super().__init__()
        self._error = error
        self._open = threading.Event()
        if not holds:
            self._open.set()

    def let_go(self) -> None:
        """Take facts from now on."""
        self._open.set()

    def append(self, facts: Sequence[Fact], /) -> None:
        """See FactLog."""
        self._open.wait()
        if self._error is not None:
            raise self._error
        super().append(facts)

    @property
    def told(self) -> Counter[tuple[str, str]]:
        """How often which type of actor had which fact."""
        facts = [entry.fact for entry in self.read()]
        about = [(fact.attributes.get(semconv.ACTOR_TYPE), fact.name) for fact in facts]
        return Counter((str(actor_type), name) for actor_type, name in about if actor_type is not None)

    @property
    def names(self) -> list[str]:
        """The names of all facts but those that tell of lost ones."""
        return [entry.fact.name for entry in self.read() if entry.fact.name != semconv.FACT_DROPPED]


class Recorded:
    """What records into a log, and what it counts."""

    def __init__(self, log: TroubledLog, *, queued: bool, capacity: int) -> None:
        self.log = log
        self.counters: Counters = Counters()
        self.guard: Guard = Guard(self.counters)
        self.writer: FactWriter = FactWriter(log, self.counters, queued=queued, capacity=capacity)
        provider = FactLoggerProvider(self.writer, self.counters, self.guard, system="default")
        emitter = provider.get_logger("papyra_otel")
        self.writer.tell = lambda attributes: emitter.emit(
            severity_text="ERROR", attributes=attributes, event_name=semconv.FACT_DROPPED
        )
        self.recorder: Recorder = Recorder(emitter, self.counters)

    def lost(self) -> int:
        """Return how many facts were recorded and lost."""
        return self.counters.total(semconv.PERSISTENCE_DROPPED)


@contextmanager
def recording_into(log: TroubledLog, *, queued: bool = False, capacity: int = 10_000) -> Generator[Recorded]:
    """Record into *log*; at the end it takes what waits. *capacity*: how many facts may wait."""
    recorded = Recorded(log, queued=queued, capacity=capacity)
    try:
        yield recorded
    finally:
        log.let_go()
        recorded.writer.close()


class _RaisingLogger(OtelLogger):
    """The logger of an SDK whose processors raise."""

    def enabled(self, *_: Any, **__: Any) -> bool:
        """Say yes."""
        return True

    def emit(self, *_: Any, **__: Any) -> NoReturn:
        raise RuntimeError("a processor of the application's SDK")


class _RaisingProvider(OtelLoggerProvider):
    """Such an SDK's provider."""

    def get_logger(self, *args: Any, **_: Any) -> OtelLogger:
        return _RaisingLogger(*args[:1])


@contextmanager
def sdk_that_raises() -> Generator[None]:
    """Let the application's logger provider be one that raises whenever a record is emitted."""
    with mock.patch.object(forward, "current_provider", return_value=_RaisingProvider()):
        yield
