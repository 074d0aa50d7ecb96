"""Random histories of a log against a plain list, for memory and for files."""

from __future__ import annotations

import shutil
import tempfile
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from papyra_otel.facts import Fact, FactKind
from papyra_otel.log import FactLog, LogOptions
from papyra_otel.log.file import FileLog
from papyra_otel.log.memory import MemoryLog, Store
from papyra_otel.testing import make_fact

WRITERS = st.integers(0, 2)


Place = tuple[
    bool, "str | None", "set[str | None]", "set[str | None]"
]  # direction, cursor, seen until there, all


class History(RuleBasedStateMachine):
    """Three writers append to one log; the model is the list of all facts in the order of appending."""

    saved = Bundle("saved")
    least_step = 1  # every fact is later than the one before: the order of reading is the order of appending

    def open_one(self) -> FactLog:
        raise NotImplementedError

    @initialize()
    def begin(self) -> None:
        self.now = 1000
        self.order: list[Fact] = []
        self.last_call: list[list[Fact]] = [[], [], []]
        self.repeated: set[str | None] = set()
        self.logs = [self.open_one() for _ in range(3)]
        self.logs[0].prepare()

    @rule(
        who=WRITERS,
        kinds=st.lists(st.sampled_from(FactKind), max_size=4),
        system=st.sampled_from("ab"),
        step=st.integers(0, 9),
    )
    def append(self, who: int, kinds: list[FactKind], system: str, step: int) -> None:
        facts: list[Fact] = []
        for n, kind in enumerate(kinds, start=len(self.order)):
            self.now = max(self.now + step + self.least_step, 0)
            fact = make_fact(n, kind=kind, system=system, time_unix_nano=self.now)
            facts.append(fact.identified(*self.logs[who].reserve(system, kind)))
        self.logs[who].append(facts)
        self.order += facts
        self.last_call[who] = facts

    @rule(who=WRITERS)
    def append_again(self, who: int) -> None:
        """As after LogUnavailable: all of the last call, before anything later."""
        self.logs[who].append(self.last_call[who])
        self.repeated |= {fact.uid for fact in self.last_call[who]}

    @rule(who=WRITERS)
    def seal(self, who: int) -> None:
        self.logs[who].seal()

    @rule(who=WRITERS)
    def reopen(self, who: int) -> None:
        self.logs[who].close()
        self.logs[who] = self.open_one()
        self.last_call[who] = []

    @rule(
        who=WRITERS,
        newest_first=st.booleans(),
        limit=st.none() | st.integers(0, 5),
        kinds=st.none() | st.sets(st.sampled_from(FactKind)),
        window=st.tuples(st.integers(0, 60), st.integers(0, 60)) | st.none(),
        name=st.none() | st.just("papyra.actor.started"),
    )
    def read_some(
        self,
        who: int,
        newest_first: bool,
        limit: int | None,
        kinds: set[FactKind] | None,
        window: tuple[int, int] | None,
        name: str | None,
    ) -> None:
        since, until = (None, None) if window is None else (1000 + window[0], 1000 + sum(window))
        wanted = [
            fact
            for fact in self.order
            if (kinds is None or fact.kind in kinds)
            and (since is None or fact.time_unix_nano >= since)
            and (until is None or fact.time_unix_nano < until)
            and (name is None or fact.name == name)
        ]
        query: dict[str, Any] = {"kinds": kinds, "since": since, "until": until, "name": name}
        read = self.logs[who].read(newest_first=newest_first, limit=limit, **query)
        self.check([entry.fact for entry in read], wanted, newest_first, limit)

    @rule(target=saved, who=WRITERS, newest_first=st.booleans(), at=st.integers(0, 30))
    def save_a_place(self, who: int, newest_first: bool, at: int) -> Place:
        entries = list(self.logs[who].read(newest_first=newest_first))[: at + 1]
        everything = {fact.uid for fact in self.order}
        return (
            newest_first,
            entries[-1].cursor if entries else None,
            {e.fact.uid for e in entries},
            everything,
        )

    @rule(who=WRITERS, place=saved)
    def resume(self, who: int, place: Place) -> None:
        newest_first, cursor, seen, known = place
        if cursor is None:
            return
        rest = [entry.fact.uid for entry in self.logs[who].read(after=cursor, newest_first=newest_first)]
        expected = (known if newest_first else {fact.uid for fact in self.order}) - seen
        assert len(set(rest)) == len(rest)
        assert expected <= set(rest)
        assert set(rest) - expected <= self.repeated  # once in one reading: this is another one

    @invariant()
    def reading_gives_everything(self) -> None:
        for newest_first, log in zip((False, True), getattr(self, "logs", []), strict=False):
            read = [entry.fact for entry in log.read(newest_first=newest_first)]
            self.check(read, self.order, newest_first, None)

    def check(self, read: list[Fact], wanted: list[Fact], newest_first: bool, limit: int | None) -> None:
        assert read == (wanted[::-1] if newest_first else wanted)[:limit]

    def teardown(self) -> None:
        for log in getattr(self, "logs", []):
            log.close()


class HistoryWithBadClocks(History):
    """Time also stands still and steps back: each writer's own order is all that is promised."""

    least_step = -5

    def check(self, read: list[Fact], wanted: list[Fact], newest_first: bool, limit: int | None) -> None:
        assert len(read) == len(wanted if limit is None else wanted[:limit])
        assert {fact.uid for fact in read} <= {fact.uid for fact in wanted}
        streams = {(fact.writer, fact.kind) for fact in read}
        for stream in streams:
            seqs = [fact.seq or 0 for fact in read if (fact.writer, fact.kind) == stream]
            assert seqs == sorted(set(seqs), reverse=newest_first)


class InMemory(History):
    def open_one(self) -> FactLog:
        if not hasattr(self, "store"):
            self.store = Store()
        return MemoryLog(self.store)


class InFiles(History):
    def open_one(self) -> FactLog:
        if not hasattr(self, "root"):
            self.root = tempfile.mkdtemp(prefix="papyra-history-")
        return FileLog(self.root, options=LogOptions(fsync="never"), segment_bytes_max=1200)

    def teardown(self) -> None:
        super().teardown()
        shutil.rmtree(getattr(self, "root", ""), ignore_errors=True)


class InMemoryWithBadClocks(HistoryWithBadClocks, InMemory):
    pass


class InFilesWithBadClocks(HistoryWithBadClocks, InFiles):
    pass


HISTORIES = [InMemory, InMemoryWithBadClocks, InFiles, InFilesWithBadClocks]


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("history", HISTORIES)
def test_many_long_random_histories(history: type[History]) -> None:
    run_state_machine_as_test(
        history, settings=settings(max_examples=1000, stateful_step_count=60, deadline=None)
    )


@pytest.mark.parametrize("history", HISTORIES)
def test_random_histories(history: type[History]) -> None:
    run_state_machine_as_test(
        history, settings=settings(max_examples=60, stateful_step_count=25, deadline=None)
    )
