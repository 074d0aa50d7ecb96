"""Random lives of a file log against a plain model: writers, kills, torn and flipped bytes, clocks, forks, upkeep.

The model is a dict of what was acknowledged and a set of what must be readable now. What damage takes
away is found out by looking for each acknowledged line in the files, with none of the code under test.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from papyra_otel.facts import Fact, FactKind
from papyra_otel.log import LogOptions
from papyra_otel.log.codec import encode
from papyra_otel.log.file import FileLog
from papyra_otel.log.file.fs import OS
from papyra_otel.log.retention import parse_retention
from papyra_otel.testing import make_fact

WRITERS = st.integers(0, 2)
SECOND = 1_000_000_000
SEGMENT_BYTES = 1500
PAYLOADS = st.sampled_from(["", "x", "ünïcödé \U0001f9fe", '{"v":1,"writer":"', "long " * 60])


class Life(RuleBasedStateMachine):
    """Three writers, two systems, one folder."""

    @initialize()
    def begin(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="papyra-model-"))
        self.now = 1_800_000_000 * SECOND
        self.writers_made = self.forks = 0
        self.lines: dict[str, bytes] = {}  # all that was ever acknowledged, by identity
        self.readable: set[str] = set()
        self.whole: set[bytes] = set()
        self.flipped: list[tuple[Path, bytes]] = []
        self.logs = [self.open_one() for _ in range(3)]
        self.logs[0].prepare()

    def open_one(self) -> FileLog:
        return FileLog(
            self.root,
            options=LogOptions(fsync="never"),
            clock=lambda: self.now,
            new_writer=self.new_writer,
            segment_bytes_max=SEGMENT_BYTES,
        )

    def new_writer(self) -> str:
        self.writers_made += 1
        return f"{self.writers_made:016x}"

    # --- writing ------------------------------------------------------------------------------------

    @rule(
        who=WRITERS,
        kinds=st.lists(st.sampled_from(FactKind), min_size=1, max_size=5),
        system=st.sampled_from("ab"),
        payload=PAYLOADS,
    )
    def append(self, who: int, kinds: list[FactKind], system: str, payload: str) -> None:
        facts = [self.fact(self.logs[who], kind, system, payload) for kind in kinds]
        self.logs[who].append(facts)
        self.acknowledge(facts)

    def fact(self, log: FileLog, kind: FactKind, system: str, payload: str) -> Fact:
        self.now += SECOND // 100
        made = make_fact(
            len(self.lines), kind=kind, system=system, time_unix_nano=self.now, attributes={"p": payload}
        )
        return made.identified(*log.reserve(system, kind))

    def acknowledge(self, facts: list[Fact]) -> None:
        for fact in facts:
            assert fact.uid is not None
            self.lines[fact.uid] = encode(fact)
            self.readable.add(fact.uid)

    @rule(who=WRITERS)
    def seal(self, who: int) -> None:
        self.logs[who].seal()

    @rule(who=WRITERS)
    def reopen(self, who: int) -> None:
        self.logs[who].close()
        self.logs[who] = self.open_one()

    @rule(seconds=st.sampled_from([-7200, -1, 3600, 86_400]))
    def clock_steps(self, seconds: int) -> None:
        self.now += seconds * SECOND

    @rule(who=WRITERS, system=st.sampled_from("ab"))
    def fork(self, who: int, system: str) -> None:
        """A child writes one fact under an identity of its own, says which, and ends without a word to the log."""
        self.forks += 1
        reading, writing = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # forking beside threads: others' tests have some
            child = os.fork()
        if child == 0:  # pragma: no cover - in the child
            self.writers_made = self.forks << 32
            try:
                fact = self.fact(self.logs[who], FactKind.EVENT, system, "child")
                self.logs[who].append([fact])
                os.write(writing, (fact.uid or "").encode() + b"\n" + encode(fact))
            finally:
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as said:
            uid, _, line = said.read().partition(b"\n")
        os.waitpid(child, 0)
        assert line.endswith(b"\n")
        self.lines[uid.decode()] = line
        self.readable.add(uid.decode())

    # --- harm ---------------------------------------------------------------------------------------

    def kill(self, who: int) -> None:
        """Leave as a killed process does: descriptors gone, nothing sealed."""
        self.logs[who].after_fork_in_child(stood_still=True)
        self.logs[who] = self.open_one()

    @rule(who=WRITERS)
    def die(self, who: int) -> None:
        self.kill(who)

    @rule(who=WRITERS, kind=st.sampled_from(FactKind), part=st.floats(0.01, 0.99))
    def die_writing(self, who: int, kind: FactKind, part: float) -> None:
        """Killed within a write: a part of a line that was never acknowledged stands at the end."""
        fact = self.fact(self.logs[who], kind, "a", "torn")
        mine = [
            path
            for path in self.segments()
            if (fact.writer or "?") in path.name and path.parent.name == kind.plural
        ]
        open_one = [path for path in mine if not self.is_dead(path)]
        self.kill(who)
        if open_one:
            line = encode(fact)
            with open_one[0].open("ab") as file:
                file.write(line[: max(int(len(line) * part), 1)])

    @rule(which=st.integers(0, 99), part=st.floats(0, 1))
    def lose_the_end(self, which: int, part: float) -> None:
        """A power cut takes the end of an unsealed segment whose writer is gone."""
        dead = [path for path in self.dead_segments() if b'"kind":"segment.seal"' not in path.read_bytes()]
        if dead:
            path = dead[which % len(dead)]
            self.harm(path, path.read_bytes()[: int(path.stat().st_size * part)])

    @rule(which=st.integers(0, 99), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
    def flip(self, which: int, place: float, bit: int) -> None:
        dead = [path for path in self.dead_segments() if path.stat().st_size]
        if not dead:
            return
        path = dead[which % len(dead)]
        data = bytearray(path.read_bytes())
        at = int(len(data) * place)
        self.whole.update(bytes(data).splitlines(keepends=True))
        data[at] ^= 1 << bit
        self.harm(path, bytes(data))
        begin = data.rfind(b"\n", 0, at) + 1
        end = data.find(b"\n", at) + 1 or len(data)
        if bytes(data[begin:end]) not in self.whole:  # else the same bit was flipped twice
            self.flipped.append((path, bytes(data[begin:end])))

    def harm(self, path: Path, data: bytes) -> None:
        before = self.in_files()
        path.write_bytes(data)
        after = self.in_files()
        self.readable -= before - after
        self.readable |= after - before  # the same bit twice

    def segments(self) -> list[Path]:
        return sorted(self.root.glob("*/*s/*.ndjson"))

    def is_dead(self, path: Path) -> bool:
        fd = OS.open_read(str(path))
        try:
            return not OS.locked(fd)
        finally:
            os.close(fd)

    def dead_segments(self) -> list[Path]:
        return [path for path in self.segments() if self.is_dead(path)]

    def in_files(self) -> set[str]:
        """Return what stands whole in the files, line by line."""
        lines = {line for path in self.segments() for line in path.read_bytes().splitlines(keepends=True)}
        return {uid for uid, line in self.lines.items() if line in lines}

    def anywhere(self) -> set[str]:
        """Return what stands whole in the files, with or without its line end."""
        data = b"\n".join(path.read_bytes() for path in self.segments())
        return {uid for uid, line in self.lines.items() if line[:-1] in data}

    # --- upkeep -------------------------------------------------------------------------------------

    @rule(who=WRITERS)
    def scan(self, who: int) -> None:
        before = self.snapshot()
        report = self.logs[who].scan()
        assert self.snapshot() == before
        if any(path.exists() and line in path.read_bytes() for path, line in self.flipped):
            assert not report.healthy
        for stream in report.streams.values():
            parts = stream.good_bytes + stream.mark_bytes + stream.newer_bytes + stream.damaged_bytes
            assert parts + stream.in_flight_bytes == stream.size_bytes

    @rule(who=WRITERS, mode=st.sampled_from(["quarantine", "repair"]))
    def recover(self, who: int, mode: str) -> None:
        salvageable = self.anywhere()
        report = self.logs[who].recover(mode)
        self.take_up(report.recorded)
        assert not report.skipped or all("writ" in each.reason for each in report.skipped)
        assert report.remaining.unresolved == 0, report.remaining.anomalies[:3]
        self.readable |= salvageable
        if mode == "repair":
            self.readable |= self.in_files()
        before = self.snapshot()
        again = self.logs[who].recover(mode)
        assert not again.changed
        assert self.snapshot() == before

    @rule(
        who=WRITERS,
        retention=st.sampled_from(
            ["dead_letters=2;audits=600B", "events=5;dead_letters=2", "1000B", "events=600B,4", "10m"]
        ),
    )
    def compact(self, who: int, retention: str) -> None:
        with self.limited(retention) as limited:
            shown = self.read(limited)
            before = self.read(self.logs[who])
            report = self.logs[who].compact(retention, force=True)
            self.take_up(report.recorded)
            recorded = {fact.uid or "" for fact in report.recorded}
            after = self.read(self.logs[who])
            assert after <= before | recorded
            others = {
                uid for uid in shown if "-event-" not in uid
            }  # the fact about it takes an event's place
            assert others <= after
            assert {uid for uid in self.read(limited) if "-event-" not in uid} == others
            if retention.startswith("dead_letters"):
                assert before - after <= {uid for uid in before - shown if "-event-" not in uid}
            self.readable -= before - after

    def limited(self, retention: str) -> FileLog:
        return FileLog(self.root, clock=lambda: self.now, retention=parse_retention(retention))

    def take_up(self, recorded: tuple[Fact, ...]) -> None:
        self.acknowledge(list(recorded))

    def snapshot(self) -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in sorted(self.root.rglob("*")) if path.is_file()}

    # --- what always holds --------------------------------------------------------------------------

    def read(self, log: FileLog, *, newest_first: bool = False) -> set[str]:
        uids: list[str] = []
        last: dict[tuple[str | None, FactKind], int] = {}
        for entry in log.read(newest_first=newest_first):
            fact = entry.fact
            assert fact.uid is not None
            uids.append(fact.uid)
            assert encode(fact) == self.lines[fact.uid]  # nothing altered, nothing made up
            seq, stream = fact.seq or 0, (fact.writer, fact.kind)
            if stream in last:
                assert (seq < last[stream]) if newest_first else (seq > last[stream])
            last[stream] = seq
        assert len(set(uids)) == len(uids)
        return set(uids)

    @invariant()
    def everything_is_readable(self) -> None:
        if hasattr(self, "logs"):
            assert self.read(self.logs[0]) == self.readable
            assert self.read(self.logs[1], newest_first=True) == self.readable

    @precondition(lambda self: hasattr(self, "logs"))
    @rule()
    def nothing_half_made_stays(self) -> None:
        assert not list(self.root.rglob("*.tmp"))

    def teardown(self) -> None:
        for log in getattr(self, "logs", []):
            log.close()
        shutil.rmtree(getattr(self, "root", ""), ignore_errors=True)


@pytest.mark.exhaustive
@pytest.mark.timeout(900)
def test_random_lives() -> None:
    run_state_machine_as_test(
        Life, settings=settings(max_examples=500, stateful_step_count=50, deadline=None)
    )


def test_a_few_random_lives() -> None:
    run_state_machine_as_test(Life, settings=settings(max_examples=15, stateful_step_count=30, deadline=None))
