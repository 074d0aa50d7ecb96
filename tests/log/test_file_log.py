"""The file log: what is on the disk, and what happens when the disk does not want to."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from log.examples import CountingFs, checked_by_hand, failing, signed_by_hand
from papyra_otel import semconv
from papyra_otel.errors import LogTooNew, LogUnavailable
from papyra_otel.facts import Fact, FactKind
from papyra_otel.log import LogOptions
from papyra_otel.log.codec import encode
from papyra_otel.log.file import FileLog
from papyra_otel.log.file.fs import OsFileSystem
from papyra_otel.testing import make_fact

NOW = 1_795_377_765_123_456_789


def event(n: int = 0, **changes: Any) -> Fact:
    return make_fact(n, kind=FactKind.EVENT, **changes)


def numbers(log: FileLog, **query: Any) -> list[int]:
    return [entry.fact.attributes["n"] for entry in log.read(**query)]


def segments(log: FileLog) -> list[Path]:
    return sorted(Path(log.root).rglob("*.ndjson"))


def test_a_large_batch_goes_to_the_kernel_a_mebibyte_at_a_time(opened: Callable[..., FileLog]) -> None:
    sizes: list[int] = []

    class Fs(OsFileSystem):
        def write(self, fd: int, data: bytes, /) -> int:  # type: ignore[override]
            sizes.append(len(data))
            return os.write(fd, data)

    log = opened(fs=Fs())
    line_bytes = len(encode(event(0, attributes={"n": 10, "t": ""}).identified("0" * 16, 10)))
    exactly = (1 << 20) - line_bytes
    texts = ["x" * size for size in [60_000] * 40 + [exactly, 5, exactly, exactly, 7]]
    log.append([event(0, attributes={"n": n, "t": text}) for n, text in enumerate(texts, 10)])
    log.close()
    (path,) = segments(log)
    header, *pieces, seal = sizes
    assert max(pieces) <= 1 << 20
    assert len(pieces) == 3 + 5
    facts = path.read_bytes()[header:-seal].splitlines(keepends=True)
    assert [checked_by_hand(line)["attributes"]["t"] for line in facts] == texts
    assert [checked_by_hand(line)["seq"] for line in facts] == list(range(len(texts)))


class Clock:
    """Nanoseconds since the epoch, moved by the test."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., FileLog]]:
    """Open the same log again and again, here without a background thread unless *options* say so."""
    logs: list[FileLog] = []

    def open_it(**options: Any) -> FileLog:
        log = FileLog(tmp_path / "facts", **({"options": LogOptions(fsync="never")} | options))
        logs.append(log)
        return log

    yield open_it
    for log in logs:
        log.close()


# --- what is on the disk -----------------------------------------------------------------------------


def test_a_closed_segment_verifies_with_nothing_of_ours(opened: Callable[..., FileLog]) -> None:
    log = opened(clock=Clock())
    log.append([event(0), event(1)])
    log.append([event(2)])
    log.close()
    (path,) = segments(log)
    assert path.relative_to(log.root).parts[:2] == ("shop", "events")
    data = path.read_bytes()
    header, *facts, seal = (checked_by_hand(line) for line in data.splitlines(keepends=True))
    assert path.name == f"20261122T200245Z-{header['writer']}-000001.ndjson"
    assert header["kind"] == "segment.open"
    assert header["attributes"]["process.pid"] == os.getpid()
    assert header["attributes"]["papyra.fact.kind"] == "event"
    assert [fact["seq"] for fact in facts] == [0, 1, 2]
    before_seal = data[: data.rindex(b"\n", 0, -1) + 1]
    assert seal["kind"] == "segment.seal"
    assert seal["attributes"] == {
        "papyra.fact.kind": "event",
        "papyra.segment.records": 3,
        "papyra.segment.last_seq": 2,
        "papyra.segment.bytes": len(before_seal),
        "papyra.segment.digest": hashlib.blake2b(before_seal, digest_size=32).hexdigest(),
    }


