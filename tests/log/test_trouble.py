"""What the file log does when the disk, the folder, the clock or the process does not play along."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from log.examples import CountingFs, checked_by_hand, failing
from log.faults import FaultyFs
from papyra_otel import semconv
from papyra_otel.errors import LogUnavailable
from papyra_otel.facts import Fact, FactKind
from papyra_otel.log import LogOptions
from papyra_otel.log.contract import Mark
from papyra_otel.log.file import FileLog, forks
from papyra_otel.log.file.flusher import Flusher, longer
from papyra_otel.log.file.fs import OsFileSystem
from papyra_otel.pipeline.counters import Counters
from papyra_otel.pipeline.writer import FactWriter
from papyra_otel.testing import make_fact

NOW = 1_795_377_765_123_456_789
BY_HAND = LogOptions(fsync="interval", fsync_interval_seconds=3600.0)
DAY_NANOS = 86_400 * 10**9


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., FileLog]]:
    """Open the same log again and again; who wants something forced does it by hand."""
    logs: list[FileLog] = []

    def open_it(**options: Any) -> FileLog:
        log = FileLog(tmp_path / "facts", **({"options": BY_HAND} | options))
        logs.append(log)
        return log

    yield open_it
    for log in logs:
        log.close()


def event(n: int = 0, **changes: Any) -> Fact:
    return make_fact(n, kind=FactKind.EVENT, **changes)


def reserved(log: FileLog, *numbers: int, kind: FactKind = FactKind.EVENT) -> list[Fact]:
    return [make_fact(n, kind=kind).identified(*log.reserve("shop", kind)) for n in numbers]


def segments(log: FileLog) -> list[Path]:
    return sorted(Path(log.root).rglob("*.ndjson"), key=lambda path: path.name[-13:])


def lines(path: Path) -> list[dict[str, Any]]:
    return [checked_by_hand(line) for line in path.read_bytes().splitlines(keepends=True)]


def numbers(log: FileLog) -> list[int]:
    found = [entry.fact.attributes["n"] for entry in log.read()]
    assert [entry.fact.attributes["n"] for entry in log.read(newest_first=True)] == found[::-1]
    return found


def anomalies(log: FileLog) -> set[str]:
    return {anomaly.type for anomaly in log.scan().anomalies}


# --- a disk that refuses ---------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["fsync", "fsync_folder"])
@pytest.mark.parametrize("force", ["_flush_quietly", "flush", "seal"])
def test_what_could_not_be_forced_is_written_again_elsewhere(
    opened: Callable[..., FileLog], call: str, force: str
) -> None:
    fs = FaultyFs(only=frozenset({call}))
    log = opened(fs=fs)
    log.append([event(0), event(1)])
    log.append([event(2)])
    fs.fail(1, errno.EIO)
    getattr(log, force)()
    first, second = segments(log)
    refused = first.read_bytes()
    assert [line["seq"] for line in lines(first)[1:4]] == [0, 1, 2]
    assert b"segment.seal" not in refused or force == "seal"  # sealing comes before forcing
    header = lines(second)[0]
    assert header["seq"] == 0
    assert header["attributes"][semconv.SEGMENT_PREVIOUS] == 1
    assert semconv.SEGMENT_PREDECESSOR not in header["attributes"]
    written = refused.splitlines(keepends=True)[1:4]
    assert second.read_bytes().splitlines(keepends=True)[1:4] == written, "same bytes, same identities"
    with first.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # it was closed
    log.append([event(3)])
    log.flush()
    assert first.read_bytes() == refused
    assert numbers(log) == [0, 1, 2, 3]
    assert [*fs.opened.values()] == [str(second) + ".tmp"] or force == "seal"
    log.close()
    assert anomalies(opened()) == set()
    assert fs.opened == {}


def test_only_what_was_not_forced_before_is_written_again(opened: Callable[..., FileLog]) -> None:
    fs = FaultyFs(only=frozenset({"fsync"}))
    log = opened(fs=fs)
    log.append([event(0), event(1)])
    log.flush()
    log.append([event(2)])
    fs.fail(1, errno.EIO)
    log.flush()  # which makes it good
    assert [line["seq"] for line in lines(segments(log)[1])] == [2, 2]
    assert fs.calls.count("fsync") == 3


def test_a_disk_that_refuses_for_long_is_told_and_recovers(opened: Callable[..., FileLog]) -> None:
    fs = CountingFs(failing("fsync", errno.EIO))
    log = opened(fs=fs)
    log.append([event(0)])
    for _ in range(3):
        assert log._flush_quietly() is False
    with pytest.raises(LogUnavailable) as caught:
        log.flush()
    assert caught.value.error_type == "EIO"
    log.append([event(1)])
    fs.before = lambda call: None
    assert log._flush_quietly() is True
    log.flush()
    assert numbers(log) == [0, 1]
    log.close()
    assert anomalies(opened()) == set()


def test_a_refused_file_is_never_forced_again(opened: Callable[..., FileLog]) -> None:
    forced: list[int] = []

    class Fs(FaultyFs):
        def fsync(self, fd: int) -> None:
            forced.append(os.fstat(fd).st_ino)
            super().fsync(fd)

    fs = Fs(only=frozenset({"fsync"}))
    log = opened(fs=fs, options=LogOptions(fsync="never"))
    log.append([event(0)])
    fs.fail(1, errno.EIO)
    with pytest.raises(LogUnavailable, match="1 of them may not survive a power cut"):
        log.flush()
    log.flush()
    log.append([event(1)])
    log.flush()
    assert len(forced) == len(set(forced)) == 2


def test_memory_for_what_is_not_forced_is_bounded_and_the_rest_is_told(
    opened: Callable[..., FileLog],
) -> None:
    fs = FaultyFs(only=frozenset({"fsync"}))
    log = opened(fs=fs, unsynced_bytes_max=100_000)
    text = "x" * 1000
    for n in range(400):
        log.append([event(n, attributes={"n": n, "text": text})])
    assert log._memory.bytes < 200_000
    fs.fail(1, errno.EIO)
    with pytest.raises(LogUnavailable) as caught:
        log.flush()
    told = int(str(caught.value).partition("disk; ")[2].split()[0])
    header, *again = lines(segments(log)[1])
    assert 60 < len(again) < 200
    assert told == 400 - len(again)
    assert [line["seq"] for line in again] == list(range(told, 400))
    assert header["seq"] == told
    log.flush()  # told once
    assert log._memory.bytes == 0
    assert numbers(log) == list(range(400))


def test_what_the_disk_has_is_not_kept(opened: Callable[..., FileLog]) -> None:
    log = opened(segment_bytes_max=50_000)
    for n in range(300):
        log.append([event(n)])
        if n % 10 == 0:
            log.flush()
    log.flush()
    assert log._memory.bytes == 0
    assert all(not stream.segment._kept for stream in log._streams.values())
    log.close()
    assert anomalies(opened()) == set()


def test_running_out_of_descriptors_while_forcing_costs_no_segment(opened: Callable[..., FileLog]) -> None:
    fs = FaultyFs(only=frozenset({"fsync_folder"}))
    log = opened(fs=fs)
    log.append([event(0)])
    fs.fail(1, errno.EMFILE, count=2)
    with pytest.raises(LogUnavailable) as caught:
        log.flush()
    assert caught.value.error_type == "EMFILE"
    log.flush()
    assert len(segments(log)) == 1


def test_a_file_system_that_cannot_force_folders_is_used_nevertheless(opened: Callable[..., FileLog]) -> None:
    log = opened(fs=CountingFs(failing("fsync_folder", errno.EINVAL)))
    log.append([event(0)])
    log.flush()
    assert len(segments(log)) == 1


# --- nobody waits for the disk, or all together ------------------------------------------------------------


class Gate(CountingFs):
    """Each fsync waits until the test lets it go."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Semaphore(0)
        self.go_on = threading.Semaphore(0)
        self.open = False

    def fsync(self, fd: int) -> None:  # type: ignore[override]
        if not self.open:
            self.begun.release()
            assert self.go_on.acquire(timeout=20)
        super().fsync(fd)


