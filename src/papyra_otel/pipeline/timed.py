"""A log that tells how long its operations take, without slowing an actor down."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from time import perf_counter
from typing import Any

from papyra_otel.facts import Capabilities, Entry, Fact, FactKind, LogStats
from papyra_otel.log import FactLog
from papyra_otel.log.merge import Query
from papyra_otel.log.outlet import OUTLET, Outlet
from papyra_otel.log.retention import Retention
from papyra_otel.pipeline.upkeep import error_type_of
from papyra_otel.reports import Check, CompactionReport, ProgressCallback, RecoveryReport, ScanReport

__all__ = ["TimedLog"]

ONE_IN = 128


class TimedLog(FactLog):
    """Does what *log* does. *timed* is told of flushes, of one in 128 appends, and of all that fail.

    It is called with the operation, the seconds, and the error type ("" when it went well); it may be on an actor's
    path and must return at once. Where appending waits for the disk, that wait is a flush of its own.
    """

    def __init__(self, log: FactLog, timed: Callable[[str, float, str], None]) -> None:
        self._log = log
        self._timed = timed
        self._write = log.write
        self.reserve = log.reserve  # type: ignore[method-assign]  # one call less on an actor's path
        self._until_next = 1  # threads may count past each other: the share is about right, which is enough

    @property
    def capabilities(self) -> Capabilities:
        """See FactLog."""
        return self._log.capabilities

    def prepare(self) -> None:
        """See FactLog."""
        self._log.prepare()

    def reserve(self, system: str, kind: FactKind) -> tuple[str, int]:
        """See FactLog."""
        return self._log.reserve(system, kind)

    def append(self, facts: Sequence[Fact], /) -> None:
        """See FactLog."""
        begun = perf_counter()
        try:
            self._log.append(facts)
        except Exception as error:
            self._timed("append", perf_counter() - begun, error_type_of(error))
            raise
        if self._is_due():
            self._timed("append", perf_counter() - begun, "")

    def write(self, facts: Sequence[Fact], /) -> Callable[[], None] | None:
        """See FactLog."""
        begun = perf_counter()
        try:
            wait = self._write(facts)
        except Exception as error:
            self._timed("append", perf_counter() - begun, error_type_of(error))
            raise
        self._until_next -= 1  # as in _is_due, written out: this is an actor's path
        if self._until_next <= 0:
            self._until_next = ONE_IN
            self._timed("append", perf_counter() - begun, "")
        return None if wait is None else lambda: self._flush(wait)

    def _is_due(self) -> bool:
        self._until_next -= 1
        if self._until_next > 0:
            return False
        self._until_next = ONE_IN
        return True

    def _flush(self, flush: Callable[[], None]) -> None:
        begun = perf_counter()
        try:
            flush()
        except Exception as error:
            self._timed("flush", perf_counter() - begun, error_type_of(error))
            raise
        self._timed("flush", perf_counter() - begun, "")

    def flush(self) -> None:
        """See FactLog."""
        self._flush(self._log.flush)

    def select(self, query: Query) -> Iterator[Entry]:
        """See FactLog."""
        return self._log.select(query)

    def follow(self, **wanted: Any) -> Iterator[Entry]:
        """See FactLog."""
        return self._log.follow(**wanted)

    def stats(self) -> LogStats:
        """See FactLog."""
        return self._log.stats()

    def scan(
        self,
        progress: ProgressCallback | None = None,
        *,
        incremental: bool = False,
        seconds_max: float | None = None,
    ) -> ScanReport:
        """See FactLog."""
        return self._log.scan(progress, incremental=incremental, seconds_max=seconds_max)

    def remember(self) -> None:
        """See FactLog."""
        self._log.remember()

    def recover(
        self, mode: str = "quarantine", *, dry_run: bool = False, progress: ProgressCallback | None = None
    ) -> RecoveryReport:
        """See FactLog."""
        return self._log.recover(mode, dry_run=dry_run, progress=progress)

    def compact(
        self,
        retention: Retention | str | None = None,
        force: bool = False,
        *,
        dry_run: bool = False,
        progress: ProgressCallback | None = None,
    ) -> CompactionReport:
        """See FactLog."""
        return self._log.compact(retention, force, dry_run=dry_run, progress=progress)

    def preflight(self) -> tuple[Check, ...]:
        """See FactLog."""
        return self._log.preflight()

    def risks(self) -> tuple[Check, ...]:
        """See FactLog."""
        return self._log.risks()

    def outlet(self, name: str = OUTLET) -> Outlet:
        """See FactLog."""
        return self._log.outlet(name)

    def adopt(self, facts: Sequence[Fact], /) -> None:
        """See FactLog."""
        self._log.adopt(facts)

    def beat(self) -> None:
        """See FactLog."""
        self._log.beat()

    def seal(self) -> None:
        """See FactLog."""
        self._log.seal()

    def appended(self) -> dict[tuple[str, FactKind], tuple[int, int]]:
        """See FactLog."""
        return self._log.appended()

    def close(self) -> None:
        """See FactLog."""
        self._log.close()
