"""What pykka's adapter sees of whoever sends: messages to the dead, messages put too late, asks given up.

Runs in anybody's thread.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from threading import get_ident
from typing import Any

from papyra_otel.pipeline.guard import Guard
from papyra_otel.recorder import Actor, Recorder, qualified_name
from papyra_otel.runtimes._pykka_state import Asked, Never, is_second, is_unsent, type_name

__all__ = ["Senders"]


class Senders:
    """The half of the adapter that looks at senders, and what both halves share."""

    def __init__(self, recorder: Recorder, guard: Guard, system: str, clock: Callable[[], float]) -> None:
        self._recorder = recorder
        self._guard = guard
        self._system = system
        self._clock = clock  # seconds, monotonic
        self._on = False
        # by thread inside an ask: its envelope; before that a tuple, of the ref and whether the answer is awaited there
        self._asking: dict[int, Any] = {}
        self._asked: weakref.WeakKeyDictionary[Any, Asked] = weakref.WeakKeyDictionary()  # by future
        self._shutting: set[int] = set()  # threads that are inside ActorRegistry.stop_all
        self._finished: weakref.WeakSet[Any] = weakref.WeakSet()  # the stop flags of actors whose loop ended
        self._zombies = False  # some loop ended with its actor still called alive
        self._stop_type: type = Never
        self._actor_type: type = Never
        self._proxy_types: tuple[type, ...] = ()
        self._envelope_type: Any = Never
        self._tells_late = self._tells_nobody = True
        self._broadcasts: dict[int, bool] = {}  # by thread inside a broadcast: whether it reached an actor

    # --- messages nobody takes ------------------------------------------------------------------

    def _sweep(self, who: Actor, inbox: Any, *, stopping: bool) -> None:
        """Record what lies in the inbox of an actor whose loop has ended: each message once, whoever comes."""
        mutex, queue = getattr(inbox, "mutex", None), getattr(inbox, "queue", None)
        if mutex is None or not queue:
            return
        left: list[Any] = []
        with mutex:
            for envelope in queue:
                if isinstance(envelope, self._envelope_type) and not hasattr(envelope, "reported"):
                    envelope.reported = True
                    left.append(envelope)
        for envelope in left:
            self._undrained(who, envelope, stopping=stopping)

    def _undrained(self, who: Actor, envelope: Any, *, stopping: bool) -> None:
        try:
            message = envelope.message
            if not isinstance(message, self._stop_type):
                kind = self._kind_of(message, envelope)
                self._recorder.dead_letter(
                    who, message=message, reason="undrained", kind=kind, stopping=stopping
                )
        except Exception:
            self._guard.failed("pykka.undrained")

    def _kind_of(self, message: Any, envelope: Any) -> str:
        if issubclass(type(message), self._proxy_types):
            return "proxy"
        if envelope is None:
            return "unknown"
        return "tell" if envelope.reply_to is None else "ask"

    # --- wrappers -------------------------------------------------------------------------------

    def _around_tell(self, original: Callable[..., Any], dead_error: type[Exception]) -> Callable[..., Any]:
        broadcasts = self._broadcasts

        def tell(ref: Any, message: Any, *args: Any, **kwargs: Any) -> Any:
            if broadcasts and (thread := get_ident()) in broadcasts:
                broadcasts[thread] = True
            try:
                result = original(ref, message, *args, **kwargs)
            except dead_error:
                self._dead_target(ref, message, "tell")
                raise
            self._look_after(ref)
            return result

        return tell

    def _around_broadcast(self, original: Callable[..., Any]) -> Callable[..., Any]:
        broadcasts = self._broadcasts

        def broadcast(cls: Any, *args: Any, **kwargs: Any) -> Any:
            thread = get_ident()
            broadcasts[thread] = False
            try:
                result = original(cls, *args, **kwargs)
            except BaseException:
                broadcasts.pop(thread, None)
                raise
            if not broadcasts.pop(thread, True):
                self._reached_nobody(*args, **kwargs)
            return result

        return broadcast

    def _reached_nobody(self, message: Any = None, target_class: Any = None, *_: Any, **__: Any) -> None:
        if not (self._on and self._tells_nobody):
            return
        try:
            wanted = (
                target_class
                if isinstance(target_class, str)
                else qualified_name(target_class or self._actor_type)
            )
            who = Actor(system=self._system, type=wanted, address=wanted)
            stopping = bool(self._shutting)
            self._recorder.dead_letter(
                who, message=message, reason="no_subscriber", kind="tell", stopping=stopping
            )
        except Exception:
            self._guard.failed("pykka.no_subscriber")

    def _around_ask(self, original: Callable[..., Any], dead_error: type[Exception]) -> Callable[..., Any]:
        asking = self._asking

        def ask(ref: Any, message: Any, *args: Any, **kwargs: Any) -> Any:
            thread = get_ident()
            outer = asking.get(
                thread
            )  # of an ask that this one interrupted: a finalizer's, a signal handler's
            asking[thread] = ref, kwargs.get("block", True)
            try:
                result = original(ref, message, *args, **kwargs)
            except BaseException as error:
                if self._was_unsent(thread, outer) and isinstance(error, dead_error):
                    self._dead_target(ref, message, "ask")
                raise
            if self._was_unsent(thread, outer):
                self._dead_target(ref, message, "ask")
            else:
                self._look_after(ref)
            return result

        return ask

    def _was_unsent(self, thread: int, outer: Any) -> bool:
        """End the ask of *thread*; say whether no envelope was made for it."""
        made = self._asking.pop(thread, None)
        if outer is not None:
            self._asking[thread] = outer
        return is_unsent(made)

    def _around_get(self, original: Callable[..., Any], timeout_error: type[Exception]) -> Callable[..., Any]:
        """Notice that whoever waits for an answer gives up, in ``ask`` or later."""

        def get(future: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                return original(future, *args, **kwargs)
            except timeout_error as error:
                if self._on and _raised_by_get(error):
                    self._given_up(future, kwargs.get("timeout", args[0] if args else None))
                raise

        return get

    def _given_up(self, future: Any, timeout_seconds: Any) -> None:
        try:
            envelope: Any = self._asking.get(get_ident())
            awaited = getattr(envelope, "reply_to", None) is future and hasattr(envelope, "met")
            asked = self._asked.get(future)
            if awaited:
                asked = Asked(envelope.target, type_name(envelope.message))
            if asked is not None and timeout_seconds is not None:
                self._recorder.ask_timed_out(
                    self._who(asked),
                    message_type=asked.message_type,
                    timeout_seconds=float(timeout_seconds),
                )
        except Exception:
            self._guard.failed("pykka.ask_timed_out")
        else:
            if awaited:
                self._meet(envelope, "asker")

    def _meet(self, envelope: Any, party: str) -> None:
        """Record an answer that came when its asker had left ``ask``: by whichever of both comes later."""
        try:
            if not (is_second(envelope.met, party) and self._on and self._tells_late):
                return
            kind, answer = envelope.answer
            self._recorder.dead_letter(
                self._who(envelope.target),
                message=answer,
                reason="late_reply",
                kind=kind,
                stopping=bool(self._shutting),
            )
        except Exception:
            self._guard.failed("pykka.late_reply")

    def _dead_target(self, ref: Any, message: Any, kind: str) -> None:
        if not self._on:
            return
        try:
            if ref.actor_stopped.is_set() and not isinstance(message, self._stop_type):
                if issubclass(type(message), self._proxy_types):
                    kind = "proxy"
                self._recorder.dead_letter(
                    self._who(ref),
                    message=message,
                    reason="actor_stopped",
                    kind=kind,
                    stopping=bool(self._shutting),
                )
        except Exception:
            self._guard.failed("pykka.dead_letter")

    def _look_after(self, ref: Any) -> None:
        """Record a message that was put too late, if its actor has ended since."""
        try:
            if (
                (ref.actor_stopped.is_set() or self._zombies)
                and self._on
                and ref.actor_stopped in self._finished
            ):
                self._sweep(self._who(ref), ref.actor_inbox, stopping=bool(self._shutting))
        except Exception:
            self._guard.failed("pykka.undrained")

    def _who(self, ref: Any) -> Actor:
        return Actor(system=self._system, type=qualified_name(ref.actor_class), address=ref.actor_urn)

    def _around_stop_all(self, original: Callable[..., Any]) -> Callable[..., Any]:
        shutting = self._shutting

        def stop_all(cls: Any, *args: Any, **kwargs: Any) -> Any:
            thread = get_ident()
            shutting.add(thread)
            try:
                return original(cls, *args, **kwargs)
            finally:
                shutting.discard(thread)

        return stop_all


def _raised_by_get(error: BaseException) -> bool:
    """Say whether ``Future.get`` itself raised *error*; an answer brings the frames of the actor that raised it."""
    trace = error.__traceback__  # our wrapper's frame, then that of get
    inner = None if trace is None else trace.tb_next
    return inner is not None and inner.tb_next is None
