"""Every system call of the file log, behind one small port, so that tests can fail or forget any of them."""

from __future__ import annotations

import errno
import fcntl
import os
from typing import Protocol

__all__ = ["OS", "FileSystem", "OsFileSystem", "error_name"]


class FileSystem(Protocol):
    """What the file log needs of an operating system. Every method raises OSError as the kernel says."""

    def create(self, path: str) -> int:
        """Create a new private file for appending; fail if it exists. Return its descriptor."""
        ...

    def open_read(self, path: str) -> int:
        """Open an existing file for reading, not following a symlink."""
        ...

    def write(self, fd: int, data: bytes, /) -> int:
        """Append; return how many bytes were taken, which may be fewer."""
        ...

    def pread(self, fd: int, size: int, offset: int, /) -> bytes:
        """Read at *offset*; empty at the end."""
        ...

    def size(self, fd: int) -> int:
        """Return the file's size in bytes."""
        ...

    def linked(self, fd: int) -> bool:
        """Say whether an open file still has a name in some folder."""
        ...

    def fsync(self, fd: int) -> None:
        """Force the file to the disk."""
        ...

    def fsync_folder(self, path: str) -> None:
        """Force the folder's entries to the disk."""
        ...

    def close(self, fd: int) -> None:
        """Give up a descriptor."""
        ...

    def lock(self, fd: int) -> bool:
        """Take the exclusive lock of an open file for as long as it is open; False if another has it."""
        ...

    def make_folder(self, path: str) -> None:
        """Create a private folder if it is missing; its parent must exist."""
        ...

    def names(self, path: str) -> list[str]:
        """Return what is in a folder, sorted."""
        ...


class OsFileSystem:
    """The real one. Files 0600, folders 0700, descriptors not inherited by other programs."""

    def create(self, path: str) -> int:
        """See FileSystem."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(path, flags, 0o600)

    def open_read(self, path: str) -> int:
        """See FileSystem."""
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)

    def write(self, fd: int, data: bytes, /) -> int:
        """See FileSystem."""
        return os.write(fd, data)

    def pread(self, fd: int, size: int, offset: int, /) -> bytes:
        """See FileSystem."""
        return os.pread(fd, size, offset)

    def fsync(self, fd: int) -> None:
        """See FileSystem."""
        os.fsync(fd)

    def close(self, fd: int) -> None:
        """See FileSystem."""
        os.close(fd)

    def size(self, fd: int) -> int:
        """See FileSystem."""
        return os.fstat(fd).st_size

    def linked(self, fd: int) -> bool:
        """See FileSystem."""
        return os.fstat(fd).st_nlink > 0

    def fsync_folder(self, path: str) -> None:
        """See FileSystem."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def lock(self, fd: int) -> bool:
        """See FileSystem."""
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def make_folder(self, path: str) -> None:
        """See FileSystem."""
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            if not os.path.isdir(path):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path) from None

    def names(self, path: str) -> list[str]:
        """See FileSystem."""
        return sorted(os.listdir(path))


OS = OsFileSystem()


def error_name(error: OSError) -> str:
    """Return ``ENOSPC`` and the like: short, bounded, fit for a metric."""
    return errno.errorcode.get(error.errno or 0, type(error).__name__)
