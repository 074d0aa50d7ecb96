"""papyra's messages on their way: sent, taken, handled, each in the trace of its sender."""

from __future__ import annotations

from time import perf_counter
from typing import Any

from papyra_otel.pipeline.gauges import RuntimeGauges
from papyra_otel.pipeline.guard import Guard
from papyra_otel.recorder import Recorder, qualified_name
from papyra_otel.runtimes._papyra_letters import Observer
from papyra_otel.runtimes._papyra_lives import Life, Names, Put, running
from papyra_otel.runtimes.adapter import Ability
from papyra_otel.runtimes.tracing import Tracing, sender_context

__all__ = ["Messages"]

_EARLY_MAX = 10_000
_SHOWN = frozenset({Ability.MAILBOX_DEPTH, Ability.ACTIVE_AGE, Ability.AUDIT})


class Messages(Observer):
    """Follows messages. What is attached to an actor's task stays there until it asks for its next message."""

    def __init__(self, recorder: Recorder, guard: Guard, system: str | None, names: Names) -> None:
        super().__init__(recorder, guard, system, names)
        self._tracing = Tracing(recorder.spans, "papyra")
        self._early: dict[int, dict[int, Put]] = {}  # what is put before the actor's task runs, by mailbox

    def put_begins(self, mailbox: Any, envelope: Any) -> dict[int, Put]:
        """Before ``Mailbox.put``: it waits from here on. Returns where that is noted."""
        life = self._mailboxes.get(id(mailbox))
        if life is not None:
            notes = life.put_at
        else:
            if len(self._early) > _EARLY_MAX:  # mailboxes of systems that never started
                self._early.clear()
            notes = self._early.setdefault(id(mailbox), {})
        notes[id(envelope)] = perf_counter(), sender_context()
        return notes

    def put_failed(self, notes: dict[int, Put], mailbox: Any, envelope: Any) -> None:
        """``Mailbox.put`` raised."""
        notes.pop(id(envelope), None)
        if (
            not notes and self._early.get(id(mailbox)) is notes
        ):  # it is closed: nobody will take over what is noted
            del self._early[id(mailbox)]

    def _take_early(self, life: Life) -> None:
        """Take over what was put before *life* began."""
        life.put_at = self._early.pop(id(life.rt.mailbox), life.put_at)

    def get_begins(self, mailbox: Any) -> None:
        """Before ``Mailbox.get``: what came of the last message is over, and so is the spawner's context."""
        life = self._mailboxes.get(id(mailbox))
        if life is None:
            return
        life.answered = None
        if life.handling is not None:
            self._leave(life)
        if not life.detached:
            life.detached = True
            if Ability.TRACE_CONTEXT in self.able:
                self._tracing.forget_inherited()

    def got(self, mailbox: Any, envelope: Any) -> None:
        """``Mailbox.get`` returned *envelope*."""
        life = self._mailboxes.get(id(mailbox))
        if life is not None:
            life.asked = envelope.reply is not None
            put_at, life.sender = life.put_at.pop(id(envelope), (None, None))
            life.wait = None if put_at is None else perf_counter() - put_at

    def message_begins(self, rt: Any, message: Any) -> Life | None:
        """Before ``_handle_actor_message``."""
        life = self.lives.get(id(rt))
        if life is not None:
            life.active_since = perf_counter()
            if Ability.TRACE_CONTEXT in self.able:
                self._leave(life)
                life.handling = self._tracing.begin(life.sender, life.actor(), message, asked=life.asked)
        return life

    def processed(
        self, life: Life, message: Any, seconds: float, error: BaseException | None, answer: Any = None
    ) -> None:
        """``_handle_actor_message`` is over. After an error its context stays: what comes of that belongs to it."""
        life.active_since = None
        kind = self._kind(message, asked=life.asked)
        life.answered = (kind, answer) if life.asked else None
        if error is not None:
            life.raised = error
        try:
            if Ability.PROCESSED in self.able:
                self._recorder.processed(
                    life.actor(),
                    message=message,
                    kind=kind,
                    duration_seconds=seconds,
                    wait_seconds=life.wait,
                    error=error,
                )
        finally:
            if life.handling is not None:
                self._tracing.finish(life.handling, error)
                if error is None:
                    self._leave(life)

    def _leave(self, life: Life) -> None:
        handling, life.handling = life.handling, None
        if handling is not None:
            with self._guard("papyra.context"):
                self._tracing.leave(handling)

    # --- what shows at any moment -----------------------------------------------------------------

    def gauges(self) -> list[RuntimeGauges]:
        """Return what each open system shows now. Any thread may ask."""
        found: list[RuntimeGauges] = []
        if not self.able & _SHOWN:  # what they are read from is not there
            return found
        for state in list(self._systems.values()):
            with self._guard("papyra.gauges"):
                system = state.ref()
                if system is not None and not system._closed:  # noqa: SLF001 - listed in the adapter
                    found.append(self._shown(state.id, system))
        return found

    def _shown(self, id_: str, system: Any) -> RuntimeGauges:
        now = perf_counter()
        depths: dict[str, list[int]] = {}
        blocked: dict[str, int] = {}
        longest: dict[str, float] = {}
        for rt in list(system._actors):  # noqa: SLF001 - listed in the adapter
            if not rt.alive:
                continue
            actor: object = rt.actor
            name = qualified_name(type(actor))
            if Ability.MAILBOX_DEPTH in self.able:
                seen = rt.mailbox._recv.statistics()  # noqa: SLF001 - listed in the adapter
                depths.setdefault(name, []).append(seen.current_buffer_used)
                blocked[name] = blocked.get(name, 0) + seen.tasks_waiting_send
            if Ability.ACTIVE_AGE in self.able:
                life = self.lives.get(id(rt))
                since = None if life is None else life.active_since
                longest[name] = max(longest.get(name, 0.0), 0.0 if since is None else now - since)
        return RuntimeGauges(
            system=id_,
            mailbox_depths=depths,
            longest_active_seconds=longest,
            blocked_senders=blocked,
            registry_entries=_entries(system) if Ability.AUDIT in self.able else {},
        )


def _entries(system: Any) -> dict[str, int]:
    """Return how many names of the registry are in which state."""
    counts: dict[str, int] = dict.fromkeys(("ok", "orphan", "dead"), 0)
    for address in system._registry.copy().values():  # noqa: SLF001 - listed in the adapter
        rt = system._by_id.get(address.actor_id)  # noqa: SLF001 - listed in the adapter
        counts["orphan" if rt is None else "ok" if running(rt) else "dead"] += 1
    return counts
