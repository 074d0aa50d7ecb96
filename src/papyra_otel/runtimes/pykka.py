"""pykka (4.0 and later): threads, a registry, and no supervision beyond "a failed tell stops the actor".

Needed of pykka, and private to it: ``Actor._actor_loop``, ``_actor_loop_setup``, ``_actor_loop_teardown``,
``_stop``, ``_handle_failure``, ``_handle_receive``; ``messages._ActorStop``; ``ActorRegistry._actor_refs``;
the name ``Envelope`` in the module of ``ActorRef``. Public: ``Actor.on_receive``, ``ActorRef.tell`` and
``ask``, ``ThreadingFuture.get``, ``ActorRegistry.stop_all``. What is missing makes an ability "not supported",
with one warning.

How an actor is watched. Its own thread runs every wrapper but those of ``ActorRef`` and ``ActorRegistry``, so
its state needs no lock; it is kept here by ``id(actor)``, never on the actor, and ends with the actor's loop
(or, at the latest, with the actor: a weak reference sees to it). Envelopes are stamped by a subclass with
time and sender; while the loop runs, the inbox *instance* has a ``get`` of ours, which shows the envelope
in hand and, during teardown, what was left behind. An inbox that refuses (slots, C types) is left alone:
then the envelope is read from pykka's own frame, and what teardown drops stays unseen.

An ask that found its actor dead is one that made no envelope: so errors passed on from other actors do not
count. A put that lost the race against the actor's end (pykka checks, then puts) is found afterwards by
whichever of sender and actor comes later; if it was a blocking ask, pykka itself never returns from it.

Actors that share a thread (gevent, eventlet: gone from pykka with 4.0) are not supported: who stopped an
actor is told from thread identities. Actors that run before ``install`` are adopted at their next message.
"""

from __future__ import annotations

import importlib
import logging
import sys
import time
import weakref
from collections.abc import Callable, Iterable
from typing import Any, cast

from papyra_otel.pipeline.gauges import RuntimeGauges
from papyra_otel.pipeline.guard import Guard
from papyra_otel.recorder import Actor, AuditSnapshot, Recorder, qualified_name
from papyra_otel.runtimes._pykka_senders import Senders
from papyra_otel.runtimes._pykka_state import (
    ACTOR_REFS,
    NEEDS,
    NOTES,
    Never,
    State,
    envelope_in_hand,
    stamped_envelope,
    stop_reason,
    type_name,
    waited_seconds,
)
from papyra_otel.runtimes.adapter import Ability, RuntimeCapabilities
from papyra_otel.runtimes.patches import Patches
from papyra_otel.runtimes.tracing import Handling, Tracing

__all__ = ["PykkaAdapter"]

_logger = logging.getLogger("papyra_otel")


