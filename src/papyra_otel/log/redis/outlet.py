"""The Redis log's outlet: a consumer group, so that any number of processes on any number of hosts share the work.

What a consumer was given and has not acknowledged is claimed by another one when it was silent for ``CLAIM_SECONDS``. A
refused fact is noted in the quarantine stream, with the reason as its anomaly; the entry itself stays where it is.
"""

from __future__ import annotations

import os
import platform
import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final, cast

import msgspec
import redis

from papyra_otel.errors import LineDamaged, LogTooNew, LogUnavailable
from papyra_otel.facts import Fact
from papyra_otel.log.codec import decode, encode
from papyra_otel.log.outlet import Backlog, Batch, Item, Refusal, size_of
from papyra_otel.log.redis.address import Address
from papyra_otel.log.redis.deliveries import Delivery
from papyra_otel.log.redis.groups import Groups
from papyra_otel.log.redis.holders import Holder, holders_of
from papyra_otel.log.redis.keys import KINDS, EntryId, tag_of_key
from papyra_otel.log.redis.pages import line_of, parse_entries
from papyra_otel.log.redis.survey import Survey, as_map
from papyra_otel.log.redis.trouble import unavailable
from papyra_otel.log.redis.wire import Command, Reply, Wire

__all__ = ["CLAIM_SECONDS", "RedisOutlet"]

CLAIM_SECONDS: Final = 300.0  # longer than an orderly exit takes, and than a request that is answered
_LOOK_SECONDS = 30.0
_AT_ONCE = 200
_COUNT_PAGE = 10_000
_REFUSED_MAX = 1000


