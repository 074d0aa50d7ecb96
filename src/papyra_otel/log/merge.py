"""Reading many sources as one log: merge by time, filter, hide what retention hides, know the way back.

A *source* is what one writer wrote into one stream; each backend provides its own. Nothing here knows
where bytes come from.

What retention hides of a stream, here and nowhere else, for reading and for compaction alike:

1. Age hides a fact whose own time is too early, and no other.
2. Those left are put in order, newest first: by the earliest time among a fact and all that its writer wrote
   after it, so that a writer's own order is kept even where its clock stepped back.
3. In that order facts are shown until the limit in records or bytes is reached, the rest is hidden. The fact that
   reaches the limit in bytes is shown whole: did its own size decide, a smaller one behind it would come to
   light when it is removed.

Compaction may remove a hidden fact if all that its writer wrote before it is hidden too (``floors_of``): a prefix of
each writer's facts. Whether a fact is shown depends on itself and on shown facts that come before it in that order,
which in turn depends only on what writers wrote later than it. So taking away any such prefixes, all
or some, leaves the rest as it was: what is shown stays shown, and what is hidden stays hidden. While clocks only
go forward, hidden facts are such a prefix; where one stepped back, a hidden fact may stay stored for as long as
an earlier written one with a later time is shown.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import NamedTuple, Protocol

from papyra_otel.errors import ConfigError
from papyra_otel.facts import Entry, Fact, FactKind, LogStats, StreamStats
from papyra_otel.log.cursor import Position, Vector, parse_cursor
from papyra_otel.log.retention import KindRetention, Retention
from papyra_otel.log.times import unix_nano_of

__all__ = ["Expired", "Query", "Source", "Stored", "expired", "floors_of", "read_merged", "stats_of"]


class Stored(NamedTuple):
    """A good fact as found: its size in bytes with line end, and the position past it (before it, backward)."""

    fact: Fact
    size_bytes: int
    position: Position


class Source(Protocol):
    """One writer's facts of one kind and system. Skips damage; yields each identity once."""

    @property
    def id(self) -> str:
        """A name that is the same at every reading of the log."""
        ...

    @property
    def system(self) -> str:
        """The actor system."""
        ...

    @property
    def writer(self) -> str:
        """The writer's id."""
        ...

    @property
    def stream(self) -> str:
        """A name of the system and kind: what has the same is under one retention."""
        ...

    @property
    def kind(self) -> FactKind:
        """The kind of all its facts."""
        ...

    def forward(self, after: Position | None) -> Iterator[Stored]:
        """Yield from just past *after*, or from the beginning."""
        ...

    def backward(self, before: Position | None) -> Iterator[Stored]:
        """Yield in reverse from just before *before*, or from the end."""
        ...

    def turned(self, before: Position) -> Position:
        """Return the position for ``forward`` at the place that ``backward`` gave as *before*."""
        ...

    def order(self, position: Position) -> Position:
        """Return what *position* is compared by: greater is later, however the source was compacted since."""
        ...

    def end(self) -> Position:
        """Return the position for ``backward`` past the last fact."""
        ...

    def expired(self, oldest_unix_nano: int) -> Expired:
        """Return what ``expired`` does, if possible at less cost; then *records* may count damage too."""
        ...

    def totals(self) -> tuple[int, int]:
        """Return how many records and bytes there are; never fewer than *forward* would yield."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What a caller of ``read`` asked for, checked. Times in nanoseconds since the epoch."""

    kinds: frozenset[FactKind]
    since: int | None
    until: int | None
    actor: str | None
    name: str | None
    after: Mapping[str, Position] | None
    limit: int | None
    newest_first: bool

    @classmethod
    def of(
        cls,
        *,
        kinds: FactKind | Iterable[FactKind] | None,
        since: datetime | int | None,
        until: datetime | int | None,
        actor: str | None,
        name: str | None,
        after: str | None,
        limit: int | None,
        newest_first: bool,
    ) -> Query:
        """Check the arguments of ``FactLog.read``. Raises ConfigError."""
        if limit is not None and limit < 0:
            raise ConfigError(f"limit={limit} must be 0 or more")
        try:
            wanted = list(FactKind) if kinds is None else [kinds] if isinstance(kinds, str) else list(kinds)
            chosen = frozenset(FactKind(kind) for kind in wanted)
        except ValueError:
            raise ConfigError(f"kinds={kinds!r}: use {', '.join(kind.value for kind in FactKind)}") from None
        return cls(
            kinds=chosen,
            since=None if since is None else unix_nano_of(since),
            until=None if until is None else unix_nano_of(until),
            actor=actor,
            name=name,
            after=None if after is None else parse_cursor(after, newest_first=newest_first),
            limit=limit,
            newest_first=newest_first,
        )

    def matches(self, fact: Fact) -> bool:
        """Say whether *fact* is asked for."""
        return (
            (self.since is None or fact.time_unix_nano >= self.since)
            and (self.until is None or fact.time_unix_nano < self.until)
            and (self.actor is None or fact.actor == self.actor)
            and (self.name is None or fact.name == self.name)
        )


