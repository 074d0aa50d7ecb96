"""Giving a file new content so that at every moment, also after a power cut, it has the old or the new one.

``<name>.tmp`` is written and forced to the disk, then takes the name, then the folder is forced. A
temporary file is locked by whoever writes it: one whose lock is free was left behind by a crash, and
is never the only copy of anything.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable

from papyra_otel.log.file.fs import FileSystem
from papyra_otel.log.file.layout import TMP

__all__ = ["remove_leftover", "replace_file"]

_TRIES = 3  # somebody who only looks holds the lock for a moment
_WRITE_BYTES = 1 << 20


def replace_file(fs: FileSystem, folder: str, name: str, chunks: Iterable[bytes]) -> None:
    """Give the file *name* in *folder*, which need not exist, the content *chunks*; durable on return.

    Raises OSError, and whatever *chunks* raises; the file is then as it was and nothing is left behind
    (unless forcing the folder failed: then it has its new content, but a power cut may undo that). EBUSY
    means that another process is replacing it.
    """
    path = os.path.join(folder, name)
    tmp = path + TMP
    fd = _create_locked(fs, tmp)
    try:
        try:
            _write_all(fs, fd, chunks)
            fs.fsync(fd)
            fs.rename(tmp, path)
        except BaseException:
            _unlink_quietly(fs, tmp)
            raise
        fs.fsync_folder(folder)
    finally:
        fs.close(fd)


def remove_leftover(fs: FileSystem, path: str) -> bool:
    """Unlink the temporary file *path* if nobody has its lock; say whether it is gone. Raises OSError."""
    try:
        fd = fs.open_read(path)
    except FileNotFoundError:
        return True
    try:
        if not fs.lock(fd):
            return False
        with contextlib.suppress(FileNotFoundError):
            fs.unlink(path)
    finally:
        fs.close(fd)
    return True


def _create_locked(fs: FileSystem, tmp: str) -> int:
    for _ in range(_TRIES):
        try:
            fd = fs.create(tmp)
        except FileExistsError:
            remove_leftover(fs, tmp)
            continue
        try:
            locked = fs.lock(fd)
        except BaseException:
            _discard(fs, fd, tmp)
            raise
        if locked:
            return fd
        _discard(fs, fd, tmp)
    raise OSError(errno.EBUSY, "another process is writing it", tmp)


def _write_all(fs: FileSystem, fd: int, chunks: Iterable[bytes]) -> None:
    """Write *chunks*, in few large pieces."""
    pending: list[bytes] = []
    size = 0
    for chunk in chunks:
        pending.append(chunk)
        size += len(chunk)
        if size >= _WRITE_BYTES:
            _write(fs, fd, b"".join(pending))
            pending, size = [], 0
    _write(fs, fd, b"".join(pending))


def _write(fs: FileSystem, fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        taken = fs.write(fd, bytes(rest))
        if taken == 0:
            raise OSError(errno.EIO, "the kernel takes no more bytes")
        rest = rest[taken:]


def _discard(fs: FileSystem, fd: int, tmp: str) -> None:
    _unlink_quietly(fs, tmp)
    fs.close(fd)


def _unlink_quietly(fs: FileSystem, path: str) -> None:
    with contextlib.suppress(OSError):  # else it is a leftover: whoever recovers next removes it
        fs.unlink(path)
