"""A stand-in for a log behind a network that keeps fences as the Redis log does, and tells when they hide a loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from papyra_otel import Fact, FactKind, LogUnavailable
from papyra_otel.facts import Capabilities
from papyra_otel.log.contract import LogOptions, Lost
from papyra_otel.log.memory import MemoryLog


class Store:
    """What the server has: every fact once, and per writer and kind the highest seq that it took."""

    def __init__(self) -> None:
        self.facts: dict[tuple[str, FactKind, int], Fact] = {}
        self.fences: dict[tuple[str, FactKind], int] = {}
        self.overtaken: list[Fact] = []  # skipped as stored though it is not: lost without a word

    def add(self, fact: Fact) -> None:
        stream = fact.writer, fact.kind
        if fact.seq > self.fences.get(stream, -1):
            self.fences[stream] = fact.seq
            self.facts[(*stream, fact.seq)] = fact
        elif (*stream, fact.seq) not in self.facts:
            self.overtaken.append(fact)


class FencedLog(MemoryLog):
    """Appends to *store* unless *away*; then the first *some* of a batch may be stored all the same."""

    def __init__(self, store: Store | None = None, options: LogOptions | None = None) -> None:
        super().__init__()
        self.server = store or Store()
        self.options = options or LogOptions()
        self.away: str | None = None
        self.some = 0
        self.attempts = 0
        self.beats = 0
        self.before: Callable[[], None] = lambda: None

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            backend="fenced", durable=True, shared_between_processes=True, behind_a_network=True
        )

    def append(self, facts: Sequence[Fact], /) -> None:
        self._check_open()
        for fact in facts:
            self._identities.check(fact)
        self._send(facts)

    def adopt(self, facts: Sequence[Fact], /) -> None:
        assert all(fact.writer is not None for fact in facts)
        self._send(facts)

    def _send(self, facts: Sequence[Fact]) -> None:
        self.attempts += 1
        self.before()
        for fact in facts[: len(facts) if self.away is None else self.some]:
            self.server.add(fact)
        if self.away is not None:
            raise LogUnavailable("the server is away", error_type=self.away)

    def beat(self) -> None:
        self.beats += 1

    def lose(self, lost: Lost) -> None:
        assert self.options.on_lost is not None
        self.options.on_lost(lost)
