"""A file system that fails on command: any port call, by its number, in each way that a kernel has."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from papyra_otel.log.file.fs import OsFileSystem

CLOCK_BEGINS = 1_795_377_765_123_456_789
DONE = "done, and reported as failed"
NOT_DONE = "not done"
SHORT = "part of it done, and the rest not"

CHANGING = ("create", "write", "fsync", "fsync_folder", "lock", "make_folder", "rename", "unlink", "truncate")
CALLS = (*CHANGING, "open_read", "pread", "size", "linked", "locked", "close", "names", "status", "is_folder")
CALLS = (*CALLS, "lock_folder", "free_bytes")
_OPENING = frozenset({"create", "open_read", "lock_folder"})


class FaultyFs(OsFileSystem):
    """The real file system. From the *first*-th port call on, *count* calls fail with errno *number*, in the way *how*.

    *only* restricts which calls are counted. ``calls`` names all that were made, ``opened`` are the descriptors
    that were opened and not closed.
    """

    def __init__(self, *, only: frozenset[str] = frozenset(CALLS)) -> None:
        self.calls: list[str] = []
        self.failed: list[str] = []
        self.opened: dict[int, str] = {}
        self.counted = 0
        self.only = only
        self.first = 0
        self.count = 1
        self.number = errno.EIO
        self.how = NOT_DONE

    def fail(self, first: int, number: int, how: str = NOT_DONE, count: int = 1) -> None:
        self.counted = 0
        self.first, self.number, self.how, self.count = first, number, how, count

    def heal(self) -> None:
        self.first = 0

    def due(self, call: str) -> bool:
        if call in self.only:
            self.counted += 1
            return 0 < self.first <= self.counted < self.first + self.count
        return False

    def error(self, path: object) -> OSError:
        return OSError(self.number, os.strerror(self.number), path if isinstance(path, str) else None)

    def did(self, call: str, result: Any, arguments: tuple[Any, ...]) -> None:
        if call in _OPENING and result is not None:
            self.opened[result] = str(arguments[0])
        if call == "close":
            self.opened.pop(arguments[0], None)


def _faulty(call: str) -> Callable[..., Any]:
    real = getattr(OsFileSystem, call)

    def wrapped(self: FaultyFs, *arguments: Any) -> Any:
        self.calls.append(call)
        if not self.due(call):
            result = real(self, *arguments)
            self.did(call, result, arguments)
            return result
        self.failed.append(f"{call} {arguments[0]}")
        if self.how == SHORT and call == "write":
            real(self, arguments[0], arguments[1][: len(arguments[1]) // 2])
        if self.how == DONE and call not in _OPENING:
            real(self, *arguments)
            self.did(call, None, arguments)
        raise self.error(arguments[0])

    return wrapped


for _call in CALLS:
    setattr(FaultyFs, _call, _faulty(_call))


def modes(root: str) -> dict[str, int]:
    """Return the permissions of all there is below *root*."""
    paths = [Path(root), *Path(root).rglob("*")]
    return {str(path): stat.S_IMODE(path.lstat().st_mode) for path in paths}
