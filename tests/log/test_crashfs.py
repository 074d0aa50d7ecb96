"""The file system in memory behaves like the real one, and forgets in a crash what a disk may forget."""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from log.crashfs import Crash, CrashFs
from papyra_otel.log.file.fs import FileStatus, FileSystem, OsFileSystem

# --- like the real one ----------------------------------------------------------------------------------

NAMES = ["a", "b", "f", "f/a", "f/b", "f/g", "f/g/a", "a/b", "no/a", "f/" + "n" * 256]
PATHS = st.sampled_from(NAMES)
OPENED = st.integers(0, 7)  # the how-many-th descriptor that the script was given
SMALL = st.integers(0, 9)
CALLS = st.one_of(
    st.tuples(st.sampled_from(["create", "open_read", "lock_folder", "make_folder", "names"]), PATHS),
    st.tuples(st.sampled_from(["unlink", "fsync_folder", "status", "is_folder"]), PATHS),
    st.tuples(st.sampled_from(["lock", "locked", "linked", "size", "fsync", "close"]), OPENED),
    st.tuples(st.just("write"), OPENED, st.binary(max_size=8)),
    st.tuples(st.just("pread"), OPENED, SMALL, SMALL),
    st.tuples(st.just("truncate"), PATHS, st.integers(-1, 12)),
    st.tuples(st.just("rename"), PATHS, PATHS),
)
_ON_DESCRIPTORS = frozenset({"lock", "locked", "linked", "size", "fsync", "close", "write", "pread"})
_OPENING = frozenset({"create", "open_read", "lock_folder"})


class Player:
    """Plays a script of calls on a file system."""

    def __init__(self, fs: FileSystem, root: str) -> None:
        self._fs = fs
        self._root = root
        self._fds: dict[int, int] = {}  # by number in the script
        self._opened = 0
        self._of_folders: set[int] = set()

    def play(self, script: list[tuple[Any, ...]]) -> list[Any]:
        """Return what each call gave: its result, or the errno and the path of its error."""
        results = [(call, self._done(call, arguments)) for call, *arguments in script]
        for fd in self._fds.values():
            self._fs.close(fd)
        return results

    def _done(self, call: str, given: list[Any]) -> Any:
        if call in _ON_DESCRIPTORS:
            fd = self._fds.get(given[0])
            if fd is None:
                return "no such descriptor"
            if call == "close":  # a kernel would give the number to the next who opens something
                del self._fds[given[0]]
            return self._called(call, [fd, *given[1:]])
        paths = [f"{self._root}/{value}" if isinstance(value, str) else value for value in given]
        if call == "rename" and not self._in_the_contract(*paths):
            return "not to be asked"
        return self._called(call, paths)

    def _in_the_contract(self, source: str, target: str) -> bool:
        return source.rpartition("/")[0] == target.rpartition("/")[0] and not self._fs.is_folder(source)

    def _called(self, call: str, arguments: list[Any]) -> Any:
        try:
            result: Any = getattr(self._fs, call)(*arguments)
        except OSError as error:
            return error.errno, str(error.filename or "").removeprefix(self._root)
        if call in _OPENING and result is not None:
            self._fds[self._opened] = result
            self._opened += 1
            if self._fs.is_folder(arguments[0]):
                self._of_folders.add(result)
            return "a descriptor"
        if call == "status":
            assert isinstance(result, FileStatus)
            return "a folder" if self._fs.is_folder(arguments[0]) else result.size_bytes
        if call == "size" and arguments[0] in self._of_folders:
            return "a folder's size"
        return result


def _tree(root: Path) -> dict[str, bytes | None]:
    return {
        "/" + str(path.relative_to(root)): None if path.is_dir() else path.read_bytes()
        for path in sorted(root.rglob("*"))
    }


@contextmanager
def _temporary() -> Generator[Path]:
    path = Path(tempfile.mkdtemp())
    try:
        yield path
    finally:
        shutil.rmtree(path)


def _script(*calls: tuple[Any, ...]) -> Callable[[Any], Any]:
    return example(script=list(calls))


