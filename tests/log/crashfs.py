"""A file system in memory that knows what a power cut may take: the file log's port, and every state a crash leaves.

What a program sees is what a kernel would show. What the disk has is kept apart:

* A file's content is on the disk as of its last ``fsync``. Of the writes and truncations since then any
  prefix may have arrived, the last of them torn; or their room may have arrived, but not the bytes: then
  NULs stand there, in place of all of them, of the later ones, or of any single one.
* A folder's entries are on the disk as of the last ``fsync_folder`` of that folder. Of the creations,
  renamings and removals since then any prefix may have arrived, or all that came up to some moment but
  one. A renaming arrives whole or not at all. Syncing a file does not sync its name, syncing a folder not
  the name of the folder itself nor anything in the files.

Files and folders lose independently of each other. There are no symbolic links, and no permissions.
One thread only.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import math
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from papyra_otel.log.file.fs import FileStatus

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Crash", "CrashFs"]

_NAME_BYTES_MAX = 255
_EXTREMES = ((0, 0), (0, -1), (-1, 0), (-1, -1))  # of (folders, files): 0 has lost all, -1 has all

Entries = dict[str, int]
Edits = tuple[tuple[str, int | None], ...]  # one folder operation: names and the inodes they have from now on
Update = bytes | int  # one file operation: bytes appended, or the size it is cut or stretched to


class Crash(BaseException):
    """The machine is off. Who catches it can do nothing about it: every later call but ``close`` raises it too."""


@dataclass
class _File:
    data: bytearray = field(default_factory=bytearray)
    kept: bytes = b""
    pending: list[Update] = field(default_factory=list[Update])
    changed: int = 0

    def survivors(self) -> list[bytes]:
        """Return every content that a crash may leave: first the least, last the most."""
        return _contents(self.kept, self.pending)


@dataclass
class _Folder:
    entries: Entries = field(default_factory=dict[str, int])
    kept: Entries = field(default_factory=dict[str, int])
    pending: list[Edits] = field(default_factory=list[Edits])
    changed: int = 0

    def survivors(self) -> list[Entries]:
        """Return every set of entries that a crash may leave: first without any change since, last with all."""
        return _entries(self.kept, self.pending)


@dataclass
class _Opened:
    inode: int
    path: str
    readable: bool
    writable: bool


class CrashFs:
    """See ``FileSystem``. *folders* exist from the beginning, also on the disk.

    *calls* are the port calls that were done, in order; *changing* are the numbers, from 1, of those that
    changed what a crash could leave. Files together hold at most *capacity_bytes*; a removed file holds its room
    while it is open.
    """

    def __init__(self, folders: Sequence[str] = ("/log",)) -> None:
        self.calls: list[str] = []
        self.changing: list[int] = []
        self.capacity_bytes: int = 1 << 30
        self._inodes: dict[int, _File | _Folder] = {0: _Folder()}
        self._numbers = itertools.count(1)
        self._moments = itertools.count(1)
        self._descriptors = itertools.count(3)
        self._open: dict[int, _Opened] = {}
        self._lock_holders: dict[int, int] = {}  # inode: descriptor
        self._calls_left: int | None = None
        for path in folders:
            self._make_parents(path)

    @classmethod
    def of(cls, tree: Mapping[str, bytes | None]) -> Self:
        """Return a machine whose disk has the files and, for None, the folders of *tree*."""
        fs = cls([path for path, content in tree.items() if content is None])
        for path, content in tree.items():
            if content is not None:
                CrashFs.write(fs, CrashFs.create(fs, path), content)
        fs.end_process()
        fs._all_is_on_the_disk()
        return fs

    def _make_parents(self, path: str) -> None:
        made = ""
        for name in filter(None, path.split("/")):
            made += f"/{name}"
            self.make_folder(made)
        self._all_is_on_the_disk()

    def _all_is_on_the_disk(self) -> None:
        for number in self._inodes:
            self._force(number)
        self.calls.clear()
        self.changing.clear()

    @property
    def off(self) -> bool:
        """Say whether the machine went off."""
        return self._calls_left is not None and self._calls_left <= 0

    # --- crashing ---------------------------------------------------------------------------------------

    def stop_at(self, call: int) -> None:
        """Let the machine go off in place of the *call*-th port call from now on; 1 is the next."""
        self._calls_left = call

    def end_process(self) -> None:
        """Close all descriptors, as a kernel does for a process that was killed; the machine goes on."""
        self._open.clear()
        self._lock_holders.clear()

    def crash_states(self, limit: int = 1000, seed: int = 0) -> Iterator[CrashFs]:
        """Yield every distinct state of the disk that a crash now may leave, as a machine that was started again.

        If all combinations are more than *limit*: every state of each file and each folder while all other
        files and all other folders have lost all or have all (four ways), and *limit* random combinations.
        """
        known: set[bytes] = set()
        numbers = [number for number in self._named() if self._inodes[number].pending]
        survivors = {number: self._inodes[number].survivors() for number in numbers}
        for choice in self._choices(survivors, limit, random.Random(seed)):
            arrived = zip(numbers, choice, strict=True)
            state = self._started({number: survivors[number][at] for number, at in arrived})
            digest = state.digest()
            if digest not in known:
                known.add(digest)
                yield state

    def as_written(self) -> CrashFs:
        """Return a machine whose disk has all that was written: what is left when only the process was killed."""
        return self._started({number: _seen(inode) for number, inode in self._inodes.items()})

    def digest(self) -> bytes:
        """Return what tells this machine's names and contents from another's."""
        digest = hashlib.blake2b(digest_size=16)
        for path, content in self.tree().items():
            digest.update(b"%d %b %d " % (len(path), path.encode(), -1 if content is None else len(content)))
            digest.update(content or b"")
        return digest.digest()

    def tree(self) -> dict[str, bytes | None]:
        """Return all paths, sorted, and the files' contents; None for a folder."""
        found: dict[str, bytes | None] = {}
        self._walk("", 0, found)
        return dict(sorted(found.items()))

    def _walk(self, path: str, number: int, found: dict[str, bytes | None]) -> None:
        inode = self._inodes[number]
        if isinstance(inode, _File):
            found[path] = bytes(inode.data)
            return
        found[path] = None
        for name, entry in inode.entries.items():
            self._walk(f"{path}/{name}", entry, found)

    def _named(self) -> list[int]:
        """Return the inodes that a crash may leave a name to."""
        named = {0}
        for inode in self._inodes.values():
            if isinstance(inode, _Folder):
                named.update(inode.kept.values(), inode.entries.values())
                named.update(number for edits in inode.pending for _, number in edits if number is not None)
        return sorted(named)

    def _choices(
        self, survivors: Mapping[int, Sequence[bytes | Entries]], limit: int, chance: random.Random
    ) -> Iterator[tuple[int, ...]]:
        sizes = [len(states) for states in survivors.values()]
        if math.prod(sizes) <= limit:
            yield from itertools.product(*map(range, sizes))
            return
        folders = [isinstance(self._inodes[number], _Folder) for number in survivors]
        for of_folders, of_files in _EXTREMES:
            rest = [of_folders if is_folder else of_files for is_folder in folders]
            for at, size in enumerate(sizes):
                for chosen in range(size):
                    yield (*rest[:at], chosen, *rest[at + 1 :])
        for _ in range(limit):
            yield tuple(map(chance.randrange, sizes))

    def _started(self, persisted: Mapping[int, bytes | Entries]) -> CrashFs:
        fresh = CrashFs(())
        fresh.capacity_bytes = self.capacity_bytes
        fresh._numbers = itertools.count(max(self._inodes) + 1)
        fresh._moments = itertools.count(max(inode.changed for inode in self._inodes.values()) + 1)
        waiting = [0]
        while waiting:
            number = waiting.pop()
            inode = self._inodes[number]
            content = persisted.get(number, inode.kept)
            if isinstance(content, bytes):
                fresh._inodes[number] = _File(bytearray(content), content, changed=inode.changed)
            else:
                fresh._inodes[number] = _Folder(dict(content), dict(content), changed=inode.changed)
                waiting += content.values()
        return fresh

    # --- the port: files --------------------------------------------------------------------------------

    def create(self, path: str) -> int:
        self._called("create", path)
        folder, name = self._place(path)
        if name in folder.entries or not name:
            raise _error(errno.EEXIST, path)
        number = next(self._numbers)
        self._inodes[number] = _File(changed=next(self._moments))
        self._edit(folder, ((name, number),))
        return self._descriptor(number, path, writable=True)

    def open_read(self, path: str) -> int:
        self._called("open_read", path)
        return self._descriptor(self._number(path), path)

    def write(self, fd: int, data: bytes, /) -> int:
        opened = self._called_on("write", fd, f"{len(data)} bytes")
        inode = self._inodes[opened.inode]
        if not opened.writable or not isinstance(inode, _File):
            raise _error(errno.EBADF)
        taken = bytes(data[: self._free_bytes()])
        if data and not taken:
            raise _error(errno.ENOSPC)
        if taken:
            inode.data += taken
            self._updated(inode, taken)
        return len(taken)

    def pread(self, fd: int, size: int, offset: int, /) -> bytes:
        opened = self._called_on("pread", fd)
        inode = self._inodes[opened.inode]
        if not opened.readable:
            raise _error(errno.EBADF)
        if not isinstance(inode, _File):
            raise _error(errno.EISDIR)
        return bytes(inode.data[offset : offset + size])

    def size(self, fd: int) -> int:
        inode = self._inodes[self._called_on("size", fd).inode]
        return len(inode.data) if isinstance(inode, _File) else 0

    def linked(self, fd: int) -> bool:
        number = self._called_on("linked", fd).inode
        return number == 0 or any(
            number in inode.entries.values() for inode in self._inodes.values() if isinstance(inode, _Folder)
        )

    def truncate(self, path: str, size: int) -> None:
        self._called("truncate", path)
        inode = self._inodes[self._number(path)]
        if not isinstance(inode, _File):
            raise _error(errno.EISDIR, path)
        if size < 0:
            raise _error(errno.EINVAL)
        inode.data[:] = _resized(bytes(inode.data), size)
        self._updated(inode, size)

    def fsync(self, fd: int) -> None:
        self._force(self._called_on("fsync", fd).inode)

    def close(self, fd: int) -> None:
        try:
            opened = self._called_on("close", fd)
        except Crash:  # changes nothing that a crash leaves, and a generator being collected may not raise
            return
        del self._open[fd]
        if self._lock_holders.get(opened.inode) == fd:
            del self._lock_holders[opened.inode]

    def lock(self, fd: int) -> bool:
        opened = self._called_on("lock", fd)
        return self._lock_holders.setdefault(opened.inode, fd) == fd

    def locked(self, fd: int) -> bool:
        opened = self._called_on("locked", fd)
        if self._lock_holders.get(opened.inode, fd) != fd:
            return True
        self._lock_holders.pop(
            opened.inode, None
        )  # as flock has it: the shared lock takes the own one's place
        return False

    # --- the port: folders ------------------------------------------------------------------------------

    def fsync_folder(self, path: str) -> None:
        self._called("fsync_folder", path)
        self._force(self._number(path))

    def make_folder(self, path: str) -> None:
        self._called("make_folder", path)
        folder, name = self._place(path)
        if name in folder.entries or not name:
            if isinstance(self._inodes[folder.entries.get(name, 0)], _File):
                raise _error(errno.ENOTDIR, path)
            return
        number = next(self._numbers)
        self._inodes[number] = _Folder(changed=next(self._moments))
        self._edit(folder, ((name, number),))

    def names(self, path: str) -> list[str]:
        self._called("names", path)
        return sorted(self._folder(path).entries)

    def status(self, path: str) -> FileStatus:
        self._called("status", path)
        number = self._number(path)
        inode = self._inodes[number]
        return FileStatus(len(inode.data) if isinstance(inode, _File) else 0, number, inode.changed)

    def is_folder(self, path: str) -> bool:
        self._called("is_folder", path)
        try:
            return isinstance(self._inodes[self._number(path)], _Folder)
        except OSError:
            return False

    def lock_folder(self, path: str) -> int | None:
        self._called("lock_folder", path)
        self._folder(path)
        number = self._number(path)
        if number in self._lock_holders:
            return None
        fd = self._descriptor(number, path)
        self._lock_holders[number] = fd
        return fd

    def rename(self, source: str, target: str) -> None:
        self._called("rename", f"{source} to {target}")
        folder, name = self._place(source)
        number = self._number(source)
        new_folder, new_name = self._place(target)
        assert new_folder is folder, "only within a folder"
        assert isinstance(self._inodes[number], _File), "only files"
        replaced = folder.entries.get(new_name)
        if replaced is not None and isinstance(self._inodes[replaced], _Folder):
            raise _error(errno.EISDIR, source)
        if replaced == number:
            return
        self._edit(folder, ((name, None), (new_name, number)))
        for changed in (number, replaced):
            if changed is not None:
                self._inodes[changed].changed = next(self._moments)

    def unlink(self, path: str) -> None:
        self._called("unlink", path)
        folder, name = self._place(path)
        inode = self._inodes[self._number(path)]
        if isinstance(inode, _Folder):
            raise _error(errno.EISDIR, path)
        self._edit(folder, ((name, None),))
        inode.changed = next(self._moments)

    def free_bytes(self, path: str) -> int:
        self._called("free_bytes", path)
        self._number(path)
        return self._free_bytes()

    # --- inside -----------------------------------------------------------------------------------------

    def _called(self, call: str, what: str) -> None:
        if self._calls_left is not None:
            self._calls_left -= 1
            if self.off:
                raise Crash(f"in place of {call} {what}")
        self.calls.append(f"{call} {what}")

    def _called_on(self, call: str, fd: int, what: str = "") -> _Opened:
        opened = self._open.get(fd)
        self._called(call, f"{opened.path if opened else fd} {what}".rstrip())
        if opened is None:
            raise _error(errno.EBADF)
        return opened

    def _free_bytes(self) -> int:
        held = {opened.inode for opened in self._open.values()}
        for inode in self._inodes.values():
            if isinstance(inode, _Folder):
                held.update(inode.entries.values())
        files = (self._inodes[number] for number in held)
        used = sum(len(inode.data) for inode in files if isinstance(inode, _File))
        return max(self.capacity_bytes - used, 0)

    def _descriptor(self, number: int, path: str, *, writable: bool = False) -> int:
        fd = next(self._descriptors)
        self._open[fd] = _Opened(number, path, readable=not writable, writable=writable)
        return fd

    def _number(self, path: str, above: str | None = None) -> int:
        """Return the inode at *path*, or at *above* on the way there."""
        number = 0
        for name in filter(None, (path if above is None else above).split("/")):
            inode = self._inodes[number]
            if isinstance(inode, _File):
                raise _error(errno.ENOTDIR, path)
            if name not in inode.entries:
                too_long = len(os.fsencode(name)) > _NAME_BYTES_MAX
                raise _error(errno.ENAMETOOLONG if too_long else errno.ENOENT, path)
            number = inode.entries[name]
        return number

    def _folder(self, path: str, above: str | None = None) -> _Folder:
        inode = self._inodes[self._number(path, above)]
        if isinstance(inode, _File):
            raise _error(errno.ENOTDIR, path)
        return inode

    def _place(self, path: str) -> tuple[_Folder, str]:
        """Return the folder that *path* is in, and its name there, which need not exist."""
        above, _, name = path.rstrip("/").rpartition("/")
        folder = self._folder(path, above)
        if name not in folder.entries and len(os.fsencode(name)) > _NAME_BYTES_MAX:
            raise _error(errno.ENAMETOOLONG, path)
        return folder, name

    def _edit(self, folder: _Folder, edits: Edits) -> None:
        _apply(folder.entries, edits)
        folder.pending.append(edits)
        folder.changed = next(self._moments)
        self.changing.append(len(self.calls))

    def _updated(self, inode: _File, update: Update) -> None:
        inode.pending.append(update)
        inode.changed = next(self._moments)
        self.changing.append(len(self.calls))

    def _force(self, number: int) -> None:
        inode = self._inodes[number]
        if inode.pending:
            self.changing.append(len(self.calls))
            inode.pending.clear()
        if isinstance(inode, _File):
            inode.kept = bytes(inode.data)
        else:
            inode.kept = dict(inode.entries)


