"""Where a reader is: one position per source, kept cheaply while reading, one opaque string outside.

A single time would not do: another writer may append a fact with an earlier time than the last one read.
So a cursor is a vector. It is made only when asked for; while reading, each step adds one link to a
chain that is folded into a plain dict now and then, so holding any entry costs little and walking is short.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping

import msgspec

from papyra_otel.errors import ConfigError

__all__ = ["Position", "Vector", "parse_cursor"]

Position = tuple[int, ...]
_FORWARD, _BACKWARD = "f1.", "b1."
_CHAIN_MAX = 64
_INT64_MAX = 2**63 - 1
_SHOWN_CHARS_MAX = 40


class Vector:
    """An immutable map from source to position; ``moved`` returns the next one. One thread moves it."""

    __slots__ = ("_base", "_length", "previous", "step")

    def __init__(
        self,
        base: Mapping[str, Position],
        previous: Vector | None = None,
        step: tuple[str, Position] | None = None,
        length: int = 0,
    ) -> None:
        self._base = base
        self.previous: Vector | None = previous
        self.step: tuple[str, Position] | None = step
        self._length = length

    def moved(self, source: str, position: Position) -> Vector:
        """Return this vector with *source* at *position*."""
        longest = max(_CHAIN_MAX, len(self._base))
        if self._length >= longest:
            return Vector({**self.positions(), source: position})
        return Vector(self._base, self, (source, position), self._length + 1)

    def positions(self) -> dict[str, Position]:
        """Return all positions."""
        steps: dict[str, Position] = {}
        at: Vector | None = self
        while at is not None and at.step is not None:
            steps.setdefault(*at.step)
            at = at.previous
        return {**self._base, **steps}

    def render(self, *, newest_first: bool) -> str:
        """Return the cursor as text."""
        packed = msgspec.msgpack.encode(self.positions())
        text = base64.urlsafe_b64encode(packed).decode().rstrip("=")
        return (_BACKWARD if newest_first else _FORWARD) + text


def parse_cursor(text: str, *, newest_first: bool) -> dict[str, Position]:
    """Return the positions in a rendered cursor. Raises ConfigError for anything else."""
    wanted, other = (_BACKWARD, _FORWARD) if newest_first else (_FORWARD, _BACKWARD)
    if text.startswith(other):
        raise ConfigError(f"after={_shown(text)}: this cursor was read in the other direction (newest_first)")
    try:
        packed = base64.b64decode(
            text[len(wanted) :] + "=" * (-len(text[len(wanted) :]) % 4), b"-_", validate=True
        )
        positions = msgspec.msgpack.decode(packed, type=dict[str, tuple[int, ...]])
        understood = text.startswith(wanted) and all(map(_possible, positions.values()))
    except (binascii.Error, msgspec.DecodeError, ValueError):
        positions, understood = {}, False
    if not understood:
        raise ConfigError(f"after={_shown(text)} is not a cursor of this log; use entry.cursor")
    return positions


def _possible(position: Position) -> bool:
    """Say whether numbers may be a position: a place, then perhaps a seq, which is -1 when there is none."""
    return bool(position) and min(position[:2]) >= 0 and min(position) >= -1 and max(position) <= _INT64_MAX


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_CHARS_MAX else text[:_SHOWN_CHARS_MAX] + "…")
