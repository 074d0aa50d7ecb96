"""What waits on the disk comes to the log in order, each fact once, whatever happens in between."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from papyra_otel import FactKind, LogUnavailable, open_log, semconv
from papyra_otel.config import Settings
from papyra_otel.errors import ConfigError
from papyra_otel.log.file.fs import OS, OsFileSystem
from papyra_otel.log.file.spool import Spool, root_of_spool
from papyra_otel.pipeline.counters import Counters
from papyra_otel.pipeline.spill import Spill
from papyra_otel.pipeline.writer import FactWriter
from pipeline.fenced import FencedLog, Store

KINDS = {"e": FactKind.EVENT, "a": FactKind.AUDIT, "d": FactKind.DEAD_LETTER}


class Disk(OsFileSystem):
    """The real disk, full when told so."""

    full = False

    def write(self, fd: int, data: bytes, /) -> int:
        if self.full:
            raise OSError(28, "No space left on device")
        return super().write(fd, data)


class Process:
    """One recording process's writer, with a spill; no threads: tests do what they would do."""

    def __init__(self, root: Path, store: Store, *, capacity: int = 8, disk: Disk | None = None) -> None:
        self.disk = disk or Disk()
        self.told: list[str] = []
        self.spool = Spool(str(root), fs=self.disk, told=self.told.append, segment_bytes_max=2000)
        self.counters = Counters()
        self.log = FencedLog(store)
        self.spill = Spill(self.spool, self.counters, backend="fenced")
        self.ticks = 0.0
        self.writer = FactWriter(
            self.log,
            self.counters,
            queued=True,
            spill=self.spill,
            capacity=capacity,
            background=False,
            ticks=lambda: self.ticks,
        )
        self.emitted: list[tuple[str, FactKind, int]] = []
        self.writer.tell = lambda attributes: self.emit("e", name=semconv.FACT_DROPPED, **attributes)

    def emit(self, kind: str = "e", name: str = "x", **attributes: object) -> None:
        fact = self.writer.record(KINDS[kind], name, 1, "s", None, "INFO", None, None, attributes)
        self.emitted.append((fact.writer, fact.kind, fact.seq))

    def away(self, error_type: str | None = "connection", *, seconds: float = 2.0) -> None:
        """Be without the log (or with it again), and notice it after that many seconds."""

        def passes() -> None:
            self.ticks += seconds

        self.log.away = error_type
        self.log.before = passes if error_type else lambda: None

    def crash(self) -> None:
        """End as a killed process does: the kernel closes what is open, and nothing else happens."""
        for stream in self.spool._log._streams.values():
            for segment in [*stream.ended, *filter(None, [stream.segment])]:
                segment.abandon()
        for fd in self.spool._claims.values():
            os.close(fd)
        self.spool._claims.clear()
        self.spool._log._streams.clear()
        self.spool._log._flusher.stop()

    def seqs(self, kind: str = "e") -> list[int]:
        return sorted(seq for writer, each, seq in self.log.server.facts if each is KINDS[kind])


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def process(tmp_path, store):
    made = Process(tmp_path / "spill", store)
    yield made
    made.away(None)
    made.writer.close()


def files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


def test_after_a_second_without_the_log_everything_is_on_the_disk(process, tmp_path):
    process.away()
    for n in range(3):
        process.emit(n=n)
    assert process.writer.drain() is False
    assert process.writer._spill_waiting() is True
    assert process.writer.waiting()[0] == 0
    with open_log(f"file:{tmp_path}/spill") as spilled:
        assert [entry.fact.attributes["n"] for entry in spilled.read()] == [0, 1, 2]
    assert process.counters.read(semconv.PERSISTENCE_SPILLED) == [(("fenced", "event", "s"), 3)]


def test_a_short_absence_touches_no_disk(process, tmp_path):
    process.away(seconds=0.1)
    process.emit()
    process.writer.drain()
    process.writer._spill_waiting()
    assert not (tmp_path / "spill").exists()
    assert process.writer.waiting()[0] == 1


def test_half_a_ring_is_spilled_while_an_attempt_is_under_way(process):
    """An attempt may take its whole timeout; the ring has not got that long."""
    process.away()
    process.emit()

    def meanwhile():
        process.log.before = lambda: None
        for _ in range(60):
            process.emit()
            process.writer._spill_waiting()  # as the spiller's thread does

    process.log.before = meanwhile
    assert process.writer.drain() is False
    process.away(None)
    assert process.writer.drain() is True
    assert process.seqs() == list(range(61))
    assert process.log.server.overtaken == []
    assert process.counters.total(semconv.PERSISTENCE_DROPPED) == 0


def test_the_spill_comes_first_and_leaves_nothing_behind(process, tmp_path):
    process.away()
    for _ in range(30):
        process.emit("e")
        process.emit("d")
        process.writer.drain()
        process.writer._spill_waiting()
    process.away(None)
    process.emit()
    assert process.spill.size_bytes() > 0
    assert process.writer.drain() is True
    assert process.seqs() == list(range(31))
    assert process.seqs("d") == list(range(30))
    assert process.log.server.overtaken == []
    assert files(tmp_path / "spill") == []
    assert (process.spill.size_bytes(), process.spill.waiting) == (0, 0)