def test_who_appends_waits_for_no_fsync_not_when_a_segment_ends_either(
    opened: Callable[..., FileLog],
) -> None:
    fs = Gate()
    log = opened(fs=fs, segment_bytes_max=1500)
    log.append([event(0)])
    flushing = threading.Thread(target=log._flush_quietly)
    flushing.start()
    assert fs.begun.acquire(timeout=10)
    for n in range(1, 20):
        log.append([event(n)])
    assert len(segments(log)) > 4
    assert flushing.is_alive()
    fs.open = True
    fs.go_on.release()
    flushing.join()
    assert numbers(log) == list(range(20))


def test_descriptors_of_ended_segments_do_not_pile_up(opened: Callable[..., FileLog]) -> None:
    fs = FaultyFs()
    log = opened(fs=fs, segment_bytes_max=1500)
    for n in range(200):
        log.append([event(n)])
        assert len(fs.opened) < 20
    assert len(segments(log)) > 60
    log.close()
    assert anomalies(opened()) == set()


@pytest.mark.parametrize("through_writer", [False, True])
def test_threads_that_wait_for_the_disk_share_one_fsync(
    opened: Callable[..., FileLog], through_writer: bool
) -> None:
    fs = Gate()
    log = opened(fs=fs, options=LogOptions(fsync="always"))
    log._flusher.wake = lambda: None  # type: ignore[method-assign]
    writer = FactWriter(log, Counters(), background=False)

    def say(n: int) -> None:
        if through_writer:
            writer.record(FactKind.EVENT, "x", NOW + n, "shop", None, "INFO", None, None, {"n": n})
        else:
            log.append([event(n)])

    threads = [threading.Thread(target=say, args=(n,)) for n in range(9)]
    threads[0].start()
    assert fs.begun.acquire(timeout=10)
    for thread in threads[1:]:
        thread.start()
    (stream,) = log._streams.values()
    waited = threading.Event()
    while stream.records < 9:  # all are written while the first still waits for the disk
        assert not waited.wait(0.001)
    assert all(thread.is_alive() for thread in threads)
    fs.open = True
    fs.go_on.release()
    for thread in threads:
        thread.join(10)
    assert fs.calls["fsync"] == 2  # the first one's own, and one for the eight others
    assert sorted(numbers(log)) == list(range(9))


