"""The contract of a runtime adapter."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol, runtime_checkable

from papyra_otel.pipeline.gauges import RuntimeGauges
from papyra_otel.recorder import AuditSnapshot

__all__ = [
    "AUDIT_MEMBERS",
    "CAPABILITIES",
    "Ability",
    "Adapter",
    "HandsDown",
    "RuntimeCapabilities",
    "supported",
    "warn_of_missing",
]

_logger = logging.getLogger("papyra_otel")


class Ability(str, Enum):
    """What a runtime may be able to tell."""

    SYSTEM = "system started and stopped"
    LIFECYCLE = "actor started and stopped"
    CRASHED = "actor crashed"
    RESTARTED = "actor restarted"
    DECIDED = "supervision decided"
    PROCESSED = "message processed"
    DEAD_TARGET = "dead letter: dead or unknown target"
    UNDRAINED = "dead letter: left in a mailbox"
    UNHANDLED = "dead letter: unhandled"
    GIVEN_UP = "dead letter: retries exhausted, expired, rejected or lost"
    LATE_REPLY = "dead letter: reply that nobody waits for any more"
    NO_SUBSCRIBER = "dead letter: published to nobody"
    AUDIT = "audit"
    STOPPING = "audit: actors that are stopping"
    RESTARTING = "audit: actors that are restarting"
    ORPHANS = "audit: registered names without an actor"
    DEAD_NAMES = "audit: registered names of dead actors"
    LETTERS_KEPT = "audit: dead letters that the runtime counted or keeps"
    MAILBOX_DEPTH = "mailbox depth"
    BLOCKED_SENDERS = "senders blocked by a full mailbox"
    ASK_TIMED_OUT = "ask timed out"
    ACTIVE_AGE = "age of the running handler"
    TRACE_CONTEXT = "trace context with messages"


CAPABILITIES: tuple[Ability, ...] = tuple(Ability)

AUDIT_MEMBERS: Final[Mapping[Ability, str]] = {
    Ability.STOPPING: "actors_stopping",
    Ability.RESTARTING: "actors_restarting",
    Ability.ORPHANS: "registry_orphans",
    Ability.DEAD_NAMES: "registry_dead",
    Ability.LETTERS_KEPT: "dead_letters",
    Ability.MAILBOX_DEPTH: "mailbox_depths",
}
"""Which member of an ``AuditSnapshot`` is None where a runtime lacks the ability."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeCapabilities:
    """What one runtime can tell, and why not where it cannot. What is not listed as able is not supported."""

    runtime: str
    able: frozenset[Ability]
    notes: Mapping[Ability, str]

    def unsupported(self) -> tuple[str, ...]:
        """Return the names of what this runtime cannot tell, for audits and reports."""
        return tuple(ability.value for ability in CAPABILITIES if ability not in self.able)


def supported(
    runtime: str,
    needs: Mapping[Ability, Collection[str]],
    *,
    missing: Collection[str] = (),
    notes: Mapping[Ability, str] | None = None,
) -> RuntimeCapabilities:
    """Return what *runtime* can tell, given the names that each ability *needs* and those that are *missing*.

    An ability that is not in *needs* cannot be told at all; *notes* should say why.
    """
    lost = {ability: sorted(set(names) & set(missing)) for ability, names in needs.items()}
    told = {a: f"this {runtime} has no {', '.join(names)}" for a, names in lost.items() if names}
    able = frozenset(ability for ability, names in lost.items() if not names)
    return RuntimeCapabilities(runtime=runtime, able=able, notes={**(notes or {}), **told})


def warn_of_missing(
    capabilities: RuntimeCapabilities, needs: Collection[Ability], missing: Collection[str]
) -> None:
    """Say once, in the log of the application, which names are *missing* and what is not recorded for want of them."""
    if missing:
        lost = [a.value for a in CAPABILITIES if a in needs and a not in capabilities.able]
        _logger.warning(
            "papyra_otel: this %s has no %s; not recorded: %s",
            capabilities.runtime,
            ", ".join(sorted(missing)),
            "; ".join(lost) or "nothing is lost",
        )


class Adapter(Protocol):
    """Between one runtime and the recorder.

    Built with a ``Recorder``, a ``Guard`` and the system id to use where the runtime has none of its own
    (or to use instead of the runtime's own, where the user set one). No method raises into the runtime:
    every wrapper calls the original exactly once, outside any ``try`` of ours.
    """

    name: str

    def capabilities(self) -> RuntimeCapabilities:
        """Return what can be told with the runtime installed here; after ``install`` it knows missing hooks."""
        ...

    def install(self) -> None:
        """Instrument the runtime. Raises ModuleNotFoundError when it is not installed. Twice is once."""
        ...

    def uninstall(self) -> None:
        """Restore the runtime. Actors that already run are no longer recorded either."""
        ...

    def gauges(self) -> Iterable[RuntimeGauges]:
        """Return what each system shows at this moment, for metrics. Called at collection, from any thread."""
        ...

    def audits(self) -> Iterable[AuditSnapshot]:
        """Return the state of each system of this runtime, now. Called from another thread than the actors'."""
        ...


@runtime_checkable
class HandsDown(Protocol):
    """An adapter, besides, whose runtime starts processes that are to record as this one does."""

    def hand_down(self, inherited: Mapping[str, str]) -> None:
        """Take what such a process gives to ``plugin.join``. Called before ``install``."""
        ...
