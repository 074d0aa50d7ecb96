"""What every log promises. The docstrings are the contract; ``papyra_otel.testing`` holds its tests."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import TypeVar

from papyra_otel.errors import NotSupported
from papyra_otel.facts import Capabilities, Entry, Fact, FactKind, LogStats
from papyra_otel.log.following import POLL_SECONDS, followed
from papyra_otel.log.merge import Query
from papyra_otel.log.outlet import OUTLET, Outlet
from papyra_otel.log.retention import Retention
from papyra_otel.reports import Check, CompactionReport, ProgressCallback, RecoveryReport, ScanReport

__all__ = ["FactLog", "LogOptions", "Lost", "Mark"]

_Log = TypeVar("_Log", bound="FactLog")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What a log wrote about itself while writing: a segment opened (``papyra.log.opened``) or sealed."""

    name: str
    system: str
    kind: FactKind
    writer: str
    seq: int
    time_unix_nano: int
    attributes: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """Facts that ``append`` returned for and that the log lost for good: seqs *first* to *last*, both included."""

    system: str
    writer: str
    kind: FactKind
    first: int
    last: int
    error_type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LogOptions:
    """What a process that writes may choose beyond the URL. A backend ignores what does not concern it.

    *fsync* is ``never`` (only ``flush`` forces, and not what was sealed before), ``interval`` (every
    *fsync_interval_seconds*, in the background) or ``always`` (before ``append`` returns). *on_mark* is told
    of every segment that was opened or sealed, while the log is locked: it may only take note. So is *on_lost* of
    facts that the log acknowledged and then lost; without it the next ``flush`` raises LogUnavailable for them, once.
    *resource* returns what identifies this process to others (OTel resource attributes); it is stored with what is
    written, so that facts can be delivered later by another process. It is called while the log is locked, too.
    """

    fsync: str = "interval"
    fsync_interval_seconds: float = 0.2
    on_mark: Callable[[Mark], None] | None = None
    on_lost: Callable[[Lost], None] | None = None
    resource: Callable[[], Mapping[str, object]] | None = None


