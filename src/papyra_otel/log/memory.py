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

from papyra_otel.errors import LineDamaged, LogUnavailable
from papyra_otel.facts import Capabilities, Entry, Fact, FactKind, LogStats
from papyra_otel.log.codec import decode, encode
from papyra_otel.log.contract import FactLog, LogOptions
from papyra_otel.log.cursor import Position
from papyra_otel.log.identity import Identities
from papyra_otel.log.memory_upkeep import Lines, Store, compact_store, recover_store, scan_store
from papyra_otel.log.merge import Expired, Query, Stored, expired, read_merged, stats_of
from papyra_otel.log.retention import Retention, parse_retention
from papyra_otel.log.seqset import SeqSet
from papyra_otel.reports import Check, CompactionReport, ProgressCallback, RecoveryReport, ScanReport

__all__ = ["MemoryLog", "forget", "open_memory_log"]


_stores: dict[str, Store] = {}
_stores_lock = threading.Lock()


def open_memory_log(url: str, *, system: str | None, retention: Retention, options: LogOptions) -> MemoryLog:
    """Open ``memory:`` or ``memory:NAME``."""
    del options  # nothing to force anywhere
    name = url.partition(":")[2]
    with _stores_lock:
        store = _stores.setdefault(name, Store()) if name else Store()
    return MemoryLog(store, system=system, retention=retention)


def forget(name: str) -> None:
    """Drop the shared log ``memory:NAME``; who has it open keeps it."""
    with _stores_lock:
        _stores.pop(name, None)


class MemoryLog(FactLog):
    """See ``FactLog``. Facts are kept encoded, so what is read is what the codec made of them."""

    def __init__(
        self,
        store: Store | None = None,
        *,
        system: str | None = None,
        retention: Retention | None = None,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._store = store or Store()
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
        return Capabilities(
            backend="memory",
            durable=False,
            shared_between_processes=False,
            scan=True,
            recover=True,
            compact=True,
        )

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
                self._store.lines.setdefault(key, Lines()).lines.append(line)
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

    # --- looking after it ---------------------------------------------------------------------------

    def scan(
        self,
        progress: ProgressCallback | None = None,
        *,
        incremental: bool = False,
        seconds_max: float | None = None,
    ) -> ScanReport:
        """See FactLog. Everything is looked at, always."""
        del incremental, seconds_max
        self._check_open()
        return scan_store(self._store, self._system, progress)

    def recover(
        self, mode: str = "quarantine", *, dry_run: bool = False, progress: ProgressCallback | None = None
    ) -> RecoveryReport:
        """See FactLog. What is taken out is kept in memory, too; nothing is repaired."""
        self._check_open()
        return recover_store(
            self._store,
            self._system,
            mode,
            dry_run=dry_run,
            progress=progress,
            record=self._record,
            now=self._clock,
        )

    def compact(
        self,
        retention: Retention | str | None = None,
        force: bool = False,
        *,
        dry_run: bool = False,
        progress: ProgressCallback | None = None,
    ) -> CompactionReport:
        """See FactLog."""
        self._check_open()
        limits = parse_retention(retention) if isinstance(retention, str) else retention or self._retention
        return compact_store(
            self._store,
            self._system,
            self._sources_of,
            limits,
            self._clock(),
            force=force,
            dry_run=dry_run,
            progress=progress,
            record=self._record,
        )

    def _record(self, facts: Sequence[Fact]) -> tuple[Fact, ...]:
        identified = tuple(self._identities.identified(fact) for fact in facts)
        self.append(identified)
        return identified

    def preflight(self) -> tuple[Check, ...]:
        """See FactLog."""
        detail = "facts are kept in the memory of the process, and end with it"
        remedy = "choose a log that lasts, such as file:papyra-facts, unless this is for tests"
        return (Check(name="durability", ok=False, severity="WARN", detail=detail, remedy=remedy),)

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
        self._store.upkeep = threading.Lock()
        self._appended = {}

    def _check_open(self) -> None:
        if self._closed:
            raise LogUnavailable("this log was closed; open it again", error_type="closed")

    def _sources(self) -> list[_MemorySource]:
        return [_MemorySource(*key, lines) for key, lines in self._store.of(self._system).items()]

    def _sources_of(self, system: str) -> list[_MemorySource]:
        return [_MemorySource(*key, lines) for key, lines in self._store.of(system).items()]


class _MemorySource:
    """One writer's lines; positions are places. What is held only grows, so reading needs no lock."""

    def __init__(self, system: str, kind: FactKind, writer: str, lines: Lines) -> None:
        self.id = f"{kind.plural}/{writer}"
        self.system = system
        self.kind = kind
        self.writer = writer
        self.stream = f"{kind.plural}/{system}"
        self._lines = lines

    def forward(self, after: Position | None) -> Iterator[Stored]:
        start = max(after[0] if after else 0, self._lines.first)
        return self._stored(range(start, self._lines.end), past=1)

    def backward(self, before: Position | None) -> Iterator[Stored]:
        end = self._lines.end if before is None else min(before[0], self._lines.end)
        return self._stored(range(end - 1, self._lines.first - 1, -1), past=0)

    def turned(self, before: Position) -> Position:
        return before

    def order(self, position: Position) -> Position:
        return position

    def end(self) -> Position:
        return (self._lines.end,)

    def expired(self, oldest_unix_nano: int) -> Expired:
        return expired(self, oldest_unix_nano)

    def totals(self) -> tuple[int, int]:
        held = [len(line) for line in self._lines.lines if line]
        return len(held), sum(held)

    def _stored(self, places: range, past: int) -> Iterator[Stored]:
        seen = SeqSet()
        for place in places:
            line = self._lines.at(place)
            try:
                fact = decode(line[:-1])
            except LineDamaged:
                continue
            if seen.add(fact.seq or 0):
                yield Stored(fact, len(line), (place + past,))


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
