"""Who writes, and the how-many-th fact it is: (writer, kind, seq) names a fact for ever."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable

from papyra_otel.facts import Fact, FactKind

__all__ = ["GivenIdentities", "Identities"]


_NOTHING = [0]


class Identities:
    """One writer id per system, one sequence per system and kind. Thread-safe.

    *new_writer* makes an id of 16 hex digits. A forked child never writes under its parent's ids: there,
    every log's identities begin anew.
    """

    def __init__(self, new_writer: Callable[[], str]) -> None:
        self._new_writer = new_writer
        self._lock = threading.Lock()
        self._writers: dict[str, str] = {}
        self._next_seq: dict[tuple[str, FactKind], list[int]] = {}  # in a cell: looked up once to be raised
        _all.add(self)

    def writer(self, system: str) -> str:
        """Return the writer id of *system*, made on first use."""
        return self._writers.get(system) or self._writers.setdefault(system, self._new_writer())

    def reserve(self, system: str, kind: FactKind) -> tuple[str, int]:
        """Return the next identity of a stream."""
        key = (system, kind)
        cell = self._next_seq.get(key) or self._next_seq.setdefault(key, [0])
        with self._lock:
            seq = cell[0]
            cell[0] = seq + 1
        return self._writers.get(system) or self.writer(system), seq

    def reserve_run(self, system: str, kind: FactKind, count: int) -> tuple[str, int]:
        """Return the writer, and the first of the next *count* seqs of a stream."""
        cell = self._next_seq.get((system, kind)) or self._next_seq.setdefault((system, kind), [0])
        with self._lock:
            first = cell[0]
            cell[0] = first + count
        return self.writer(system), first

    def of(self, fact: Fact) -> tuple[str, int]:
        """Return the identity of *fact*, given now if it has none. ValueError if it is not from here."""
        writer, seq = fact.writer, fact.seq
        if writer is None:
            return self.reserve(fact.system, fact.kind)
        if (
            writer != self._writers.get(fact.system)
            or seq is None
            or not 0 <= seq < self._next_seq.get((fact.system, fact.kind), _NOTHING)[0]
        ):
            raise ValueError(
                f"{writer}-{fact.kind}-{seq} was not reserved from this log for system "
                f"{fact.system!r}; append the fact without writer and seq"
            )
        return writer, seq

    def identified(self, fact: Fact) -> Fact:
        """Return *fact* with its identity. Raises as *of*."""
        writer, seq = self.of(fact)
        return fact if fact.writer is not None else fact.identified(writer, seq)

    def check(self, fact: Fact) -> None:
        """Raise ValueError if *fact* has an identity that was not reserved here."""
        if fact.writer is not None:
            self.of(fact)

    def take_back(self, system: str, kind: FactKind, seq: int) -> None:
        """Undo a reservation that nothing came of, if it is the last one: it leaves no hole then."""
        cell = self._next_seq.get((system, kind))
        with self._lock:
            if cell is not None and cell[0] == seq + 1:
                cell[0] = seq

    def renew(self) -> None:
        """Forget all: new ids, sequences from 0."""
        self._lock = threading.Lock()
        self._writers.clear()
        self._next_seq.clear()


class GivenIdentities(Identities):
    """Takes every fact as another log identified it; that one has a single writer for each system at a time."""

    def __init__(self) -> None:
        super().__init__(lambda: "")

    def of(self, fact: Fact) -> tuple[str, int]:
        """Return the identity of *fact*. ValueError if it has none."""
        if fact.writer is None or fact.seq is None:
            raise ValueError("a fact without identity cannot be kept for another log: reserve one there")
        self._writers[fact.system] = fact.writer
        return fact.writer, fact.seq


_all: weakref.WeakSet[Identities] = weakref.WeakSet()


def _renew_all() -> None:
    for identities in list(_all):
        identities.renew()


os.register_at_fork(after_in_child=_renew_all)