class PykkaAdapter(Senders):
    """Records what pykka's actors do. See the module's text for how, and ``Adapter`` for the contract."""

    name = "pykka"

    def __init__(
        self,
        recorder: Recorder,
        guard: Guard,
        system: str,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        super().__init__(recorder, guard, system, clock)
        self._tracing = Tracing(recorder.spans, self.name)
        self._patches = Patches()
        self._missing: frozenset[str] = frozenset()
        self._tells_lifecycle = self._traces = True
        self._warned_of_inbox = False
        self._states: dict[int, State] = {}
        self._registry: Any = None

    # --- the contract ---------------------------------------------------------------------------

    def capabilities(self) -> RuntimeCapabilities:
        """Return what can be told; after ``install`` without what this pykka lacks the hooks for."""
        lost = {ability: names & self._missing for ability, names in NEEDS.items()}
        notes = {
            ability: f"this pykka has no {', '.join(sorted(names))}"
            for ability, names in lost.items()
            if names
        }
        return RuntimeCapabilities(
            runtime=self.name,
            able=frozenset(ability for ability, names in lost.items() if not names),
            notes=NOTES | notes,
        )

    def install(self) -> None:
        """Wrap what is needed of pykka. Raises ModuleNotFoundError when it is not installed. Twice is once."""
        if self._on:
            return
        pykka: Any = importlib.import_module("pykka")
        try:
            self._hook_into(pykka)
        except BaseException:
            self._patches.undo()
            raise
        self._on = True

    def uninstall(self) -> None:
        """Restore pykka and the inboxes of running actors, which are no longer recorded either."""
        self._on = False
        self._patches.undo()
        for state in list(self._states.values()):
            if state.unhook is not None:
                state.unhook()
        self._states.clear()
        self._finished.clear()
        self._zombies = False

    def audits(self) -> Iterable[AuditSnapshot]:
        """Return the state of pykka's registry. Copies it without its lock, so that nobody waits for anybody."""
        refs: list[Any] | None = getattr(self._registry, ACTOR_REFS, None)
        if refs is None:
            return ()
        refs = refs[:]
        dead = [ref.actor_urn for ref in refs if not ref.is_alive() or ref.actor_stopped in self._finished]
        depths: dict[str, int] = {}
        for ref in refs:
            with self._guard("pykka.mailbox_depth"):
                qsize: Any = getattr(ref.actor_inbox, "qsize", None)
                if qsize is not None:
                    depths[ref.actor_urn] = qsize()
        plural = "" if len(dead) == 1 else "s"
        snapshot = AuditSnapshot(
            system=self._system,
            actors_total=len(refs),
            actors_alive=len(refs) - len(dead),
            registry_size=len(refs),
            registry_dead=dead,
            mailbox_depths=depths,
            reasons=(f"registry holds {len(dead)} dead actor{plural}",) if dead else (),
            unsupported=self.capabilities().unsupported(),
        )
        return (snapshot,)

    def gauges(self) -> Iterable[RuntimeGauges]:
        """Return what the registry and the running handlers show. Waits for nobody, as ``audits``."""
        if not self._on:
            return ()
        refs: list[Any] = list(getattr(self._registry, ACTOR_REFS, None) or ())
        depths: dict[str, list[int]] = {}
        dead = 0
        for ref in refs:
            with self._guard("pykka.gauges"):
                dead += not ref.is_alive() or ref.actor_stopped in self._finished
                qsize: Any = getattr(ref.actor_inbox, "qsize", None)
                if qsize is not None:
                    depths.setdefault(qualified_name(ref.actor_class), []).append(qsize())
        now, longest = self._clock(), dict.fromkeys(depths, 0.0)
        for state in list(self._states.values()):
            if (since := state.active_since) is not None:
                longest[state.actor.type] = max(longest.get(state.actor.type, 0.0), now - since)
        return (
            RuntimeGauges(
                system=self._system,
                mailbox_depths=depths,
                longest_active_seconds=longest,
                registry_entries={"ok": len(refs) - dead, "dead": dead},
            ),
        )

    # --- hooking --------------------------------------------------------------------------------

    def _hook_into(self, pykka: Any) -> None:
        patches = self._patches
        missing: set[str] = set()
        messages = getattr(pykka, "messages", None)
        self._stop_type = getattr(messages, "_ActorStop", Never)
        if self._stop_type is Never:
            missing.add("pykka.messages._ActorStop")
        proxies = (getattr(messages, name, None) for name in ("ProxyCall", "ProxyGetAttr", "ProxySetAttr"))
        self._proxy_types = tuple(kind for kind in proxies if isinstance(kind, type))
        self._registry = pykka.ActorRegistry
        if not hasattr(self._registry, ACTOR_REFS):
            missing.add(f"ActorRegistry.{ACTOR_REFS}")
        ref_module = sys.modules[pykka.ActorRef.__module__]
        if patches.replace(ref_module, "Envelope", self._stamped):
            patches.wrap(pykka.ActorRef, "tell", lambda tell: self._around_tell(tell, pykka.ActorDeadError))
            patches.wrap(pykka.ActorRef, "ask", lambda ask: self._around_ask(ask, pykka.ActorDeadError))
            patches.wrap(pykka.ThreadingFuture, "get", lambda get: self._around_get(get, pykka.Timeout))
        patches.wrap(pykka.ActorRegistry, "stop_all", self._around_stop_all)
        patches.wrap(pykka.Actor, "_actor_loop", self._around_loop)
        patches.wrap(pykka.Actor, "_actor_loop_setup", self._around_setup)
        patches.wrap(pykka.Actor, "_actor_loop_teardown", self._around_teardown)
        patches.wrap(pykka.Actor, "_stop", self._around_stop)
        patches.wrap(pykka.Actor, "_handle_failure", self._around_failure)
        patches.wrap(pykka.Actor, "_handle_receive", self._around_receive)
        patches.wrap(pykka.Actor, "on_receive", self._around_unhandled)
        self._missing = frozenset(missing.union(patches.missing))
        able = self.capabilities().able
        self._tells_lifecycle = Ability.LIFECYCLE in able
        self._traces = Ability.TRACE_CONTEXT in able
        if self._missing:
            lost = ", ".join(ability.value for ability in NEEDS if ability not in able)
            _logger.warning(
                "papyra_otel: this pykka has no %s; not recorded: %s", ", ".join(sorted(self._missing)), lost
            )

    def _stamped(self, base: Any) -> Any:
        self._envelope_type = stamped_envelope(
            base,
            unsent=self._unsent,
            asked=self._asked,
            shutting=self._shutting,
            clock=self._clock,
            guard=self._guard,
        )
        return self._envelope_type

    def _hook_inbox(self, state: State, inbox: Any) -> None:
        """Show *state* each envelope that is taken from *inbox*, if *inbox* lets us."""
        try:
            original = inbox.get
            held = cast("dict[str, Any]", vars(inbox))
            own = held.get("get")

            def get(*args: Any, **kwargs: Any) -> Any:
                envelope = original(*args, **kwargs)
                state.envelope = envelope
                if state.draining and self._on:
                    self._undrained(state.actor, envelope, stopping=state.reason == "system_shutdown")
                return envelope

            def unhook() -> None:
                if held.get("get") is get:
                    if own is None:
                        del inbox.get
                    else:
                        inbox.get = own

            inbox.get = get
            state.unhook = unhook
        except Exception:  # slots, a C type, a property, its own __setattr__: its good right
            if not self._warned_of_inbox:
                self._warned_of_inbox = True
                _logger.warning(
                    "papyra_otel: %s does not let its get() be replaced; messages that its actor leaves "
                    "behind in it when it stops are not recorded",
                    type_name(inbox),
                )

    # --- an actor's state -----------------------------------------------------------------------

    def _begin(self, actor: Any) -> State:
        """Return a new state for *actor*. Called in the actor's thread."""
        key, states = id(actor), self._states

        def forget(gone: weakref.ref[Any]) -> None:
            known = states.get(key)
            if known is not None and known.watch is gone:
                del states[key]

        who = Actor(system=self._system, type=type_name(actor), address=actor.actor_urn)
        state = states[key] = State(who, weakref.ref(actor, forget))
        self._hook_inbox(state, actor.actor_inbox)
        return state

    def _crashed(self, state: State, error: BaseException) -> None:
        """Record one failure. Guarded, as ``_stopped`` is: neither keeps the other from being recorded."""
        try:
            if not isinstance(error, Exception):
                state.told = error
            self._recorder.crashed(state.actor, error, phase=state.phase)
        except Exception:
            self._guard.failed("pykka.crashed")

    def _stopped(self, state: State, reason: str) -> None:
        """Record the end of an actor, the first time."""
        if state.stopped:
            return
        state.stopped = True
        if not self._tells_lifecycle:
            return
        try:
            born = state.born_seconds
            self._recorder.stopped(
                state.actor,
                reason=reason,
                lifetime_seconds=None if born is None else self._clock() - born,
                was_started=state.started,
            )
        except Exception:
            self._guard.failed("pykka.stopped")

    def _finish(self, actor: Any) -> None:
        """Forget *actor*: its loop has ended. Also when it is no longer recorded."""
        try:
            state = self._states.pop(id(actor), None)
            if state is None:
                return
            if state.unhook is not None:
                state.unhook()
            if not self._on:
                return
            self._finished.add(actor.actor_stopped)
            if not actor.actor_stopped.is_set():
                self._zombies = True
            self._sweep(state.actor, actor.actor_inbox, stopping=state.reason == "system_shutdown")
        except Exception:
            self._guard.failed("pykka.finish")

    # --- wrappers: the actor's thread -----------------------------------------------------------

    def _around_loop(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def loop(actor: Any) -> Any:
            try:
                result = original(actor)
            except BaseException as error:  # what pykka does not catch ends the thread
                self._escaped(actor, error)
                self._finish(actor)
                raise
            self._finish(actor)
            return result

        return loop

    def _escaped(self, actor: Any, error: BaseException) -> None:
        state = self._states.get(id(actor))
        if state is not None and self._on:
            if error is not state.told:
                self._crashed(state, error)
            self._stopped(state, "start_failed" if state.starting else "supervision")

    def _around_setup(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def setup(actor: Any) -> Any:
            state = None
            if self._on:
                try:
                    state = self._begin(actor)
                    state.starting = True
                    state.born_seconds = self._clock()
                except Exception:
                    self._guard.failed("pykka.setup")
            result = original(actor)
            if state is not None:
                state.starting = False
                if self._on and not state.stopped and self._tells_lifecycle:
                    try:
                        state.started = True
                        self._recorder.started(state.actor)
                    except Exception:
                        self._guard.failed("pykka.started")
            return result

        return setup

    def _around_teardown(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def teardown(actor: Any) -> Any:
            state = self._states.get(id(actor))
            if state is not None and self._on:
                state.draining = True
                self._stopped(state, state.reason)  # not recorded yet: its flag was set from outside
            result = original(actor)
            self._finish(actor)
            return result

        return teardown

    def _around_stop(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Record the orderly end before anybody who waits for it goes on."""

        def stop(actor: Any) -> Any:
            state = self._states.get(id(actor)) if self._on else None
            if state is None:
                return original(actor)
            state.stopping = True
            try:
                result = original(actor)
            except BaseException as error:
                self._after_stop(state, error)
                raise
            self._after_stop(state, None)
            return result

        return stop

    def _after_stop(self, state: State, error: BaseException | None) -> None:
        if self._on:
            if error is not None:
                self._crashed(state, error)
            self._stopped(state, state.reason)
        state.stopping = False

    def _around_failure(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Record a failure, and the end that follows, before anybody can see that the actor is dead."""

        def handle_failure(
            actor: Any, exception_type: Any, exception_value: Any, traceback: Any, *args: Any, **kwargs: Any
        ) -> Any:
            if self._on:
                try:
                    state = self._states.get(id(actor)) or self._begin(actor)
                    if isinstance(exception_value, BaseException):
                        self._crashed(state, exception_value)
                    if not state.stopping:
                        self._stopped(state, "start_failed" if state.starting else "supervision")
                except Exception:
                    self._guard.failed("pykka.failure")
            return original(actor, exception_type, exception_value, traceback, *args, **kwargs)

        return handle_failure

    def _around_receive(self, original: Callable[..., Any]) -> Callable[..., Any]:
        clock, states, guard, processed = self._clock, self._states, self._guard, self._recorder.processed
        stop_type = self._stop_type

        def handle_receive(actor: Any, message: Any) -> Any:
            if not self._on:
                return original(actor, message)
            state: State | None = None
            envelope: Any = None
            begin = 0.0
            try:
                state = states.get(id(actor)) or self._begin(actor)
                envelope = state.envelope
                if state.unhook is None or envelope is None or envelope.message is not message:
                    envelope = envelope_in_hand(message)
                    state.envelope = envelope
                if issubclass(type(message), stop_type):
                    state.reason = stop_reason(envelope)
                    state = None
                else:
                    begin = clock()
            except Exception:
                state = None
                guard.failed("pykka.receive")
            if state is None:
                return original(actor, message)
            handling = self._enter(state, message, envelope, begin)
            try:
                result = original(actor, message)
            except BaseException as error:
                self._failed_message(state, message, envelope, begin, error)
                self._leave(state, handling, error)
                raise
            if self._on:
                try:
                    processed(
                        state.actor,
                        message=message,
                        kind=self._kind_of(message, envelope),
                        duration_seconds=clock() - begin,
                        wait_seconds=waited_seconds(envelope, begin),
                    )
                except Exception:
                    guard.failed("pykka.processed")
            self._leave(state, handling, None)
            return result

        return handle_receive

    def _enter(self, state: State, message: Any, envelope: Any, begin: float) -> Handling | None:
        """Attach the sender's context, or none, for as long as the message is handled."""
        state.active_since = begin
        if not self._traces:
            return None
        try:
            if state.handling is not None:
                self._tracing.leave(state.handling)
                state.handling = None
            asked = getattr(envelope, "reply_to", None) is not None
            return self._tracing.begin(getattr(envelope, "context", None), state.actor, message, asked=asked)
        except Exception:
            self._guard.failed("pykka.context")
            return None

    def _leave(self, state: State, handling: Handling | None, error: BaseException | None) -> None:
        """Detach it again. A failed tell ends its actor: what is told of that belongs to it, so it stays."""
        state.active_since = None
        if handling is None:
            return
        try:
            self._tracing.finish(handling, error)
            if error is not None and getattr(state.envelope, "reply_to", None) is None:
                state.handling = handling
            else:
                self._tracing.leave(handling)
        except Exception:
            self._guard.failed("pykka.context")

    def _failed_message(
        self, state: State, message: Any, envelope: Any, begin: float, error: BaseException
    ) -> None:
        if not self._on:
            return
        try:
            self._recorder.processed(
                state.actor,
                message=message,
                kind=self._kind_of(message, envelope),
                duration_seconds=self._clock() - begin,
                wait_seconds=waited_seconds(envelope, begin),
                error=error,
            )
        except Exception:
            self._guard.failed("pykka.processed")
        if isinstance(error, Exception):
            return
        state.reason = "supervision"  # pykka stops this actor, then all
        self._crashed(state, error)

    def _around_unhandled(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def on_receive(actor: Any, message: Any) -> Any:
            if self._on:
                try:
                    state = self._states.get(id(actor))
                    if state is not None:
                        envelope = state.envelope
                        kind = self._kind_of(getattr(envelope, "message", message), envelope)
                        self._recorder.dead_letter(
                            state.actor, message=message, reason="unhandled", kind=kind
                        )
                except Exception:
                    self._guard.failed("pykka.unhandled")
            return original(actor, message)

        return on_receive
