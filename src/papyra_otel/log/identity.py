"""Who writes, and the how-many-th fact it is: (writer, kind, seq) names a fact for ever."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable

from papyra_otel.facts import Fact, FactKind

__all__ = ["Identities"]


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

    def identified(self, fact: Fact) -> Fact:
        """Return *fact* with its identity, given now if it has none. ValueError if it is not from here."""
        if fact.writer is None:
            return fact.identified(*self.reserve(fact.system, fact.kind))
        if (
            fact.writer != self._writers.get(fact.system)
            or fact.seq is None
            or not 0 <= fact.seq < self._next_seq.get((fact.system, fact.kind), _NOTHING)[0]
        ):
            raise ValueError(
                f"{fact.writer}-{fact.kind}-{fact.seq} was not reserved from this log for system "
                f"{fact.system!r}; append the fact without writer and seq"
            )
        return fact

    def check(self, fact: Fact) -> None:
        """Raise ValueError if *fact* has an identity that was not reserved here."""
        if fact.writer is not None:
            self.identified(fact)

    def renew(self) -> None:
        """Forget all: new ids, sequences from 0."""
        self._lock = threading.Lock()
        self._writers.clear()
        self._next_seq.clear()


_all: weakref.WeakSet[Identities] = weakref.WeakSet()


def _renew_all() -> None:
    for identities in list(_all):
        identities.renew()


os.register_at_fork(after_in_child=_renew_all)
