"""dramatiq (1.17 and later): messages in a broker's queues, worker threads, retries by middleware.

Needed of dramatiq: ``Broker.emit_before`` and ``Broker.emit_after``, through which every broker tells its middleware
what happens, and the signals that ``Middleware`` has methods for. What is missing makes an ability "not supported",
with one warning. ``WorkerThread.process_message`` (private until 2.0) is where the sender's trace is taken over.

How messages are watched. Both functions are wrapped, so that we are before every middleware in ``before_*`` and after
every one in ``after_*`` and yet in nobody's list of middleware (docs/decisions/0044). That place has two merits. We
see what was decided: rejected (``message.failed``), sent again, or neither, which means lost. And dramatiq's
asynchronous interrupts (time limits, shutdown notices) are armed after and disarmed before our code runs, so they
never strike in it.

A dead letter is recorded when the broker was told so, in ``after_nack``, or in ``after_ack`` for what is lost; so one
that a killed worker leaves to be delivered again is none. The module is wrapped when the application imports it, never
before: dramatiq reads its settings from the environment at that moment.
"""

from __future__ import annotations

import logging
import os
import sys
import time
import weakref
from collections.abc import Callable, Iterable
from importlib import util
from typing import Any

from wrapt import register_post_import_hook

from papyra_otel import semconv
from papyra_otel.pipeline.gauges import RuntimeGauges
from papyra_otel.pipeline.guard import Guard
from papyra_otel.recorder import Actor, AuditSnapshot, Recorder
from papyra_otel.runtimes._dramatiq_brokers import Brokers
from papyra_otel.runtimes._dramatiq_context import put_in, sent_in, take_out, within
from papyra_otel.runtimes._dramatiq_state import (
    KIND,
    NEEDS,
    NOTES,
    PROCESS_MESSAGE,
    Decision,
    Handling,
    Never,
    Roster,
    current_error,
    decide,
    installed_version,
    plain_message,
    raised_in,
    retries_made,
    retry_limit,
)
from papyra_otel.runtimes.adapter import RuntimeCapabilities, supported
from papyra_otel.runtimes.patches import Patches
from papyra_otel.runtimes.tracing import Handling as Traced
from papyra_otel.runtimes.tracing import Tracing

__all__ = ["DramatiqAdapter"]

_logger = logging.getLogger("papyra_otel")

_MODULE = "dramatiq"

Hook = Callable[..., None]