class RedisOutlet:
    """See ``Outlet``. *group* is the consumer group's name; this is one consumer in it."""

    shared = True

    def __init__(
        self,
        address: Address,
        wire: Wire,
        survey: Survey,
        groups: Groups,
        system: str | None,
        group: str,
        *,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._address = address
        self._wire = wire
        self._survey = survey
        self._groups = groups
        self._system = system
        self._group = group
        self._ticks = ticks
        self._begin()

    def _begin(self) -> None:
        self._consumer = f"{platform.node() or 'host'}-{os.getpid()}-{secrets.token_hex(4)}"
        self._held: deque[Delivery] = deque()  # given to us by the server, not in a batch yet
        self._given: list[Delivery] = []  # in the last batch
        self._owed: list[Delivery] = []  # delivered, and not acknowledged yet
        self._look_at = 0.0

    def acquire(self) -> None:
        """See Outlet. There is nothing to wait for."""

    def release(self) -> None:
        """See Outlet. What this consumer was given and did not deliver is for others when they claim it."""
        with suppress(LogUnavailable):
            self._acknowledge([])
            self._leave()
        self._begin()

    def abandon(self) -> None:
        """See Outlet. What the parent was given is the parent's."""
        self._begin()

    # --- being given ----------------------------------------------------------------------------------

    def next_batch(self, wanted: Callable[[Fact], bool], records_max: int, bytes_max: int) -> Batch:
        """See Outlet."""
        if not self._held:
            self._held.extend(self._fetched(min(records_max, _AT_ONCE)))
        items: list[Item] = []
        given: list[Delivery] = []
        size_bytes = 0
        while self._held and len(items) < records_max and size_bytes < bytes_max:
            delivery = self._held.popleft()
            given.append(delivery)
            fact = delivery.fact  # what is damaged is a scan's to tell; here it must only not be in the way
            if fact is not None and wanted(fact):
                items.append(Item(fact, lambda fact=fact, key=delivery.key: self._resource(key, fact)))  # type: ignore[misc]
                size_bytes += size_of(fact)
        self._given = given
        return Batch(items, len(given), given)

    def _fetched(self, count: int) -> list[Delivery]:
        now = self._ticks()
        if now >= self._look_at:
            left = self._groups.claim(self._group, self._consumer, idle_seconds=CLAIM_SECONDS, count=count)
            self._look_at = now if left else now + _LOOK_SECONDS
            if left:
                return left
        return self._groups.consume(self._group, self._consumer, count=count)

    def rewind(self) -> None:
        """See Outlet."""
        self._held.extendleft(reversed(self._given))
        self._given = []

    def rest(self) -> None:
        """See Outlet. There is nothing but a connection."""

    def done(self, batch: Batch) -> None:
        """See Outlet."""
        self._given = []
        self._acknowledge(batch.token)

    def _acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        self._owed.extend(deliveries)
        if self._owed:
            self._groups.ack(self._group, self._owed)
            self._owed = []

    # --- beside the streams ---------------------------------------------------------------------------

    def put_aside(self, refusals: Sequence[Refusal]) -> str:
        """See Outlet. Beyond a thousand entries in a quarantine the log alone has the facts."""
        by_uid = {delivery.uid: delivery for delivery in self._given}
        places: dict[str, None] = {}
        for refusal in refusals:
            delivery = by_uid.get(refusal.fact.uid)
            found = None if delivery is None else tag_of_key(self._address.prefix, delivery.key)
            if delivery is None or found is None:
                continue
            key = found[0].quarantine
            (length,) = self._send(key, [("XLEN", key)])
            if length >= _REFUSED_MAX:
                places[f"the log only, as {key} holds {length} entries already"] = None
                continue
            fields: list[object] = ["key", delivery.key, "id", delivery.id]
            fields += [
                "anomaly",
                f"refused: {refusal.error_type} {refusal.message}",
                "data",
                encode(refusal.fact),
            ]
            self._send(key, [("XADD", key, "*", *fields)])
            places[key] = None
        return ", ".join(places) or "the log only"

    def _resource(self, key: str, fact: Fact) -> Mapping[str, object] | None:
        found = tag_of_key(self._address.prefix, key)
        if found is None or fact.writer is None:
            return None
        place = found[0].resources
        try:
            (reply,) = self._wire.send(place, [("HGET", place, fact.writer)])
            told: object = msgspec.json.decode(reply) if isinstance(reply, bytes) else None
        except (LogUnavailable, msgspec.MsgspecError):
            return None
        return cast("dict[str, object]", told) if isinstance(told, dict) else None

    def _leave(self) -> None:
        """Take this consumer out of the groups where nothing is pending for it: there is one for each start."""
        for tag in self._survey.tags(self._system):
            for kind in KINDS:
                key = tag.stream(kind)
                (reply,) = self._wire.send(key, [("XPENDING", key, self._group, "-", "+", 1, self._consumer)])
                if reply == [] or reply is None:
                    self._wire.send(key, [("XGROUP", "DELCONSUMER", key, self._group, self._consumer)])

    # --- how much is left -----------------------------------------------------------------------------

    def begun(self) -> bool:
        """See Outlet. Whether the group is there."""
        keys = [tag.stream(kind) for tag in self._survey.tags(self._system) for kind in KINDS]
        return any(
            self._is_ours(holder)
            for key in keys
            for holder in holders_of(self._wire, key, self._address.shown)
        )

    def backlog(self) -> Backlog:
        """See Outlet. Entries that this group was not given, or has not acknowledged."""
        records, oldest = 0, None
        for tag in self._survey.tags(self._system):
            for kind in KINDS:
                left, first = self._left(tag.stream(kind))
                records += left
                oldest = first if oldest is None or (first is not None and first < oldest) else oldest
        return Backlog(records=records, oldest_unix_nano=oldest)

    def _left(self, key: str) -> tuple[int, int | None]:
        holders = [
            holder for holder in holders_of(self._wire, key, self._address.shown) if self._is_ours(holder)
        ]
        delivered = holders[0].delivered if holders else EntryId(0, 0)
        unread = self._count_after(key, delivered)
        pending = holders[0].pending if holders else 0
        first = holders[0].lowest if holders and holders[0].lowest is not None else delivered.next()
        return unread + pending, self._time_from(key, first) if unread + pending else None

    def _is_ours(self, holder: Holder) -> bool:
        return holder.name == self._group.encode()

    def _count_after(self, key: str, delivered: EntryId) -> int:
        """Count by the server's own arithmetic where it can (Redis 7), else entry by entry."""
        (info,) = self._wire.send(key, [("XINFO", "GROUPS", key)])
        for group in map(as_map, [] if isinstance(info, redis.RedisError) else cast("list[Reply]", info)):
            told: object = group.get(b"lag")
            if group.get(b"name") == self._group.encode() and isinstance(told, int):
                return told
        count, place = 0, delivered
        while True:
            (reply,) = self._send(key, [("XRANGE", key, f"({place}", "+", "COUNT", _COUNT_PAGE)])
            entries = parse_entries(reply)
            count += len(entries)
            if len(entries) < _COUNT_PAGE:
                return count
            place = entries[-1].id

    def _time_from(self, key: str, place: EntryId) -> int | None:
        (reply,) = self._send(key, [("XRANGE", key, str(place), "+", "COUNT", 1)])
        for entry in parse_entries(reply):
            line = line_of(entry)
            with suppress(LineDamaged, LogTooNew):
                return None if line is None else decode(line.removesuffix(b"\n")).time_unix_nano
        return None

    def _send(self, key: str, commands: Sequence[Command]) -> list[Reply]:
        replies = self._wire.send(key, commands)
        for reply in replies:
            if isinstance(reply, redis.RedisError):
                raise unavailable(self._address.shown, reply)
        return replies
