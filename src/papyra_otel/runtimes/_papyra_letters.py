"""papyra's undeliverable messages, and the state of its systems at one moment."""

# ruff: noqa: SLF001 - papyra tells little in public; which private names are read is listed in the adapter

from __future__ import annotations

import inspect
import sys
import threading
import weakref
from collections.abc import Iterable, Mapping
from typing import Any

from papyra_otel.pipeline.guard import Guard
from papyra_otel.recorder import Actor, AuditSnapshot, Recorder
from papyra_otel.runtimes._papyra_lives import UNKNOWN, Life, Names, SystemState, actor_of, running
from papyra_otel.runtimes.adapter import Ability

__all__ = ["Observer"]

_FULL_MAILBOXES_TOLD = 10


class Observer:
    """Knows the systems, weakly, and who runs in them. Says nothing while *enabled* is False."""

    def __init__(self, recorder: Recorder, guard: Guard, system: str | None, names: Names) -> None:
        self._recorder = recorder
        self._guard = guard
        self._override = system
        self._names = names
        self._systems: dict[int, SystemState] = {}
        self._mailboxes: dict[int, Life] = {}
        self.lives: dict[int, Life] = {}
        self.enabled = False
        self.able: frozenset[Ability] = frozenset()
        self.unsupported: tuple[str, ...] = ()
        self.version: str | None = None
        self._told = threading.local()

    def _state(self, system: Any) -> SystemState:
        key = id(system)
        state = self._systems.get(key)
        if state is None:
            ref = weakref.ref(system, lambda _: self._systems.pop(key, None))
            state = self._systems[key] = SystemState(self._override or str(system.system_id), ref)
        return state

    def _kind(self, message: object, *, asked: bool) -> str:
        return self._names.kinds.get(type(message)) or ("ask" if asked else "tell")

    # --- dead letters ---------------------------------------------------------------------------

    def _left_behind(self, state: SystemState, system: Any, rt: Any) -> None:
        """Tell of what papyra leaves in the mailbox, once each. Nothing is taken out of it."""
        if not self.enabled or Ability.UNDRAINED not in self.able:
            return
        left = list(rt.mailbox._recv._state.buffer)
        told = state.left_over.get(rt.rid, 0)
        if len(left) > told:
            state.left_over[rt.rid] = len(left)
        for envelope in left[told:]:
            kind = self._kind(envelope.message, asked=envelope.reply is not None)
            if envelope.message is self._names.stop or kind == "system":
                continue
            with self._guard("papyra.dead_letter"):
                self._recorder.dead_letter(
                    actor_of(state.id, rt),
                    message=envelope.message,
                    reason="undrained",
                    kind=kind,
                    stopping=bool(system._closed),
                )

    def pushed(self, mailbox: Any, letter: Any) -> None:
        """``DeadLetterMailbox.push``: papyra gave up on a message."""
        refused = isinstance(sys.exc_info()[1], self._names.mailbox_closed)
        message = letter.message
        self._told.letter = None
        kind = self._kind(message, asked=letter.expects_reply)
        if type(message) is str and message == "proxy" and _called_from(self._names.proxy_code):
            kind = "proxy"  # ActorRef.proxy() itself found nobody there
        self._dead_letter(mailbox, letter.target, message, kind, refused=refused)
        self._told.letter = letter

    def push_ends(self) -> None:
        """After ``DeadLetterMailbox.push``, during which ``told`` holds."""
        self._told.letter = None

    def told(self, letter: Any) -> bool:
        """Say whether *letter* is being pushed in this thread and was recorded: old references push past us."""
        return getattr(self._told, "letter", None) is letter

    def ask_failed(self, ref: Any, message: Any, error: BaseException, timeout: Any) -> None:
        """``ActorRef.ask`` raised one of its own errors: nobody answered, or nobody was there any more."""
        if not self.enabled:
            return
        if isinstance(error, self._names.mailbox_closed):  # papyra makes no dead letter of these
            kind = self._kind(message, asked=True)
            self._dead_letter(getattr(ref._dead_letter, "__self__", None), ref, message, kind, refused=True)
        elif timeout is not None and Ability.ASK_TIMED_OUT in self.able:
            _, actor, _ = self._target(getattr(ref._dead_letter, "__self__", None), ref)
            self._recorder.ask_timed_out(actor, message=message, timeout_seconds=float(timeout))

    def _dead_letter(self, mailbox: Any, target: Any, message: Any, kind: str, *, refused: bool) -> None:
        if not self.enabled or Ability.DEAD_TARGET not in self.able:
            return
        system, actor, rt = self._target(mailbox, target)
        closed = system is not None and bool(system._closed)
        alive = rt is not None and rt.alive and not rt.stopping
        reason = "system_stopping" if closed else "mailbox_closed" if refused or alive else "actor_stopped"
        self._recorder.dead_letter(actor, message=message, reason=reason, kind=kind, stopping=closed)

    def _target(self, mailbox: Any, target: Any) -> tuple[Any, Actor, Any]:
        """Return the system, who is meant, and its runtime; what is not known is None."""
        for state in list(self._systems.values()):
            system = state.ref()
            if system is not None and system.dead_letters is mailbox:
                rt = system._by_id.get(getattr(target, "_rid", None))
                return system, _stranger(state.id, target) if rt is None else actor_of(state.id, rt), rt
        address = getattr(target, "_address", None)
        return None, _stranger(self._override or str(getattr(address, "system", UNKNOWN)), target), None

    # --- audits ---------------------------------------------------------------------------------

    def audited(self, system: Any, report: Any) -> None:
        """``ActorSystem.audit`` was called by the application, and returned *report*."""
        if self.enabled and Ability.AUDIT in self.able:
            depths, full = self._depths(list(system._actors))
            snapshot = AuditSnapshot(
                system=self._state(system).id,
                actors_total=report.total_actors,
                actors_alive=report.alive_actors,
                actors_stopping=report.stopping_actors,
                actors_restarting=report.restarting_actors,
                registry_size=report.registry_size,
                registry_orphans=report.registry_orphans,
                registry_dead=report.registry_dead,
                dead_letters=report.dead_letters_count,
                mailbox_depths=depths,
                reasons=_reasons(report.registry_orphans, report.registry_dead, full),
                unsupported=self.unsupported,
            )
            self._recorder.audit(snapshot)

    def snapshots(self) -> list[AuditSnapshot]:
        """Return the state of each open system, from copies: any thread may ask. One that fails is left out."""
        snapshots: list[AuditSnapshot] = []
        for state in list(self._systems.values()):
            with self._guard("papyra.audits"):
                system = state.ref()
                if system is not None and not system._closed:
                    snapshots.append(self._snapshot(state.id, system))
        return snapshots

    def _snapshot(self, id_: str, system: Any) -> AuditSnapshot:
        """Count as papyra's own audit does, so that the two agree: ended actors are in the total."""
        actors = list(system._actors)
        names: dict[str, Any] = system._registry.copy()
        owners = {name: system._by_id.get(address.actor_id) for name, address in names.items()}
        orphans = sorted(name for name, rt in owners.items() if rt is None)
        dead = sorted(name for name, rt in owners.items() if rt is not None and not running(rt))
        depths, full = self._depths(actors)
        return AuditSnapshot(
            system=id_,
            actors_total=len(actors),
            actors_alive=sum(map(running, actors)),
            actors_stopping=sum(bool(rt.stopping) for rt in actors),
            actors_restarting=sum(bool(rt.restarting) for rt in actors),
            registry_size=len(names),
            registry_orphans=orphans,
            registry_dead=dead,
            dead_letters=len(system.dead_letters.messages),
            mailbox_depths=depths,
            reasons=_reasons(orphans, dead, full),
            unsupported=self.unsupported,
        )

    def _depths(self, actors: Iterable[Any]) -> tuple[Mapping[str, int] | None, list[str]]:
        """Return how many messages wait at each actor that still takes any, and whose mailboxes are full."""
        if Ability.MAILBOX_DEPTH not in self.able:
            return None, []
        depths: dict[str, int] = {}
        full: list[str] = []
        for rt in actors:
            if rt.alive:
                seen = rt.mailbox._recv.statistics()
                depths[str(rt.address)] = seen.current_buffer_used
                if 0 < seen.max_buffer_size <= seen.current_buffer_used:
                    full.append(str(rt.address))
        return depths, full


def _called_from(code: Any) -> bool:
    frame = inspect.currentframe()
    while code is not None and frame is not None:
        if frame.f_code is code:
            return True
        frame = frame.f_back
    return False


def _stranger(system: str, target: Any) -> Actor:
    address = getattr(target, "_address", None)
    return Actor(system=system, type=UNKNOWN, address=str(target if address is None else address))


def _reasons(orphans: Iterable[str], dead: Iterable[str], full: list[str]) -> list[str]:
    reasons: list[str] = []
    for count, one, many in (
        (len(list(orphans)), "registry orphan", "registry orphans"),
        (len(list(dead)), "dead registry entry", "dead registry entries"),
    ):
        if count:
            reasons.append(f"{count} {one if count == 1 else many}")
    reasons += [f"mailbox of {address} is full" for address in full[:_FULL_MAILBOXES_TOLD]]
    if len(full) > _FULL_MAILBOXES_TOLD:
        reasons.append(f"{len(full) - _FULL_MAILBOXES_TOLD} more mailboxes are full")
    return reasons