def test_a_thread_whose_fsync_failed_harms_no_other(opened: Callable[..., FileLog]) -> None:
    fs = FaultyFs(only=frozenset({"fsync"}))
    log = opened(fs=fs, options=LogOptions(fsync="always"))
    log._flusher.wake = lambda: None  # type: ignore[method-assign]
    writer = FactWriter(log, Counters(), background=False)
    fs.fail(2, errno.EIO, count=4)
    for n in range(6):
        writer.record(FactKind.EVENT, "x", NOW + n, "shop", None, "INFO", None, None, {"n": n})
    assert writer.waiting()[0] == 5  # none overtakes the one that was not forced
    assert writer.drain() is False
    assert writer.drain() is True
    writer.record(FactKind.EVENT, "x", NOW + 6, "shop", None, "INFO", None, None, {"n": 6})
    assert numbers(log) == list(range(7))
    log.close()
    assert anomalies(opened()) == set()


def test_appending_again_what_is_there_doubles_nothing(opened: Callable[..., FileLog]) -> None:
    log = opened()
    facts = reserved(log, *range(6))
    log.append(facts[:3])
    log.append(facts[2:3])
    log.append(facts[:5])
    log.append([facts[5]])
    assert [line["seq"] for line in lines(segments(log)[0])[1:]] == list(range(6))


def test_a_fact_that_comes_late_is_not_taken_for_one_that_is_there(opened: Callable[..., FileLog]) -> None:
    log = opened(options=LogOptions(fsync="never"))
    facts = reserved(log, *range(5000))
    log.append(facts[::2])  # leaves more holes than are remembered
    log.append(facts[1::2])
    assert sorted(numbers(log)) == list(range(5000))


# --- a disk that is full ----------------------------------------------------------------------------------