def test_what_is_spilled_is_private(process, tmp_path):
    process.away()
    process.emit()
    process.writer.drain()
    process.writer._spill_waiting()
    root = tmp_path / "spill"
    for path in [root, *root.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_a_full_disk_falls_back_to_the_ring_says_so_once_and_counts(process, caplog):
    process.away()
    process.emit()
    process.writer.drain()
    process.disk.full = True
    for _ in range(20):
        process.emit()
        process.writer._spill_waiting()
    assert process.writer.waiting()[0] == 8
    assert process.counters.total(semconv.PERSISTENCE_DROPPED) == 13
    assert len([r for r in caplog.records if "cannot use its spill" in r.getMessage()]) == 1
    process.away(None)
    assert process.writer.drain() is True
    process.writer.drain()
    told = [fact for fact in process.log.server.facts.values() if fact.name == semconv.FACT_DROPPED]
    assert sum(fact.attributes[semconv.DROPPED_COUNT] for fact in told) == 13
    assert process.log.server.overtaken == []


def test_a_log_that_goes_away_while_the_spill_is_drained_is_no_harm(process):
    process.away()
    for _ in range(40):
        process.emit()
        process.writer.drain()
        process.writer._spill_waiting()
    process.log.before = lambda: None
    attempts = process.log.attempts

    def again():
        process.log.away = None if process.log.attempts % 2 else "timeout"
        process.log.some = 3

    process.log.before = again
    for _ in range(50):
        if process.writer.drain():
            break
    assert process.log.attempts > attempts
    process.away(None)
    process.writer.drain()
    assert process.seqs() == list(range(40))
    assert process.log.server.overtaken == []


def test_the_end_leaves_on_the_disk_what_the_log_did_not_take(process, tmp_path, store):
    process.away(seconds=0.1)
    for _ in range(3):
        process.emit()
    assert process.writer.close() == (3, 0)
    assert process.counters.total(semconv.PERSISTENCE_DROPPED) == 0
    after = Process(tmp_path / "spill", store)
    assert after.writer._work() is True
    assert after.seqs() == [0, 1, 2]
    assert files(tmp_path / "spill") == []


def test_what_a_killed_process_left_is_adopted_under_its_own_identities(process, tmp_path, store):
    process.away()
    for _ in range(20):
        process.emit()
        process.writer.drain()
        process.writer._spill_waiting()
    process.crash()
    after = Process(tmp_path / "spill", store)
    after.emit()
    assert after.writer._work() is True
    assert set(store.facts) == {*process.emitted, *after.emitted}
    assert files(tmp_path / "spill") == []


def test_nobody_touches_what_a_living_process_spilled(process, tmp_path, store):
    process.away()
    process.emit()
    process.writer.drain()
    process.writer._spill_waiting()
    process.spool._log.seal()  # even its closed files: only their owner knows what came before
    other = Process(tmp_path / "spill", store)
    assert other.writer._work() is True
    assert store.facts == {}
    process.away(None)
    process.writer.drain()
    assert process.seqs() == [0]


def test_damage_in_a_dead_process_file_is_kept_and_told(process, tmp_path, store):
    process.away()
    for _ in range(3):
        process.emit()
    process.writer.drain()
    process.writer._spill_waiting()
    process.crash()
    (path,) = (tmp_path / "spill").rglob("*.ndjson")
    path.write_bytes(path.read_bytes().replace(b'"seq":1', b'"seq":7') + b'{"v":1,"writer":"torn')
    after = Process(tmp_path / "spill", store)
    assert after.writer._work() is True
    assert after.seqs() == [0, 2]
    assert [kept.name for kept in files(tmp_path / "spill")] == [f"{path.name}.damaged"]
    (told,) = after.told
    assert "2 damaged or unfinished lines" in told
    assert after.writer._work() is True
    assert len(after.told) == 1


def test_a_newer_versions_spill_stays(process, tmp_path, store):
    process.away()
    process.emit()
    process.writer.drain()
    process.writer._spill_waiting()
    process.crash()
    (path,) = (tmp_path / "spill").rglob("*.ndjson")
    from papyra_otel.log.codec import sign

    first, rest = path.read_bytes().split(b"\n", 1)
    newer = sign(rest.strip().replace(b'{"v":1', b'{"v":2').rpartition(b',"crc"')[0] + b"}")
    path.write_bytes(first + b"\n" + newer.strip() + b"\n")
    after = Process(tmp_path / "spill", store)
    assert after.writer._work() is True
    assert path.exists()
    assert "newer papyra-otel" in after.told[0]


def test_a_forked_childs_spill_is_its_own(process, tmp_path):
    process.away()
    process.emit()
    process.writer.drain()
    process.writer._spill_waiting()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            child = process.writer
            child.after_fork_in_child()
            assert child.waiting()[0] == 0
            assert not process.spill.active
            process.emit()
            process.writer.drain()
            process.writer._spill_waiting()
            status = 0 if len(process.spool._claims) == 1 else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    process.away(None)
    assert process.writer._work() is True
    assert Counter(writer for writer, _, _ in process.log.server.facts).most_common() == [
        (process.emitted[0][0], 1),
        *[
            each
            for each in Counter(w for w, _, _ in process.log.server.facts).items()
            if each[0] != process.emitted[0][0]
        ],
    ]
    assert len(process.log.server.facts) == 2, "the child's, too: it is dead"


def test_the_spill_is_a_path_or_a_file_url(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for text in ("spill", "file:spill", f"file://{tmp_path}/spill", f"{tmp_path}/spill"):
        assert Settings.load({"spill": text}, {}).spill == f"{tmp_path}/spill"
    assert Settings.load({"spill": "off"}, {}).spill is None
    assert root_of_spool("a%20b?#") == "a%20b?#"
    with pytest.raises(ConfigError, match="OTEL_PYTHON_PAPYRA_SPILL"):
        Settings.load({"spill": "file://host/spill"}, {})


def test_an_unwritable_spill_says_what_to_do(tmp_path):
    spool = Spool(str(tmp_path / "missing" / "spill"), fs=OS)
    with pytest.raises(LogUnavailable, match="missing"):
        spool.prepare()


def test_nothing_precious_overtakes_what_is_in_the_spill(process):
    """A full log is offered dead letters out of turn, but not past those that wait on the disk."""
    process.emit()
    process.away("ENOSPC")

    def meanwhile():
        process.log.before = lambda: None
        for _ in range(8):
            process.emit("d")
        process.writer._spill_waiting()
        process.emit("d")
        process.log.some = 500  # what comes next is stored, though not acknowledged

    process.log.before = meanwhile
    assert process.writer.drain() is False
    process.away(None)
    assert process.writer.drain() is True
    assert process.log.server.overtaken == []
    assert process.seqs("d") == list(range(9))


# --- any history ---------------------------------------------------------------------------------------


class Histories(RuleBasedStateMachine):
    """Processes come, record, are cut off, fill disks, are killed and end: each fact is stored, or counted as lost."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.store = Store()
        self.disk = Disk()
        self.dropped = 0
        self.in_memory_at_crash: set[tuple[str, FactKind, int]] = set()
        self.emitted: list[tuple[str, FactKind, int]] = []
        self.begin()

    def begin(self) -> None:
        self.process = Process(self.folder / "spill", self.store, capacity=6, disk=self.disk)

    def ended(self) -> None:
        self.emitted += self.process.emitted
        self.dropped += self.process.counters.total(semconv.PERSISTENCE_DROPPED)
        self.begin()

    @rule(kinds=st.text("ead", min_size=1, max_size=6))
    def record(self, kinds):
        for kind in kinds:
            self.process.emit(kind)

    @rule(kind=st.sampled_from(["connection", "ENOSPC"]), some=st.integers(0, 5), slow=st.booleans())
    def cut(self, kind, some, slow):
        self.process.away(kind, seconds=2.0 if slow else 0.1)
        self.process.log.some = some

    @rule()
    def heal(self):
        self.process.away(None)

    @rule(full=st.booleans())
    def fill(self, full):
        self.disk.full = full

    @rule()
    def drain(self):
        self.process.writer._work()

    @rule()
    def spill(self):
        self.process.writer._spill_waiting()

    @rule(kinds=st.text("ead", min_size=1, max_size=6), later=st.text("ead", max_size=4))
    def drain_while_recording_and_spilling(self, kinds, later):
        before = self.process.log.before

        def meanwhile():
            self.process.log.before = before
            before()
            for kind in kinds:
                self.process.emit(kind)
            self.process.writer._spill_waiting()
            for kind in later:
                self.process.emit(kind)

        self.process.log.before = meanwhile
        self.process.writer._work()
        self.process.log.before = before

    @rule()
    def kill(self):
        self.in_memory_at_crash |= {(f.writer, f.kind, f.seq) for f in self.process.writer._backlog.left()}
        self.process.crash()
        self.ended()

    @rule()
    def close(self):
        self.process.writer.close()
        self.ended()

    @invariant()
    def nothing_is_lost_behind_a_fence(self):
        assert self.store.overtaken == []

    def teardown(self):
        self.disk.full = False
        self.process.away(None)
        for _ in range(5):
            self.process.writer._work()
        self.process.writer.close()
        self.ended()
        self.process.writer._work()  # the last one's, if any
        missing = {*self.emitted} - self.store.facts.keys() - self.in_memory_at_crash
        assert len(missing) <= self.dropped
        if not self.dropped:
            assert missing == set()
        assert self.store.overtaken == []
        assert files(self.folder / "spill") == []
        self.process.writer.close()
        shutil.rmtree(self.folder)


Histories.TestCase.settings = settings(
    max_examples=80, stateful_step_count=30, suppress_health_check=list(HealthCheck)
)
TestHistories = Histories.TestCase
