"""Where a log's facts come out to be delivered: in batches, with a durable note of how far delivery is.

An outlet has a name; each name is delivered on its own, by one deliverer at a time (a *lease*) or, where the log can
share the work, by several. What was given out and not noted as ``done`` is given out again: at least once. Retention
hides nothing from an outlet, and compaction leaves what an outlet has not delivered unless it is forced.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec

from papyra_otel.errors import ConfigError
from papyra_otel.facts import Entry, Fact
from papyra_otel.log.codec import encode
from papyra_otel.payload import jsonable

__all__ = [
    "OUTLET",
    "Backlog",
    "Batch",
    "Item",
    "Outlet",
    "Reading",
    "Refusal",
    "check_outlet_name",
    "refusal_line",
    "size_of",
    "small",
]

OUTLET: Final = "otlp"
_PASSED_MAX = 20_000
_ABOUT_BYTES = 400
_RESOURCE_BYTES_MAX = 1 << 16
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


def _unknown() -> None:
    return None


@dataclass(frozen=True, slots=True)
class Item:
    """One fact to be delivered. *resource* returns what its log knows of the process that recorded it, or None."""

    fact: Fact
    resource: Callable[[], Mapping[str, object] | None] = _unknown


@dataclass(frozen=True, slots=True)
class Batch:
    """Facts to be delivered together, in order. *token* is the outlet's: it says how far it is after this batch.

    *passed* is how many facts were looked at, those left out included. Without any there is nothing new.
    """

    items: Sequence[Item]
    passed: int
    token: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What is not delivered yet: how many *records*, and the time of the oldest of them, None without any."""

    records: int
    oldest_unix_nano: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A fact that the receiver will never take, and what it said."""

    fact: Fact
    error_type: str
    message: str


class Outlet(Protocol):
    """See the module's text. For one thread, except ``abandon``.

    Every method raises LogUnavailable when the log cannot be reached: try again later.
    """

    @property
    def shared(self) -> bool:
        """Whether several may deliver at once, sharing the work."""
        ...

    def acquire(self) -> None:
        """Become the one that delivers. Raises LogBusy while another is, LogTooNew for a newer version's notes."""
        ...

    def next_batch(self, wanted: Callable[[Fact], bool], records_max: int, bytes_max: int) -> Batch:
        """Return what comes next and is *wanted*. *bytes_max* is about their size; one fact is always allowed."""
        ...

    def done(self, batch: Batch) -> None:
        """Note durably that *batch*, the last that was given, is delivered.

        After LogUnavailable it counts as done for this deliverer, who goes on; noted durably it is with the next.
        """
        ...

    def rewind(self) -> None:
        """Give out again what was given since the last ``done``."""
        ...

    def rest(self) -> None:
        """Hold nothing open: it may be long until the next batch is asked for."""
        ...

    def put_aside(self, refusals: Sequence[Refusal]) -> str:
        """Keep durably what the receiver will never take; return where, for people."""
        ...

    def begun(self) -> bool:
        """Say whether anything was ever noted under this name. Needs no lease."""
        ...

    def backlog(self) -> Backlog | None:
        """Return what is not noted as delivered; None where the log cannot tell. Needs no lease."""
        ...

    def release(self) -> None:
        """Let another one deliver. Never raises."""
        ...

    def abandon(self) -> None:
        """Give up what this process holds without touching what its parent holds: in a forked child. Never raises."""
        ...


class Reading:
    """A log read on from a cursor, one walk for many batches. *read* reads past a cursor, without retention."""

    def __init__(self, read: Callable[[str | None], Iterator[Entry]]) -> None:
        self._read = read
        self._walk: Iterator[Entry] | None = None

    @property
    def going(self) -> bool:
        """Whether a walk is under way: the next batch goes on with it."""
        return self._walk is not None

    def stop(self) -> None:
        """Hold nothing open; the next batch begins a new walk."""
        self._walk = None

    def batch(
        self,
        after: str | None,
        make: Callable[[Fact], Item],
        wanted: Callable[[Fact], bool],
        records_max: int,
        bytes_max: int,
    ) -> Batch:
        """Return the next batch; its token is the cursor past it, *after* where there is nothing."""
        fresh = self._walk is None
        batch = self._some(after, make, wanted, records_max, bytes_max)
        if batch.passed or fresh:
            return batch
        return self._some(
            after, make, wanted, records_max, bytes_max
        )  # that walk began before what came since

    def _some(
        self,
        after: str | None,
        make: Callable[[Fact], Item],
        wanted: Callable[[Fact], bool],
        records_max: int,
        bytes_max: int,
    ) -> Batch:
        if self._walk is None:
            self._walk = self._read(after)
        items: list[Item] = []
        passed = size_bytes = 0
        last: Entry | None = None
        for last in self._walk:
            passed += 1
            if wanted(last.fact):
                items.append(make(last.fact))
                size_bytes += size_of(last.fact)
            if len(items) >= records_max or size_bytes >= bytes_max or passed >= _PASSED_MAX:
                break
        else:
            self._walk = None
        return Batch(items, passed, after if last is None else last.cursor)


def size_of(fact: Fact) -> int:
    """Return about how many bytes *fact* takes on the wire: it only has to keep requests from growing large."""
    return _ABOUT_BYTES + sum(_length(value) for value in fact.attributes.values())


def _length(value: object) -> int:
    if isinstance(value, str):
        return len(value)
    return len(msgspec.json.encode(value)) if isinstance(value, (list, dict)) else 8


def small(resource: Mapping[str, object]) -> dict[str, object] | None:
    """Return resource attributes as they are stored; None where they are too many: a header must stay small."""
    stored: dict[str, object] = jsonable(dict(resource), redact=False)
    return stored if len(msgspec.json.encode(stored)) <= _RESOURCE_BYTES_MAX else None


def check_outlet_name(name: str) -> str:
    """Return *name*; raise ConfigError unless it is fit for a file's or a key's name."""
    if _NAME.fullmatch(name) is None:
        raise ConfigError(
            f"outlet {name!r}: use lower-case letters, digits, - and _, at most 63, beginning with a letter or digit"
        )
    return name


def refusal_line(refusal: Refusal) -> bytes:
    """Return *refusal* as a line of JSON, the fact as the log has it within."""
    about = msgspec.json.encode(
        {"uid": refusal.fact.uid, "error_type": refusal.error_type, "message": refusal.message}
    )
    return b'%b,"fact":%b}\n' % (about[:-1], encode(refusal.fact).removesuffix(b"\n"))
