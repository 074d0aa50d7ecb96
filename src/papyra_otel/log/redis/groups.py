"""Consumer groups: several programs share the work of handling every fact, each at least once.

A group exists on every stream of the log, made there when a stream is first seen. What a group was given and has
not acknowledged is *pending* with the consumer that was given it; another may *claim* it when that one is gone.
Compaction leaves what a group still needs (``holders``), unless forced.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import redis

from papyra_otel.errors import ConfigError
from papyra_otel.facts import FactKind
from papyra_otel.log.redis.address import Address
from papyra_otel.log.redis.arrivals import LISTEN_SECONDS_MAX, together
from papyra_otel.log.redis.deliveries import Delivery, Pending, decoded
from papyra_otel.log.redis.keys import KINDS, EntryId, Tag
from papyra_otel.log.redis.meta import RESTORED
from papyra_otel.log.redis.pages import StoredEntry, line_of, parse_entries
from papyra_otel.log.redis.survey import Survey
from papyra_otel.log.redis.trouble import unavailable
from papyra_otel.log.redis.wire import Command, Reply, Wire

__all__ = ["Groups"]

_REMOVED: Final = (
    "removed: the entry is gone, compacted by force or deleted by others before it was acknowledged"
)
_ROUNDS_MAX = 3
_AT_ONCE = 500
_SLICE_SECONDS = 0.05


class _Stream(NamedTuple):
    tag: Tag
    kind: FactKind

    @property
    def key(self) -> str:
        return self.tag.stream(self.kind)


class Groups:
    """What ``RedisLog`` does for consumer groups. Any thread may call."""

    def __init__(
        self,
        address: Address,
        wire: Wire,
        survey: Survey,
        system: str | None,
        *,
        ticks: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._address = address
        self._wire = wire
        self._survey = survey
        self._system = system
        self._ticks = ticks
        self._sleep = sleep
        self._joined: defaultdict[str, set[str]] = defaultdict(set)  # by group: the keys where it exists
        self._turn = 0
        self._names: dict[Tag, str] = {}

    # --- being given ----------------------------------------------------------------------------------

    def consume(
        self,
        group: str,
        consumer: str,
        *,
        kinds: FactKind | Iterable[FactKind] | None = None,
        count: int = 100,
        block_seconds: float = 0.0,
        start: str = "oldest",
    ) -> list[Delivery]:
        """See ``RedisLog.consume``."""
        _check_names(group, consumer)
        _check_count(count)
        if start not in {"oldest", "newest"}:
            raise ConfigError(f"start={start!r}: use oldest or newest")
        wanted = _kinds(kinds)
        end = self._ticks() + block_seconds
        found: list[Delivery] = []
        while True:
            parts = self._parts(wanted)
            self._join(group, [stream for part in parts for stream in part], start)
            for part in parts:
                found += self._given(part, group, consumer, count - len(found))
                if len(found) >= count:
                    return found
            left = end - self._ticks()
            if found or left <= 0:
                return found
            found = self._awaited(parts, group, consumer, count, left)

    def _awaited(
        self,
        parts: Sequence[Sequence[_Stream]],
        group: str,
        consumer: str,
        count: int,
        seconds: float,
    ) -> list[Delivery]:
        """Wait a little for something to be given."""
        if not parts:  # no stream yet that one could wait for
            self._sleep(min(seconds, LISTEN_SECONDS_MAX))
            return []
        longest = LISTEN_SECONDS_MAX if len(parts) == 1 else _SLICE_SECONDS
        block_seconds = min(seconds, longest, self._address.timeout_seconds / 2)
        return self._given(parts[0], group, consumer, count, block_seconds)

    def _parts(self, kinds: Sequence[FactKind]) -> list[list[_Stream]]:
        """Return the streams that there are, in parts that one command may name; each time another begins."""
        parts: list[list[_Stream]] = []
        for tags in together(self._address, self._survey.tags(self._system)):
            streams = [_Stream(tag, kind) for tag in tags for kind in kinds]
            if not streams:
                continue
            replies = self._send(streams[0].key, [("EXISTS", stream.key) for stream in streams])
            there = [stream for stream, reply in zip(streams, replies, strict=True) if reply]
            if there:
                at = self._turn % len(there)
                parts.append(there[at:] + there[:at])
        self._turn += 1
        at = self._turn % len(parts) if parts else 0
        return parts[at:] + parts[:at]

    def _given(
        self,
        streams: Sequence[_Stream],
        group: str,
        consumer: str,
        count: int,
        block_seconds: float | None = None,
    ) -> list[Delivery]:
        """Return up to *count* that *consumer* is given now of *streams*, about equally many of each."""
        found: list[Delivery] = []
        waiting = list(streams)
        while waiting and len(found) < count:
            left = count - len(found)
            asked, waiting = waiting[:left], waiting[left:]
            share = left // len(asked)
            got = self._asked(asked, group, consumer, share, None if found else block_seconds)
            for stream, entries in got:
                found += [self._delivery(stream, entry, 1) for entry in entries]
            waiting += [stream for stream, entries in got if len(entries) >= share]
        return found

    def _asked(
        self,
        streams: Sequence[_Stream],
        group: str,
        consumer: str,
        share: int,
        block_seconds: float | None,
    ) -> list[tuple[_Stream, list[StoredEntry]]]:
        by_key = {stream.key: stream for stream in streams}
        block = () if block_seconds is None else ("BLOCK", max(int(block_seconds * 1000), 1))
        command = ("XREADGROUP", "GROUP", group, consumer, "COUNT", share, *block)
        for _ in range(_ROUNDS_MAX):
            if not by_key:
                break
            (reply,) = self._wire.send(
                next(iter(by_key)), [(*command, "STREAMS", *by_key, *(">" for _ in by_key))]
            )
            text = str(reply) if isinstance(reply, redis.ResponseError) else ""
            if "NOGROUP" in text or text.startswith("UNBLOCKED"):
                by_key = {stream.key: stream for stream in self._joined_again(group, list(by_key.values()))}
                continue
            self._check(reply)
            return [(by_key[key], entries) for key, entries in _by_key(reply)]
        return []

    def _joined_again(self, group: str, streams: Sequence[_Stream]) -> list[_Stream]:
        """Make *group* again after a failover or FLUSHALL, from the beginning; return those of *streams* left."""
        self._joined[group] -= {stream.key for stream in streams}
        replies = self._send(streams[0].key, [("EXISTS", stream.key) for stream in streams])
        left = [stream for stream, there in zip(streams, replies, strict=True) if there]
        self._join(group, left, "oldest")
        return left

    def _join(self, group: str, streams: Sequence[_Stream], start: str) -> None:
        """Make *group* on those of *streams* where it is not known to exist.

        *start* counts where the group is new altogether. Streams that come later are read from their beginning:
        all that is in them came after the group.
        """
        begun, joined = group in self._joined, self._joined[group]
        new = [stream for stream in streams if stream.key not in joined]
        at = "$" if start == "newest" and not begun else "0"
        made: list[_Stream] = []
        for stream, reply in self._each(new, lambda stream: ("XGROUP", "CREATE", stream.key, group, at)):
            text = str(reply) if isinstance(reply, redis.ResponseError) else ""
            if "requires the key to exist" in text:
                continue
            if "BUSYGROUP" not in text:
                self._check(reply)
                made.append(stream)
            joined.add(stream.key)
        if at == "$" and len(made) < len(joined):  # the group began elsewhere, before these streams were
            for _, reply in self._each(made, lambda stream: ("XGROUP", "SETID", stream.key, group, "0")):
                self._check(reply)

    def _each(
        self, streams: Sequence[_Stream], command: Callable[[_Stream], Command]
    ) -> Iterator[tuple[_Stream, Reply]]:
        """Send a command for each of *streams*, in as few messages as possible; yield the replies."""
        by_tag: defaultdict[Tag, list[_Stream]] = defaultdict(list)
        for stream in streams:
            by_tag[stream.tag].append(stream)
        for tags in together(self._address, by_tag):
            some = [stream for tag in tags for stream in by_tag[tag]]
            yield from zip(some, self._wire.send(some[0].key, list(map(command, some))), strict=True)

    def _delivery(self, stream: _Stream, entry: StoredEntry, times_delivered: int) -> Delivery:
        fact, damage = decoded(line_of(entry))
        return Delivery(
            system=self._system_of(stream.tag) if fact is None else fact.system,
            kind=stream.kind,
            key=stream.key,
            id=str(entry.id),
            fact=fact,
            damage=damage,
            times_delivered=times_delivered,
        )

    def _system_of(self, tag: Tag) -> str:
        if tag not in self._names:
            self._names[tag] = tag.system if tag.is_whole else self._survey.site(tag).system
        return self._names[tag]

    # --- done -----------------------------------------------------------------------------------------

    def ack(self, group: str, deliveries: Iterable[Delivery]) -> int:
        """See ``RedisLog.ack``."""
        _check_names(group)
        by_key: defaultdict[str, list[str]] = defaultdict(list)
        for delivery in deliveries:
            by_key[delivery.key].append(delivery.id)
        done = 0
        for key, ids in by_key.items():
            for at in range(0, len(ids), _AT_ONCE):
                (reply,) = self._send(key, [("XACK", key, group, *ids[at : at + _AT_ONCE])])
                done += int(reply)
        return done

    # --- left over ------------------------------------------------------------------------------------

    def pending(self, group: str, *, count: int = 1000) -> tuple[Pending, ...]:
        """See ``RedisLog.pending``."""
        _check_names(group)
        _check_count(count)
        found: list[Pending] = []
        for stream in self._streams():
            for entry_id, consumer, idle_ms, times in self._pending(stream, group, 0, count - len(found)):
                found.append(
                    Pending(
                        system=self._system_of(stream.tag),
                        kind=stream.kind,
                        key=stream.key,
                        id=str(entry_id),
                        consumer=consumer,
                        idle_seconds=idle_ms / 1000,
                        times_delivered=times,
                    )
                )
            if len(found) >= count:
                break
        return tuple(found)

    def claim(self, group: str, consumer: str, *, idle_seconds: float, count: int = 100) -> list[Delivery]:
        """See ``RedisLog.claim``."""
        _check_names(group, consumer)
        _check_count(count)
        if idle_seconds < 0:
            raise ConfigError(f"idle_seconds={idle_seconds} must be 0 or more")
        idle_ms = int(idle_seconds * 1000)
        found: list[Delivery] = []
        for stream in self._streams():
            left = count - len(found)
            waiting = list(self._pending(stream, group, idle_ms, left))
            for at in range(0, len(waiting), _AT_ONCE):
                some = {entry_id: times for entry_id, _, _, times in waiting[at : at + _AT_ONCE]}
                found += self._claimed(stream, group, consumer, idle_ms, some)
            if len(found) >= count:
                break
        return found

    def _streams(self) -> Iterator[_Stream]:
        for tag in self._survey.tags(self._system):
            for kind in KINDS:
                yield _Stream(tag, kind)

    def _pending(
        self, stream: _Stream, group: str, idle_ms: int, count: int
    ) -> Iterator[tuple[EntryId, str, int, int]]:
        """Yield entry, consumer, idle time (ms) and times delivered of what is pending, oldest first."""
        place, idle = "-", ("IDLE", idle_ms) if idle_ms else ()
        while count > 0:
            some = min(count, _AT_ONCE)
            (reply,) = self._wire.send(stream.key, [("XPENDING", stream.key, group, *idle, place, "+", some)])
            if _is_no_group(reply):
                return
            self._check(reply)
            for entry_id, consumer, idle_for, times in reply:
                yield EntryId.parse(entry_id), consumer.decode(errors="backslashreplace"), idle_for, times
            if len(reply) < some:
                return
            place = f"({reply[-1][0].decode()}"
            count -= some

    def _claimed(
        self, stream: _Stream, group: str, consumer: str, idle_ms: int, waiting: dict[EntryId, int]
    ) -> list[Delivery]:
        """Make those of *waiting* that are still idle *consumer*'s; tell also of those that are gone."""
        key = stream.key
        ids = list(map(str, waiting))
        (reply,) = self._wire.send(key, [("XCLAIM", key, group, consumer, idle_ms, *ids)])
        if _is_no_group(reply):
            return []
        self._check(reply)
        entries = {entry.id: entry for entry in parse_entries(reply)}
        found = {
            entry_id: self._delivery(stream, entry, waiting[entry_id] + 1)
            for entry_id, entry in entries.items()
        }
        found |= self._gone(stream, group, {each: n for each, n in waiting.items() if each not in entries})
        return [found[entry_id] for entry_id in sorted(found)]

    def _gone(self, stream: _Stream, group: str, waiting: dict[EntryId, int]) -> dict[EntryId, Delivery]:
        """Return those of *waiting* whose entries are no more: their facts if they were restored, or what happened."""
        if not waiting:
            return {}
        key, meta = stream.key, stream.tag.meta
        fields = [f"{RESTORED}{stream.kind}:{entry_id}" for entry_id in waiting]
        *ranges, restored = self._send(
            key, [*(("XRANGE", key, str(each), str(each)) for each in waiting), ("HMGET", meta, *fields)]
        )
        found: dict[EntryId, Delivery] = {}
        for (entry_id, times), there, line in zip(waiting.items(), ranges, restored, strict=True):
            if there:  # somebody else's now
                continue
            if line is None:
                self._send(key, [("XACK", key, group, str(entry_id))])  # nothing is left to be done
            fact, damage = (None, _REMOVED) if line is None else decoded(line)
            found[entry_id] = Delivery(
                system=self._system_of(stream.tag) if fact is None else fact.system,
                kind=stream.kind,
                key=key,
                id=str(entry_id),
                fact=fact,
                damage=damage,
                times_delivered=times + 1,
            )
        return found

    # --- inside ---------------------------------------------------------------------------------------

    def _send(self, key: str, commands: Sequence[Command]) -> list[Reply]:
        replies = self._wire.send(key, commands)
        for reply in replies:
            self._check(reply)
        return replies

    def _check(self, reply: Reply) -> None:
        if isinstance(reply, redis.RedisError):
            raise unavailable(self._address.shown, reply)


def _is_no_group(reply: Reply) -> bool:
    return isinstance(reply, redis.ResponseError) and "NOGROUP" in str(reply)


def _by_key(reply: Reply) -> Iterator[tuple[str, list[StoredEntry]]]:
    """Read the reply of XREADGROUP, a map or a list of pairs; nothing is None."""
    items = getattr(reply, "items", None)
    pairs: Iterable[Any] = (reply or ()) if items is None else items()
    for key, entries in pairs:
        yield key.decode(), parse_entries(entries)


def _kinds(kinds: FactKind | Iterable[FactKind] | None) -> list[FactKind]:
    try:
        wanted = list(KINDS) if kinds is None else [kinds] if isinstance(kinds, str) else list(kinds)
        return list(dict.fromkeys(FactKind(kind) for kind in wanted))
    except ValueError:
        raise ConfigError(f"kinds={kinds!r}: use {', '.join(KINDS)}") from None


def _check_names(*names: str) -> None:
    if not all(names):
        raise ConfigError("a consumer group and a consumer must have a name")


def _check_count(count: int) -> None:
    if count < 1:
        raise ConfigError(f"count={count} must be 1 or more")
