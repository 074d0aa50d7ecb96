"""papyra (0.2 and later): every kind of fact, from outside, without its hooks and without its persistence.

The classes are patched before the first system starts. A wrapper calls papyra's own method exactly
once; what of ours runs before and after is fenced, and what the method returns or raises passes
untouched. What the happenings mean is worked out in ``_papyra_state``. Actors that already run when
this is installed show up in audits and as the targets of dead letters only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from importlib import metadata
from time import perf_counter
from typing import TYPE_CHECKING, Any

from papyra_otel.pipeline.gauges import RuntimeGauges
from papyra_otel.pipeline.guard import Guard
from papyra_otel.recorder import AuditSnapshot, Recorder
from papyra_otel.runtimes._papyra_names import NEEDS, NOTES, gone_beside
from papyra_otel.runtimes.adapter import CAPABILITIES, Ability, RuntimeCapabilities
from papyra_otel.runtimes.patches import Patches

if TYPE_CHECKING:
    from papyra_otel.runtimes._papyra_state import Tracker

__all__ = ["PapyraAdapter"]

_logger = logging.getLogger("papyra_otel")

_Make = Callable[[Callable[..., Any]], Callable[..., Any]]


class PapyraAdapter:
    """Between papyra and the recorder: see ``runtimes.adapter``. *system* overrides the systems' own ids."""

    name = "papyra"

    def __init__(self, recorder: Recorder, guard: Guard, system: str | None) -> None:
        self._recorder = recorder
        self._guard = guard
        self._system = system
        self._patches = Patches()
        self._tracker: Tracker | None = None
        self._able = frozenset(NEEDS)
        self._missing: tuple[str, ...] = ()

    def capabilities(self) -> RuntimeCapabilities:
        """Return what can be told; after ``install`` it knows which of papyra's private names are gone."""
        notes = dict(NOTES)
        for ability in CAPABILITIES:
            if gone := [name for name in NEEDS.get(ability, ()) if name in self._missing]:
                notes[ability] = f"this papyra has no {', '.join(gone)}"
        return RuntimeCapabilities(runtime=self.name, able=self._able, notes=notes)

    def install(self) -> None:
        """Patch papyra's classes. Raises ModuleNotFoundError when papyra is not installed. Twice is once."""
        if self._tracker is not None and self._tracker.enabled:
            return
        from papyra import context, mailbox, ref, system  # noqa: PLC0415

        from papyra_otel.runtimes._papyra_lives import Names  # noqa: PLC0415
        from papyra_otel.runtimes._papyra_state import Tracker  # noqa: PLC0415

        if self._tracker is None:  # kept over uninstall: actors may outlive it
            self._tracker = Tracker(self._recorder, self._guard, self._system, Names())
        tracker = self._tracker
        tracker.version = _version()
        actor_system = system.ActorSystem
        around = self._around
        wraps: tuple[tuple[Any, str, _Make], ...] = (
            (actor_system, "start", around("start", "start_begins", "start_ends")),
            (actor_system, "aclose", around("aclose", "aclose_begins", "aclose_ends")),
            (actor_system, "stop", around("stop", "stop_begins", "stop_ends")),
            (context.ActorContext, "stop_self", around("stop", "stop_self_begins", "stop_ends")),
            (actor_system, "_stop_runtime", around("stop", "stop_runtime_begins", "stop_ends")),
            (actor_system, "_run_actor", around("run", "run_begins", "run_ends")),
            (actor_system, "_safe_on_start", around("on_start", "on_start_begins", "on_start_ends")),
            (actor_system, "_safe_on_stop", self._around_on_stop),
            (actor_system, "_handle_failure", around("failure", "failure_begins", "failure_ends")),
            (actor_system, "_apply_supervisor_decision", around("decision", "decision_begins", None)),
            (actor_system, "_restart_actor", around("restart", "restart_begins", "restart_ends")),
            (actor_system, "_check_restart_limits", around("limits", "limits_begins", "limits_ends")),
            (actor_system, "_handle_actor_message", self._around_message),
            (actor_system, "audit", self._around_audit),
            (mailbox.Mailbox, "put", self._around_put),
            (mailbox.Mailbox, "get", self._around_get),
            (ref.ActorRef, "ask", self._around_ask),
            (system.DeadLetterMailbox, "push", self._around_push),
        )
        for owner, name, make in wraps:
            self._patches.wrap(owner, name, make)
        self._learn(gone_beside(system, mailbox) + self._patches.missing)
        tracker.enabled = True

    def uninstall(self) -> None:
        """Put papyra's methods back. Actors that already run are no longer recorded either."""
        if self._tracker is not None:
            self._tracker.enabled = False
        self._patches.undo()

    def audits(self) -> Iterable[AuditSnapshot]:
        """Return the state of each open system, without ``ActorSystem.audit``: that calls users' hooks."""
        if self._tracker is None or not self._tracker.enabled or Ability.AUDIT not in self._able:
            return []
        return self._tracker.snapshots()

    def gauges(self) -> Iterable[RuntimeGauges]:
        """Return what each open system shows now."""
        return () if self._tracker is None or not self._tracker.enabled else self._tracker.gauges()

    def tells(self, ability: Ability, subject: Any = None, *, ends: bool = False) -> bool:
        """Say whether this adapter itself records, or has just recorded, what papyra now says about *subject*.

        That is papyra's record of an actor, a dead letter, or None for an audit. With *ends*, that the actor ends,
        the answer holds beyond ``uninstall``: its end is recorded.
        """
        tracker = self._tracker
        if tracker is None or not tracker.enabled or ability not in self._able:
            return False
        if ability is Ability.DEAD_TARGET:
            return tracker.told(subject)
        return ability is Ability.AUDIT or tracker.follows(subject, ends=ends)

    def _learn(self, missing: list[str]) -> None:
        """Note what cannot be told for want of *missing* names, and warn once."""
        self._missing = tuple(sorted(set(missing)))
        self._able = frozenset(a for a, names in NEEDS.items() if not set(names) & set(self._missing))
        if self._tracker is not None:
            self._tracker.able = self._able
            self._tracker.unsupported = self.capabilities().unsupported()
        if lost := [
            ability.value for ability in CAPABILITIES if ability in NEEDS and ability not in self._able
        ]:
            _logger.warning(
                "papyra %s is not known to papyra_otel in full (no %s): not recorded: %s",
                _version(),
                ", ".join(self._missing),
                "; ".join(lost),
            )

    def _wired(self) -> tuple[Tracker, Callable[[str], None]]:
        """Return what wrappers work with, bound early: a wrapper serves the tracker it was made for."""
        if self._tracker is None:
            raise RuntimeError("wrappers are made by install()")
        return self._tracker, self._guard.failed

    # --- wrappers -------------------------------------------------------------------------------

    def _around(self, what: str, begins: str, ends: str | None) -> _Make:
        """Return a maker of async wrappers that call two methods of the tracker, by name, around the original."""
        tracker, failed = self._wired()
        begins_label, ends_label = f"papyra.{what}.begins", f"papyra.{what}.ends"

        def make(original: Callable[..., Any]) -> Callable[..., Any]:
            async def wrapper(*args: Any, **kwargs: Any) -> Any:
                token: Any = None
                try:
                    if tracker.enabled:
                        token = getattr(tracker, begins)(*args, **kwargs)
                except Exception:
                    failed(begins_label)
                if token is None or ends is None:
                    return await original(*args, **kwargs)
                try:
                    result = await original(*args, **kwargs)
                except BaseException as error:
                    try:
                        getattr(tracker, ends)(token, None, error, *args, **kwargs)
                    except Exception:
                        failed(ends_label)
                    raise
                try:
                    getattr(tracker, ends)(token, result, None, *args, **kwargs)
                except Exception:
                    failed(ends_label)
                return result

            return wrapper

        return make

    def _around_on_stop(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Let papyra see the actor through a window that notices what ``on_stop`` raises: papyra swallows it."""
        tracker, failed = self._wired()
        code = getattr(original, "__code__", None)
        if code is None or not set(code.co_names) <= {"actor", "on_stop", "Exception"}:
            return original  # it looks at more than that: leave it alone

        async def wrapper(self: Any, rt: Any) -> Any:
            seen = rt
            try:
                if tracker.enabled:
                    seen = _Window(tracker, failed, rt)
            except Exception:
                failed("papyra.on_stop")
            return await original(self, seen)

        return wrapper

    def _around_message(self, original: Callable[..., Any]) -> Callable[..., Any]:
        tracker, failed = self._wired()

        async def wrapper(self: Any, rt: Any, message: Any) -> Any:
            life = None
            try:
                if tracker.enabled:
                    life = tracker.lives.get(id(rt))
                    tracker.message_begins(rt, message)
            except Exception:
                failed("papyra.message.begins")
            if life is None:
                return await original(self, rt, message)
            began = perf_counter()
            try:
                result = await original(self, rt, message)
            except BaseException as error:
                try:
                    tracker.processed(life, message, perf_counter() - began, error)
                except Exception:
                    failed("papyra.message.ends")
                raise
            try:
                tracker.processed(life, message, perf_counter() - began, None, result)
            except Exception:
                failed("papyra.message.ends")
            return result

        return wrapper

    def _around_put(self, original: Callable[..., Any]) -> Callable[..., Any]:
        tracker, failed = self._wired()

        async def wrapper(self: Any, env: Any) -> Any:
            notes = None
            try:
                if tracker.enabled:
                    notes = tracker.put_begins(self, env)
            except Exception:
                failed("papyra.put.begins")
            try:
                return await original(self, env)
            except BaseException:
                if notes is not None:
                    try:
                        tracker.put_failed(notes, self, env)
                    except Exception:
                        failed("papyra.put.ends")
                raise

        return wrapper

    def _around_get(self, original: Callable[..., Any]) -> Callable[..., Any]:
        tracker, failed = self._wired()

        async def wrapper(self: Any) -> Any:
            try:
                if tracker.enabled:
                    tracker.get_begins(self)
            except Exception:
                failed("papyra.get")
            env = await original(self)
            try:
                if tracker.enabled:
                    tracker.got(self, env)
            except Exception:
                failed("papyra.get")
            return env

        return wrapper

    def _around_ask(self, original: Callable[..., Any]) -> Callable[..., Any]:
        from papyra.exceptions import AskTimeout, MailboxClosed  # noqa: PLC0415

        tracker, failed = self._wired()

        async def wrapper(self: Any, message: Any, *, timeout: float | None = None) -> Any:
            try:
                return await original(self, message, timeout=timeout)
            except (AskTimeout, MailboxClosed) as error:
                try:
                    if tracker.enabled and not _carried(error):
                        tracker.ask_failed(self, message, error, timeout)
                except Exception:
                    failed("papyra.ask")
                raise

        return wrapper

    def _around_push(self, original: Callable[..., Any]) -> Callable[..., Any]:
        tracker, failed = self._wired()

        def wrapper(self: Any, dl: Any) -> Any:
            try:
                if tracker.enabled:
                    tracker.pushed(self, dl)
            except Exception:
                failed("papyra.push")
            try:
                return original(self, dl)
            finally:
                try:
                    tracker.push_ends()
                except Exception:
                    failed("papyra.push.ends")

        return wrapper

    def _around_audit(self, original: Callable[..., Any]) -> Callable[..., Any]:
        tracker, failed = self._wired()

        def wrapper(self: Any, **kwargs: Any) -> Any:
            report = original(self, **kwargs)
            try:
                if tracker.enabled:
                    tracker.audited(self, report)
            except Exception:
                failed("papyra.audit")
            return report

        return wrapper


class _Window:
    """What ``_safe_on_stop`` sees of a runtime and its actor: ``rt.actor.on_stop()``."""

    __slots__ = ("_failed", "_on_stop", "_rt", "_tracker")

    def __init__(self, tracker: Tracker, failed: Callable[[str], None], rt: Any) -> None:
        self._on_stop = rt.actor.on_stop
        self._tracker = tracker
        self._failed = failed
        self._rt = rt

    @property
    def actor(self) -> _Window:
        return self

    async def on_stop(self) -> Any:
        try:
            return await self._on_stop()
        except Exception as error:
            try:
                self._tracker.on_stop_raised(self._rt, error)
            except Exception:
                self._failed("papyra.on_stop")
            raise


def _carried(error: BaseException) -> bool:
    """Say whether an answer brought *error*: then it was raised in another actor's loop, not by this ask."""
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_name == "_run_actor":
            return True
        trace = trace.tb_next
    return False


def _version() -> str | None:
    try:
        return metadata.version("papyra")
    except metadata.PackageNotFoundError:
        return None
