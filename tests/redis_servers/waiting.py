"""Waiting for what other processes bring about: always for a condition, never longer than a deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")

PATIENCE_SECONDS = 20.0
"""How long anything may take on a busy machine before it counts as never."""

_POLL_SECONDS = 0.01


def until(
    condition: Callable[[], Found],
    what: str = "the condition",
    *,
    seconds: float = PATIENCE_SECONDS,
    forgive: tuple[type[Exception], ...] = (),
) -> Found:
    """Return the first true answer of *condition*; raise TimeoutError, naming *what*, after *seconds*.

    An error of *forgive* counts as a no, and is the cause of the TimeoutError if it was the last answer.
    """
    deadline = time.monotonic() + seconds
    never = threading.Event()
    while True:
        error: Exception | None = None
        try:
            if answer := condition():
                return answer
        except forgive as raised:
            error = raised
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come true in {seconds:g} s") from error
        never.wait(_POLL_SECONDS)  # a server tells nobody when its state changes: it has to be asked
