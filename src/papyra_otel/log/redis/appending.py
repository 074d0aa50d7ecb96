"""What is written: batches of lines, each by one script that stores every fact once and notices a server that forgot.

A server may forget what it acknowledged: a failover to a replica that had not received it, a restart without its
files, a flush. The next append tells, because the fence is behind; what was acknowledged lately is kept in memory
(``Recent``) and sent again, in order, before anything new. What is too old for that is lost, and told to *on_lost*.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby

import msgspec
import redis

from papyra_otel import semconv
from papyra_otel.errors import LogUnavailable
from papyra_otel.facts import Fact, FactKind
from papyra_otel.log.codec import encode, encode_run
from papyra_otel.log.contract import Lost, Mark
from papyra_otel.log.identity import Identities
from papyra_otel.log.outlet import small
from papyra_otel.log.redis.address import Address, Durability
from papyra_otel.log.redis.fence import field_of
from papyra_otel.log.redis.keys import KINDS, Tag, index_key
from papyra_otel.log.redis.scripts import run
from papyra_otel.log.redis.trouble import unavailable
from papyra_otel.log.redis.wire import Command, Reply, Wire
from papyra_otel.log.seqset import SeqSet

__all__ = ["BATCH_BYTES_MAX", "BATCH_FACTS_MAX", "RECENT_BYTES_MAX", "RECENT_FACTS_MAX", "Appending"]

BATCH_FACTS_MAX = 500
BATCH_BYTES_MAX = 1 << 20
RECENT_FACTS_MAX = 10_000
RECENT_BYTES_MAX = 8 << 20
_ROUNDS_MAX = 3

_Numbered = tuple[int, bytes]  # seq, line


@dataclass(slots=True)
class _Stream:
    """What is known of one writer's facts of one kind. *acknowledged* is the last seq, -1 before the first.

    *fence* is what the server said last: behind *acknowledged* while something is to be sent again.
    *stored* leaves out what was told as lost.
    """

    acknowledged: int = -1
    fence: bytes = b""
    stored: SeqSet = field(default_factory=SeqSet)
    records: int = 0
    size_bytes: int = 0


@dataclass(slots=True)
class _Writer:
    """One system's writer: where it writes, and how far it came. *seen_ms* is the server's time of the last append."""

    id: str
    system: str
    tag: Tag
    streams: dict[FactKind, _Stream] = field(default_factory=lambda: {kind: _Stream() for kind in KINDS})
    seen_ms: int = -1
    listed: bool = False
    sealed: bool = False


class Appending:
    """Sends facts. One batch at a time; any thread may call. Remembers per system how far it came.

    *lost* is told what the server acknowledged and lost for good, while the lock is held. *failing* says that the
    server did not do the last that was asked of it.
    """

    def __init__(
        self,
        address: Address,
        wire: Wire,
        identities: Identities,
        *,
        lost: Callable[[Lost], None],
        mark: Callable[[Mark], None] | None,
        clock: Callable[[], int],
        resource: Callable[[], Mapping[str, object]] | None = None,
        recent_facts_max: int = RECENT_FACTS_MAX,
        recent_bytes_max: int = RECENT_BYTES_MAX,
    ) -> None:
        self._address = address
        self._wire = wire
        self._identities = identities
        self._lost = lost
        self._mark = mark
        self._clock = clock
        self._resource = resource
        self._recent_facts_max = recent_facts_max
        self._recent_bytes_max = recent_bytes_max
        self.after_fork_in_child()

    def after_fork_in_child(self) -> None:
        """Begin anew: what was sent was the parent's."""
        self._lock = threading.RLock()
        self._writers: dict[str, _Writer] = {}
        self._adopted: dict[tuple[str, str], _Writer] = {}
        self.failing: bool = False
        self._recent: deque[tuple[_Stream, list[_Numbered]]] = deque()  # oldest first
        self._recent_facts = self._recent_bytes = 0

    def append(self, facts: Sequence[Fact]) -> None:
        """See ``FactLog.append``."""
        with self._lock:
            for fact in facts:
                self._identities.check(fact)
            with self._trying():
                for system, some in _by_system(facts):
                    writer = self._writer(system)
                    for batch in _batches(self._numbered(some)):
                        self._append(writer, batch)

    def adopt(self, facts: Sequence[Fact]) -> None:
        """See ``FactLog.adopt``. The fence knows how far each writer came; what was acknowledged, nobody knows now."""
        if any(fact.writer is None or fact.seq is None for fact in facts):
            raise ValueError("only facts that their writer identified can be adopted")
        with self._lock, self._trying():
            for fact_of, some in groupby(facts, key=lambda fact: (fact.system, fact.writer or "", fact.kind)):
                system, writer_id, kind = fact_of
                writer = self._adopted.setdefault(
                    (system, writer_id), _Writer(writer_id, system, self._tag(writer_id, system))
                )
                for batch in _batches((kind, fact.seq or 0, encode(fact)) for fact in some):
                    reply = self._sent(writer, batch, trusted=True)
                    writer.streams[kind].records += int(reply[4])
                    writer.streams[kind].size_bytes += int(reply[5])

    def appended(self) -> dict[tuple[str, FactKind], tuple[int, int]]:
        """See ``FactLog.appended``."""
        amounts: dict[tuple[str, FactKind], tuple[int, int]] = {}
        for writer in [*list(self._writers.values()), *list(self._adopted.values())]:
            for kind, stream in writer.streams.items():
                if stream.records:
                    records, size_bytes = amounts.get((writer.system, kind), (0, 0))
                    amounts[writer.system, kind] = records + stream.records, size_bytes + stream.size_bytes
        return amounts

    def has(self, fact: Fact) -> bool:
        """Say whether *fact* was acknowledged."""
        with self._lock:
            writer = self._writers.get(fact.system)
            return writer is not None and (fact.seq or 0) in writer.streams[fact.kind].stored

    def seal(self, *, sealed: bool = True) -> None:
        """Note on the server that the writers here end in order; or, not *sealed*, that they live.

        The latter also lists their systems again, should the index have been lost. Who has ended is asked for nothing
        more until it writes again. Raises LogUnavailable.
        """
        with self._lock, self._trying():
            for writer in self._writers.values():
                if writer.sealed:
                    continue
                fields = [
                    field_of(writer.id, kind)
                    for kind, stream in writer.streams.items()
                    if stream.acknowledged >= 0
                ]
                if not sealed:
                    writer.listed = False
                if fields:
                    self._list(writer)
                    reply, _ = run(self._wire, "seal", [writer.tag.fence], [int(sealed), *fields])
                    self._raise(reply)
                    writer.sealed = sealed
                    if sealed:
                        self._mark_all(writer, semconv.LOG_SEALED)

    # --- inside -----------------------------------------------------------------------------------------

    def _writer(self, system: str) -> _Writer:
        known = self._writers.get(system)
        if known is None:
            writer = self._identities.writer(system)
            known = self._writers[system] = _Writer(writer, system, self._tag(writer, system))
        return known

    def _tag(self, writer: str, system: str) -> Tag:
        shard = int(writer[:8], 16) % self._address.shards
        return Tag.new(self._address.prefix, system, shard)

    @contextmanager
    def _trying(self) -> Generator[None]:
        """Remember whether the server did what it was asked."""
        self.failing = True
        try:
            yield
        except LogUnavailable:
            raise
        except BaseException:
            self.failing = False  # not the server's fault
            raise
        self.failing = False

    def _numbered(self, facts: Sequence[Fact]) -> Iterator[tuple[FactKind, int, bytes]]:
        for (kind, is_new), run_of in groupby(facts, key=lambda fact: (fact.kind, fact.writer is None)):
            some = list(run_of)
            for begin in range(0, len(some), BATCH_FACTS_MAX):
                batch = some[begin : begin + BATCH_FACTS_MAX]
                numbered = self._new(kind, batch) if is_new else map(self._given, batch)
                for seq, line in numbered:
                    yield kind, seq, line

    def _new(self, kind: FactKind, facts: Sequence[Fact]) -> Iterator[_Numbered]:
        writer, first = self._identities.reserve_run(facts[0].system, kind, len(facts))
        return enumerate(encode_run(facts, writer, first).splitlines(keepends=True), first)

    def _given(self, fact: Fact) -> _Numbered:
        stream, seq = self._writer(fact.system).streams[fact.kind], fact.seq or 0
        if seq < stream.acknowledged and seq not in stream.stored:
            raise ValueError(
                f"{fact.uid} was reserved before facts that are stored already: append in the order of reserving"
            )
        return seq, encode(fact)

    def _append(self, writer: _Writer, batch: dict[FactKind, list[_Numbered]]) -> None:
        for _ in range(_ROUNDS_MAX):
            reply = self._sent_again(writer) or self._sent(writer, batch)
            if reply[0] == b"ok":
                self._learn(writer, batch, reply)
                return
            self._believe(writer, reply[1:4])
        raise LogUnavailable(
            f"{self._address.shown}: the server forgets what it acknowledged again and again",
            error_type="rollback",
        )

    def _sent(
        self, writer: _Writer, batch: dict[FactKind, list[_Numbered]], *, trusted: bool = False
    ) -> Reply:
        self._list(writer)
        writer.sealed = False
        arguments: list[object] = [
            writer.id,
            writer.system.encode(errors="backslashreplace"),
            int(trusted),
            writer.seen_ms,
        ]
        for kind in KINDS:
            lines = batch.get(kind, [])
            arguments += [len(lines), writer.streams[kind].fence]
            for numbered in lines:
                arguments += numbered
        keys = [*map(writer.tag.stream, KINDS), writer.tag.fence, writer.tag.meta]
        reply, behind = run(self._wire, "append", keys, arguments, *self._waiting())
        self._raise(reply)
        if behind and reply[0] == b"ok":
            self._check_durable(behind[0])
        return reply

    def _waiting(self) -> list[Command]:
        address = self._address
        milliseconds = int(address.wait_timeout_seconds * 1000)
        if address.durability is Durability.WAIT:
            return [("WAIT", address.replicas, milliseconds)]
        if address.durability is Durability.AOF:
            return [("WAITAOF", 1, address.replicas, milliseconds)]
        return []

    def _check_durable(self, reply: Reply) -> None:
        self._raise(reply)
        wanted = [self._address.replicas]
        reached = [reply]
        if self._address.durability is Durability.AOF:
            wanted, reached = [1, *wanted], list(reply)
        if any(have < want for have, want in zip(reached, wanted, strict=True)):
            raise LogUnavailable(
                f"{self._address.shown}: stored, but within {self._address.wait_timeout_seconds:g} s only "
                f"{reached} of {wanted} confirmed it (durability={self._address.durability.value}); it is tried again",
                error_type="not_durable",
            )

    def _raise(self, reply: Reply) -> None:
        if isinstance(reply, redis.RedisError):
            raise unavailable(self._address.shown, reply)

    def _list(self, writer: _Writer) -> None:
        """See to it that readers find this system."""
        if not writer.listed:
            key = index_key(self._address.prefix)
            (reply,) = self._wire.send(key, [("SADD", key, writer.tag.name)])
            self._raise(reply)
            self._introduce(writer)
            writer.listed = True

    def _introduce(self, writer: _Writer) -> None:
        """Say whose facts these are, for whoever delivers them. If that fails, facts are stored all the same."""
        if self._resource is None:
            return
        try:
            resource = small(self._resource())
        except Exception:  # it is the application's SDK that answers
            return
        if resource is not None:
            key = writer.tag.resources
            self._wire.send(key, [("HSET", key, writer.id, msgspec.json.encode(resource))])

    def _learn(self, writer: _Writer, batch: dict[FactKind, list[_Numbered]], reply: Reply) -> None:
        for kind, fence in zip(KINDS, reply[1:4], strict=True):
            stream = writer.streams[kind]
            lines = [numbered for numbered in batch.get(kind, ()) if numbered[0] > stream.acknowledged]
            if fence:
                stream.fence = fence
                writer.seen_ms = max(writer.seen_ms, int(fence.rpartition(b" ")[2]))
            if not lines:
                continue
            is_first = stream.acknowledged < 0
            for seq, _ in lines:
                stream.stored.append(seq)
            stream.acknowledged = lines[-1][0]
            stream.records += len(lines)
            stream.size_bytes += self._keep(stream, lines)
            if is_first:
                self._mark_one(writer, kind, semconv.LOG_OPENED)

    # --- what the server forgot --------------------------------------------------------------------------

    def _keep(self, stream: _Stream, lines: list[_Numbered]) -> int:
        """Keep *lines* in case that the server forgets them; return their size in bytes."""
        size_bytes = _size_of(lines)
        self._recent.append((stream, lines))
        self._recent_facts += len(lines)
        self._recent_bytes += size_bytes
        while self._recent_facts > self._recent_facts_max or self._recent_bytes > self._recent_bytes_max:
            _, oldest = self._recent.popleft()
            self._recent_facts -= len(oldest)
            self._recent_bytes -= _size_of(oldest)
        return size_bytes

    def _recent_of(self, stream: _Stream) -> list[_Numbered]:
        return [numbered for owner, lines in self._recent if owner is stream for numbered in lines]

    def _believe(self, writer: _Writer, fences: Sequence[bytes]) -> None:
        """Take it that the server came only as far as *fences*."""
        writer.listed = False
        for kind, fence in zip(KINDS, fences, strict=True):
            stream = writer.streams[kind]
            if _seq_of(fence) < _seq_of(stream.fence):
                stream.fence = fence

    def _sent_again(self, writer: _Writer) -> Reply | None:
        """Send what was acknowledged and is not there, as far as it is still known; tell what is lost.

        Return what the server answers if it forgot even more meanwhile. What is not sent when this raises is the next
        call's to send, before anything new.
        """
        again: dict[FactKind, list[_Numbered]] = {}
        for kind, stream in writer.streams.items():
            seq = _seq_of(stream.fence)
            if seq < stream.acknowledged:
                recent = self._recent_of(stream)
                self._tell_lost(writer, kind, seq + 1, recent[0][0] - 1 if recent else stream.acknowledged)
                again[kind] = [numbered for numbered in recent if numbered[0] > seq]
        for some in _batches((kind, seq, line) for kind, lines in again.items() for seq, line in lines):
            reply = self._sent(writer, some)
            if reply[0] != b"ok":
                return reply
            self._learn(writer, some, reply)
        return None

    def _tell_lost(self, writer: _Writer, kind: FactKind, begin: int, end: int) -> None:
        """Tell, once, of what was stored from seq *begin* to *end*: neither the server nor we have it any more."""
        stream, kept = writer.streams[kind], SeqSet()
        for first, last in stream.stored.ranges():
            low, high = max(first, begin), min(last, end)
            if low > high:
                kept.append_range(first, last)
                continue
            if first < low:
                kept.append_range(first, low - 1)
            if high < last:
                kept.append_range(high + 1, last)
            self._lost(
                Lost(
                    system=writer.system,
                    writer=writer.id,
                    kind=kind,
                    first=low,
                    last=high,
                    error_type="rollback",
                )
            )
        stream.stored = kept

    # --- marks -------------------------------------------------------------------------------------------

    def _mark_all(self, writer: _Writer, name: str) -> None:
        for kind, stream in writer.streams.items():
            if stream.acknowledged >= 0:
                self._mark_one(writer, kind, name)

    def _mark_one(self, writer: _Writer, kind: FactKind, name: str) -> None:
        if self._mark is None:
            return
        stream = writer.streams[kind]
        self._mark(
            Mark(
                name=name,
                system=writer.system,
                kind=kind,
                writer=writer.id,
                seq=stream.acknowledged,
                time_unix_nano=self._clock(),
                attributes={
                    semconv.FACT_KIND: kind.value,
                    semconv.BACKEND_TYPE: "redis",
                    semconv.SEGMENT_RECORDS: stream.records,
                    semconv.SEGMENT_LAST_SEQ: stream.acknowledged,
                    semconv.SEGMENT_BYTES: stream.size_bytes,
                },
            )
        )


def _seq_of(fence: bytes) -> int:
    return int(fence.partition(b" ")[0] or b"-1")


def _size_of(lines: list[_Numbered]) -> int:
    return sum(len(line) for _, line in lines)


def _by_system(facts: Sequence[Fact]) -> Iterator[tuple[str, list[Fact]]]:
    if len({fact.system for fact in facts}) == 1:
        yield facts[0].system, list(facts)
        return
    for system, some in groupby(sorted(facts, key=lambda fact: fact.system), key=lambda fact: fact.system):
        yield system, list(some)


def _batches(
    numbered: Iterator[tuple[FactKind, int, bytes]],
) -> Iterator[dict[FactKind, list[_Numbered]]]:
    """Cut what is to be sent so that no script runs for long."""
    batch: dict[FactKind, list[_Numbered]] = {}
    count = size_bytes = 0
    for kind, seq, line in numbered:
        if count >= BATCH_FACTS_MAX or (count and size_bytes + len(line) > BATCH_BYTES_MAX):
            yield batch
            batch, count, size_bytes = {}, 0, 0
        batch.setdefault(kind, []).append((seq, line))
        count += 1
        size_bytes += len(line)
    if batch:
        yield batch
