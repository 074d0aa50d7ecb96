"""What the ring cannot hold while a log behind a network is away goes to the disk, and from there to the log.

``log.file.spool`` keeps the facts and their order; here is what becomes known of it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import closing

from papyra_otel import semconv
from papyra_otel.errors import LogUnavailable
from papyra_otel.facts import Fact
from papyra_otel.log.file.spool import Spool
from papyra_otel.pipeline.counters import Counters

__all__ = ["Spill"]

_logger = logging.getLogger("papyra_otel")


class Spill:
    """A spool, with counts and a voice: each trouble is said once, and once that it is over.

    *active*: facts of this process may wait there, so none may overtake them. Its owner decides when and in what
    order facts come and go; see ``FactWriter``.
    """

    def __init__(self, spool: Spool, counters: Counters, *, backend: str) -> None:
        self._spool = spool
        self._counters = counters
        self._backend = backend
        self.after_fork_in_child(fork=False)

    def after_fork_in_child(self, *, fork: bool = True) -> None:
        """Begin with nothing: what waits is the parent's."""
        if fork:
            self._spool.after_fork_in_child()
        self.active: bool = False
        self.waiting: int = 0
        self._in_trouble = False

    @property
    def root(self) -> str:
        """The folder."""
        return self._spool.root

    def put(self, facts: Sequence[Fact]) -> bool:
        """Keep *facts* on the disk; say whether it could. Never raises."""
        try:
            self._spool.put(facts)
        except LogUnavailable as error:
            self._said(error)
            return False
        except Exception:
            if not self._in_trouble:
                _logger.exception("papyra_otel could not spill facts to %s", self.root)
            self._in_trouble = True
            return False
        if self._in_trouble:
            self._in_trouble = False
            _logger.warning("papyra_otel spills facts to %s again", self.root)
        self.waiting += len(facts)
        for (kind, system), count in Counter((fact.kind.value, fact.system) for fact in facts).items():
            self._counters.add(semconv.PERSISTENCE_SPILLED, (self._backend, kind, system), count)
        return True

    def drain(self, store: Callable[[list[Fact]], bool]) -> bool:
        """Hand what waits to *store*, in order, until it says no; say whether it never did. Never raises."""

        def stored(batch: list[Fact]) -> bool:
            if not store(batch):
                return False
            self.waiting = max(0, self.waiting - len(batch))
            return True

        return self._handed(self._spool.own(), stored)

    def drain_orphans(self, store: Callable[[list[Fact]], bool]) -> bool:
        """Hand on what processes that are gone left behind, as ``drain`` does."""
        count = 0

        def stored(batch: list[Fact]) -> bool:
            nonlocal count
            if not store(batch):
                return False
            count += len(batch)
            return True

        done = self._handed(self._spool.orphans(), stored)
        if count:
            _logger.warning("papyra_otel stored %d facts that earlier processes left in %s", count, self.root)
        return done

    def settle(self) -> None:
        """See whether facts still wait. Not while another thread may put some."""
        self.active = bool(self._spool)
        if not self.active:
            self.waiting = 0

    def size_bytes(self) -> int:
        """Return what all waiting facts take up, those of other processes included. Looks at every file's size."""
        return self._spool.size_bytes()

    def close(self) -> None:
        """Leave what waits to the next process. Never raises."""
        self._spool.close()

    def _handed(self, batches: Generator[list[Fact]], store: Callable[[list[Fact]], bool]) -> bool:
        try:
            with closing(batches):
                return all(store(batch) for batch in batches)
        except LogUnavailable as error:
            self._said(error)
            return False

    def _said(self, error: LogUnavailable) -> None:
        if not self._in_trouble:
            _logger.error("papyra_otel cannot use its spill: %s. Facts wait in memory only", error)
        self._in_trouble = True
