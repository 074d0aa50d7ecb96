"""Forks: no child inherits a half-born segment, and none writes under its parent's name."""

from __future__ import annotations

import fcntl
import os
import sys
import threading
import time
import weakref
from contextlib import suppress
from typing import Protocol

from papyra_otel.log.file.layout import TMP, SegmentName

__all__ = ["close_strays", "hold_still_at_forks", "let_forks_pass", "waiting_forks"]

_FORK_WAITS_SECONDS = 1.0

#: One event for each thread that waits to fork; whoever appends lets it pass, and looks here without a lock.
waiting_forks: list[threading.Event] = []


class Forkable(Protocol):
    """What has locks and descriptors that a fork must not catch in use."""

    def before_fork(self, wait_seconds: float) -> bool:
        """Wait until nothing is half done, but no longer than that; say whether it is so."""
        ...

    def after_fork_in_parent(self) -> None:
        """Go on, after ``before_fork`` was true."""
        ...

    def after_fork_in_child(self, *, stood_still: bool) -> None:
        """Begin anew. Unless it *stood_still*, another thread may have been opening or closing something."""
        ...


def hold_still_at_forks(log: Forkable) -> None:
    """Let *log* take part in every fork from now on, for as long as it lives."""
    _open_logs.add(log)


_open_logs: weakref.WeakSet[Forkable] = weakref.WeakSet()


class _Forking(threading.local):
    """What the thread which is forking just now holds still, and the event by which it is waited for."""

    def __init__(self) -> None:
        self.held: list[Forkable] = []
        self.waits: threading.Event | None = None


_forking = _Forking()


def let_forks_pass() -> None:
    """Wait until nobody waits to fork, for no longer than a fork does. For those who hold no lock.

    A lock is not fair: threads that append one fact after the other take it again the moment they gave it back, and a
    fork could wait for its turn until it waits no more.
    """
    for passed in tuple(waiting_forks):  # threads come and go
        if passed is not _forking.waits:
            passed.wait(_FORK_WAITS_SECONDS)


def close_strays(root: str) -> None:
    """Close, in a forked child, segments below *root* that threads of the parent had just opened for writing.

    Those threads are not in the child, and nobody here knows what they opened. As long as it is open here, the parent's
    writer looks alive. Descriptors of readers are left alone: the thread that forked may go on reading.
    """
    below = os.path.join(os.path.realpath(root), "")
    for fd in _open_descriptors():
        with suppress(OSError):
            if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
                continue
            path = _path(fd).removesuffix(TMP)
            if path.startswith(below) and SegmentName.parse(os.path.basename(path)):
                os.close(fd)


def _open_descriptors() -> list[int]:
    with suppress(OSError):
        return [int(name) for name in os.listdir("/dev/fd")]
    return []


def _path(fd: int) -> str:
    if sys.platform == "darwin":
        return fcntl.fcntl(fd, fcntl.F_GETPATH, bytes(1024)).rstrip(b"\0").decode(errors="surrogateescape")
    return os.readlink(f"/proc/self/fd/{fd}").removesuffix(" (deleted)")


def _before_fork() -> None:
    until = time.monotonic() + _FORK_WAITS_SECONDS
    passed = _forking.waits = threading.Event()
    waiting_forks.append(passed)
    try:
        for log in _all_logs():
            if log.before_fork(max(0.0, until - time.monotonic())):
                _forking.held.append(log)
    finally:
        waiting_forks.remove(passed)
        passed.set()


def _after_fork_in_parent() -> None:
    while _forking.held:
        _forking.held.pop().after_fork_in_parent()


def _after_fork_in_child() -> None:
    waiting_forks.clear()
    held = {id(log) for log in _forking.held}
    _forking.held.clear()
    for log in _all_logs():
        log.after_fork_in_child(stood_still=id(log) in held)


def _all_logs() -> list[Forkable]:
    while True:
        try:
            return list(_open_logs)
        except RuntimeError:  # another thread opens one just now
            continue


os.register_at_fork(
    before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
)