def test_seals_chain_over_rotations_and_names_are_never_used_twice(opened: Callable[..., FileLog]) -> None:
    log = opened(segment_bytes_max=1500)
    for n in range(0, 40, 2):
        log.append([event(n), event(n + 1)])
    log.append([event(n) for n in range(40, 60)])  # more than a segment: together in one of its own
    log.close()
    digest, next_seq = None, 0
    paths = sorted(segments(log), key=lambda path: path.name[-13:])
    assert len(paths) > 8
    assert [int(path.stem[-6:]) for path in paths] == list(range(1, len(paths) + 1))
    for path in paths:
        data = path.read_bytes()
        header, *facts, seal = (checked_by_hand(line) for line in data.splitlines(keepends=True))
        assert header["seq"] == next_seq == facts[0]["seq"]
        assert header["attributes"].get("papyra.segment.predecessor") == digest
        assert header["attributes"]["papyra.segment.index"] == int(path.stem[-6:])
        before_seal = data[: data.rindex(b"\n", 0, -1) + 1]
        digest = hashlib.blake2b(before_seal, digest_size=32).hexdigest()
        assert seal["attributes"]["papyra.segment.digest"] == digest
        next_seq = seal["attributes"]["papyra.segment.last_seq"] + 1
        assert len(data) < 3000 or len(facts) == 20
    assert next_seq == 60
    assert numbers(opened()) == list(range(60))


def test_the_header_names_the_first_seq_even_after_an_explained_hole(opened: Callable[..., FileLog]) -> None:
    log = opened()
    facts = [event(n).identified(*log.reserve("shop", FactKind.EVENT)) for n in range(10)]
    log.append([facts[5], facts[8], facts[9]])
    log.close()
    header, *_, seal = map(checked_by_hand, segments(log)[0].read_bytes().splitlines(keepends=True))
    assert header["seq"] == 5
    assert seal["attributes"]["papyra.segment.last_seq"] == 9


def test_a_segment_ends_after_a_day(opened: Callable[..., FileLog]) -> None:
    clock = Clock()
    log = opened(clock=clock)
    log.append([event(0)])
    clock.now += 86_400 * 10**9
    log.append([event(1)])
    assert len(segments(log)) == 1
    clock.now += 1
    log.append([event(2)])
    assert len(segments(log)) == 2


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o022])
def test_files_and_folders_are_private(opened: Callable[..., FileLog], umask: int) -> None:
    before = os.umask(umask)
    try:
        log = opened()
        log.prepare()
        log.append([make_fact(n) for n in range(5)])
    finally:
        os.umask(before)
    for path in [Path(log.root), *Path(log.root).rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)