class SmallDisk(CountingFs):
    """A disk of *capacity* bytes, all files together."""

    def __init__(self, root: Path, capacity: int) -> None:
        super().__init__()
        self.root = root
        self.capacity = capacity

    def left(self) -> int:
        return self.capacity - sum(path.stat().st_size for path in self.root.rglob("*") if path.is_file())

    def write(self, fd: int, data: bytes, /) -> int:  # type: ignore[override]
        room = self.left()
        if room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(fd, data[:room])

    def free_bytes(self, path: str) -> int:
        return max(self.left(), 0)


def test_the_reserve_is_given_up_for_what_matters_most_and_made_again(
    opened: Callable[..., FileLog], tmp_path: Path
) -> None:
    fs, clock = SmallDisk(tmp_path, 100_000), Clock()
    log = opened(fs=fs, clock=clock, reserve_bytes=20_000)
    log.prepare()
    reserve = tmp_path / "facts/reserve"
    assert reserve.stat().st_size == 20_000
    assert reserve.stat().st_mode & 0o777 == 0o600
    log.append([make_fact(0, kind=FactKind.DEAD_LETTER), event(0)])
    (tmp_path / "others").write_bytes(b"x" * fs.left())
    with pytest.raises(LogUnavailable) as caught:
        log.append([event(1)])
    assert caught.value.error_type == "ENOSPC"
    assert reserve.exists()
    letters = reserved(log, 1, 2, kind=FactKind.DEAD_LETTER)
    log.append(letters)
    assert not reserve.exists()
    assert [entry.fact.attributes["n"] for entry in log.read(kinds=FactKind.DEAD_LETTER)] == [0, 1, 2]
    clock.now += 10**12
    log._flush_quietly()
    assert not reserve.exists()  # no room yet
    (tmp_path / "others").unlink()
    log._flush_quietly()
    assert not reserve.exists()  # not tried too often
    clock.now += 31 * 10**9
    log._flush_quietly()
    assert reserve.stat().st_size == 20_000
    assert "tmp_leftover" not in anomalies(log)


@pytest.mark.parametrize("kind", [FactKind.AUDIT, FactKind.EVENT])
def test_audits_and_explanations_get_the_reserve_too(
    opened: Callable[..., FileLog], tmp_path: Path, kind: FactKind
) -> None:
    fs = SmallDisk(tmp_path, 100_000)
    log = opened(fs=fs, reserve_bytes=20_000)
    log.prepare()
    (tmp_path / "others").write_bytes(b"x" * fs.left())
    log.append([make_fact(0, kind=kind, name=semconv.FACT_DROPPED)])
    assert not (tmp_path / "facts/reserve").exists()
    assert numbers(log) == [0]


def test_a_reserve_that_cannot_be_is_none(opened: Callable[..., FileLog], tmp_path: Path) -> None:
    fs = SmallDisk(tmp_path, 10_000)
    log = opened(fs=fs, reserve_bytes=20_000)
    log.prepare()
    log.append([event(0)])
    assert not (tmp_path / "facts/reserve").exists()
    (tmp_path / "facts/reserve.tmp").write_bytes(b"left behind")
    fs.capacity = 1_000_000
    opened(fs=fs, reserve_bytes=20_000).prepare()
    assert (tmp_path / "facts/reserve").stat().st_size == 20_000
    assert not (tmp_path / "facts/reserve.tmp").exists()


