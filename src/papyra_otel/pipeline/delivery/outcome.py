"""What became of one request to a receiver: three answers, whatever the protocol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["Accepted", "Later", "Outcome", "Refused", "one_line"]

_TEXT_CHARS_MAX = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The receiver has it, except for *rejected* records, which it does not want again. *message* is what it says."""

    rejected: int = 0
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Later:
    """The receiver has none of it, or may not: try again, not before *after_seconds* where it asks for that.

    *suspect*: it failed at this request (500, INTERNAL), so the data may be why after all.
    """

    error_type: str
    message: str
    after_seconds: float | None = None
    suspect: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The receiver will never take this request as it is: something in it is bad, or it is too large.

    *certain*: it was not even asked, because the request could not be made.
    """

    error_type: str
    message: str
    certain: bool = False


Outcome: TypeAlias = Accepted | Later | Refused


def one_line(text: str) -> str:
    """Return what a receiver said as one short printable line: it is shown to operators."""
    shown = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return shown if len(shown) <= _TEXT_CHARS_MAX else shown[:_TEXT_CHARS_MAX] + "…"
