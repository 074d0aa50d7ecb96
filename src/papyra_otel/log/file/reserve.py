"""Disk space kept for when there is none: given up so that what matters most can still be written.

One file of 1 MiB in the log's folder. Whoever meets a full disk with a dead letter, an audit or the
explanation of a loss in hand removes it and tries again. When there is room it is made anew.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress

from papyra_otel.log.file.fs import FileSystem
from papyra_otel.log.file.layout import RESERVE, TMP

__all__ = ["RESERVE_BYTES", "Reserve"]

RESERVE_BYTES = 1 << 20
_ROOM = 4  # times its size must be free before it is made: the last space is for facts
_PAUSE_NANOS = 30_000_000_000


class Reserve:
    """The reserve of the log in *root*. No method raises OSError; a log without a reserve is only less safe.

    While it is *spent* whatever matters less should ask first whether it ``leaves_room``.
    """

    def __init__(self, fs: FileSystem, root: str, clock: Callable[[], int], size_bytes: int) -> None:
        self._fs = fs
        self._root = root
        self._path = os.path.join(root, RESERVE)
        self._clock = clock
        self._size_bytes = size_bytes
        self._missing = False
        self._tried_unix_nano: int | None = None
        self.spent: bool = False

    def make(self) -> None:
        """Make it unless it is there or there is little room."""
        if self._size_bytes == 0:
            return
        self._tried_unix_nano = self._clock()
        self._missing = True
        with suppress(OSError):
            if self._is_whole() or self._made():
                self._missing = self.spent = False

    def make_again(self) -> None:
        """Make it if it was given up or could not be made: not too often, for whoever has time."""
        if not self._missing:
            return
        tried = self._tried_unix_nano
        if tried is None or not 0 <= self._clock() - tried < _PAUSE_NANOS:
            self.make()

    def give_up(self) -> bool:
        """Remove it; say whether that made room."""
        self._missing = self._size_bytes > 0
        self._tried_unix_nano = self._clock()
        try:
            self._fs.unlink(self._path)
        except OSError:
            return False
        self.spent = True
        return True

    def leaves_room(self) -> bool:
        """Say whether there is space beyond what was given up."""
        try:
            return self._fs.free_bytes(self._root) > self._size_bytes
        except OSError:
            return True

    def _is_whole(self) -> bool:
        try:
            return self._fs.status(self._path).size_bytes >= self._size_bytes
        except FileNotFoundError:
            return False

    def _made(self) -> bool:
        if self._fs.free_bytes(self._root) < _ROOM * self._size_bytes:
            return False
        fd = self._created()
        if fd is None:
            return False
        try:
            if not self._fs.lock(fd):  # somebody thinks that it was left behind
                return False
            self._fill(fd)
            self._fs.rename(self._path + TMP, self._path)
        except BaseException:
            with suppress(OSError):
                self._fs.unlink(self._path + TMP)
            raise
        finally:
            with suppress(OSError):
                self._fs.close(fd)
        return True

    def _created(self) -> int | None:
        """Create the file under its passing name; None if another process is making it now."""
        with suppress(FileExistsError):
            return self._fs.create(self._path + TMP)
        fd = self._fs.open_read(self._path + TMP)
        try:
            if not self._fs.lock(fd):
                return None
            self._fs.unlink(self._path + TMP)  # its maker died
        finally:
            with suppress(OSError):
                self._fs.close(fd)
        return self._fs.create(self._path + TMP)

    def _fill(self, fd: int) -> None:
        """Write what no file system can store in less space than it has bytes."""
        left = memoryview(hashlib.shake_128(b"papyra").digest(self._size_bytes))
        while left:
            written = self._fs.write(fd, bytes(left))
            if written == 0:
                raise OSError(0, "the kernel takes no more bytes")
            left = left[written:]