def test_a_reserve_that_another_process_makes_is_left_to_it(
    opened: Callable[..., FileLog], tmp_path: Path
) -> None:
    (tmp_path / "facts").mkdir()
    with (tmp_path / "facts/reserve.tmp").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        opened(reserve_bytes=20_000).prepare()
        assert not (tmp_path / "facts/reserve").exists()
        assert (tmp_path / "facts/reserve.tmp").exists()


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 8 MiB with nothing on it."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["mount", "-t", "tmpfs", "-o", "size=8m,mode=700", "tmpfs", folder]
        if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
            pytest.skip("mounting a small file system needs root")
        yield Path(folder)
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_disk_that_is_really_full_loses_no_dead_letter(small_disk: Path) -> None:
    log = FileLog(small_disk / "facts", options=BY_HAND)
    log.prepare()
    writer = FactWriter(log, Counters(), background=False, capacity=50)
    told: list[Fact] = []

    def tell(attributes: Any) -> None:
        told.append(record(FactKind.EVENT, 0, semconv.FACT_DROPPED, **attributes))

    def record(kind: FactKind, n: int, name: str = "x", **attributes: Any) -> Fact:
        return writer.record(kind, name, NOW + n, "shop", None, "INFO", None, None, {"n": n, **attributes})

    writer.tell = tell
    events = []
    while writer.waiting()[0] < 40:
        events.append(record(FactKind.EVENT, len(events), text="x" * 3000))
    letters = []
    for n in range(200):
        letters.append(record(FactKind.DEAD_LETTER, n, text="x" * 1000))
        writer.drain()
    events += [record(FactKind.EVENT, n, text="x" * 3000) for n in range(200)]
    assert (small_disk / "facts/reserve").exists() is False
    stored = [entry.fact for entry in log.read(kinds=FactKind.DEAD_LETTER)]
    assert stored == letters
    assert writer.drain() is False
    os.truncate(max(segments(log), key=lambda path: path.stat().st_size), 0)  # room again
    assert writer.drain() is True
    writer.drain()
    assert len(told) == 1
    lost = {text for fact in told for text in fact.attributes[semconv.DROPPED_RANGES]}
    assert sum(fact.attributes[semconv.DROPPED_COUNT] for fact in told) > 150
    assert all("-event-" in text for text in lost)
    log.close()


FILE_SIZE_LIMITED = """
import errno, resource, signal, sys
from papyra_otel.errors import LogUnavailable
from papyra_otel.facts import FactKind
from papyra_otel.log import LogOptions
from papyra_otel.log.file import FileLog
from papyra_otel.testing import make_fact

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
log = FileLog(sys.argv[1], options=LogOptions(fsync="interval", fsync_interval_seconds=3600.0))
log.prepare()
names = set()
for n in range(500):
    fact = make_fact(n, kind=FactKind.EVENT)
    fact = fact.identified(*log.reserve(fact.system, fact.kind))
    for _ in range(2):
        try:
            log.append([fact])
            break
        except LogUnavailable as error:
            names.add(error.error_type)
    else:
        raise AssertionError("not even in a new file")
log.close()
print(*names)
"""


