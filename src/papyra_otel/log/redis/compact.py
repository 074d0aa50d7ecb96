"""Compacting: removing what retention hides already, so that every state in between reads the same.

Per system, over all its shards: see what is hidden, leave what consumer groups still need, record what is about to
happen (``papyra.log.compacted``, with a low mark per writer and kind), and only then remove, from the head of each
stream, about 1,000 entries at a time, each time with its accounts in one script (``remove.lua``). A crash before
the record leaves all as it was, one after it leaves hidden facts that the next compaction removes. Appends go on;
nothing appended since is looked at.

When the server has no memory left even for the record, as much is removed first as makes room for it. In the end
writers of which nothing is left for long are forgotten (``prune.lua``).
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Final, Protocol

from papyra_otel.errors import LogTooNew, LogUnavailable
from papyra_otel.facts import Fact, FactKind
from papyra_otel.log.codec import encode
from papyra_otel.log.compaction import compacted_facts, refuse_wrong_clock
from papyra_otel.log.merge import floors_of
from papyra_otel.log.redis.address import Address
from papyra_otel.log.redis.fence import field_of
from papyra_otel.log.redis.keys import KINDS, EntryId
from papyra_otel.log.redis.lock import UPKEEP_SECONDS, UpkeepLock
from papyra_otel.log.redis.removal import Headway, Removal, forget_writers
from papyra_otel.log.redis.source import RedisSource
from papyra_otel.log.redis.survey import Site, Survey
from papyra_otel.log.redis.wire import Wire
from papyra_otel.log.retention import Retention
from papyra_otel.reports import (
    CompactionReport,
    GroupHold,
    Progress,
    ProgressCallback,
    Skipped,
    StreamCompaction,
)

__all__ = ["Record", "compact_log"]

_LONGEST_SEQ: Final = 2**63 - 1
_NO_ROOM = "the server has no memory for the fact about this compaction, even now: raise maxmemory"
_ROOM_FIRST = (
    "the server had no memory for the fact about this compaction: some of what it tells of went before it"
)


class Record(Protocol):
    """Appends facts about the log.

    While the server has no memory it calls *make_room* and tries again, with the same identities, for as long as
    that returns True.
    """

    def __call__(self, facts: Sequence[Fact], make_room: Callable[[], bool]) -> tuple[Fact, ...]:
        """Return the facts with their identities. Raises LogUnavailable."""
        ...


def compact_log(
    address: Address,
    wire: Wire,
    system: str | None,
    clock: Callable[[], int],
    limits: Retention,
    *,
    force: bool = False,
    dry_run: bool = False,
    progress: ProgressCallback | None = None,
    record: Record,
    ticks: Callable[[], float] = time.monotonic,
) -> CompactionReport:
    """Compact the log of *system*, or all. See ``FactLog.compact``; *ticks* are seconds of a clock that never steps."""
    begun, now = ticks(), clock()
    survey = Survey(address, wire)
    with ExitStack() as locks:
        tags = survey.tags(system)
        lock = None if dry_run else locks.enter_context(UpkeepLock(wire, address.shown, tags))
        by_system: defaultdict[str, list[Site]] = defaultdict(list)
        for site in map(survey.site, tags):
            by_system[site.system].append(site)
        headway = Headway(wire, address.shown, lock, ticks, UPKEEP_SECONDS / 3)
        meter = _Meter(progress)
        systems = [
            _System(survey, headway, sites, limits, now, force=force, meter=meter)
            for _, sites in sorted(by_system.items())
        ]
        if not force:
            for each in systems:
                each.refuse_wrong_clock()
        for each in systems:
            each.plan()
        recorded = [] if dry_run else [fact for each in systems for fact in each.carry_out(record)]
        return CompactionReport(
            dry_run=dry_run,
            streams=tuple(stream for each in systems for stream in each.streams(done=not dry_run)),
            skipped=tuple(skipped for each in systems for skipped in each.skipped()),
            kept_in=tuple(place for each in systems for place in each.kept_in()),
            recorded=tuple(recorded),
            groups=tuple(hold for each in systems for hold in each.groups()),
            duration_seconds=ticks() - begun,
        )


class _Meter:
    """Tells how far reading is."""

    def __init__(self, progress: ProgressCallback | None) -> None:
        self._progress = progress
        self._done_bytes = 0
        self.total_bytes = 0

    def read(self, place: str, size_bytes: int) -> None:
        self._done_bytes += size_bytes
        if self._progress is not None and size_bytes:
            total = max(self.total_bytes, self._done_bytes)
            self._progress(Progress(done_bytes=self._done_bytes, total_bytes=total, place=place))


_Floors = Mapping[str, EntryId]  # by writer: everything up to there is hidden


class _System:
    """One system's part of a compaction: all its shards."""

    def __init__(
        self,
        survey: Survey,
        headway: Headway,
        sites: Sequence[Site],
        limits: Retention,
        now: int,
        *,
        force: bool,
        meter: _Meter,
    ) -> None:
        self._survey = survey
        self._headway = headway
        self._sites = sites
        self._limits = limits
        self._now = now
        self._force = force
        self._meter = meter
        self._system = sites[0].system
        self._skipped: list[Skipped] = []
        self._safe: dict[FactKind, _Floors] = {}  # hidden for sure, whatever is recorded now
        self._removals: dict[FactKind, list[Removal]] = {}

    # --- deciding -------------------------------------------------------------------------------------

    def _sources(self, kind: FactKind, sites: Sequence[Site] | None = None) -> list[RedisSource]:
        return [source for site in sites or self._sites for source in self._survey.sources_at(site, [kind])]

    def refuse_wrong_clock(self) -> None:
        """Raise CompactionRefused where the clock may be why most would go."""
        sources = [source for kind in KINDS for source in self._sources(kind)]
        refuse_wrong_clock(sources, self._limits, self._now)

    def plan(self) -> None:
        """See what can go, leaving room among the events for the facts that tell of it."""
        for kind in KINDS:
            self._safe[kind] = self._floors(self._sources(kind), self._limits)
            self._decide(kind, self._safe[kind])
        told = self._telling()
        if not told:
            self._removals = {
                kind: [each.nothing() for each in some] for kind, some in self._removals.items()
            }
        events = self._limits.of(FactKind.EVENT)
        if told and (events.max_records, events.max_bytes) != (None, None):
            size_bytes = sum(len(encode(fact.identified("0" * 16, _LONGEST_SEQ))) for fact in told)
            rest = replace(
                events,
                max_records=None if events.max_records is None else max(events.max_records - len(told), 0),
                max_bytes=None if events.max_bytes is None else max(events.max_bytes - size_bytes, 0),
            )
            limits = Retention({**self._limits.by_kind, FactKind.EVENT: rest})
            self._decide(FactKind.EVENT, self._floors(self._sources(FactKind.EVENT), limits))

    def _floors(self, sources: Sequence[RedisSource], limits: Retention) -> _Floors:
        if not sources or limits.of(sources[0].kind).unlimited:
            return {}
        kind = sources[0].kind
        try:
            floors, _ = floors_of(sources, limits.of(kind), self._now)
        except LogTooNew as error:
            self._skipped.append(Skipped(place=self._place(kind), reason=str(error)))
            return {}
        return {source.writer: EntryId.of(floors[source.id]) for source in sources if source.id in floors}

    def _decide(self, kind: FactKind, floors: _Floors) -> None:
        """Work out what goes of the streams of *kind*, in all shards."""
        removals = [Removal(self._headway, site, kind, floors, force=self._force) for site in self._sites]
        for removal in removals:
            removal.look(self._meter.read)
        self._removals[kind] = removals

    def _all(self) -> list[Removal]:
        return [removal for kind in KINDS for removal in self._removals.get(kind, [])]

    # --- telling --------------------------------------------------------------------------------------

    def _telling(self) -> list[Fact]:
        """Return the facts that say what is about to go; none when it is not worth it.

        Facts of earlier compactions alone are not: each time would leave one for the next time.
        """
        plans = [removal.planned for removal in self._all()]
        if sum(plan.records - plan.told for plan in plans) == 0:
            return []
        marks = {
            field_of(writer, removal.kind): low
            for removal in self._all()
            for writer, low in removal.planned.lows.items()
        }
        return compacted_facts(
            self._system,
            self._now,
            low_marks=[f"{field}-{low}" for field, low in sorted(marks.items())],
            explained=(),  # what is missing is remembered beside the streams
            records=sum(plan.records for plan in plans),
            size_bytes=sum(plan.size_bytes for plan in plans),
        )

    # --- doing ----------------------------------------------------------------------------------------

    def carry_out(self, record: Record) -> tuple[Fact, ...]:
        """Record, remove, forget. Return what was recorded."""
        recorded = self._recorded(record, self._telling())
        for removal, floors in self._allowed():
            for _ in removal.steps(floors):
                pass
        for site in self._sites:
            forget_writers(self._headway, self._survey.site(site.tag))
        return recorded

    def _recorded(self, record: Record, facts: Sequence[Fact]) -> tuple[Fact, ...]:
        if not facts:
            return ()
        room, steps = self._room(), 0

        def make_room() -> bool:
            nonlocal steps
            made = next(room, False)
            steps += made
            return made

        try:
            recorded = record(facts, make_room)
        except LogUnavailable as error:
            if error.error_type != "oom":
                raise
            self._skipped.append(Skipped(place=self._place(FactKind.EVENT), reason=_NO_ROOM))
            return ()
        if steps:
            self._skipped.append(Skipped(place=self._place(FactKind.EVENT), reason=_ROOM_FIRST))
        return recorded

    def _room(self) -> Iterator[bool]:
        """Remove little by little what is hidden whether the fact is recorded or not; yield True each time."""
        for kind in sorted(KINDS, key=lambda kind: kind is FactKind.EVENT):
            for removal in self._removals[kind]:
                for _ in removal.steps(self._safe[kind]):
                    yield True

    def _allowed(self) -> Iterator[tuple[Removal, _Floors | None]]:
        """Yield what is to be removed, and how far: what turns out to be visible now stays.

        Room was left as for the newest event of all, of the greatest length it can have. It is not the newest
        where a clock is behind, and may be shorter.
        """
        for kind in KINDS:
            limits = self._limits.of(kind)
            floors: _Floors | None = None
            if kind is FactKind.EVENT and (limits.max_records, limits.max_bytes) != (None, None):
                fresh = self._survey.sites(self._system)  # the fact may be the first of its shard
                floors = self._floors(self._sources(kind, fresh), self._limits)
            for removal in self._removals[kind]:
                yield removal, floors

    def _place(self, kind: FactKind) -> str:
        return f"{kind.plural}/{self._system}"

    # --- reporting ------------------------------------------------------------------------------------

    def streams(self, *, done: bool) -> Iterator[StreamCompaction]:
        """Yield what was (*done*), or would be, removed of each stream that has limits."""
        for kind in KINDS:
            total = sum(fence.records for site in self._sites for fence in site.fence if fence.kind is kind)
            tallies = [each.done if done else each.planned for each in self._removals[kind]]
            if self._limits.of(kind).unlimited or not total:
                continue
            removed = sum(tally.records for tally in tallies)
            yield StreamCompaction(
                system=self._system,
                kind=kind,
                records_removed=removed,
                records_kept=max(total - removed, 0),
                bytes_freed=sum(tally.size_bytes for tally in tallies),
            )

    def skipped(self) -> Iterator[Skipped]:
        """Yield what was left, and why."""
        yield from dict.fromkeys([*self._skipped, *(each for one in self._all() for each in one.skipped)])

    def kept_in(self) -> Iterator[str]:
        """Yield where damaged entries are kept."""
        yield from dict.fromkeys(place for removal in self._all() for place in removal.kept_in)

    def groups(self) -> Iterator[GroupHold]:
        """Yield what consumer groups needed, or lost."""
        totals: dict[tuple[FactKind, str], GroupHold] = {}
        for hold in (hold for removal in self._all() for hold in removal.holds):
            known = totals.get((hold.kind, hold.group))
            totals[hold.kind, hold.group] = (
                hold
                if known is None
                else replace(known, unread=known.unread + hold.unread, pending=known.pending + hold.pending)
            )
        yield from totals.values()
