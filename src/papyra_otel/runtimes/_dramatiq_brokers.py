"""The brokers of a process, and what an audit says of them and of the threads that work for them."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

from papyra_otel.recorder import AuditSnapshot
from papyra_otel.runtimes._dramatiq_queues import read_queues
from papyra_otel.runtimes._dramatiq_state import Roster
from papyra_otel.runtimes.adapter import Ability

__all__ = ["Brokers"]

_DEAD_NAMES_MAX = 20


class Brokers:
    """Every broker seen so far that is still there; none is kept alive. Thread-safe."""

    def __init__(self) -> None:
        self._held: dict[int, weakref.ref[Any]] = {}

    def add(self, broker: Any) -> None:
        """Take note of *broker*, unless it is None or known."""
        held, identity = self._held, id(broker)
        if broker is not None and identity not in held:
            held[identity] = weakref.ref(broker, lambda _: held.pop(identity, None))

    def clear(self) -> None:
        """Forget them all."""
        self._held.clear()

    def __len__(self) -> int:
        return len(self._held)

    def actor_names(self) -> set[str]:
        """Return the names of all declared actors."""
        return {name for broker in self._living() for name in list(broker.actors)}

    def _living(self) -> list[Any]:
        brokers = [watch() for watch in list(self._held.values())]
        return [broker for broker in brokers if broker is not None]

    def audit(self, system: str, roster: Roster, unsupported: Sequence[str]) -> list[AuditSnapshot]:
        """Return the one snapshot there is of *system*; none while dramatiq is not in use. May ask the brokers."""
        brokers = self._living()
        living, dead = roster.living_and_dead()
        if not brokers and not living and not dead:
            return []
        depths, letters, reasons = _waiting(brokers)
        if dead:
            plural = "" if len(dead) == 1 else "s"
            reasons.append(f"{len(dead)} thread{plural} ended without a word")
        if depths is None and not reasons:
            unsupported = (*unsupported, Ability.LETTERS_KEPT.value, Ability.MAILBOX_DEPTH.value)
        snapshot = AuditSnapshot(
            system=system,
            actors_total=len(living) + len(dead),
            actors_alive=len(living),
            registry_size=len(self.actor_names()),
            registry_dead=dead[:_DEAD_NAMES_MAX],
            dead_letters=letters,
            mailbox_depths=depths,
            reasons=reasons,
            unsupported=tuple(dict.fromkeys(unsupported)),
        )
        return [snapshot]


def _waiting(brokers: list[Any]) -> tuple[dict[str, int] | None, int | None, list[str]]:
    """Return the depths of all queues and the number of dead letters, None where nobody can tell; and why not."""
    depths: dict[str, int] = {}
    letters = 0
    reasons: list[str] = []
    readable = False
    for broker in brokers:
        try:
            read = read_queues(broker)
        except Exception as error:
            reasons.append(f"the broker's queues cannot be read: {type(error).__name__}")
            continue
        if read is not None:
            readable = True
            letters += read.dead
            for queue, depth in read.by_queue.items():
                depths[queue] = depths.get(queue, 0) + depth
    return (depths, letters, reasons) if readable else (None, None, reasons)