class DramatiqAdapter:
    """Records what dramatiq's workers do. See the module's text for how, and ``Adapter`` for the contract."""

    name = "dramatiq"

    def __init__(
        self,
        recorder: Recorder,
        guard: Guard,
        system: str,
        *,
        clock: Callable[[], float] = time.perf_counter,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._recorder = recorder
        self._guard = guard
        self._system = system
        self._clock = clock  # seconds, monotonic
        self._wall_clock = wall_clock  # seconds since the epoch
        self._on = False
        self._awaited = False  # the import hook is registered, which cannot be undone
        self._hooked: Any = None  # the module that is wrapped
        self._patches = Patches()
        self._missing: frozenset[str] = frozenset()
        self._roster = Roster(system, clock)
        self._actors: dict[str, Actor] = {}  # the declared ones
        self._tracing = Tracing(recorder.spans, self.name, told=KIND)
        self._spans: dict[int, Traced] = {}  # by message, where handling it is a span
        self._handlings: dict[int, Handling] = {}
        self._deciding: dict[str, Handling] = {}  # by message id, while middleware looks at the result
        self._brokers = Brokers()
        self._retries_type: type = Never
        self._age_limit_code: Any = None
        self._control_flow: tuple[type[BaseException], ...] = ()

    # --- the contract ---------------------------------------------------------------------------

    def capabilities(self) -> RuntimeCapabilities:
        """Return what can be told; once dramatiq was imported, without what it lacks the hooks for."""
        return supported(self.name, NEEDS, missing=self._missing, notes=NOTES)

    def install(self) -> None:
        """Wrap what is needed of dramatiq, now or when it is imported. Twice is once.

        Raises ModuleNotFoundError when it is not installed.
        """
        if self._on:
            return
        module = sys.modules.get(_MODULE)
        if module is None and util.find_spec(_MODULE) is None:
            message = f"No module named {_MODULE!r}"
            raise ModuleNotFoundError(message, name=_MODULE)
        if module is not None:
            self._hook_into(module)
        self._on = True
        if module is None and not self._awaited:
            self._awaited = True
            register_post_import_hook(self._hook_when_imported, _MODULE)

    def uninstall(self) -> None:
        """Restore dramatiq. What is being handled is no longer recorded either."""
        self._on = False
        self._hooked = None
        self._patches.undo()
        self._handlings.clear()
        self._deciding.clear()
        self._roster.clear()
        self._brokers.clear()

    def gauges(self) -> Iterable[RuntimeGauges]:
        """Return how long handlers run by now, and how many actors are declared. Waits for nobody."""
        declared = self._brokers.actor_names()
        if not declared:
            return ()
        living, _ = self._roster.living_and_dead()
        longest = dict.fromkeys(declared, 0.0) if living else {}
        now, pid = self._clock(), os.getpid()
        for handling in list(self._handlings.values()):
            if handling.active and handling.pid == pid:
                name = handling.actor.type
                longest[name] = max(longest.get(name, 0.0), now - handling.began_seconds)
        entries = {"ok": len(declared)}
        return (RuntimeGauges(system=self._system, longest_active_seconds=longest, registry_entries=entries),)

    def audits(self) -> Iterable[AuditSnapshot]:
        """Return the state of this process's threads, and of the queues of its brokers. May ask the brokers."""
        return self._brokers.audit(self._system, self._roster, self.capabilities().unsupported())

    # --- hooking --------------------------------------------------------------------------------

    def _hook_when_imported(self, module: Any) -> None:
        if self._on:
            with self._guard("dramatiq.import"):
                self._hook_into(module)

    def _hook_into(self, module: Any) -> None:
        if self._hooked is module:
            return
        try:
            missing = self._hooked_names(module)
        except BaseException:
            self._patches.undo()
            raise
        self._hooked = module
        self._missing = frozenset(missing)
        if missing:
            _logger.warning(
                "papyra_otel: this dramatiq has no %s; what depends on it is not recorded",
                ", ".join(sorted(missing)),
            )
        with self._guard("dramatiq.global_broker"):
            self._brokers.add(getattr(sys.modules.get("dramatiq.broker"), "global_broker", None))

    def _hooked_names(self, module: Any) -> set[str]:
        """Wrap what is there; return the names of what is not."""
        middleware: Any = sys.modules.get("dramatiq.middleware")
        errors: Any = sys.modules.get("dramatiq.errors")
        self._retries_type = getattr(middleware, "Retries", Never)
        age_limit = getattr(getattr(middleware, "AgeLimit", None), "before_process_message", None)
        self._age_limit_code = getattr(age_limit, "__code__", None)
        control = (getattr(errors, name, None) for name in ("Retry", "RateLimitExceeded"))
        self._control_flow = tuple(kind for kind in control if isinstance(kind, type))
        base = getattr(middleware, "Middleware", None)
        wanted = {name for names in NEEDS.values() for name in names if name.startswith("Middleware.")}
        missing = {name for name in wanted if not hasattr(base, name.removeprefix("Middleware."))}
        worker: Any = sys.modules.get("dramatiq.worker")
        thread = getattr(worker, "WorkerThread", getattr(worker, "_WorkerThread", Never))  # private until 2.0
        wraps = (
            ("Broker.emit_before", module.Broker, self._around_before),
            ("Broker.emit_after", module.Broker, self._around_after),
            (PROCESS_MESSAGE, thread, self._around_handling),
        )
        for name, owner, make in wraps:
            if not self._patches.wrap(owner, name.partition(".")[2], make):
                missing.add(name)
        return missing

    def _around_before(self, original: Callable[..., Any]) -> Callable[..., Any]:
        return self._around(
            original,
            "before",
            first={"enqueue": self._sending, "process_message": self._arrived},
            last={
                "process_message": self._begun,
                "consumer_thread_shutdown": self._thread_ended,
                "worker_thread_shutdown": self._thread_ended,
            },
        )

    def _around_after(self, original: Callable[..., Any]) -> Callable[..., Any]:
        return self._around(
            original,
            "after",
            first={"process_message": self._returned},
            last={
                "ack": self._acknowledged,
                "consumer_thread_boot": self._consumer_began,
                "declare_actor": self._declared,
                "enqueue": self._enqueued,
                "nack": self._rejected,
                "process_message": self._settled,
                "skip_message": self._skipped,
                "worker_boot": self._worker_began,
                "worker_shutdown": self._worker_ended,
                "worker_thread_boot": self._worker_thread_began,
            },
        )

    def _around(
        self, original: Callable[..., Any], when: str, *, first: dict[str, Hook], last: dict[str, Hook]
    ) -> Callable[..., Any]:
        """Return *original* with our hooks for some signals *first* and *last*; what it raises ends it as ever."""
        guard = self._guard
        nothing: tuple[Hook | None, Hook | None] = (None, None)
        hooks = {signal: (first.get(signal), last.get(signal)) for signal in {*first, *last}}

        def emit(broker: Any, signal: str, *args: Any, **kwargs: Any) -> Any:
            ours_first, ours_last = hooks.get(signal, nothing)
            if ours_first is not None and self._on:
                try:
                    ours_first(broker, *args, **kwargs)
                except Exception:
                    guard.failed(f"dramatiq.{when}_{signal}")
            result = original(broker, signal, *args, **kwargs)
            if ours_last is not None and self._on:
                try:
                    ours_last(broker, *args, **kwargs)
                except Exception:
                    guard.failed(f"dramatiq.{when}_{signal}")
            return result

        return emit

    def _around_handling(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Run what a worker thread does about a message in the trace that the message was sent in."""
        guard = self._guard

        def process_message(thread: Any, message: Any, *args: Any, **kwargs: Any) -> Any:
            traced: Traced | None = None
            if self._on:
                try:
                    traced = self._enter(thread.broker, message)
                except Exception:
                    guard.failed("dramatiq.context")
            try:
                return original(thread, message, *args, **kwargs)
            finally:
                if traced is not None:
                    self._leave(message, traced)

        return process_message

    def _enter(self, broker: Any, message: Any) -> Traced | None:
        sender = sent_in(message)
        take_out(message)
        actor = self._who(broker, message.actor_name)
        plain = getattr(message, "_message", message)
        traced = self._tracing.begin(sender, actor, plain, asked=False)
        if traced is not None and traced.span is not None:
            self._spans[id(message)] = traced
        return traced

    def _leave(self, message: Any, traced: Traced) -> None:
        try:
            self._spans.pop(id(message), None)
            self._tracing.finish(traced)
        except Exception:
            self._guard.failed("dramatiq.context")
        try:
            self._tracing.leave(traced)
        except Exception:
            self._guard.failed("dramatiq.context")

    # --- brokers, workers, threads, declarations --------------------------------------------------

    def _declared(self, broker: Any, actor: Any) -> None:
        self._brokers.add(broker)
        self._recorder.declared(self._who(broker, actor.actor_name), mailbox=actor.queue_name)

    def _worker_began(self, broker: Any, worker: Any) -> None:
        del worker
        self._brokers.add(broker)
        self._recorder.system_started(self._system, runtime=self.name, version=installed_version())

    def _worker_ended(self, broker: Any, worker: Any) -> None:
        del broker, worker
        self._recorder.system_stopped(self._system, runtime=self.name)

    def _worker_thread_began(self, broker: Any, thread: Any) -> None:
        del broker
        self._recorder.started(self._roster.begin("WorkerThread", thread))

    def _consumer_began(self, broker: Any, thread: Any) -> None:
        del broker
        self._recorder.started(self._roster.begin("ConsumerThread", thread))

    def _thread_ended(self, broker: Any, thread: Any) -> None:
        del broker
        ended = self._roster.end(thread)
        if ended is not None:
            actor, lifetime_seconds = ended
            self._recorder.stopped(actor, reason="system_shutdown", lifetime_seconds=lifetime_seconds)

    # --- messages: worker threads, consumer threads, senders ----------------------------------------

    def _who(self, broker: Any, name: str) -> Actor:
        """Return the actor of that *name*; its type is its name, unless a message made it up."""
        if name not in broker.actors:
            return Actor(system=self._system, type=semconv.OTHER, address=name)
        actor = self._actors.get(name)
        if actor is None:
            actor = self._actors[name] = Actor(system=self._system, type=name, address=name)
        return actor

    def _arrived(self, broker: Any, message: Any) -> None:
        began_seconds = self._clock()
        identity = id(message)
        handlings = self._handlings
        watch = weakref.ref(message, lambda _: handlings.pop(identity, None))
        sent = message.message_timestamp
        wait_seconds = max(0.0, self._wall_clock() - sent / 1000) if isinstance(sent, (int, float)) else None
        handlings[identity] = Handling(
            self._who(broker, message.actor_name),
            watch,
            began_seconds=began_seconds,
            wait_seconds=wait_seconds,
        )

    def _begun(self, broker: Any, message: Any) -> None:
        del broker
        handling = self._handlings.get(id(message))
        if handling is not None:
            handling.began_seconds = self._clock()  # the time of others' hooks is not the handler's

    def _returned(self, broker: Any, message: Any, **outcome: Any) -> None:
        del broker, outcome
        handling = self._handlings.get(id(message))
        if handling is not None:
            handling.duration_seconds = self._clock() - handling.began_seconds
            handling.active = False
            handling.retries = message.options.get("retries", 0)
            self._deciding[message.message_id] = handling

    def _sending(self, broker: Any, message: Any, delay: Any) -> None:
        del broker, delay
        put_in(message)

    def _enqueued(self, broker: Any, message: Any, delay: Any) -> None:
        del broker, delay
        if self._deciding:
            handling = self._deciding.get(message.message_id)
            if handling is not None:
                handling.sent_again = True
        take_out(message)

    def _settled(self, broker: Any, message: Any, **outcome: Any) -> None:
        self._deciding.pop(message.message_id, None)
        handling = self._handlings.get(id(message))
        if handling is None:
            return
        error: BaseException | None = outcome.get("exception")
        traced = self._spans.pop(id(message), None)
        if traced is not None:
            with self._guard("dramatiq.context"):
                self._tracing.finish(traced, error)
        decision: Decision | None = None
        if error is not None:
            with self._guard("dramatiq.decision"):
                decision = self._decision_on(broker, message, handling, error)
        try:
            self._recorder.processed(
                handling.actor,
                message=getattr(message, "_message", message),
                kind=KIND,
                duration_seconds=handling.duration_seconds,
                wait_seconds=handling.wait_seconds,
                error=error,
            )
        except Exception:
            self._guard.failed("dramatiq.processed")
        if error is not None and not isinstance(error, self._control_flow):
            with self._guard("dramatiq.crashed"):
                self._recorder.crashed(handling.actor, error, phase="receive")
        if decision is not None:
            with self._guard("dramatiq.decided"):
                self._tell_decision(broker, message, handling.actor, decision)

    def _decision_on(self, broker: Any, message: Any, handling: Handling, error: BaseException) -> Decision:
        throws = message.options.get("throws") or self._options_of(broker, message).get("throws")
        decision = decide(handling, message, error, throws)
        handling.unsettled = decision.outcome in {"lost", "retry_failed"}
        if decision.outcome == "retries_exhausted":
            handling.dead_reason = "retries_exhausted"
        return decision

    def _tell_decision(self, broker: Any, message: Any, actor: Actor, decision: Decision) -> None:
        by_policy = decision.source == "policy"
        limit = retry_limit(message.options, self._options_of(broker, message), self._retries_of(broker))
        self._recorder.decided(
            actor,
            directive=decision.directive,
            source=decision.source,
            outcome=decision.outcome,
            restart_count=retries_made(message.options, decision) if by_policy else None,
            restart_limit=limit if by_policy else None,
        )

    def _skipped(self, broker: Any, message: Any) -> None:
        del broker
        handling = self._handlings.get(id(message))
        if handling is not None:
            handling.active = False
            handling.unsettled = True
            code = self._age_limit_code
            if code is not None and raised_in(current_error(), code):
                handling.dead_reason = "expired"

    def _ended(self, message: Any) -> Handling | None:
        """Forget *message*, and return what was known of it."""
        if self._deciding:  # left there by an interrupt in somebody's hook
            self._deciding.pop(message.message_id, None)
        return self._handlings.pop(id(message), None)

    def _acknowledged(self, broker: Any, message: Any) -> None:
        del broker
        handling = self._ended(message)
        if handling is not None and handling.unsettled:
            self._tell_dead_letter(handling.actor, message, "lost")

    def _rejected(self, broker: Any, message: Any) -> None:
        handling = self._ended(message)
        if handling is not None:
            self._tell_dead_letter(handling.actor, message, handling.dead_reason)
        else:  # by a consumer thread, before any handler
            reason = "unknown" if message.actor_name in broker.actors else "no_such_actor"
            actor = self._who(broker, message.actor_name)
            with within(sent_in(message)):
                self._tell_dead_letter(actor, message, reason)

    def _tell_dead_letter(self, actor: Actor, message: Any, reason: str) -> None:
        self._recorder.dead_letter(actor, message=plain_message(message), reason=reason, kind=KIND)

    def _options_of(self, broker: Any, message: Any) -> Any:
        actor = broker.actors.get(message.actor_name)
        return {} if actor is None else actor.options

    def _retries_of(self, broker: Any) -> Any:
        return next((each for each in broker.middleware if isinstance(each, self._retries_type)), None)