def test_a_planted_symlink_or_file_is_neither_followed_nor_touched(
    opened: Callable[..., FileLog], tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious\n")
    log = opened(clock=Clock(), new_writer=lambda: "9f2c41d07be3a815")
    folder = tmp_path / "facts/shop/events"
    folder.mkdir(parents=True)
    (folder / "20261122T200245Z-9f2c41d07be3a815-000001.ndjson").symlink_to(victim)
    (folder / "20261122T200245Z-9f2c41d07be3a815-000002.ndjson").write_bytes(b"old\n")
    for _ in range(2):
        with pytest.raises(LogUnavailable) as caught:
            log.append([event(0)])
        assert caught.value.error_type == "EEXIST"
    log.append([event(1)])
    assert victim.read_text() == "precious\n"
    assert (folder / "20261122T200245Z-9f2c41d07be3a815-000002.ndjson").read_bytes() == b"old\n"
    with pytest.raises(LogUnavailable) as caught:
        list(log.read())
    assert caught.value.error_type == "ELOOP"


def test_the_lock_is_held_while_open_and_free_after_closing(opened: Callable[..., FileLog]) -> None:
    log = opened()
    log.append([event(0)])
    (path,) = segments(log)
    fd = os.open(path, os.O_RDONLY)
    try:
        with pytest.raises(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        log.close()
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(fd)


# --- trouble -------------------------------------------------------------------------------------------


class ShortWrites(OsFileSystem):
    """The kernel takes *most* bytes at a time, then fails for good after *until* bytes."""

    def __init__(self, most: int, until: int | None = None) -> None:
        self.most = most
        self.left = until

    def write(self, fd: int, data: bytes, /) -> int:  # type: ignore[override]
        size = min(self.most, len(data))
        if self.left is not None:
            if self.left == 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            size = min(size, self.left)
            self.left -= size
        return os.write(fd, data[:size])


def test_short_writes_are_completed(opened: Callable[..., FileLog]) -> None:
    log = opened(fs=ShortWrites(7))
    log.append([event(n) for n in range(3)])
    log.close()
    for line in segments(log)[0].read_bytes().splitlines(keepends=True):
        checked_by_hand(line)
    assert numbers(opened()) == [0, 1, 2]


def test_a_kernel_that_takes_nothing_is_an_error(opened: Callable[..., FileLog]) -> None:
    with pytest.raises(LogUnavailable) as caught:
        opened(fs=ShortWrites(0)).append([event(0)])
    assert caught.value.error_type == "EIO"


def test_a_write_that_fails_anywhere_loses_nothing_and_doubles_nothing(
    opened: Callable[..., FileLog], tmp_path: Path
) -> None:
    whole = FileLog(tmp_path / "whole", options=LogOptions(fsync="never"))
    whole.append([event(n) for n in range(3)])
    size = segments(whole)[0].stat().st_size
    whole.close()
    for until in range(0, size, 11):
        root = tmp_path / str(until)
        fs = ShortWrites(1 << 20, until)
        with FileLog(root, options=LogOptions(fsync="never"), fs=fs) as log:
            facts = [event(n).identified(*log.reserve("shop", FactKind.EVENT)) for n in range(4)]
            with pytest.raises(LogUnavailable) as caught:
                log.append(facts[:3])
            assert caught.value.error_type == "ENOSPC"
            fs.left = None
            torn = [path.read_bytes() for path in segments(log)]  # none while not even the header was written
            log.append(facts[:3])
            log.append(facts[3:])
            assert [path.read_bytes() for path in segments(log)[:-1]] == torn  # nothing follows a torn line
            assert [entry.fact for entry in log.read()] == facts
            assert [entry.fact for entry in log.read(newest_first=True)] == facts[::-1]


def test_a_batch_that_fails_half_way_can_be_appended_again(opened: Callable[..., FileLog]) -> None:
    fs = CountingFs()
    log = opened(fs=fs)
    facts = [make_fact(n, system="ab"[n % 2]) for n in range(12)]
    facts = [fact.identified(*log.reserve(fact.system, fact.kind)) for fact in facts]

    def fail_now_and_then(call: str) -> None:
        if call == "write" and fs.calls["write"] % 3 == 0:
            raise OSError(errno.EIO, "I/O error")

    fs.before = fail_now_and_then
    with pytest.raises(LogUnavailable):
        log.append(facts)
    fs.before = lambda call: None
    log.append(facts)
    assert [entry.fact for entry in log.read()] == facts
    assert [entry.fact for entry in log.read(newest_first=True)] == facts[::-1]


@pytest.mark.parametrize(
    ("call", "number", "name"),
    [
        ("create", errno.EMFILE, "EMFILE"),
        ("create", errno.EROFS, "EROFS"),
        ("make_folder", errno.EACCES, "EACCES"),
        ("write", errno.ENOSPC, "ENOSPC"),
        ("write", errno.EDQUOT, "EDQUOT"),
        ("fsync", errno.EIO, "EIO"),
        ("fsync_folder", errno.EIO, "EIO"),
    ],
)
def test_trouble_is_named_and_passes(
    opened: Callable[..., FileLog], call: str, number: int, name: str
) -> None:
    fs = CountingFs(failing(call, number))
    log = opened(fs=fs, options=LogOptions(fsync="always"))
    fact = event(0).identified(*log.reserve("shop", FactKind.EVENT))
    for _ in range(3):
        with pytest.raises(LogUnavailable) as caught:
            log.append([fact])
        assert caught.value.error_type == name
        assert log.root in str(caught.value)
    fs.before = lambda called: None
    log.append([fact])
    log.append([event(1)])
    assert numbers(log) == [0, 1]


def test_a_removed_folder_is_made_again(opened: Callable[..., FileLog]) -> None:
    clock = Clock()
    log = opened(clock=clock)
    log.append([event(0)])
    shutil.rmtree(log.root)
    with pytest.raises(LogUnavailable, match="No such file"):
        log.read()
    clock.now += 100_000_000
    log.append([event(1)])
    assert numbers(log) == [1]
    shutil.rmtree(log.root)
    clock.now -= 3600 * 10**9  # a clock that steps back does not make us blind
    log.append([event(2)])
    assert numbers(log) == [2]


def test_a_missing_parent_is_unavailable_until_it_is_there(tmp_path: Path) -> None:
    with FileLog(tmp_path / "missing/facts", options=LogOptions(fsync="never")) as log:
        for call in (log.prepare, lambda: log.append([event(0)]), log.read, log.stats):
            with pytest.raises(
                LogUnavailable, match=r"create its parent folder|record something first"
            ) as caught:
                call()
            assert caught.value.error_type == "ENOENT"
        (tmp_path / "missing").mkdir()
        log.prepare()
        log.append([event(1)])
        assert numbers(log) == [1]


def test_a_file_where_a_folder_should_be_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "facts").write_text("")
    with FileLog(tmp_path / "facts", options=LogOptions(fsync="never")) as log:
        for call in (log.prepare, lambda: log.append([event(0)]), log.read):
            with pytest.raises(LogUnavailable, match="a file is where a folder should be") as caught:
                call()
            assert caught.value.error_type == "ENOTDIR"


def test_an_interrupted_write_is_not_followed_by_anything(opened: Callable[..., FileLog]) -> None:
    fs = CountingFs()
    log = opened(fs=fs)
    log.append([event(0)])

    def interrupt(call: str) -> None:
        if call == "write":
            raise KeyboardInterrupt

    fs.before = interrupt
    with pytest.raises(KeyboardInterrupt):
        log.append([event(1)])
    fs.before = lambda call: None
    log.append([event(2)])
    assert numbers(log) == [0, 2]
    assert len(segments(log)) == 2
    assert b"segment.seal" not in segments(log)[0].read_bytes()


# --- forcing to the disk ---------------------------------------------------------------------------------


def test_fsync_never_forces_nothing_unasked(opened: Callable[..., FileLog]) -> None:
    fs = CountingFs()
    log = opened(fs=fs, options=LogOptions(fsync="never"), segment_bytes_max=1500)
    for n in range(20):
        log.append([event(n)])
    assert fs.calls["fsync"] == fs.calls["fsync_folder"] == 0
    log.flush()
    assert fs.calls["fsync"] == 1
    log.flush()
    assert fs.calls["fsync"] == 1
    log.close()
    assert fs.calls["fsync"] == 1


def test_fsync_always_forces_before_append_returns(opened: Callable[..., FileLog]) -> None:
    fs = CountingFs()
    log = opened(fs=fs, options=LogOptions(fsync="always"))
    for n in range(5):
        log.append([event(n)])
        assert fs.calls["fsync"] == n + 1
    assert fs.calls["fsync_folder"] == 3  # events, shop, the root
    log.append([make_fact(n) for n in range(5)])
    assert fs.calls["fsync"] == 5 + 3  # one for each of three streams


def test_fsync_interval_forces_in_the_background(opened: Callable[..., FileLog]) -> None:
    forced = threading.Event()
    fs = CountingFs(lambda call: forced.set() if call == "fsync" else None)
    log = opened(fs=fs, options=LogOptions(fsync="interval", fsync_interval_seconds=0.001))
    for n in range(3):
        forced.clear()
        log.append([event(n)])
        assert forced.wait(10)
    log.close()


def test_with_fsync_interval_rotating_and_closing_force_too(opened: Callable[..., FileLog]) -> None:
    fs = CountingFs()
    log = opened(
        fs=fs, options=LogOptions(fsync="interval", fsync_interval_seconds=3600), segment_bytes_max=1500
    )
    for n in range(20):
        log.append([event(n)])
    assert len(segments(log)) == 7
    assert fs.calls["fsync"] == 0  # who appends does not wait for the disk, not when a segment ends either
    log._flush_quietly()
    assert fs.calls["fsync"] == 7
    log.append([event(20)])
    log.close()
    assert fs.calls["fsync"] == 8


class SlowFsync(CountingFs):
    """An fsync that waits for the test, and notes which descriptors were closed meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.busy: set[int] = set()
        self.closed_while_busy: list[int] = []
        self.slow = True

    def fsync(self, fd: int) -> None:  # type: ignore[override]
        self.busy.add(fd)
        if self.slow:
            self.slow = False
            self.begun.set()
            assert self.go_on.wait(20)
        super().fsync(fd)
        self.busy.discard(fd)

    def close(self, fd: int) -> None:  # type: ignore[override]
        if fd in self.busy:
            self.closed_while_busy.append(fd)
        super().close(fd)


@pytest.mark.parametrize("end", ["seal", "flush", "close"])
def test_nothing_overtakes_a_running_fsync(opened: Callable[..., FileLog], end: str) -> None:
    fs = SlowFsync()
    log = opened(fs=fs)
    log.append([event(0)])
    flushing = threading.Thread(target=log._flush_quietly)
    flushing.start()
    assert fs.begun.wait(10)
    log.append([event(1)])  # writing does not wait for the disk
    ending = threading.Thread(target=getattr(log, end))
    ending.start()
    ending.join(0.05)
    assert ending.is_alive()  # neither closes the descriptor nor claims to be done
    fs.go_on.set()
    flushing.join()
    ending.join()
    assert fs.closed_while_busy == []
    assert numbers(opened()) == [0, 1]


def test_what_was_written_before_a_failed_write_is_still_forced(opened: Callable[..., FileLog]) -> None:
    fs = CountingFs()
    log = opened(fs=fs, options=LogOptions(fsync="interval", fsync_interval_seconds=3600))
    log.append([event(0)])
    fs.before = failing("write", errno.ENOSPC)
    with pytest.raises(LogUnavailable):
        log.append([event(1)])
    fs.before = lambda call: None
    log.append([event(2)])
    log.flush()
    assert fs.calls["fsync"] == 2


def test_a_thread_that_cannot_start_is_tried_again(
    opened: Callable[..., FileLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    forced = threading.Event()
    fs = CountingFs(lambda call: forced.set() if call == "fsync" else None)
    log = opened(fs=fs, options=LogOptions(fsync="interval", fsync_interval_seconds=0.001))

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        log.append([event(0)])
    log.append([event(1)])
    assert forced.wait(10)


# --- reading ------------------------------------------------------------------------------------------------


def test_a_log_torn_anywhere_gives_exactly_its_whole_lines(opened: Callable[..., FileLog]) -> None:
    log = opened(segment_bytes_max=1500)
    log.append([event(n) for n in range(3)])
    log.seal()
    log.append([event(n) for n in range(3, 7)])
    log.close()
    last = segments(log)[-1]
    data = last.read_bytes()
    ends = [at + 1 for at, byte in enumerate(data) if byte == ord("\n")]
    reader = opened()
    for size in range(len(data), -1, -1):
        os.truncate(last, size)
        whole = [n for n in range(3, 7) if ends[n - 2] <= size]  # after the header
        assert numbers(reader) == [0, 1, 2, *whole]
        assert numbers(reader, newest_first=True) == [0, 1, 2, *whole][::-1]
    assert reader.stats().streams[FactKind.EVENT].records == 3


@pytest.mark.parametrize("newest_first", [False, True])
def test_damage_in_the_middle_costs_only_its_own_lines(
    opened: Callable[..., FileLog], newest_first: bool
) -> None:
    log = opened()
    log.append([event(n) for n in range(10)])
    log.close()
    (path,) = segments(log)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[3] = lines[3].replace(b"shop", b"shpo")
    lines[5] = b"\0" * 1000 + b"\n"
    lines[6] = b'{"foreign":"json"}\r\n'
    lines[8] = lines[8][:50]
    lines.insert(2, b"x" * (2 << 20) + b"\n")
    path.write_bytes(b"".join(lines))
    expected = [0, 1, 3, 6, 9]
    assert numbers(opened(), newest_first=newest_first) == (expected[::-1] if newest_first else expected)


def test_a_line_being_written_is_not_yet_there_and_not_lost_later(opened: Callable[..., FileLog]) -> None:
    log = opened()
    log.append([event(0)])
    (path,) = segments(log)
    line = encode(event(1).identified(*log.reserve("shop", FactKind.EVENT)))
    for cut in (1, 100, len(line) - 1):
        with path.open("ab") as file:
            file.write(line[:cut])
        assert numbers(log) == numbers(log, newest_first=True) == [0]
        (entry,) = log.read()
        resumed = log.read(after=entry.cursor)
        limited = opened(system="shop")
        source = limited._sources()[0]
        assert source.end()[1] == path.stat().st_size - cut
        with path.open("ab") as file:
            file.write(line[cut:])
        assert [entry.fact.attributes["n"] for entry in resumed] == [1]
        assert numbers(log) == [0, 1]
        os.truncate(path, path.stat().st_size - len(line))


def test_the_newest_are_found_without_reading_the_rest(opened: Callable[..., FileLog]) -> None:
    log = opened(segment_bytes_max=400_000)
    for begin in range(0, 20_000, 500):
        log.append([event(n) for n in range(begin, begin + 500)])
    size = sum(path.stat().st_size for path in segments(log))
    fs = CountingFs()
    reader = opened(fs=fs)
    assert numbers(reader, limit=10, newest_first=True) == list(range(19_999, 19_989, -1))
    assert fs.bytes_read < 300_000 < size / 10
    assert fs.calls["open_read"] < 6
    fs.bytes_read = 0
    assert numbers(reader, limit=10) == list(range(10))
    assert fs.bytes_read < 1_100_000
    fs.bytes_read = fs.calls["open_read"] = 0
    reader.prepare()
    assert fs.bytes_read < 300_000
    assert fs.calls["open_read"] == 1


@pytest.mark.parametrize("newest_first", [False, True])
def test_hundreds_of_dead_writers_do_not_need_hundreds_of_descriptors(
    opened: Callable[..., FileLog], newest_first: bool
) -> None:
    for n in range(300):
        log = opened()
        log.append([event(2 * n), event(2 * n + 1)])
        log.close()
    fs = CountingFs()
    expected = list(range(600))
    reader = opened(fs=fs)
    assert numbers(reader, newest_first=newest_first) == (expected[::-1] if newest_first else expected)
    assert fs.most_open <= 2
    fs.calls.clear()
    reader.prepare()
    assert fs.calls["open_read"] == 1


def test_cursors_survive_a_segment_that_was_rewritten_shorter(opened: Callable[..., FileLog]) -> None:
    log = opened()
    log.append([event(n) for n in range(10)])
    log.close()
    forward = [entry.cursor for entry in opened().read()]
    backward = [entry.cursor for entry in opened().read(newest_first=True)]
    (path,) = segments(log)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], *lines[4:]]))  # as compaction would: 0, 1, 2 are gone
    reader = opened()
    for n in range(3, 10):
        assert numbers(reader, after=forward[n]) == list(range(n + 1, 10))
        assert numbers(reader, after=backward[9 - n], newest_first=True) == list(range(n - 1, 2, -1))
    path.unlink()
    assert numbers(reader, after=forward[5]) == []


def test_a_segment_that_vanishes_while_reading_is_passed_over(opened: Callable[..., FileLog]) -> None:
    log = opened()
    for n in range(3):
        log.append([event(n)])
        log.seal()
    reading = opened().read()
    first = [entry.fact.attributes["n"] for entry in islice(reading, 1)]
    sorted(segments(log), key=lambda path: path.name[-13:])[1].unlink()
    assert first + [entry.fact.attributes["n"] for entry in reading] == [0, 2]


def test_a_newer_version_is_told_and_writing_beside_it_goes_on(
    opened: Callable[..., FileLog], tmp_path: Path
) -> None:
    log = opened()
    log.append([event(0)])
    header = checked_by_hand(segments(log)[0].read_bytes().splitlines(keepends=True)[0])
    del header["crc"]
    newer = segments(log)[0].parent / "29990101T000000Z-00000000000000aa-000001.ndjson"
    newer.write_bytes(signed_by_hand({**header, "v": 2}) + b"\n")
    with pytest.raises(LogTooNew, match="29990101T000000Z"):
        opened().prepare()
    with pytest.raises(LogTooNew):
        list(opened().read())
    with pytest.raises(LogTooNew):
        opened().stats()
    log.append([event(1)])
    newer.unlink()
    assert numbers(log) == [0, 1]


def test_preparing_asks_the_newest_segment_of_each_stream_only(opened: Callable[..., FileLog]) -> None:
    clock = Clock()
    old, other = opened(clock=clock), opened(clock=clock)
    old.append([event(0)])
    clock.now += 10**9
    other.append([event(1)])
    old.seal()
    clock.now += 10**9
    old.append([event(2)])
    newest = segments(old)[-1]
    data = newest.read_bytes()
    header = checked_by_hand(data.splitlines(keepends=True)[0])
    del header["crc"]
    newest.write_bytes(signed_by_hand({**header, "v": 2}) + b"\n")
    with pytest.raises(LogTooNew, match=newest.name):
        opened().prepare()
    newest.write_bytes(data)
    older = segments(old)[0]
    older.write_bytes(signed_by_hand({**header, "v": 2}) + b"\n")
    opened().prepare()


def test_other_files_and_folders_are_not_looked_at(opened: Callable[..., FileLog]) -> None:
    log = opened()
    log.append([event(0)])
    root = Path(log.root)
    (root / "README").write_text("mine")
    (root / "shop/notes.ndjson").write_text("{}")
    (root / "shop/events/20261122T200245Z-9f2c41d07be3a815-000001.ndjson.gz").write_text("{}")
    (root / "shop/quarantine").mkdir()
    (root / "shop/audits").write_text("not a folder")
    assert numbers(log) == [0]
    assert log.stats().systems == ("shop",)


def test_reading_leaves_no_descriptor_open(opened: Callable[..., FileLog]) -> None:
    log = opened()
    log.append([event(n) for n in range(10)])
    before = len(list(Path("/dev/fd").iterdir()))
    for newest_first in (False, True):
        reading = log.read(newest_first=newest_first)
        next(reading)
        next(reading)
        del reading
        list(log.read(newest_first=newest_first, limit=3))
        list(log.read(newest_first=newest_first))
    log.stats()
    log.prepare()
    assert len(list(Path("/dev/fd").iterdir())) == before


# --- other processes ------------------------------------------------------------------------------------------

FORKING = """
import fcntl, os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads is what is tested
from papyra_otel.facts import FactKind
from papyra_otel.log import LogOptions
from papyra_otel.log.file import FileLog
from papyra_otel.testing import make_fact

log = FileLog(sys.argv[1], options=LogOptions(fsync="interval", fsync_interval_seconds=0.001))
say = lambda n: log.append([make_fact(n, kind=FactKind.EVENT, actor=str(os.getpid()))])
say(0)
reserved = log.reserve("shop", FactKind.EVENT)
(path,) = [os.path.join(f, n) for f, _, names in os.walk(sys.argv[1]) for n in names]
forcing = next(iter(log._streams.values())).forcing
forcing.acquire()  # as if the parent's background thread were in the middle of an fsync
log._lock.acquire()
children = []
for child in range(3):
    pid = os.fork()
    if pid == 0:
        try:
            try:
                log.append([make_fact(9, kind=FactKind.EVENT).identified(*reserved)])
            except ValueError:
                assert log.appended() == {}
                say(1), say(2)
                assert log.reserve("shop", FactKind.EVENT)[1] == 2
                log.close()
                os._exit(0)
        finally:
            os._exit(1)
    children.append(pid)
forcing.release()
log._lock.release()
assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0]
fd = os.open(path, os.O_RDONLY)
try:
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    pass
else:
    raise AssertionError("a child's end freed the parent's lock")