class FactLog(ABC):
    """An append-only log of facts. Any thread may call anything; nothing stored ever changes.

    Facts form one stream per system and kind. Each process start writes as a *writer* of its own (per
    system; a forked child is a new one); within a stream, one writer's facts carry ``seq`` 0, 1, 2, ...
    and keep that order for ever. After ``close``, ``prepare``, ``append``, ``read``, ``stats`` and ``flush`` raise
    LogUnavailable; the rest goes on answering, so that what was lost can still be named and counted.
    """

    @property
    @abstractmethod
    def capabilities(self) -> Capabilities:
        """What this backend can do."""

    @abstractmethod
    def prepare(self) -> None:
        """Make ready for writing (create the folder, connect), or raise LogUnavailable with the remedy.

        Raises LogTooNew when a newer version writes there: appending is safe then, reading is not possible.
        """

    @abstractmethod
    def reserve(self, system: str, kind: FactKind) -> tuple[str, int]:
        """Return the next (writer, seq) of a stream. Cheap, never fails.

        Whoever reserves must append a fact with it, in the order of reserving, or explain the hole with
        a ``papyra.fact.dropped`` fact: a hole proves loss.
        """

    @abstractmethod
    def append(self, facts: Sequence[Fact], /) -> None:
        """Store all of *facts* in order, each in the stream of its own system and kind, or raise LogUnavailable.

        A fact without identity is given the next one. A fact with one must have it from ``reserve`` of
        this log, for that system and kind (otherwise ValueError, and nothing is stored). After LogUnavailable
        some may be stored: append all of them again, with the same identity and before any later ones, and
        readers will see each once. (Who wants to try again must reserve: an identity that was given here and
        not stored leaves a hole.) On return every later ``read``, from any process that can reach the log,
        sees them; how much of a machine's crash they survive is the backend's durability.
        """

    def write(self, facts: Sequence[Fact], /) -> Callable[[], None] | None:
        """Do what ``append`` does except wait for the disk; return that wait if there is one, for whoever holds a lock.

        Raises as ``append``; so does the wait, with the facts kept by the log: append them again, or not.
        """
        self.append(facts)
        return None

    def read(
        self,
        *,
        kinds: FactKind | Iterable[FactKind] | None = None,
        since: datetime | int | None = None,
        until: datetime | int | None = None,
        actor: str | None = None,
        name: str | None = None,
        after: str | None = None,
        limit: int | None = None,
        newest_first: bool = False,
    ) -> Iterator[Entry]:
        """Yield entries by time, each writer's own order kept, skipping damage and what retention hides.

        Oldest first by default; *newest_first* is the exact reverse of the same facts. (Unless a writer's
        clock stepped back: its facts keep their order, but their place among other writers' may then differ.)
        *since* is included, *until* is not; ints are nanoseconds since the epoch.

        *after* is the cursor of an entry read with the same *kinds* and *newest_first* (ConfigError if the
        direction differs): reading resumes just past it. Oldest first it misses nothing that was appended
        since, by any writer, however early its time; newest first it goes on to what is older.

        A fact stored twice with the same identity is yielded once in one reading. What is appended while
        reading may be seen or not. Raises ConfigError for wrong arguments, LogUnavailable when the log cannot
        be reached, LogTooNew when a newer version wrote it. Memory does not grow with the number of facts.
        """
        return self.select(
            Query.of(
                kinds=kinds,
                since=since,
                until=until,
                actor=actor,
                name=name,
                after=after,
                limit=limit,
                newest_first=newest_first,
            )
        )

    @abstractmethod
    def select(self, query: Query) -> Iterator[Entry]:
        """Do what ``read`` promises for a *query* that was checked; ``merge.read_merged`` does most of it."""

    def follow(
        self,
        *,
        kinds: FactKind | Iterable[FactKind] | None = None,
        since: datetime | int | None = None,
        actor: str | None = None,
        name: str | None = None,
        after: str | None = None,
        wait: Callable[[float], object] = time.sleep,
    ) -> Iterator[Entry]:
        """Yield what ``read`` would, oldest first, then what is appended from then on, as it comes.

        When there is nothing new, *wait* is called: with the seconds until the log is asked again, or with 0, now and
        then, by a log that learns by itself what is new. Following ends when *wait* returns False, and with what it
        raises. A fact is yielded once; *after* any entry it can go on later. Raises as ``read``.
        """
        query = Query.of(
            kinds=kinds,
            since=since,
            until=None,
            actor=actor,
            name=name,
            after=after,
            limit=None,
            newest_first=False,
        )
        return self._followed(query, after, wait)

    def _followed(self, query: Query, after: str | None, wait: Callable[[float], object]) -> Iterator[Entry]:
        """Do what ``follow`` promises for a *query* that was checked; here by asking again and again."""
        return followed(
            lambda cursor: self.read(kinds=query.kinds, after=cursor),
            query,
            after,
            lambda: wait(POLL_SECONDS) is not False,
        )

    @abstractmethod
    def stats(self) -> LogStats:
        """Return what is stored now, facts hidden by retention included. Raises as ``read``.

        Counts lines, not verified facts: only a scan tells what is damaged. The oldest and newest times are
        those of each writer's first and last fact.
        """

    # --- looking after it ---------------------------------------------------------------------------

    def scan(
        self,
        progress: ProgressCallback | None = None,
        *,
        incremental: bool = False,
        seconds_max: float | None = None,
    ) -> ScanReport:
        """Look at every stored byte and tell what is not as it should be. Never writes; safe while writers run.

        *incremental* passes over what ``remember`` kept and was not changed since; with *seconds_max* it stops
        reading after that time, oldest left for last, and says how much is unread. *progress* is called now and
        then, in this thread; what it raises ends the scan. Raises LogUnavailable when the log cannot be reached
        (a part that cannot be read is an anomaly), NotSupported.
        """
        raise self._not_supported("scan")

    def remember(self) -> None:
        """Keep what the last scan by this object found sound, for later incremental scans. Never raises."""
        return

    def recover(
        self, mode: str = "quarantine", *, dry_run: bool = False, progress: ProgressCallback | None = None
    ) -> RecoveryReport:
        """Take damage out of the way of readers, losing no good record and no damaged byte.

        *mode* ``quarantine`` moves damaged bytes aside, ``repair`` first corrects what can be corrected
        beyond doubt, ``ignore`` only looks. Deterministic, idempotent; a crash at any step leaves what a later
        run finishes. Only what no living writer writes to is touched. A run that changes something is recorded
        as a ``papyra.log.recovered`` fact. Raises LogUnavailable, LogBusy, NotSupported; ConfigError for *mode*.
        """
        raise self._not_supported("recover")

    def compact(
        self,
        retention: Retention | str | None = None,
        force: bool = False,
        *,
        dry_run: bool = False,
        progress: ProgressCallback | None = None,
    ) -> CompactionReport:
        """Remove what retention hides (by default, the retention the log was opened with).

        What ``read`` yields is the same before, after, and in between; appends never wait. Recorded first as
        a ``papyra.log.compacted`` fact. Raises CompactionRefused when a wrong clock would expire most of the
        log and not *force*; LogUnavailable, LogBusy, NotSupported, ConfigError.
        """
        raise self._not_supported("compact")

    def preflight(self) -> tuple[Check, ...]:
        """Look whether this process could record here, and for how long: permissions, space, what else is going on.

        Never raises for what it finds, creates no log, and leaves none changed. Nothing to tell by default.
        """
        return ()

    def risks(self) -> tuple[Check, ...]:
        """Tell what could lose acknowledged facts without a word, such as a server's settings.

        Raises LogUnavailable when the log cannot be reached. Nothing to tell by default.
        """
        return ()

    # --- delivering it ------------------------------------------------------------------------------

    def outlet(self, name: str = OUTLET) -> Outlet:
        """Return the outlet *name*: where facts come out to be delivered, and the note of how far that is.

        Every system's facts, or those of the system the log was opened for. Raises ConfigError for *name*,
        NotSupported.
        """
        raise self._not_supported("deliver facts")

    # --- between writers ----------------------------------------------------------------------------

    def adopt(self, facts: Sequence[Fact], /) -> None:
        """Store facts that other writers of this log, ended by now, identified and could not store. Each once.

        Whoever adopts sees to the order: a fact is taken for stored when a later one of the same writer and kind is.
        Raises as ``append``; ValueError for a fact without identity; NotSupported.
        """
        raise self._not_supported("adopt facts")

    def beat(self) -> None:
        """Show others that this process still writes, where only signs of life tell that. Never raises."""
        return

    def _not_supported(self, verb: str) -> NotSupported:
        return NotSupported(f"the {self.capabilities.backend} log cannot {verb}; see log.capabilities")

    def seal(self) -> None:
        """End in an orderly way what is open for writing; a later append begins anew. Never raises."""
        return

    @abstractmethod
    def appended(self) -> dict[tuple[str, FactKind], tuple[int, int]]:
        """Return (records, bytes) that this process appended since opening, by system and kind. Takes no lock."""

    @abstractmethod
    def flush(self) -> None:
        """Force what was appended to where it survives a power cut, or raise LogUnavailable.

        Also raises, once, when forcing in the background failed for facts that could not be written again.
        """

    @abstractmethod
    def close(self) -> None:
        """Flush, seal, and give up every resource. Closing twice is closing once. Never raises."""

    def __enter__(self: _Log) -> _Log:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
