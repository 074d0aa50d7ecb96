"""What consumers are given: plain values, and a memory of what they had already."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from papyra_otel.errors import ConfigError, LineDamaged, LogTooNew
from papyra_otel.facts import Fact, FactKind
from papyra_otel.log.codec import decode

__all__ = ["Delivery", "Pending", "Unseen", "decoded"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One entry as a consumer was given it: a *fact*, or what is wrong with it (*damage*). Acknowledge either.

    *key* and *id* are its place, *times_delivered* how often it was given out to anyone, this time included.
    """

    system: str
    kind: FactKind
    key: str
    id: str
    fact: Fact | None
    damage: str | None = None
    times_delivered: int = 1

    @property
    def uid(self) -> str | None:
        """The fact's ``<writer>-<kind>-<seq>``: the same however often it is delivered, or stored. None if damaged."""
        return None if self.fact is None else self.fact.uid


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """One entry that *consumer* was given, *idle_seconds* ago for the last time, and has not acknowledged."""

    system: str
    kind: FactKind
    key: str
    id: str
    consumer: str
    idle_seconds: float
    times_delivered: int


class Unseen:
    """Passes on each fact once: a bounded memory of uids, for who must not handle one twice. Not thread-safe.

    It remembers the last *capacity* facts, in this process only: what was handled just before a crash is delivered
    again to whoever claims it. Damaged entries always pass.
    """

    def __init__(self, capacity: int = 100_000) -> None:
        if capacity < 1:
            raise ConfigError(f"capacity={capacity} must be 1 or more")
        self._capacity = capacity
        self._seen: OrderedDict[str, None] = OrderedDict()

    def __call__(self, deliveries: Iterable[Delivery]) -> list[Delivery]:
        """Return those of *deliveries* whose facts did not pass here lately."""
        return [delivery for delivery in deliveries if self._is_new(delivery.uid)]

    def _is_new(self, uid: str | None) -> bool:
        if uid is None:
            return True
        new = uid not in self._seen
        self._seen[uid] = None
        self._seen.move_to_end(uid)
        if len(self._seen) > self._capacity:
            self._seen.popitem(last=False)
        return new


def decoded(line: bytes | None) -> tuple[Fact | None, str | None]:
    """Return the fact in an entry's *line*, or what is wrong with it; None is an entry without one."""
    if line is None:
        return None, "corrupt_line: the entry's fields are not exactly data"
    try:
        return decode(line.removesuffix(b"\n")), None
    except LineDamaged as error:
        return None, f"{error.anomaly}: {error.detail}"
    except LogTooNew as error:
        return None, f"future_version: {error}"