def _seen(inode: _File | _Folder) -> bytes | Entries:
    return bytes(inode.data) if isinstance(inode, _File) else inode.entries


def _error(number: int, path: str | None = None) -> OSError:
    return OSError(number, os.strerror(number), path)


def _apply(entries: Entries, edits: Edits) -> None:
    for name, number in edits:
        if number is None:
            entries.pop(name, None)
        else:
            entries[name] = number


def _entries(kept: Entries, pending: list[Edits]) -> list[Entries]:
    arrived = [pending[:count] for count in range(len(pending) + 1)]
    but_one = [
        pending[:lost] + pending[lost + 1 : count]
        for count in range(2, len(pending) + 1)
        for lost in range(count - 1)
    ]
    states: list[Entries] = []
    for operations in (*arrived[:-1], *but_one, arrived[-1]):
        entries = dict(kept)
        for edits in operations:
            _apply(entries, edits)
        states.append(entries)
    return states


def _contents(kept: bytes, pending: list[Update]) -> list[bytes]:
    prefixes = [kept]
    for update in pending:
        prefixes.append(_updated(prefixes[-1], update))
    whole = prefixes[-1]
    states = dict.fromkeys(prefixes[:-1])
    for before, update in zip(prefixes, pending, strict=False):
        if isinstance(update, bytes):
            states |= dict.fromkeys(before + update[:cut] for cut in _cuts(len(update)))
    for at, update in enumerate(pending):
        states[_resized(prefixes[at], len(whole))] = None  # room for all of the rest, but no bytes
        if isinstance(update, bytes):
            content = prefixes[at] + bytes(len(update))
            for later in pending[at + 1 :]:
                content = _updated(content, later)
            states[content] = None
    states.pop(whole, None)
    return [*states, whole]


def _cuts(size: int) -> set[int]:
    return {cut for cut in (1, size // 2, size - 1) if 0 < cut < size}


def _updated(content: bytes, update: Update) -> bytes:
    return _resized(content, update) if isinstance(update, int) else content + update


def _resized(content: bytes, size: int) -> bytes:
    return content[:size].ljust(size, b"\0")