os.close(fd)
log.append([make_fact(3, kind=FactKind.EVENT, actor=str(os.getpid())).identified(*reserved)])
log.close()
print(os.getpid())
"""


def run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)


def test_a_forked_child_is_a_new_writer_and_the_parent_goes_on(
    opened: Callable[..., FileLog], tmp_path: Path
) -> None:
    done = run(FORKING, tmp_path / "facts")
    assert (done.returncode, done.stderr) == (0, "")
    log = opened()
    facts = [entry.fact for entry in log.read()]
    assert len({fact.uid for fact in facts}) == len(facts) == 2 + 3 * 2
    by_process: dict[str | None, list[tuple[int | None, Any]]] = {}
    for fact in facts:
        by_process.setdefault(fact.actor, []).append((fact.seq, fact.attributes["n"]))
    assert by_process.pop(done.stdout.strip()) == [(0, 0), (1, 3)]
    assert list(by_process.values()) == [[(0, 1), (1, 2)]] * 3
    assert len({fact.writer for fact in facts}) == 4
    for path in segments(log):
        data = path.read_bytes()
        seal = checked_by_hand(data.splitlines(keepends=True)[-1])
        before_seal = data[: data.rindex(b"\n", 0, -1) + 1]
        assert (
            seal["attributes"][semconv.SEGMENT_DIGEST]
            == hashlib.blake2b(before_seal, digest_size=32).hexdigest()
        )


MEMORY_FORKING = """
import os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)
from papyra_otel.facts import FactKind
from papyra_otel.log import open_log
from papyra_otel.testing import make_fact

