"""Every system call of the file log, behind one small port, so that tests can fail or forget any of them."""

from __future__ import annotations

import errno
import fcntl
import os
from typing import NamedTuple, Protocol

__all__ = ["OS", "FileStatus", "FileSystem", "OsFileSystem", "error_name"]


class FileStatus(NamedTuple):
    """What tells whether a file is still the one it was: *changed_unix_nano* is its ctime, which nobody can set."""

    size_bytes: int
    inode: int
    changed_unix_nano: int


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

    def locked(self, fd: int) -> bool:
        """Say whether somebody else has the exclusive lock of an open file, without keeping any."""
        ...

    def make_folder(self, path: str) -> None:
        """Create a private folder if it is missing; its parent must exist."""
        ...

    def names(self, path: str) -> list[str]:
        """Return what is in a folder, sorted."""
        ...

    def status(self, path: str) -> FileStatus:
        """Return what is known of a file by name, not following a symlink."""
        ...

    def is_folder(self, path: str) -> bool:
        """Say whether *path* is a folder, not following a symlink. False for what is not there."""
        ...

    def lock_folder(self, path: str) -> int | None:
        """Take the exclusive lock of a folder: its descriptor (``close`` gives it up), None if another has it."""
        ...

    def rename(self, source: str, target: str) -> None:
        """Give a file another name in the same folder, atomically replacing what had it."""
        ...

    def unlink(self, path: str) -> None:
        """Remove a name."""
        ...

    def truncate(self, path: str, size: int) -> None:
        """Cut a file to *size* bytes, not following a symlink."""
        ...

    def free_bytes(self, path: str) -> int:
        """Return how many bytes this user can still write where *path* is."""
        ...


class OsFileSystem:
    """The real one. Files 0600, folders 0700, descriptors not inherited by other programs.

    What root makes within somebody's private folder belongs to that somebody: an operator who looks after a
    service's log must not lock the service out.
    """

    def create(self, path: str) -> int:
        """See FileSystem."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(path, flags, 0o600)
        if os.geteuid() == 0:
            _give_to_owner(fd, os.path.dirname(path))
        return fd

    def open_read(self, path: str) -> int:
        """See FileSystem."""
        # Not waiting: what has a segment's name may be a pipe that nobody ever writes to.
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)

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

    def locked(self, fd: int) -> bool:
        """See FileSystem."""
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: who else asks is not in the way
        except BlockingIOError:
            return True
        fcntl.flock(fd, fcntl.LOCK_UN)
        return False

    def make_folder(self, path: str) -> None:
        """See FileSystem."""
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            if not os.path.isdir(path):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path) from None
        else:
            if os.geteuid() == 0:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_DIRECTORY)
                try:
                    _give_to_owner(fd, os.path.dirname(path))
                finally:
                    os.close(fd)

    def names(self, path: str) -> list[str]:
        """See FileSystem."""
        return sorted(os.listdir(path))

    def status(self, path: str) -> FileStatus:
        """See FileSystem."""
        status = os.lstat(path)
        return FileStatus(status.st_size, status.st_ino, status.st_ctime_ns)

    def is_folder(self, path: str) -> bool:
        """See FileSystem."""
        return os.path.isdir(path) and not os.path.islink(path)

    def lock_folder(self, path: str) -> int | None:
        """See FileSystem."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_DIRECTORY)
        try:
            if self.lock(fd):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        return None

    def rename(self, source: str, target: str) -> None:
        """See FileSystem."""
        os.rename(source, target)

    def unlink(self, path: str) -> None:
        """See FileSystem."""
        os.unlink(path)

    def truncate(self, path: str, size: int) -> None:
        """See FileSystem."""
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            os.ftruncate(fd, size)
        finally:
            os.close(fd)

    def free_bytes(self, path: str) -> int:
        """See FileSystem."""
        found = os.statvfs(path)
        return found.f_bavail * found.f_frsize


def _give_to_owner(fd: int, folder: str) -> None:
    """Give what root just made to the owner of *folder*, if that is private. By descriptor: a path could be swapped."""
    try:
        owner = os.stat(folder)
        if owner.st_uid and not owner.st_mode & 0o077:
            os.fchown(fd, owner.st_uid, owner.st_gid)
    except OSError:  # a file system without owners
        return


OS = OsFileSystem()


def error_name(error: OSError) -> str:
    """Return ``ENOSPC`` and the like: short, bounded, fit for a metric."""
    return errno.errorcode.get(error.errno or 0, type(error).__name__)
