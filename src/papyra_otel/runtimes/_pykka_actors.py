"""What pykka's adapter sees of its actors: each in its own thread, so that what is known of one needs no lock."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from typing import Any, cast

from papyra_otel.pipeline.guard import Guard
from papyra_otel.recorder import Actor, Recorder
from papyra_otel.runtimes._pykka_senders import Senders
from papyra_otel.runtimes._pykka_state import (
    State,
    envelope_in_hand,
    stop_reason,
    type_name,
    waited_seconds,
)
from papyra_otel.runtimes.tracing import Handling, Tracing

__all__ = ["Actors"]

_logger = logging.getLogger("papyra_otel")


class Actors(Senders):
    """The half of the adapter that runs in the actors' threads."""

    def __init__(self, recorder: Recorder, guard: Guard, system: str, clock: Callable[[], float]) -> None:
        super().__init__(recorder, guard, system, clock)
        self._tracing = Tracing(recorder.spans, "pykka")
        self._tells_lifecycle = self._traces = True
        self._warned_of_inbox = False
        self._states: dict[int, State] = {}

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
        clock, guard, taken, processed = self._clock, self._guard, self._taken, self._recorder.processed

        def handle_receive(actor: Any, message: Any) -> Any:
            state = taken(actor, message) if self._on else None
            if state is None:
                return original(actor, message)
            begin = state.active_since = state.taken_seconds
            envelope, kind, handling = state.envelope, state.message_kind, state.entered
            try:
                result = original(actor, message)
            except BaseException as error:
                self._failed_message(state, message, kind, begin, error)
                self._leave(state, handling, error)
                raise
            if self._on:
                try:
                    processed(
                        state.actor,
                        message=message,
                        kind=kind,
                        duration_seconds=clock() - begin,
                        wait_seconds=waited_seconds(envelope, begin),
                    )
                except Exception:
                    guard.failed("pykka.processed")
                if hasattr(envelope, "met"):
                    envelope.answer = kind, result
                    self._meet(envelope, "actor")
            self._leave(state, handling, None)
            return result

        return handle_receive

    def _taken(self, actor: Any, message: Any) -> State | None:
        """Return the state of *actor*, which is going to handle *message*; None if that is nothing to tell of."""
        try:
            state = self._states.get(id(actor)) or self._begin(actor)
            envelope = state.envelope
            if state.unhook is None or envelope is None or envelope.message is not message:
                envelope = state.envelope = envelope_in_hand(message)
            if issubclass(type(message), self._stop_type):
                state.reason = stop_reason(envelope)
                return None
            state.message_kind = self._kind_of(message, envelope)
            state.taken_seconds = self._clock()
            state.entered = None
            sender = getattr(envelope, "context", None)
            if self._traces and (self._tracing.involves(sender) or state.handling is not None):
                state.entered = self._enter(state, message, sender)
        except Exception:
            self._guard.failed("pykka.receive")
            return None
        return state

    def _enter(self, state: State, message: Any, sender: Any) -> Handling | None:
        """Attach the *sender*'s context, or none, for as long as the message is handled."""
        try:
            if state.handling is not None:
                self._tracing.leave(state.handling)
                state.handling = None
            asked = getattr(state.envelope, "reply_to", None) is not None
            return self._tracing.begin(sender, state.actor, message, asked=asked)
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
        self, state: State, message: Any, kind: str, begin: float, error: BaseException
    ) -> None:
        if not self._on:
            return
        try:
            self._recorder.processed(
                state.actor,
                message=message,
                kind=kind,
                duration_seconds=self._clock() - begin,
                wait_seconds=waited_seconds(state.envelope, begin),
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
