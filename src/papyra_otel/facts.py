"""Facts and what the log says about them: plain frozen values, no behaviour beyond naming themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

import msgspec

__all__ = ["Capabilities", "Entry", "Fact", "FactKind", "JsonValue", "LogStats", "StreamStats"]

JsonValue: TypeAlias = (
    Any  # None, bool, int within 64 bits, finite float, str, and lists and str-keyed dicts of these
)


class FactKind(str, Enum):
    """Which of the three streams a fact belongs to. Each has its own order, sequence and retention."""

    EVENT = "event"
    AUDIT = "audit"
    DEAD_LETTER = "dead_letter"

    __hash__ = str.__hash__  # equal as text, so hashed as text: enum's own is Python code on the hot path

    @property
    def plural(self) -> str:
        """The stream's name in folders, keys and settings: ``events``, ``audits``, ``dead_letters``."""
        return self.value + "s"

    def __str__(self) -> str:
        return self.value


KIND_TEXTS = {kind: kind.value for kind in FactKind}  # ``.value`` is Python code on the hot path


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """One immutable fact about what an actor runtime did.

    *time_unix_nano* is wall time in nanoseconds since the epoch. *severity* is OTel severity text.
    *trace_id* (32) and *span_id* (16) are lower-case hex digits. *writer* and *seq* are given by the
    log: together with the kind they identify the fact for ever. Values are compared with ``==``.
    """

    kind: FactKind
    name: str
    time_unix_nano: int
    system: str
    actor: str | None = None
    severity: str = "INFO"
    trace_id: str | None = None
    span_id: str | None = None
    attributes: Mapping[str, JsonValue] = {}
    writer: str | None = None
    seq: int | None = None

    @property
    def uid(self) -> str | None:
        """``<writer>-<kind>-<seq>``, exported as ``log.record.uid``; None before the log gave an identity."""
        return None if self.writer is None or self.seq is None else fact_uid(self.writer, self.kind, self.seq)

    def identified(self, writer: str, seq: int) -> Fact:
        """Return this fact with its identity."""
        return msgspec.structs.replace(self, writer=writer, seq=seq)


def fact_uid(writer: str, kind: FactKind, seq: int) -> str:
    """Return the name of a fact that is unique for ever."""
    return f"{writer}-{KIND_TEXTS[kind]}-{seq}"


class Entry:
    """A fact as read from a log, and where it was found.

    ``after=entry.cursor`` resumes reading just past it. The cursor is computed when asked for: an
    opaque string, valid for the same log, system choice, kinds and direction.
    """

    __slots__ = ("_render_cursor", "fact")

    def __init__(self, fact: Fact, render_cursor: Callable[[], str]) -> None:
        self.fact: Fact = fact
        self._render_cursor = render_cursor

    @property
    def cursor(self) -> str:
        """The position just past this entry."""
        return self._render_cursor()

    def __repr__(self) -> str:
        return f"Entry({self.fact!r})"


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamStats:
    """What one kind of fact takes up, as stored: facts hidden by retention count until compaction.

    Sizes in bytes with line ends, segment headers and seals left out; times in nanoseconds since the
    epoch, None when there is no fact.
    """

    records: int = 0
    bytes: int = 0
    oldest_unix_nano: int | None = None
    newest_unix_nano: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LogStats:
    """What a log holds: per kind, and how many writers wrote it."""

    streams: Mapping[FactKind, StreamStats]
    systems: tuple[str, ...]
    writers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a backend can do. Nothing is pretended: what is False raises NotSupported.

    *behind_a_network*: appending waits for a server, so it is not for an actor's path.
    """

    backend: str
    durable: bool
    shared_between_processes: bool
    behind_a_network: bool = False
    scan: bool = False
    recover: bool = False
    compact: bool = False