log = open_log("memory:forked")
log.append([make_fact(0)])
log._store.lock.acquire()
pid = os.fork()
if pid == 0:
    try:
        assert log.appended() == {}
        log.append([make_fact(1)])
        first, second = (entry.fact for entry in log.read())
        assert first.writer != second.writer and second.seq == 0
        assert len(list(open_log("memory:forked").read())) == 2
        os._exit(0)
    finally:
        os._exit(1)
log._store.lock.release()
sys.exit(os.waitpid(pid, 0)[1])
"""


def test_a_forked_child_is_a_new_writer_in_memory_too() -> None:
    done = run(MEMORY_FORKING)
    assert (done.returncode, done.stderr) == (0, "")


KILLED = """
import os, signal, sys
from papyra_otel.facts import FactKind
from papyra_otel.log import open_log
from papyra_otel.testing import make_fact

log = open_log("file:" + sys.argv[1])
for n in range(1000):
    log.append([make_fact(n, kind=FactKind.EVENT)])
    if n == 700:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_leaves_everything_it_appended_and_a_free_lock(
    opened: Callable[..., FileLog], tmp_path: Path
) -> None:
    assert run(KILLED, tmp_path / "facts").returncode == -9
    log = opened()
    assert numbers(log) == list(range(701))
    assert log.stats().streams[FactKind.EVENT].records == 701
    with segments(log)[0].open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
