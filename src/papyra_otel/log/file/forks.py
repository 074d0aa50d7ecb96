"""Forks: no child inherits a half-born segment, and none writes under its parent's name."""

from __future__ import annotations

import os
import threading
import time
import weakref
from typing import Protocol

__all__ = ["hold_still_at_forks"]

_FORK_WAITS_SECONDS = 1.0


class Forkable(Protocol):
    """What has locks and descriptors that a fork must not catch in use."""

    def before_fork(self, wait_seconds: float) -> bool:
        """Wait until nothing is half done, but no longer than that; say whether it is so."""
        ...

    def after_fork_in_parent(self) -> None:
        """Go on, after ``before_fork`` was true."""
        ...

    def after_fork_in_child(self) -> None:
        """Begin anew."""
        ...


def hold_still_at_forks(log: Forkable) -> None:
    """Let *log* take part in every fork from now on, for as long as it lives."""
    _open_logs.add(log)


_open_logs: weakref.WeakSet[Forkable] = weakref.WeakSet()


class _Forking(threading.local):
    """The logs that the thread which is forking just now holds still."""

    def __init__(self) -> None:
        self.held: list[Forkable] = []


_forking = _Forking()


def _before_fork() -> None:
    until = time.monotonic() + _FORK_WAITS_SECONDS
    for log in _all_logs():
        if log.before_fork(max(0.0, until - time.monotonic())):
            _forking.held.append(log)


def _after_fork_in_parent() -> None:
    while _forking.held:
        _forking.held.pop().after_fork_in_parent()


def _after_fork_in_child() -> None:
    _forking.held.clear()
    for log in _all_logs():
        log.after_fork_in_child()


def _all_logs() -> list[Forkable]:
    while True:
        try:
            return list(_open_logs)
        except RuntimeError:  # another thread opens one just now
            continue


os.register_at_fork(
    before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
)