@settings(max_examples=400)
@given(script=st.lists(CALLS, max_size=40))
@_script(
    ("make_folder", "f"),
    ("create", "f/a"),
    ("lock", 0),
    ("open_read", "f/a"),
    ("lock", 1),
    ("close", 0),
    ("lock", 1),
)
@_script(("create", "a"), ("lock", 0), ("open_read", "a"), ("locked", 1), ("locked", 0), ("lock", 1))
@_script(
    ("create", "a"),
    ("write", 0, b"x"),
    ("create", "b"),
    ("rename", "b", "a"),
    ("open_read", "a"),
    ("linked", 0),
    ("size", 2),
)
@_script(("make_folder", "b"), ("create", "a"), ("rename", "a", "b"), ("rename", "a", "a"))
@_script(("make_folder", "f"), ("lock_folder", "f"), ("lock_folder", "f"), ("close", 0), ("lock_folder", "f"))
@_script(
    ("create", "a"),
    ("write", 0, b"abc"),
    ("truncate", "a", 5),
    ("write", 0, b"d"),
    ("open_read", "a"),
    ("pread", 1, 9, 0),
)
@_script(
    ("make_folder", "f"),
    ("open_read", "f"),
    ("pread", 0, 1, 0),
    ("write", 0, b"x"),
    ("lock", 0),
    ("lock_folder", "f"),
)
def test_the_same_calls_have_the_same_results_and_errors_as_on_the_real_one(
    script: list[tuple[Any, ...]],
) -> None:
    fake = CrashFs(["/root"])
    with _temporary() as real:
        assert Player(fake, "/root").play(script) == Player(OsFileSystem(), str(real)).play(script)
        assert fake.as_written().tree() == {"": None, "/root": None} | {
            f"/root{path}": content for path, content in _tree(real).items()
        }


def test_the_change_time_of_a_file_changes_with_its_content_and_its_name() -> None:
    fs = CrashFs()
    fd = fs.create("/log/a")
    seen = [fs.status("/log/a")]
    fs.write(fd, b"abc")
    seen.append(fs.status("/log/a"))
    fs.truncate("/log/a", 1)
    seen.append(fs.status("/log/a"))
    fs.rename("/log/a", "/log/b")
    seen.append(fs.status("/log/b"))
    assert fs.status("/log/b") == seen[-1]
    assert [status.size_bytes for status in seen] == [0, 3, 1, 1]
    assert len({status.inode for status in seen}) == 1
    assert all(before.changed_unix_nano < after.changed_unix_nano for before, after in pairwise(seen))


def test_a_full_disk_takes_what_fits_and_then_nothing() -> None:
    fs = CrashFs()
    fs.capacity_bytes = 5
    fd = fs.create("/log/a")
    assert fs.write(fd, b"1234") == 4
    assert fs.free_bytes("/log") == 1
    assert fs.write(fd, b"5678") == 1
    with pytest.raises(OSError, match="No space") as raised:
        fs.write(fd, b"6")
    assert raised.value.errno == errno.ENOSPC
    fs.unlink("/log/a")
    assert fs.free_bytes("/log") == 0
    fs.close(fd)
    assert fs.free_bytes("/log") == 5


# --- what a crash leaves --------------------------------------------------------------------------------


def _left(fs: CrashFs, **how: int) -> set[tuple[tuple[str, bytes | None], ...]]:
    """Return what is in /log in each state, the folder itself left out."""
    states = [state.tree() for state in fs.crash_states(**how)]
    assert len({state.digest() for state in fs.crash_states(**how)}) == len(states)
    return {tuple((path[5:], data) for path, data in tree.items() if path[5:]) for tree in states}


