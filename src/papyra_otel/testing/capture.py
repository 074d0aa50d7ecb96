"""Example facts, and facts captured from the program under test."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from itertools import count
from typing import Any

import msgspec

from papyra_otel import plugin, semconv
from papyra_otel.errors import ConfigError
from papyra_otel.facts import Fact, FactKind
from papyra_otel.log import FactLog, open_log
from papyra_otel.log.memory import forget

__all__ = ["CapturedFacts", "CapturingEmitter", "capture_facts", "make_fact"]

FIRST_UNIX_NANO = 1_795_377_765_123_456_789  # 2026-11-22T20:02:45.123456789Z
_KINDS = (FactKind.EVENT, FactKind.EVENT, FactKind.AUDIT, FactKind.EVENT, FactKind.DEAD_LETTER)
_NAMES = {
    FactKind.EVENT: (semconv.ACTOR_STARTED, semconv.MESSAGE_PROCESSED, semconv.ACTOR_EXCEPTION),
    FactKind.AUDIT: (semconv.AUDIT_COMPLETED,),
    FactKind.DEAD_LETTER: (semconv.DEAD_LETTER_CAPTURED,),
}
_names = count()


def make_fact(n: int = 0, **changes: Any) -> Fact:
    """Return example fact number *n*, always the same, one second after number *n* - 1; *changes* are its members."""
    kind = FactKind(changes.get("kind", _KINDS[n % len(_KINDS)]))
    names = _NAMES[kind]
    fact = Fact(
        kind=kind,
        name=names[n % len(names)],
        time_unix_nano=FIRST_UNIX_NANO + n * 1_000_000_000,
        system="shop",
        actor=f"shop/worker-{n % 3}",
        severity=("INFO", "WARN", "ERROR")[n % 3],
        trace_id=f"{n + 1:032x}" if n % 2 else None,
        span_id=f"{n + 1:016x}" if n % 2 else None,
        attributes={semconv.ACTOR_TYPE: "shop.Worker", "n": n},
    )
    return msgspec.structs.replace(fact, **(changes | {"kind": kind}))


class CapturedFacts:
    """What was recorded so far; readable while recording goes on and afterwards."""

    def __init__(self, log: FactLog) -> None:
        self._log = log

    @property
    def facts(self) -> list[Fact]:
        """All facts, oldest first."""
        return [entry.fact for entry in self._log.read()]

    def named(self, name: str) -> list[Fact]:
        """Return the facts with this event name, oldest first."""
        return [entry.fact for entry in self._log.read(name=name)]


@contextmanager
def capture_facts(*, runtimes: Iterable[str] | None = None, **settings: Any) -> Generator[CapturedFacts]:
    """Record into a private log in memory until the end of the ``with`` block, and read what was recorded.

    *runtimes* and *settings* as for ``papyra_otel.enable``; by default every installed runtime is recorded
    and nothing is forwarded. Raises ConfigError when this process already records, or cannot.
    """
    active = plugin.current()
    if active is not None and active.active:
        raise ConfigError(
            "facts are already being recorded here; call papyra_otel.disable() before capture_facts()"
        )
    name = f"captured-{next(_names)}"
    log = open_log(f"memory:{name}")
    try:
        recording = plugin.enable(log=f"memory:{name}", runtimes=runtimes, **({"forward": "off"} | settings))
        if recording.error is not None:
            raise ConfigError(f"facts cannot be captured: {recording.error}")
        yield CapturedFacts(log)
    finally:
        plugin.disable()
        forget(name)


class CapturingEmitter:
    """Stands where the logger stands behind a ``Recorder`` and keeps what it was given, as keyword arguments."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def emit(
        self,
        *,
        timestamp: int | None = None,
        severity_text: str | None = None,
        attributes: Mapping[str, Any] | None = None,
        event_name: str | None = None,
    ) -> None:
        """Keep one event."""
        self.events.append(
            {
                "timestamp": timestamp,
                "severity_text": severity_text,
                "attributes": attributes,
                "event_name": event_name,
            }
        )

    def named(self, event_name: str) -> list[dict[str, Any]]:
        """Return the events of that name, in order."""
        return [event for event in self.events if event["event_name"] == event_name]
