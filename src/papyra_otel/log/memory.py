"""The log in memory: the same lines, nothing survives the process. For tests, and for trying things out.

``memory:`` is a log of its own for each opening; ``memory:NAME`` is shared by all who open that name in
this process, until it is dropped with ``forget``.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from papyra_otel.errors import LineDamaged, LogUnavailable
from papyra_otel.facts import Capabilities, Entry, Fact, FactKind, LogStats
from papyra_otel.log.codec import decode, encode
from papyra_otel.log.contract import FactLog, LogOptions
from papyra_otel.log.cursor import Position
from papyra_otel.log.identity import Identities
from papyra_otel.log.merge import Query, Stored, read_merged, stats_of
from papyra_otel.log.retention import Retention
from papyra_otel.log.seqset import SeqSet

__all__ = ["MemoryLog", "forget", "open_memory_log"]


@dataclass(slots=True)
class _Store:
    """What is shared by all who opened the same name."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    lines: dict[tuple[str, FactKind, str], list[bytes]] = field(
        default_factory=dict[tuple[str, FactKind, str], list[bytes]]
    )


_stores: dict[str, _Store] = {}
_stores_lock = threading.Lock()


def open_memory_log(url: str, *, system: str | None, retention: Retention, options: LogOptions) -> MemoryLog:
    """Open ``memory:`` or ``memory:NAME``."""
    del options  # nothing to force anywhere
    name = url.partition(":")[2]
    with _stores_lock:
        store = _stores.setdefault(name, _Store()) if name else _Store()
    return MemoryLog(store, system=system, retention=retention)


def forget(name: str) -> None:
    """Drop the shared log ``memory:NAME``; who has it open keeps it."""
    with _stores_lock:
        _stores.pop(name, None)


class MemoryLog(FactLog):
    """See ``FactLog``. Facts are kept encoded, so what is read is what the codec made of them."""

    def __init__(
        self,
        store: _Store | None = None,
        *,
        system: str | None = None,
        retention: Retention | None = None,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._store = store or _Store()
        self._system = None if system is None else _as_stored(system)
        self._retention = retention or Retention()
        self._clock = clock
        self._identities = Identities(lambda: secrets.token_hex(8))
        self._appended: dict[tuple[str, FactKind], tuple[int, int]] = {}
        self._closed = False
        _open_logs.add(self)

    @property
    def capabilities(self) -> Capabilities:
        """Nothing durable, nothing shared with another process."""
        return Capabilities(backend="memory", durable=False, shared_between_processes=False)

    def prepare(self) -> None:
        """See FactLog."""
        self._check_open()

    def reserve(self, system: str, kind: FactKind) -> tuple[str, int]:
        """See FactLog."""
        return self._identities.reserve(system, kind)

    def append(self, facts: Sequence[Fact], /) -> None:
        """See FactLog."""
        self._check_open()
        with self._store.lock:
            for fact in facts:
                self._identities.check(fact)
            for fact in facts:
                known = self._identities.identified(fact)
                key = (_as_stored(known.system), known.kind, known.writer or "")
                line = encode(known)
                self._store.lines.setdefault(key, []).append(line)
                stream = (known.system, known.kind)
                records, size_bytes = self._appended.get(stream, (0, 0))
                self._appended[stream] = records + 1, size_bytes + len(line)

    def select(self, query: Query) -> Iterator[Entry]:
        """See FactLog."""
        self._check_open()
        return read_merged(self._sources(), query, self._retention, self._clock)

    def stats(self) -> LogStats:
        """See FactLog."""
        self._check_open()
        return stats_of(self._sources())

    def appended(self) -> dict[tuple[str, FactKind], tuple[int, int]]:
        """See FactLog."""
        return dict(self._appended)

    def flush(self) -> None:
        """See FactLog."""
        self._check_open()

    def close(self) -> None:
        """See FactLog."""
        self._closed = True

    def after_fork_in_child(self) -> None:
        """Go on with a copy of the parent's facts, as a new writer that has appended nothing yet."""
        self._store.lock = threading.Lock()
        self._appended = {}

    def _check_open(self) -> None:
        if self._closed:
            raise LogUnavailable("this log was closed; open it again", error_type="closed")

    def _sources(self) -> list[_MemorySource]:
        with self._store.lock:
            return [
                _MemorySource(*key, lines)
                for key, lines in self._store.lines.items()
                if self._system is None or key[0] == self._system
            ]


class _MemorySource:
    """One writer's list of lines; positions are indexes. Lists only grow, so reading needs no lock."""

    def __init__(self, system: str, kind: FactKind, writer: str, lines: list[bytes]) -> None:
        self.id = f"{kind.plural}/{writer}"
        self.system = system
        self.kind = kind
        self.writer = writer
        self.stream = f"{kind.plural}/{system}"
        self._lines = lines

    def forward(self, after: Position | None) -> Iterator[Stored]:
        start = after[0] if after else 0
        return self._stored(range(start, len(self._lines)), past=1)

    def backward(self, before: Position | None) -> Iterator[Stored]:
        end = len(self._lines) if before is None else before[0]
        return self._stored(range(end - 1, -1, -1), past=0)

    def turned(self, before: Position) -> Position:
        return before

    def end(self) -> Position:
        return (len(self._lines),)

    def totals(self) -> tuple[int, int]:
        return len(self._lines), sum(map(len, self._lines))

    def _stored(self, indexes: range, past: int) -> Iterator[Stored]:
        seen = SeqSet()
        for index in indexes:
            try:
                fact = decode(self._lines[index][:-1])
            except LineDamaged:
                continue
            if seen.add(fact.seq or 0):
                yield Stored(fact, len(self._lines[index]), (index + past,))


def _as_stored(system: str) -> str:
    """Return *system* as its facts have it when they are read: lone surrogates escaped."""
    return system if system.isascii() else system.encode(errors="backslashreplace").decode()


_open_logs: weakref.WeakSet[MemoryLog] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    global _stores_lock  # noqa: PLW0603 - a thread that is not in the child may have held it
    _stores_lock = threading.Lock()
    for log in list(_open_logs):
        log.after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