def test_content_that_was_not_synced_may_be_lost_torn_or_nul() -> None:
    fs = CrashFs()
    fd = fs.create("/log/a")
    fs.write(fd, b"kept")
    fs.fsync(fd)
    fs.fsync_folder("/log")
    assert _left(fs) == {(("a", b"kept"),)}
    fs.write(fd, b"12345")
    fs.write(fd, b"6")
    assert {data for ((_, data),) in _left(fs)} == {
        b"kept", b"kept1", b"kept12", b"kept1234", b"kept12345", b"kept123456",
        b"kept\0\0\0\0\0\0", b"kept12345\0", b"kept\0\0\0\0\x006",
    }  # fmt: skip
    fs.fsync(fd)
    assert _left(fs) == {(("a", b"kept123456"),)}
    fs.truncate("/log/a", 2)
    assert {data for ((_, data),) in _left(fs)} == {b"kept123456", b"ke"}


def test_names_that_were_not_synced_may_be_lost_each_folder_for_itself() -> None:
    fs = CrashFs(["/log", "/log/f"])
    for path in ("/log/a", "/log/f/b"):
        fd = fs.create(path)
        fs.fsync(fd)
        fs.close(fd)
    f, a, b = ("f", None), ("a", b""), ("f/b", b"")
    assert _left(fs) == {(f,), (a, f), (f, b), (a, f, b)}
    fs.fsync_folder("/log/f")
    assert _left(fs) == {(f, b), (a, f, b)}
    fs.fsync_folder("/log")
    fs.unlink("/log/a")
    assert _left(fs) == {(f, b), (a, f, b)}
    fs.make_folder("/log/g")
    assert _left(fs) == {(f, b), (a, f, b), (f, b, ("g", None)), (a, f, b, ("g", None))}


def test_a_renaming_is_whole_and_does_not_carry_content() -> None:
    fs = CrashFs()
    for name, data in (("a", b"old"), ("t", b"new")):
        fd = fs.create(f"/log/{name}")
        fs.write(fd, data)
        if name == "a":
            fs.fsync(fd)
        fs.close(fd)
    fs.fsync_folder("/log")
    fs.rename("/log/t", "/log/a")
    new = {b"", b"n", b"ne", b"new", b"\0\0\0"}
    assert _left(fs) == {(("a", data),) for data in new} | {(("a", b"old"), ("t", data)) for data in new}


def test_what_was_open_and_locked_is_free_after_the_crash_and_nothing_is_unsynced() -> None:
    fs = CrashFs()
    fd = fs.create("/log/a")
    assert fs.lock(fd)
    for state in (*fs.crash_states(), fs.as_written()):
        assert len(list(state.crash_states())) == 1
        with pytest.raises(OSError, match="Bad file"):
            state.write(fd, b"x")
        if "a" in state.names("/log"):
            assert state.lock(state.open_read("/log/a"))
            assert state.status("/log/a").inode == fs.status("/log/a").inode
        before = state.tree()
        state.write(state.create("/log/z"), b"another file")
        assert state.tree() == before | {"/log/z": b"another file"}


def test_too_many_combinations_are_sampled_but_every_single_loss_is_there() -> None:
    fs = CrashFs()
    for number in range(4):
        fd = fs.create(f"/log/{number}")
        fs.fsync(fd)
        fs.write(fd, b"abcd")
    fs.fsync_folder("/log")
    few = _left(fs, limit=50)
    assert few == _left(fs, limit=50) != _left(fs, limit=50, seed=1)
    assert 2 + 2 * 4 * 5 < len(few) <= 2 + 2 * 4 * 5 + 50
    for name in "0123":
        for data in (b"", b"a", b"ab", b"abc", b"abcd", b"\0\0\0\0"):
            for rest in (b"", b"abcd"):
                assert tuple((other, data if other == name else rest) for other in "0123") in few
    every = _left(fs, limit=6**4)
    assert len(every) == 6**4
    assert few < every


def test_the_machine_goes_off_in_place_of_a_call_and_stays_off() -> None:
    fs = CrashFs()
    fs.create("/log/a")
    fs.stop_at(2)
    fs.create("/log/b")
    for _ in range(2):
        with pytest.raises(Crash):
            fs.unlink("/log/a")
    with pytest.raises(Crash):
        fs.names("/log")
    assert sorted(fs.as_written().tree()) == ["", "/log", "/log/a", "/log/b"]
    assert fs.calls == ["create /log/a", "create /log/b"]
