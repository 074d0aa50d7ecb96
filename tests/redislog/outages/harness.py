"""An application that records while its log's server fails, and an oracle that knows what has to be there afterwards.

A test makes a ``Run``, lets the server fail and recover step by step (each step waits for what the application
notices of it, never for a while), and ends it with ``check``: the application was never blocked and saw no error, and

* every fact that was recorded is present when a fresh log reads, or reported as lost, and never both;
* each is read once, each writer's in order; no stream holds one twice, unless a test says that nobody could know.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from typing import Any, NamedTuple, TypeVar

from papyra_otel import semconv
from papyra_otel.errors import LogUnavailable
from papyra_otel.facts import Entry, Fact, FactKind
from papyra_otel.log import LogOptions
from papyra_otel.log.codec import decode
from papyra_otel.log.contract import Lost
from papyra_otel.log.redis.address import parse_address
from papyra_otel.log.redis.keys import KINDS
from papyra_otel.log.redis.pages import line_of, parse_entries
from papyra_otel.log.redis.redislog import RedisLog
from papyra_otel.pipeline.counters import Counters
from papyra_otel.pipeline.timed import TimedLog
from papyra_otel.pipeline.writer import RING_FACTS_MAX, FactWriter

SYSTEM = "shop"
PATIENCE_SECONDS = 20.0
RECORD_SECONDS_MAX = 0.5
"""Beyond twice what a thread had to wait that does nothing: whoever waits for a server waits longer."""

TIMEOUTS = "timeout=400ms&connect_timeout=400ms&wait_timeout=150ms"
_PACE_SECONDS = 0.004
_BURST = 6
_MIX = (FactKind.EVENT, FactKind.EVENT, FactKind.AUDIT, FactKind.EVENT, FactKind.DEAD_LETTER)

_Answer = TypeVar("_Answer")


class Uid(NamedTuple):
    """What identifies a fact for ever."""

    writer: str
    kind: FactKind
    seq: int

    @classmethod
    def of(cls, fact: Fact) -> Uid:
        return cls(fact.writer or "", fact.kind, -1 if fact.seq is None else fact.seq)


class NotedLog(TimedLog):
    """A log that notes what it acknowledged, and why it did not."""

    def __init__(self, log: RedisLog) -> None:
        super().__init__(log, lambda *_: None)
        self.changed = threading.Condition()
        self.acknowledged: set[Uid] = set()
        self.failures: Counter[str] = Counter()
        self.last_failure = ""
        self.uncertain: set[Uid] = set()

    def append(self, facts: Sequence[Fact], /) -> None:
        uids = {Uid.of(fact) for fact in facts}
        try:
            super().append(facts)
        except LogUnavailable as error:
            with self.changed:
                self.failures[error.error_type] += 1
                self.last_failure = str(error)
                self.uncertain |= uids
                self.changed.notify_all()
            raise
        with self.changed:
            self.acknowledged |= uids
            self.changed.notify_all()


class Idler:
    """A thread that waits for its turn again and again, and measures how late that came: what the machine costs."""

    def __init__(self) -> None:
        self._end = threading.Event()
        self.slowest_seconds = 0.0
        self._thread = threading.Thread(target=self._run, name="idler", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        begun = time.perf_counter()
        while not self._end.wait(_PACE_SECONDS):
            now = time.perf_counter()
            self.slowest_seconds = max(self.slowest_seconds, now - begun - _PACE_SECONDS)
            begun = now

    def end(self) -> None:
        """Stop waiting. Twice is once."""
        self._end.set()
        self._thread.join()


class Load:
    """A thread that records a mix of facts, and measures how long each call took."""

    def __init__(self, writer: FactWriter) -> None:
        self._writer = writer
        self._end = threading.Event()
        self.recorded: list[Uid] = []
        self.slowest_seconds = 0.0
        self.idler = Idler()
        self.raised: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, name="application", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._end.wait(_PACE_SECONDS):
            try:
                self.record(_BURST)
            except BaseException as error:  # it must not raise at all
                self.raised.append(error)
                return

    def record(self, count: int, kind: FactKind | None = None) -> None:
        """Record *count* facts, as an actor does."""
        for n in range(count):
            begun = time.perf_counter()
            fact = self._writer.record(
                kind or _MIX[(len(self.recorded) + n) % len(_MIX)],
                "papyra.actor.message.processed",
                time.time_ns(),
                SYSTEM,
                "shop/1",
                "INFO",
                None,
                None,
                {"filling": "x" * 40},
            )
            self.slowest_seconds = max(self.slowest_seconds, time.perf_counter() - begun)
            self.recorded.append(Uid.of(fact))

    def end(self) -> None:
        """Record no more."""
        self._end.set()
        self._thread.join()
        self.idler.end()


class Run:
    """One application over one outage. *url* is where it writes; ``check`` reads at *read_url*, past all trouble."""

    def __init__(
        self,
        url: str,
        *,
        read_url: str | None = None,
        capacity: int = RING_FACTS_MAX,
        recent_facts_max: int | None = None,
        timeouts: str = TIMEOUTS,
    ) -> None:
        url = f"{url}{'&' if '?' in url else '?'}{timeouts}"
        self.read_url = read_url or url
        self.lost: list[Lost] = []
        self.redis_log = RedisLog(parse_address(url), options=LogOptions(on_lost=self._note_lost))
        if recent_facts_max is not None:
            self.redis_log._appending._recent_facts_max = recent_facts_max
        self.log = NotedLog(self.redis_log)
        self.counters = Counters()
        self.writer = FactWriter(self.log, self.counters, queued=True, jitter=lambda: 0.0, capacity=capacity)
        self.writer.tell = self._tell
        self.told: list[Uid] = []
        self.load = Load(self.writer)

    def _note_lost(self, lost: Lost) -> None:
        self.lost.append(lost)
        self.writer.note_lost(lost)

    def _tell(self, attributes: Mapping[str, object]) -> None:
        """Record what is lost, as the plugin does."""
        system = str(attributes[semconv.SYSTEM_ID])
        fact = self.writer.record(
            FactKind.EVENT, semconv.FACT_DROPPED, time.time_ns(), system, None, "WARN", None, None, attributes
        )
        self.told.append(Uid.of(fact))

    # --- steps -------------------------------------------------------------------------------------------

    def _until(
        self, condition: Callable[[], _Answer], what: str, seconds: float = PATIENCE_SECONDS
    ) -> _Answer:
        with self.log.changed:
            if not self.log.changed.wait_for(condition, seconds):
                raise AssertionError(
                    f"{what} did not come to pass within {seconds:g} s; failures: {dict(self.log.failures)}, "
                    f"the last: {self.log.last_failure}"
                )
            return condition()

    def goes_on(self, more: int = 60) -> None:
        """Wait until *more* facts that are recorded from now on are acknowledged."""
        begin = len(self.load.recorded)

        def enough() -> bool:
            fresh = self.load.recorded[begin:]
            return len(fresh) >= more and len(self.log.acknowledged.intersection(fresh)) >= more

        self._until(enough, f"{more} more acknowledged facts")

    def fails(self, *error_types: str, times: int = 1) -> None:
        """Wait until *times* more attempts to store failed; every one as one of *error_types*, if given."""
        before = self.log.failures.copy()
        self._until(lambda: (self.log.failures - before).total() >= times, f"{times} failures")
        if error_types:
            self._until(
                lambda: any((self.log.failures - before)[each] for each in error_types),
                f"a failure of {error_types} in {self.log.failures - before}",
                PATIENCE_SECONDS,
            )

    def records(self, count: int) -> None:
        """Wait until *count* more facts are recorded, stored or not."""
        wanted = len(self.load.recorded) + count
        deadline = time.monotonic() + PATIENCE_SECONDS
        pace = threading.Event()
        while len(self.load.recorded) < wanted:
            assert time.monotonic() < deadline, "the application stopped recording"
            pace.wait(_PACE_SECONDS)

    # --- the end -------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Let the application stop, and store all that waits."""
        self.load.end()
        self._drain()
        self.load.record(1, FactKind.EVENT)  # the next append at the latest tells what the server lost
        self._drain()

    def _drain(self) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        pace = threading.Event()
        while not (self.writer.drain() and self.writer.waiting()[0] == 0):
            assert time.monotonic() < deadline, f"it was never stored: {self.log.last_failure}"
            pace.wait(0.02)

    def check(
        self,
        *,
        twice_in_streams: bool = False,
        scan_tells: bool = False,
        loses: bool | None = None,
    ) -> set[Uid]:
        """End the run; assert the promises; return what is reported as lost.

        With *scan_tells*, facts are gone and nobody said so: only a scan can, and does, for each writer and kind.
        *loses* says whether something has to be lost, or must not be.
        """
        self.settle()
        return self.judge(twice_in_streams=twice_in_streams, scan_tells=scan_tells, loses=loses)

    def judge(
        self, *, twice_in_streams: bool = False, scan_tells: bool = False, loses: bool | None = None
    ) -> set[Uid]:
        """Do what ``check`` does after all is settled."""
        try:
            with closing(RedisLog(parse_address(self.read_url))) as fresh:
                return self._judge(list(fresh.read()), fresh, twice_in_streams, scan_tells, loses)
        finally:
            self.close()

    def _judge(
        self,
        entries: list[Entry],
        fresh: RedisLog,
        twice_in_streams: bool,
        scan_tells: bool,
        loses: bool | None,
    ) -> set[Uid]:
        assert self.load.raised == []
        assert self.load.slowest_seconds < RECORD_SECONDS_MAX + 2 * self.load.idler.slowest_seconds
        read = [Uid.of(entry.fact) for entry in entries]
        present = set(read)
        assert len(read) == len(present), "read twice"
        for kind in KINDS:
            seqs = [uid.seq for uid in read if uid.kind is kind and uid.writer == self._writer()]
            assert seqs == sorted(seqs), f"{kind} out of order"
        recorded = {*self.load.recorded, *self.told}
        assert present <= recorded | {uid for uid in present if uid.writer != self._writer()}
        reported = self._reported(entries)
        silent = recorded - present - reported
        scanned = fresh.scan()
        if scan_tells:
            found = {(each.writer, each.kind) for each in scanned.anomalies if each.severity == "ERROR"}
            assert {(uid.writer, uid.kind) for uid in silent} <= found, scanned.anomalies
            assert silent, "nothing is gone"
        else:
            assert silent == set(), f"gone without a word: {_shown(silent)}"
            assert not scanned.damaged, scanned.anomalies
        wrongly = (present & reported) - self.log.uncertain
        assert wrongly == set(), f"there, but reported as lost: {_shown(wrongly)}"
        if loses is not None:
            assert bool(reported) is loses, f"reported as lost: {_shown(reported)}"
        if not twice_in_streams:
            twice = [uid for uid, count in Counter(_in_streams(fresh)).items() if count > 1]
            assert twice == [], f"stored twice: {_shown(set(twice))}"
        return reported - present

    def _writer(self) -> str:
        return self.redis_log._identities.writer(SYSTEM)

    def _reported(self, entries: list[Entry]) -> set[Uid]:
        reported = {
            Uid(lost.writer, lost.kind, seq) for lost in self.lost for seq in range(lost.first, lost.last + 1)
        }
        for entry in entries:
            if entry.fact.name == semconv.FACT_DROPPED:
                reported |= set(_ranges(entry.fact.attributes))
        told = {Uid(each.writer, each.kind, each.first) for each in self.lost}
        in_log = {uid for entry in entries for uid in _ranges_of(entry)}
        assert told <= in_log, "the log lost something, and does not tell it"
        return reported

    def close(self) -> None:
        """Give up everything, also when the test failed half-way."""
        self.load.end()
        self.writer.close()
        self.log.close()


