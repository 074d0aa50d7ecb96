"""Removing the hidden beginning of one stream: first looked at, then done, stretch by stretch, as often as needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import redis

from papyra_otel import semconv
from papyra_otel.errors import LogBusy
from papyra_otel.facts import FactKind
from papyra_otel.log.explained import parse_range
from papyra_otel.log.redis.holders import Holder, holders_of, pending_among
from papyra_otel.log.redis.keys import EntryId
from papyra_otel.log.redis.lock import UpkeepLock
from papyra_otel.log.redis.meta import HOLE
from papyra_otel.log.redis.scripts import run
from papyra_otel.log.redis.stretch import STRETCH_ENTRIES_MAX, Going, StreamHead, Stretch, explained_by
from papyra_otel.log.redis.survey import Site
from papyra_otel.log.redis.trouble import unavailable
from papyra_otel.log.redis.wire import Reply, Wire
from papyra_otel.reports import GroupHold, Skipped

__all__ = ["FORGET_SECONDS", "Headway", "Removal", "Tally", "forget_writers"]

FORGET_SECONDS: Final = 7 * 86_400
"""For how long a writer must have been silent, by the server's clock, to be taken out of the fence."""

_FORGOTTEN_AT_ONCE = 300
_NEWER = "holds lines of a newer version, which stay, and all that their writers wrote behind them"
_ASKED = (
    "consumer group {!r} came to need what was to go; it goes when the group has read and acknowledged it"
)


class Headway:
    """Runs the scripts of one compaction, and keeps the right to. Not thread-safe."""

    def __init__(
        self,
        wire: Wire,
        shown: str,
        lock: UpkeepLock | None,
        ticks: Callable[[], float],
        renew_seconds: float,
    ) -> None:
        self.wire = wire
        self.shown = shown
        self._lock = lock
        self._ticks = ticks
        self._renew_seconds = renew_seconds
        self._renewed = ticks()

    @property
    def token(self) -> str:
        """What the scripts know the right by; empty without one."""
        return "" if self._lock is None else self._lock.token

    def run(self, script: str, keys: list[str], arguments: list[Any]) -> Reply:
        """Run *script* and return its reply. Raises LogUnavailable, LogBusy when the right was lost."""
        if self._lock is not None and self._ticks() - self._renewed > self._renew_seconds:
            self._lock.renew()
            self._renewed = self._ticks()
        reply, _ = run(self.wire, script, keys, arguments)
        if isinstance(reply, redis.RedisError):
            raise unavailable(self.shown, reply)
        return reply


@dataclass(slots=True)
class Tally:
    """What goes, or went, of a stream: good facts, those of them that tell of earlier compactions, and bytes.

    *lows* are, by writer, the seq below which everything goes.
    """

    records: int = 0
    told: int = 0
    size_bytes: int = 0
    damaged: int = 0
    lows: dict[str, int] = field(default_factory=dict[str, int])

    def add(self, going: Going) -> None:
        """Count one more."""
        self.size_bytes += going.size_bytes
        if going.fact is None or going.writer is None:
            self.damaged += 1
            return
        seq = going.fact.seq or 0
        if seq >= self.lows.get(going.writer, 0):  # a second copy counts once
            self.lows[going.writer] = seq + 1
            self.records += 1
            self.told += going.fact.name == semconv.LOG_COMPACTED


