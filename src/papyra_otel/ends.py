"""The ends of a process: exit, fork, the end of a multiprocessing child; and the refusal to begin."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import NoReturn

from papyra_otel.errors import LogDamaged
from papyra_otel.saying import say

__all__ = ["hook", "hook_last", "refuse"]

_hooked = False


def hook(at_exit: Callable[[], None], after_fork_in_child: Callable[[], None]) -> None:
    """Have *at_exit* called at exit and *after_fork_in_child* in forked children: the same two each time.

    To be called when the SDK's own exit handlers are there. Calling it again moves *at_exit* before what was
    registered since; the rest is done once.
    """
    global _hooked  # noqa: PLW0603 - hooks of a process cannot be taken back
    atexit.unregister(at_exit)
    atexit.register(at_exit)  # last in, first out: before a provider that waits for its collector
    if _hooked:
        return
    _hooked = True
    os.register_at_fork(after_in_child=after_fork_in_child)
    _hook_multiprocessing(at_exit)


def hook_last(at_exit: Callable[[], None]) -> None:
    """Have *at_exit* called once more, after every exit handler that is registered later than this call."""
    atexit.register(partial(at_exit))  # another object: unregistering at_exit must leave it


def _hook_multiprocessing(at_exit: Callable[[], None]) -> None:
    """Have *at_exit* called when a multiprocessing child ends: it leaves by ``os._exit``, past every handler."""
    from multiprocessing import parent_process, util  # noqa: PLC0415 - only a process that records pays for it

    def in_child(_: object) -> None:
        util.Finalize(None, at_exit, exitpriority=-100)

    util.register_after_fork(hook, in_child)  # hook: any object that lives as long as the process
    if parent_process() is not None:  # this is such a child, and began to record only now
        in_child(None)


def refuse(error: LogDamaged) -> NoReturn:
    """End the process before its program begins, with exit code 1.

    By SystemExit: who loads instrumentors catches every Exception. Where ``site`` is still being imported (so does
    ``opentelemetry-instrument`` begin) the interpreter calls that a fatal error and shows a traceback; there is
    nothing yet that would have to be ended in order.
    """
    say(f"not starting: {error}")
    if _in_site():
        with suppress(Exception):
            sys.stderr.flush()
        os._exit(1)
    raise SystemExit(1)


def _in_site() -> bool:
    import inspect  # noqa: PLC0415 - only a process that ends pays for it

    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_globals.get("__name__") == "site":
            return True
        frame = frame.f_back
    return False
