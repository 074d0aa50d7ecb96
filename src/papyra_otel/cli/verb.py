"""What a verb is, and what it is given to work with."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
from dataclasses import dataclass

from papyra_otel.cli.screen import Screen

__all__ = ["Surroundings", "Verb", "whole_number"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """The world outside; tests bring their own.

    *clock* is in nanoseconds since the epoch, *ticks* in seconds of a clock that never steps, *wait* in seconds.
    """

    screen: Screen
    clock: Callable[[], int]
    ticks: Callable[[], float]
    wait: Callable[[float], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """One verb. *run* returns the exit code; what it raises is told by ``app``. *help* begins in lower case."""

    name: str
    help: str
    description: str
    add_arguments: Callable[[ArgumentParser], None]
    run: Callable[[Namespace, Surroundings], int]


def whole_number(text: str) -> int:
    """Read a whole number from 0 up, for argparse."""
    if not (text.isascii() and text.isdigit() and len(text) < 16):  # noqa: PLR2004 - what islice and JSON hold
        raise ArgumentTypeError(f"{text!r} is not a whole number from 0 up")
    return int(text)