_Merged = tuple[int, int, int, Source, Stored]  # order key, source rank, step: the first three are unique


def read_merged(
    sources: Sequence[Source], query: Query, retention: Retention, now: Callable[[], int]
) -> Iterator[Entry]:
    """Yield the entries that *query* asks for from all *sources*. See ``FactLog.read``."""
    ranked = sorted(
        (source for source in sources if source.kind in query.kinds), key=lambda source: source.id
    )
    groups = list(_grouped(ranked))
    start_unix_nano = now()
    if query.newest_first:
        vector, merged = _backward(groups, query, retention, start_unix_nano)
    else:
        vector, merged = _forward(groups, query, retention, start_unix_nano)
    return _entries(vector, merged, query)


def stats_of(sources: Sequence[Source]) -> LogStats:
    """Return what is in *sources*. See ``FactLog.stats``."""
    return LogStats(
        streams={kind: _stream_stats([each for each in sources if each.kind is kind]) for kind in FactKind},
        systems=tuple(sorted({source.system for source in sources})),
        writers=len({source.writer for source in sources}),
    )


def _stream_stats(sources: Sequence[Source]) -> StreamStats:
    totals = [source.totals() for source in sources]
    firsts = [stored.fact.time_unix_nano for source in sources for stored in islice(source.forward(None), 1)]
    lasts = [stored.fact.time_unix_nano for source in sources for stored in islice(source.backward(None), 1)]
    return StreamStats(
        records=sum(records for records, _ in totals),
        bytes=sum(size for _, size in totals),
        oldest_unix_nano=min(firsts, default=None),
        newest_unix_nano=max(lasts, default=None),
    )


def _entries(vector: Vector, merged: Iterator[_Merged], query: Query) -> Iterator[Entry]:
    remaining = query.limit
    if remaining == 0:
        return
    for _, _, _, source, stored in merged:
        vector = vector.moved(source.id, stored.position)
        if not query.matches(stored.fact):
            continue
        yield Entry(stored.fact, _Cursor(vector, query.newest_first))
        if remaining is not None:
            remaining -= 1
            if remaining == 0:
                return


class _Cursor:
    __slots__ = ("_newest_first", "_vector")

    def __init__(self, vector: Vector, newest_first: bool) -> None:
        self._vector = vector
        self._newest_first = newest_first

    def __call__(self) -> str:
        return self._vector.render(newest_first=self._newest_first)


# --- groups: the sources of one stream, which share its retention -----------------------------------


@dataclass(frozen=True, slots=True)
class _Group:
    kind: FactKind
    members: list[tuple[int, Source]]


def _grouped(ranked: Sequence[Source]) -> Iterator[_Group]:
    groups: dict[str, _Group] = {}
    for rank, source in enumerate(ranked):
        group = groups.setdefault(source.stream, _Group(source.kind, []))
        group.members.append((rank, source))
    return iter(groups.values())