class Removal:
    """What goes of one stream of one tag: of each writer, everything up to *floors*.

    Unless *force*, nothing goes from the first entry on that a consumer group still needs.
    """

    def __init__(
        self, headway: Headway, site: Site, kind: FactKind, floors: Mapping[str, EntryId], *, force: bool
    ) -> None:
        own = {fence.writer for fence in site.fence if fence.kind is kind and fence.records}
        self.kind = kind
        self.planned: Tally = Tally()
        self.done: Tally = Tally()
        self.holds: list[GroupHold] = []
        self.skipped: list[Skipped] = []
        self._headway = headway
        self._site = site
        self._force = force
        self._key = site.tag.stream(kind)
        self._floors = {writer: floor for writer, floor in floors.items() if writer in own}
        self._holders: list[Holder] = []
        self._dropped: set[EntryId] = set()  # of what was restored

    def nothing(self) -> Removal:
        """Return one that removes nothing, of the same stream."""
        nothing = Removal(self._headway, self._site, self.kind, {}, force=self._force)
        nothing.holds, nothing.skipped = self.holds, self.skipped
        return nothing

    @property
    def kept_in(self) -> tuple[str, ...]:
        """Where damaged entries are kept that went."""
        return (self._site.tag.quarantine,) if self.done.damaged else ()

    # --- looking --------------------------------------------------------------------------------------

    def look(self, read: Callable[[str, int], None]) -> None:
        """See what goes, and whom it would be missing for; *read* is told how many bytes were read where."""
        if not self._floors:
            return
        self._holders = holders_of(self._headway.wire, self._key, self._headway.shown)
        until = self._until()
        head = self._head(self._floors)
        missing: dict[bytes, list[int]] = {holder.name: [0, 0] for holder in self._holders}
        for stretch in head.stretches():
            for going in stretch.going:
                if until is None or going.id <= until:
                    self.planned.add(going)
            self._count_missing(stretch, missing)
            read(self._key, stretch.size_bytes)
        self.holds = [
            GroupHold(
                system=self._site.system,
                kind=self.kind,
                group=name.decode(errors="backslashreplace"),
                unread=unread,
                pending=pending,
                lost=self._force,
            )
            for name, (unread, pending) in missing.items()
            if unread or pending
        ]
        if head.newer:
            self.skipped.append(Skipped(place=self._key, reason=_NEWER))

    def _head(self, floors: Mapping[str, EntryId]) -> StreamHead:
        return StreamHead(self._headway.wire, self._headway.shown, self._site, self.kind, floors)

    def _until(self) -> EntryId | None:
        """Return the last entry that no group needs, nor any before it; None for no such limit."""
        return None if self._force else min((holder.free_until for holder in self._holders), default=None)

    def _count_missing(self, stretch: Stretch, missing: Mapping[bytes, list[int]]) -> None:
        ids = {going.id for going in stretch.going if not going.restored}
        if not ids:
            return
        for holder in self._holders:
            counts = missing[holder.name]
            counts[0] += sum(entry_id > holder.delivered for entry_id in ids)
            if holder.lowest is not None and holder.lowest <= max(ids):
                counts[1] += pending_among(
                    self._headway.wire, self._key, self._headway.shown, holder.name, ids
                )

    # --- removing -------------------------------------------------------------------------------------

    def steps(self, floors: Mapping[str, EntryId] | None = None) -> Iterator[None]:
        """Remove what was planned, as far as *floors* allow; yield after every script that removed something.

        Raises LogUnavailable, and LogBusy when somebody else took the upkeep over: what is done is done.
        """
        allowed = self._floors if floors is None else _lesser(self._floors, floors)
        until = self._until()
        head = self._head(allowed)
        for stretch in head.stretches() if allowed else ():
            if until is not None and stretch.after >= until:
                return
            going = [
                each
                for each in stretch.going
                if (until is None or each.id <= until) and not (each.restored and each.id in self._dropped)
            ]
            if not going:
                continue
            ends = self._ends(head, stretch, going, allowed, until)
            if not self._removed(stretch, going, ends):
                return
            for each in going:
                self.done.add(each)
            self._dropped.update(each.id for each in going if each.restored)
            yield

    @staticmethod
    def _ends(
        head: StreamHead,
        stretch: Stretch,
        going: list[Going],
        floors: Mapping[str, EntryId],
        until: EntryId | None,
    ) -> dict[str, EntryId]:
        """Return up to where each writer that something goes of now has nothing left."""
        last = {each.writer: each.id for each in going if each.writer is not None}
        end = stretch.until if until is None else min(stretch.until, until)
        return {
            writer: entry_id if writer in head.newer else min(floors[writer], end)
            for writer, entry_id in last.items()
        }

    def _removed(self, stretch: Stretch, going: list[Going], ends: Mapping[str, EntryId]) -> bool:
        tag = self._site.tag
        entries = [each for each in going if not each.restored]
        restored = [each.id for each in going if each.restored]
        holes = sorted(self._holes(going))
        arguments: list[Any] = [
            self.kind.value,
            self._headway.token,
            int(self._force),
            stretch.after,
            stretch.until,
            STRETCH_ENTRIES_MAX,
        ]
        arguments += [len(entries), *(part for each in entries for part in (each.id, each.anomaly))]
        arguments += [len(ends), *(part for writer, end in ends.items() for part in (writer, end))]
        arguments += [len(restored), *restored]
        arguments += [len(holes), *(part for hole in holes for part in (HOLE + hole, "compacted"))]
        sent = [str(each) if isinstance(each, EntryId) else each for each in arguments]
        reply = self._headway.run("remove", [self._key, tag.fence, tag.meta, tag.quarantine], sent)
        if reply[0] == b"lock":
            raise LogBusy(
                f"the upkeep of system {self._site.system!r} in {self._headway.shown} was taken over by another "
                f"process; what was removed until then stays removed, run it again for the rest"
            )
        if reply[0] == b"held":
            group = reply[1].decode(errors="backslashreplace")
            self.skipped.append(Skipped(place=self._key, reason=_ASKED.format(group)))
        return bool(reply[0] == b"ok")

    def _holes(self, going: list[Going]) -> Iterator[str]:
        """Yield what was explained by facts that go and may still have to be."""
        lows = {(fence.writer, fence.kind): fence.low for fence in self._site.fence}
        writers = {fence.writer for fence in self._site.fence}
        for fact in (each.fact for each in going):
            for hole in () if fact is None else explained_by(fact):
                if hole.writer in writers and hole.last >= lows.get((hole.writer, hole.kind), 0):
                    yield str(hole)


def _lesser(floors: Mapping[str, EntryId], others: Mapping[str, EntryId]) -> dict[str, EntryId]:
    return {writer: min(floor, others[writer]) for writer, floor in floors.items() if writer in others}


def forget_writers(headway: Headway, site: Site) -> None:
    """Take out of the fence whom nothing is left of and who was silent for long, and holes that lie below low marks."""
    kept = {fence.writer for fence in site.fence if fence.records}
    empty = sorted({fence.writer for fence in site.fence} - kept)
    gone: set[str] = set()
    for at in range(0, len(empty), _FORGOTTEN_AT_ONCE):
        some = empty[at : at + _FORGOTTEN_AT_ONCE]
        reply = headway.run("prune", [site.tag.fence, site.tag.meta], [FORGET_SECONDS * 1000, *some])
        gone.update(writer.decode() for writer in reply)
    if gone:
        headway.wire.send(site.tag.resources, [("HDEL", site.tag.resources, *sorted(gone))])
    lows = {(fence.writer, fence.kind): fence.low for fence in site.fence}
    holes = [(text, parse_range(text)) for text in site.meta.holes]
    past = [
        HOLE + text
        for text, hole in holes
        if hole is not None and (hole.writer in gone or hole.last < lows.get((hole.writer, hole.kind), 0))
    ]
    if past:
        (reply,) = headway.wire.send(site.tag.meta, [("HDEL", site.tag.meta, *past)])
        if isinstance(reply, redis.RedisError):
            raise unavailable(headway.shown, reply)