def test_a_limit_on_the_size_of_files_only_begins_new_ones(
    opened: Callable[..., FileLog], tmp_path: Path
) -> None:
    command = [sys.executable, "-W", "error", "-c", FILE_SIZE_LIMITED, str(tmp_path / "facts")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("EFBIG\n", "", 0)
    log = opened()
    assert numbers(log) == list(range(500))
    assert len(segments(log)) > 5
    assert anomalies(log) <= {"torn_tail"}
    assert not (tmp_path / "facts/reserve.tmp").exists()


# --- folders that are not what they were ---------------------------------------------------------------------


@pytest.mark.parametrize("place", ["shop", "shop/events"])
def test_a_folder_that_became_a_symlink_is_not_followed(
    opened: Callable[..., FileLog], tmp_path: Path, place: str
) -> None:
    clock = Clock()
    log = opened(clock=clock)
    log.append([event(0)])
    folder, elsewhere = tmp_path / "facts" / place, tmp_path / "elsewhere"
    folder.rename(elsewhere)
    folder.symlink_to(elsewhere)
    before = sorted(elsewhere.rglob("*"))
    facts = reserved(log, 1, 2)
    for _ in range(3):
        clock.now += 200_000_000
        with pytest.raises(LogUnavailable) as caught:
            log.append(facts)
        assert caught.value.error_type == "ENOTDIR"
    assert sorted(elsewhere.rglob("*")) == before
    folder.unlink()
    log.append(facts)
    assert [line["seq"] for line in lines(segments(log)[-1])[1:]] == [1, 2]


def test_the_logs_own_folder_may_be_a_symlink(opened: Callable[..., FileLog], tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "facts").symlink_to(tmp_path / "elsewhere")
    log = opened()
    log.prepare()
    log.append([event(0)])
    assert numbers(log) == [0]


def test_a_folder_that_was_moved_away_is_noticed(opened: Callable[..., FileLog], tmp_path: Path) -> None:
    clock = Clock()
    log = opened(clock=clock)
    log.append([event(0)])
    (tmp_path / "facts/shop").rename(tmp_path / "moved")
    clock.now += 100_000_000
    log.append([event(1)])
    assert numbers(log) == [1]


def test_not_being_able_to_look_is_no_reason_to_leave(opened: Callable[..., FileLog]) -> None:
    fs, clock = FaultyFs(only=frozenset({"status", "is_folder"})), Clock()
    log = opened(fs=fs, clock=clock)
    log.append([event(0)])
    fs.fail(1, errno.EIO, count=100)
    clock.now += 200_000_000
    log.append([event(1)])
    assert len(segments(log)) == 1


# --- names that are taken --------------------------------------------------------------------------------------


class Locking(OsFileSystem):
    """Somebody looks at the first *count* new files before their maker has locked them."""

    def __init__(self, count: int) -> None:
        self.left = count

    def lock(self, fd: int) -> bool:
        self.left -= 1
        return self.left < 0 and super().lock(fd)


def test_a_new_file_that_somebody_else_holds_is_left_for_the_next_number(
    opened: Callable[..., FileLog],
) -> None:
    log = opened(fs=Locking(2))
    log.append([event(0)])
    (path,) = segments(log)
    assert path.stem.endswith("-000003")
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    stuck = opened(fs=Locking(3))
    with pytest.raises(LogUnavailable) as caught:
        stuck.append([event(1)])
    assert caught.value.error_type == "EBUSY"
    assert len(segments(log)) == 1


def test_a_passing_name_that_is_taken_is_left_alone(opened: Callable[..., FileLog], tmp_path: Path) -> None:
    folder = tmp_path / "facts/shop/events"
    folder.mkdir(parents=True)
    planted = folder / "20261122T200245Z-9f2c41d07be3a815-000001.ndjson.tmp"
    planted.symlink_to(tmp_path / "victim")
    log = opened(clock=Clock(), new_writer=lambda: "9f2c41d07be3a815")
    log.append([event(0)])
    assert planted.is_symlink()
    assert not (tmp_path / "victim").exists()
    assert [path.stem[-6:] for path in segments(log)] == ["000002"]


def test_each_header_names_the_segment_before(opened: Callable[..., FileLog]) -> None:
    fs = FaultyFs(only=frozenset({"rename"}))
    log = opened(fs=fs)
    log.append([event(0)])
    log.seal()
    fs.fail(1, errno.EIO)
    facts = reserved(log, 1)
    with pytest.raises(LogUnavailable):
        log.append(facts)
    log.append(facts)
    first, third = (lines(path)[0]["attributes"] for path in segments(log))
    assert semconv.SEGMENT_PREVIOUS not in first
    assert third[semconv.SEGMENT_INDEX] == 3  # a number is used up once a file may have got its name
    assert third[semconv.SEGMENT_PREVIOUS] == 1
    assert (
        third[semconv.SEGMENT_PREDECESSOR]
        == lines(segments(log)[0])[-1]["attributes"][semconv.SEGMENT_DIGEST]
    )


# --- clocks ---------------------------------------------------------------------------------------------------


def test_a_clock_that_jumps_ends_a_segment_at_most_once(opened: Callable[..., FileLog]) -> None:
    clock = Clock()
    log = opened(clock=clock)
    n = 0
    for jump, segments_then in (
        (0, 1),
        (400 * DAY_NANOS, 2),
        (-400 * DAY_NANOS, 2),
        (-DAY_NANOS, 2),
        (DAY_NANOS + 1, 3),
    ):
        clock.now += jump
        for _ in range(10):
            clock.now += 1_000
            log.append([event(n)])
            n += 1
        assert len(segments(log)) == segments_then
    log.close()
    assert sorted(numbers(opened())) == list(range(n))
    assert len({path.name[-13:] for path in segments(log)}) == 3
    assert anomalies(opened()) <= {"clock_jump"}


# --- marks ------------------------------------------------------------------------------------------------------


def test_segments_that_open_and_end_are_told(opened: Callable[..., FileLog]) -> None:
    marks: list[Mark] = []

    def note(mark: Mark) -> None:
        marks.append(mark)
        raise RuntimeError("nobody cares")

    log = opened(options=LogOptions(fsync="never", on_mark=note), clock=Clock())
    log.append([event(0), event(1)])
    log.seal()
    log.append([event(2)])
    log.close()
    assert [mark.name for mark in marks] == [semconv.LOG_OPENED, semconv.LOG_SEALED] * 2
    assert [mark.seq for mark in marks] == [0, 1, 2, 2]
    for mark, line in zip(marks, [lines(path)[at] for path in segments(log) for at in (0, -1)], strict=True):
        assert line["attributes"] == mark.attributes
        assert (line["writer"], line["seq"], line["system"]) == (mark.writer, mark.seq, mark.system)
        assert (mark.kind, mark.time_unix_nano) == (FactKind.EVENT, NOW)


# --- the background thread ------------------------------------------------------------------------------------


def test_the_background_thread_outlives_whatever_happens_and_tries_again() -> None:
    outcomes = iter([RuntimeError("a bug"), False, True])
    done = threading.Event()

    def flush() -> bool:
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        if outcome:
            done.set()
        return outcome

    flusher = Flusher(flush, 0.0)
    flusher.wake()
    assert done.wait(10)
    flusher.stop()


def test_a_flusher_that_is_stopped_while_it_begins_a_flush_ends_at_once() -> None:
    flusher = Flusher(lambda: True, 0.0)
    threads: list[threading.Thread] = []

    class StoppedBeforeItIsCleared(threading.Event):
        def clear(self) -> None:
            threads.append(threading.current_thread())
            flusher._stopped.set()
            self.set()
            super().clear()
            began.set()

    began = threading.Event()
    flusher._wanted = StoppedBeforeItIsCleared()
    flusher.wake()
    assert began.wait(10)
    threads[0].join(10)
    assert not threads[0].is_alive()


def test_pauses_grow_up_to_half_a_minute_and_are_never_shorter_than_asked() -> None:
    pauses = [0.2]
    while len(pauses) < 12:
        pauses.append(longer(pauses[-1]))
    assert pauses == sorted(pauses)
    assert pauses[-1] == 30.0
    assert longer(3600.0) == 3600.0
    assert longer(0.0) > 0


# --- forks ------------------------------------------------------------------------------------------------------

OPEN_SEGMENTS = """
import os

def open_segments():
    held = []
    for fd in range(3, 256):
        try:
            name = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue
        if ".ndjson" in name:
            held.append((fd, os.path.basename(name)))
    return held
"""

FORKING_AT_ANY_MOMENT = (
    OPEN_SEGMENTS
    + """
import fcntl, os, sys, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads is what is tested
from papyra_otel.facts import FactKind
from papyra_otel.log import LogOptions
from papyra_otel.log.file import FileLog
from papyra_otel.testing import make_fact

options = LogOptions(fsync=sys.argv[2], fsync_interval_seconds=0.001)
log = FileLog(sys.argv[1], options=options, segment_bytes_max=1500)
other = FileLog(sys.argv[1] + "-other", options=options, segment_bytes_max=1500)
ended = threading.Event()

def appending(log, kind):
    n = 0
    while not ended.is_set():
        log.append([make_fact(n, kind=kind, actor=str(os.getpid()))])
        n += 1

threads = [
    threading.Thread(target=appending, args=(each, kind)) for each in (log, other) for kind in FactKind
]
for thread in threads:
    thread.start()

def in_child():
    held = open_segments()
    assert held == [], held
    for each in (log, other):
        each.append([make_fact(0, kind=FactKind.EVENT, actor=str(os.getpid()))])
        each.close()

def forking():
    for _ in range(20):
        pid = os.fork()
        if pid == 0:
            try:
                in_child()
                os._exit(0)
            except BaseException as error:
                os.write(2, repr(error).encode())
            finally:
                os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0

forkers = [threading.Thread(target=forking) for _ in range(2)]
for thread in forkers:
    thread.start()
for thread in forkers:
    thread.join()
ended.set()
for thread in threads:
    thread.join()
log.close()
other.close()
"""
)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks at descriptors in /proc")
@pytest.mark.parametrize("fsync", ["never", "interval", "always"])
def test_forking_at_any_moment_leaves_nothing_of_the_parent_open_in_the_child(
    opened: Callable[..., FileLog], tmp_path: Path, fsync: str
) -> None:
    command = [sys.executable, "-W", "error", "-c", FORKING_AT_ANY_MOMENT, str(tmp_path / "facts"), fsync]
    done = subprocess.run(command, capture_output=True, text=True, timeout=55, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    log = opened()
    report = log.scan()
    assert report.healthy, report.counts
    assert report.writers == 1 + 40
    assert not list(Path(log.root).rglob("*.tmp"))


FORKING_WHILE_A_SEGMENT_IS_BEING_BORN = (
    OPEN_SEGMENTS
    + """
import os, sys, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads is what is tested
from papyra_otel.facts import FactKind
from papyra_otel.log.file import FileLog, forks
from papyra_otel.log.file.fs import OsFileSystem
from papyra_otel.testing import make_fact

created, go_on = threading.Event(), threading.Event()

class SlowToReturn(OsFileSystem):
    def create(self, path):
        fd = super().create(path)
        if ".ndjson" in path and not created.is_set():
            created.set()
            go_on.wait()
        return fd

forks._FORK_WAITS_SECONDS = 0.01
os.mkdir(sys.argv[1])
os.symlink(sys.argv[1], sys.argv[1] + "-link")
log = FileLog(sys.argv[1] + "-link", fs=SlowToReturn())
mine = open(sys.argv[1] + "/mine.ndjson", "w")
thread = threading.Thread(target=log.append, args=([make_fact(0, kind=FactKind.AUDIT)],), daemon=True)
thread.start()
created.wait()
(path,) = [os.path.join(at, name) for at, _, names in os.walk(sys.argv[1]) for name in names if name.endswith(".tmp")]
reading = open(path)
born = open_segments()
pid = os.fork()
if pid == 0:
    kept = [fd for fd, _ in open_segments()]
    os._exit(0 if kept == sorted([mine.fileno(), reading.fileno()]) else 1)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, born
assert open_segments() == born, "the parent has what it had"
go_on.set()
thread.join()
log.append([make_fact(1, kind=FactKind.AUDIT)])
log.close()
mine.close()
os.unlink(mine.name)
reading.close()
"""
)


def test_a_segment_that_was_being_born_while_a_fork_waited_long_enough_is_closed_in_the_child(
    opened: Callable[..., FileLog], tmp_path: Path
) -> None:
    program = FORKING_WHILE_A_SEGMENT_IS_BEING_BORN
    command = [sys.executable, "-W", "error", "-c", program, str(tmp_path / "facts")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=55, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(list(opened().read())) == 2
    assert opened().scan().healthy


def test_who_appends_lets_a_waiting_fork_pass_before_it_takes_the_lock(
    opened: Callable[..., FileLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = opened()
    looked: list[tuple[float | None, bool]] = []

    class Passed(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            free: list[bool] = []
            other = threading.Thread(target=lambda: free.append(log.before_fork(0)))
            other.start()
            other.join()
            looked.append((timeout, free[0]))
            log._lock = threading.RLock()  # the other thread is gone, and kept it
            return True

    monkeypatch.setattr(forks, "waiting_forks", waits := [Passed()])
    monkeypatch.setattr("papyra_otel.log.file.writing.waiting_forks", waits)
    log.append([event(0)])
    assert looked == [(forks._FORK_WAITS_SECONDS, True)]
    waits.clear()
    log.append([event(1)])
    assert len(looked) == 1
    assert len(list(log.read())) == 2


def test_forking_does_not_wait_for_ever_for_a_thread_that_keeps_the_log(
    opened: Callable[..., FileLog],
) -> None:
    log = opened()
    with log._lock:
        found: list[bool] = []
        thread = threading.Thread(target=lambda: found.append(log.before_fork(0.01)))
        thread.start()
        thread.join(10)
    assert found == [False]