def _limited(group: _Group, limits: KindRetention) -> bool:
    """Say whether the stream is over its limits in records or bytes."""
    if limits.max_records is None and limits.max_bytes is None:
        return False
    totals = [source.totals() for _, source in group.members]
    return (
        limits.max_records is not None and sum(records for records, _ in totals) > limits.max_records
    ) or (limits.max_bytes is not None and sum(size for _, size in totals) > limits.max_bytes)


# --- oldest first ------------------------------------------------------------------------------------


def _forward(
    groups: Sequence[_Group], query: Query, retention: Retention, now: int
) -> tuple[Vector, Iterator[_Merged]]:
    after = dict(query.after or {})
    streams: list[Iterator[_Merged]] = []
    for group in groups:
        limits = retention.of(group.kind)
        oldest = limits.oldest_unix_nano(now)
        floors = _floors(group, limits, oldest)[0] if _limited(group, limits) else {}
        for rank, source in group.members:
            start, floor = after.get(source.id), floors.get(source.id)
            if start is None or (floor is not None and source.order(floor) > source.order(start)):
                start = floor
            streams.append(_ascending(rank, source, start, oldest))
    return Vector(after), _merge(streams)


def _ascending(rank: int, source: Source, start: Position | None, oldest: int | None) -> Iterator[_Merged]:
    key = 0  # only ever grows, so that a clock step cannot change a writer's own order
    for step, stored in enumerate(_parked(source.forward, start)):
        key = max(key, stored.fact.time_unix_nano)
        if oldest is None or stored.fact.time_unix_nano >= oldest:
            yield key, rank, step, source, stored


def _floors(
    group: _Group, limits: KindRetention, oldest: int | None, less_records: int = 0
) -> tuple[dict[str, Position], dict[str, Position]]:
    """Return where each source's visible part begins, for ``forward``; and where, with *less_records* fewer of them.

    The second is right only where there is no limit in bytes.
    """
    first_shown: dict[str, Position | None] = {}
    last_steps: deque[tuple[str, Position | None]] = deque(maxlen=less_records)
    records = 0
    for _, _, _, source, stored in _newest_within(group, limits, oldest):
        records += 1
        last_steps.append((source.id, first_shown.get(source.id)))
        first_shown[source.id] = stored.position

    def floors() -> dict[str, Position]:
        members = (source for _, source in group.members)
        return {source.id: source.turned(first_shown.get(source.id) or source.end()) for source in members}

    whole = floors()
    for _ in range(records - (limits.max_records or records) + less_records):
        if last_steps:
            source_id, before = last_steps.pop()
            first_shown[source_id] = before
    return whole, floors()


# --- what is hidden, for compaction ------------------------------------------------------------------


class Expired(NamedTuple):
    """What the age limit hides at the beginning of a source: up to the first fact that is young enough.

    *position* is past it, for ``forward``; None when nothing is hidden. *latest_unix_nano* is the latest
    time hidden, *next_unix_nano* that of the first fact behind.
    """

    position: Position | None
    records: int
    latest_unix_nano: int | None
    next_unix_nano: int | None


def expired(
    source: Source, oldest_unix_nano: int, after: Position | None = None, known: Expired | None = None
) -> Expired:
    """Return the longest beginning of *source* of which every fact is earlier than *oldest_unix_nano*.

    Of what comes before *after*, *known* is told already.
    """
    position, records, latest, _ = known or Expired(None, 0, None, None)
    for stored in source.forward(after):
        moment = stored.fact.time_unix_nano
        if moment >= oldest_unix_nano:
            return Expired(position, records, latest, moment)
        position = stored.position
        latest = moment if latest is None else max(latest, moment)
        records += 1
    return Expired(position, records, latest, None)


