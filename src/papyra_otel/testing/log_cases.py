"""What the parts of ``LogContract`` share."""

# ruff: noqa: PLR2004, S101 - these are tests: their names are the sentences, numbers are the data
from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from papyra_otel.facts import Fact, FactKind
from papyra_otel.log.contract import FactLog
from papyra_otel.testing.capture import FIRST_UNIX_NANO, make_fact

__all__ = [
    "HOSTILE_SYSTEMS",
    "SURROGATE",
    "LogCases",
    "MakeLog",
    "anonymous",
    "event",
    "facts_of",
    "interrupted",
    "raised",
]

HOSTILE_SYSTEMS = (
    "",
    ".",
    "..",
    "...",
    ".hidden",
    "a/b",
    "../../etc",
    "x\0y",
    "a\nb",
    "%",
    "%2F",
    "a~b",
    "CON",
    "Ünï¢ödé ✓",
    "s" * 5000,
    "é" * 5000,
    "s" * 4999 + "t",
    "events",
    "quarantine",
    "-rf",
)
SURROGATE = "lone \ud800 surrogate"


class MakeLog(Protocol):
    """What the fixture ``make_log`` returns. *retention* is text as in the settings."""

    def __call__(self, system: str | None = None, retention: str | None = None) -> FactLog:
        """Open the log under test once more."""
        ...


def facts_of(log: FactLog, **query: Any) -> list[Fact]:
    """Return what a reading yields, without the identities."""
    return [anonymous(entry.fact) for entry in log.read(**query)]


def anonymous(fact: Fact) -> Fact:
    """Return *fact* as it was before the log gave it an identity."""
    return Fact(
        kind=fact.kind,
        name=fact.name,
        time_unix_nano=fact.time_unix_nano,
        system=fact.system,
        actor=fact.actor,
        severity=fact.severity,
        trace_id=fact.trace_id,
        span_id=fact.span_id,
        attributes=fact.attributes,
    )


def event(n: int, **changes: Any) -> Fact:
    """Return example fact *n* as an event."""
    return make_fact(n, kind=FactKind.EVENT, **changes)


def interrupted(_: float) -> None:
    """Stand for a sleep that a signal ends."""
    raise InterruptedError


def raised(error_type: type[Exception], call: Callable[[], object]) -> Exception:
    """Return what *call* raises. AssertionError if that is no *error_type*."""
    try:
        call()
    except error_type as error:
        return error
    raise AssertionError(f"{error_type.__name__} was not raised")


class LogCases:
    """What the tests of every part need. Logs come from the fixture ``make_log``."""

    @staticmethod
    def _fill(one: FactLog, two: FactLog) -> None:
        """Let two writers write all kinds, with equal times, in several segments where there are such."""
        for n in range(24):
            (one, two)[n % 2].append([make_fact(n, time_unix_nano=FIRST_UNIX_NANO + n // 3)])
            if n % 7 == 6:
                one.seal()
        one.append([make_fact(n) for n in range(24, 36)])

    @staticmethod
    def _agrees(log: FactLog, expected: list[Fact]) -> None:
        """Check both directions, and resuming after every entry."""
        for newest_first, step in ((False, 1), (True, -1)):
            entries = list(log.read(newest_first=newest_first))
            assert [anonymous(entry.fact) for entry in entries] == expected[::step]
            for at, entry in enumerate(entries):
                rest = log.read(newest_first=newest_first, after=entry.cursor)
                assert [e.fact for e in rest] == [e.fact for e in entries[at + 1 :]]

    @staticmethod
    def _appended_bytes(log: FactLog) -> int:
        return sum(size for _, size in log.appended().values())