def _ranges_of(entry: Entry) -> Iterable[Uid]:
    return _ranges(entry.fact.attributes) if entry.fact.name == semconv.FACT_DROPPED else ()


def _ranges(attributes: Mapping[str, Any]) -> Iterable[Uid]:
    for text in attributes[semconv.DROPPED_RANGES]:
        writer, kind, seqs = text.split("-")
        first, _, last = seqs.partition("..")
        for seq in range(int(first), int(last or first) + 1):
            yield Uid(writer, FactKind(kind), seq)


def _in_streams(log: RedisLog) -> Iterable[Uid]:
    """Yield what each entry of the streams holds, as it is stored."""
    for site in log._survey.sites(None):
        for kind in KINDS:
            key = site.tag.stream(kind)
            (reply,) = log._wire.send(key, [("XRANGE", key, "-", "+")])
            for entry in parse_entries(reply):
                with suppress(Exception):
                    yield Uid.of(decode((line_of(entry) or b"").removesuffix(b"\n")))


def _shown(uids: set[Uid]) -> str:
    some = sorted(uids)[:5]
    return f"{len(uids)}, such as {', '.join(f'{uid.kind}-{uid.seq}' for uid in some)}"


class Runs:
    """Makes runs, and ends those that a failing test left."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __call__(self, url: str, **how: Any) -> Run:
        return self._stack.enter_context(closing(Run(url, **how)))

    def close(self) -> None:
        self._stack.close()