def floors_of(
    sources: Sequence[Source],
    limits: KindRetention,
    now: int,
    less_records: int = 0,
) -> tuple[dict[str, Position], dict[str, Position] | None]:
    """Return, for *sources* of one stream, a position in each before which everything is hidden.

    A source that is left out has nothing hidden at its beginning. The second is the same for *less_records* fewer
    than the limit in records, if that came up on the way.
    """
    ranked = sorted(sources, key=lambda source: source.id)
    oldest = limits.oldest_unix_nano(now)
    for group in _grouped(ranked):  # one at most
        if _limited(group, limits):
            floors, reduced = _floors(group, limits, oldest, less_records)
            return floors, reduced if limits.max_bytes is None else None
        if oldest is not None:
            hidden = ((source, source.expired(oldest)) for _, source in group.members)
            floors = {source.id: each.position for source, each in hidden if each.position is not None}
            return floors, floors if limits.max_records is limits.max_bytes is None else None
    return {}, None


# --- newest first ------------------------------------------------------------------------------------


def _backward(
    groups: Sequence[_Group], query: Query, retention: Retention, now: int
) -> tuple[Vector, Iterator[_Merged]]:
    # Every source known now gets a position, so that one born later is known to be newer than the cursor.
    given = query.after
    base: dict[str, Position] = {}
    streams: list[Iterator[_Merged]] = []
    for group in groups:
        members = [(rank, source) for rank, source in group.members if given is None or source.id in given]
        starts = {source.id: source.end() if given is None else given[source.id] for _, source in members}
        base.update(starts)
        limits = retention.of(group.kind)
        oldest = limits.oldest_unix_nano(now)
        if _limited(group, limits):
            streams.append(_before(starts, _newest_within(group, limits, oldest)))
        else:
            merged = _merge([_descending(rank, source, starts[source.id]) for rank, source in members])
            streams.append(_not_older(oldest, merged))
    return Vector(base), _merge(streams)


def _before(starts: Mapping[str, Position], merged: Iterator[_Merged]) -> Iterator[_Merged]:
    """Keep what lies before its source's start; a source without one is newer than the cursor."""
    for item in merged:
        _, _, _, source, stored = item
        if source.id in starts and source.order(stored.position) < source.order(starts[source.id]):
            yield item


def _not_older(oldest: int | None, merged: Iterator[_Merged]) -> Iterator[_Merged]:
    return merged if oldest is None else (item for item in merged if item[4].fact.time_unix_nano >= oldest)


def _descending(rank: int, source: Source, before: Position | None) -> Iterator[_Merged]:
    key: int | None = None
    for step, stored in enumerate(_parked(source.backward, before)):
        key = stored.fact.time_unix_nano if key is None else min(key, stored.fact.time_unix_nano)
        yield -key, -rank, step, source, stored


def _newest_within(group: _Group, limits: KindRetention, oldest: int | None) -> Iterator[_Merged]:
    """Yield what is shown of the stream, newest first: see the beginning of this module."""
    size_bytes = 0
    newest_first = _not_older(
        oldest, _merge([_descending(rank, source, None) for rank, source in group.members])
    )
    for records, item in enumerate(newest_first, start=1):
        if limits.max_records is not None and records > limits.max_records:
            return
        if limits.max_bytes is not None and size_bytes >= limits.max_bytes:
            return
        size_bytes += item[4].size_bytes
        yield item


def _parked(walk: Callable[[Position | None], Iterator[Stored]], start: Position | None) -> Iterator[Stored]:
    """Walk from *start*, holding nothing open while only the first fact was asked for.

    A merge asks every source for its first fact at once, and there is one for each start of a process.
    """
    walking = walk(start)
    first = next(walking, None)
    del walking  # closes what it has open
    if first is None:
        return
    yield first
    for stored in walk(first.position):
        if stored.fact.seq != first.fact.seq:  # stored twice
            yield stored


def _merge(streams: Sequence[Iterator[_Merged]]) -> Iterator[_Merged]:
    return streams[0] if len(streams) == 1 else heapq.merge(*streams)
