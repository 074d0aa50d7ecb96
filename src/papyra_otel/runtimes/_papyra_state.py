"""What is known about papyra's running actors, and what its happenings mean: no patching here.

Methods come in pairs named after papyra's own: ``*_begins`` before, ``*_ends`` after. A begin returns
a token for its end, or None when there is nothing to end. Runtimes (``rt``) and systems are papyra's.
What papyra does to one actor it may do in another actor's task (a child that escalates restarts its
parent there): so whatever is nested is looked up by task.
"""

# ruff: noqa: SLF001 - papyra tells little in public; which private names are read is listed in the adapter

from __future__ import annotations

import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any

import anyio

from papyra_otel.runtimes._papyra_lives import (
    UNKNOWN,
    Failure,
    Life,
    Restart,
    Start,
    innermost,
    remove,
    running,
    task_id,
)
from papyra_otel.runtimes._papyra_messages import Messages
from papyra_otel.runtimes.adapter import Ability

__all__ = ["Tracker"]


class Tracker(Messages):
    """Follows papyra's actors and speaks to the recorder."""

    def _say(
        self, ability: Ability, verb: Callable[..., None], life: Life, *args: Any, **detail: Any
    ) -> None:
        """Record one fact; if that fails, what is known about the actor stays right all the same."""
        if (self.enabled or life.relied_upon) and ability in self.able:
            try:
                verb(life.actor(), *args, **detail)
            except Exception:
                self._guard.failed(f"papyra.{verb.__name__}")

    def follows(self, rt: Any, *, ends: bool) -> bool:
        """Say whether the facts of this actor come from here; with *ends*, its last one then does in any case."""
        life = self.lives.get(id(rt))
        if life is not None and ends:
            life.relied_upon = True
        return life is not None

    # --- the system -----------------------------------------------------------------------------

    def start_begins(self, system: Any) -> bool | None:
        """Before ``ActorSystem.start``; a token only if it may really start."""
        return True if system._tg is None else None

    def start_ends(self, _: bool, __: Any, error: BaseException | None, system: Any) -> None:
        """After ``ActorSystem.start``."""
        state = self._state(system)
        if error is None and system._tg is not None and not state.announced:
            state.announced = True
            if self.enabled and Ability.SYSTEM in self.able:
                self._recorder.system_started(state.id, runtime="papyra", version=self.version)

    def aclose_begins(self, system: Any) -> bool | None:
        """Before ``ActorSystem.aclose``; a token only for the call that closes."""
        return None if system._closed else True

    def aclose_ends(self, _: bool, __: Any, ___: BaseException | None, system: Any) -> None:
        """After ``ActorSystem.aclose``, however it went: a closed system never runs again."""
        state = self._state(system)
        for rt in list(system._actors):
            self._early.pop(id(rt.mailbox), None)
            if id(rt) not in self.lives:  # never ran, or ended already: looked at once more
                with self._guard("papyra.undrained"):
                    self._left_behind(state, system, rt)
        if self.enabled and state.announced and Ability.SYSTEM in self.able:
            self._recorder.system_stopped(state.id, runtime="papyra")

    # --- an actor's life ------------------------------------------------------------------------

    def run_begins(self, system: Any, rt: Any) -> Life:
        """Before ``_run_actor``."""
        life = Life(self._state(system), rt)
        early = life.system.early.pop(rt.rid, None)
        life.reason = early if rt.stopping else None
        self.lives[id(rt)] = life
        self._mailboxes[id(rt.mailbox)] = life
        self._take_early(life)
        return life

    def run_ends(self, life: Life, _: Any, error: BaseException | None, system: Any, rt: Any) -> None:
        """After ``_run_actor``, in whichever way: forget the actor."""
        self.lives.pop(id(rt), None)
        self._mailboxes.pop(id(rt.mailbox), None)
        self._leave(life)
        with self._guard("papyra.undrained"):
            self._left_behind(life.system, system, rt)
        reason = life.reason or _reason_of_end(system, life, error)
        self._say(
            Ability.LIFECYCLE,
            self._recorder.stopped,
            life,
            reason=reason,
            lifetime_seconds=perf_counter() - life.began,
            incarnation=life.incarnation,
            was_started=life.started,
        )

    def on_start_begins(self, _: Any, rt: Any) -> Start | None:
        """Before ``_safe_on_start``."""
        life = self.lives.get(id(rt))
        if life is None:
            return None
        restart = innermost(life.restarts)
        start = Start(first=restart is None)
        if restart is not None and restart.start is None:
            restart.start = start
            life.incarnation += 1
            restart.incarnation = life.incarnation
        life.starts.append(start)
        return start

    def on_start_ends(self, start: Start, _: Any, error: BaseException | None, __: Any, rt: Any) -> None:
        """After ``_safe_on_start``. It may have failed and been restarted within: then it is ready too."""
        life = self.lives[id(rt)]
        remove(life.starts, start)
        if not start.failed:
            life.ready = error is None
            life.start_failed = False
            if error is not None and not _cancelled(error):  # SystemExit and the like pass papyra's own fence
                life.start_failed = True
                self._crashed(life, error, "start")
        if start.first and error is None and life.ready and not (start.failed and life.ending):
            life.started = True
            self._say(Ability.LIFECYCLE, self._recorder.started, life, incarnation=life.incarnation)

    def on_stop_raised(self, rt: Any, error: Exception) -> None:
        """``on_stop`` raised; papyra is about to swallow that."""
        life = self.lives.get(id(rt))
        if life is not None:
            self._crashed(life, error, "stop")

    def _crashed(self, life: Life, error: BaseException, phase: str) -> None:
        self._say(
            Ability.CRASHED, self._recorder.crashed, life, error, phase=phase, incarnation=life.incarnation
        )

    # --- who stops it ---------------------------------------------------------------------------

    def stop_begins(self, system: Any, ref: Any) -> Life | None:
        """Before ``ActorSystem.stop``: asked for by the actor's own task, or by anybody else."""
        rt = _stoppable(system, ref)
        if rt is None:
            return None
        life = self.lives.get(id(rt))
        mine = life is not None and life.task == task_id() and innermost(life.failures) is None
        return self._expect(system, rt, "self" if mine else "requested")

    def stop_self_begins(self, context: Any) -> Life | None:
        """Before ``ActorContext.stop_self``: wherever that is called from, it is the actor's own wish."""
        rt = _stoppable(context.system, context.self_ref)
        return None if rt is None else self._expect(context.system, rt, "self")

    def stop_runtime_begins(self, system: Any, rt: Any, *, _seen: Any = None) -> Life | None:
        """Before ``_stop_runtime``, through which every stop goes: why, unless that is known already."""
        if not running(rt):
            return None
        life = self.lives.get(id(rt))
        above = None if rt.parent is None else self.lives.get(id(rt.parent))
        if system._closed:
            reason = "system_shutdown"
        elif life is not None and (failure := innermost(life.failures)):
            reason = failure.stop_reason
        elif _seen is not None or (above is not None and innermost(above.failures)):
            reason = "parent"
        else:
            reason = "requested"
        return self._expect(system, rt, reason)

    def _expect(self, system: Any, rt: Any, reason: str) -> Life | None:
        """Note why an actor is going to end, unless that is known; return its life if it was not."""
        life = self.lives.get(id(rt))
        if life is None:  # it has not begun yet
            self._state(system).early.setdefault(rt.rid, reason)
            return None
        if life.reason is not None:
            return None
        life.reason = reason
        return life

    def stop_ends(self, life: Life, *_: Any, **__: Any) -> None:
        """After any of the three: cut short before the actor was told to stop, it was no reason."""
        if not life.ending:
            life.reason = None

    # --- failures -------------------------------------------------------------------------------

    def failure_begins(self, system: Any, rt: Any, error: BaseException) -> Failure | None:
        """Before ``_handle_failure``: a failure of this actor, or a descendant's that was passed up."""
        passed_up = [
            failure
            for child in rt.children
            if (below := self.lives.get(id(child))) is not None
            and (failure := innermost(below.failures)) is not None
            and failure.error is error
        ]
        for failure in passed_up:
            failure.escalated = True
        life = self.lives.get(id(rt))
        if life is None:
            return None
        stop_reason = "supervision"
        if not passed_up:
            cause, phase = self._cause(life, error)
            if _cancelled(cause):
                life.reason = life.reason or "system_shutdown"
                return None
            stop_reason = "start_failed" if phase == "start" else stop_reason
            self._crashed(life, cause, phase)
            if phase == "reply":
                self._late_reply(life, stopping=bool(system._closed))
        if rt.stopping:  # papyra decides nothing then
            return None
        opened = Failure(error, str(getattr(rt.policy.strategy, "value", "stop")), stop_reason)
        life.failures.append(opened)
        return opened

    def _late_reply(self, life: Life, *, stopping: bool) -> None:
        """Tell of an answer to somebody who has given up: papyra takes that for a failure of who answered."""
        if life.answered is not None:
            (kind, answer), life.answered = life.answered, None
            detail = {"message": answer, "reason": "late_reply", "kind": kind, "stopping": stopping}
            self._say(Ability.LATE_REPLY, self._recorder.dead_letter, life, **detail)

    @staticmethod
    def _cause(life: Life, error: BaseException) -> tuple[BaseException, str]:
        if error is life.raised:
            return error, "receive"
        start = innermost(life.starts)
        if start is None or start.failed:
            return error, "reply"
        start.failed = life.start_failed = True
        life.ready = False
        return sys.exc_info()[1] or error, "start"  # papyra hands on a RuntimeError of its own

    def decision_begins(self, _: Any, rt: Any, decision: Any, error: BaseException) -> None:
        """Before ``_apply_supervisor_decision``: the parent has spoken."""
        life = self.lives.get(id(rt))
        failure = None if life is None else innermost(life.failures)
        if failure is not None and failure.error is error:
            failure.source = "parent"
            failure.directive = decision.value if isinstance(decision, self._names.decision) else "stop"

    def restart_begins(self, _: Any, rt: Any) -> Restart | None:
        """Before ``_restart_actor``."""
        life = self.lives.get(id(rt))
        if life is None:
            return None
        restart = Restart()
        if failure := innermost(life.failures):
            failure.restart = restart
        life.restarts.append(restart)
        return restart

    def limits_begins(self, _: Any, rt: Any) -> Restart | None:
        """Before ``_check_restart_limits``."""
        life = self.lives.get(id(rt))
        return None if life is None else innermost(life.restarts)

    def limits_ends(self, restart: Restart, allowed: Any, error: BaseException | None, *_: Any) -> None:
        """After ``_check_restart_limits``."""
        restart.refused = error is None and not allowed

    def restart_ends(self, restart: Restart, _: Any, error: BaseException | None, __: Any, rt: Any) -> None:
        """After ``_restart_actor``: what came of it."""
        life = self.lives[id(rt)]
        remove(life.restarts, restart)
        if restart.refused:
            restart.outcome = "restart_limit_exceeded"
            life.reason = life.reason or "restart_limit"
        elif error is None and restart.start is not None and not restart.start.failed:
            restart.outcome = "restarted"
            self._say(Ability.RESTARTED, self._recorder.restarted, life, incarnation=restart.incarnation)
        else:
            restart.outcome = "restart_failed"
            if error is not None and restart.start is None and not _cancelled(error):
                life.start_failed = True  # the factory raised; papyra lets that take the whole system down
                self._crashed(life, error, "start")

    def failure_ends(
        self, failure: Failure, _: Any, __: BaseException | None, ___: Any, rt: Any, error: BaseException
    ) -> None:
        """After ``_handle_failure``: what was decided, and what came of it."""
        life = self.lives[id(rt)]
        remove(life.failures, failure)
        if life.raised is error:
            life.raised = None
        if life.ending and life.reason is None:
            life.reason = failure.stop_reason
        outcome = _outcome(failure, life)
        if outcome is None:  # cut short before anything was decided
            return
        detail: dict[str, Any] = {}
        if failure.directive == "restart":
            detail = {
                "restart_count": len(rt.restart_timestamps),
                "restart_limit": rt.policy.max_restarts,
                "restart_window_seconds": rt.policy.within_seconds,
            }
        self._say(
            Ability.DECIDED,
            self._recorder.decided,
            life,
            directive=failure.directive,
            source=failure.source,
            outcome=outcome,
            **detail,
        )


def _stoppable(system: Any, ref: Any) -> Any:
    """Return the runtime that ``ActorSystem.stop`` is going to stop, or None."""
    rid = getattr(ref, "_rid", None)
    rt = system._by_id.get(rid) if isinstance(rid, int) and not system._closed else None
    return rt if rt is not None and running(rt) else None


def _reason_of_end(system: Any, life: Life, error: BaseException | None) -> str:
    """Return why an actor ended that nobody was seen to stop."""
    if life.start_failed:
        return "start_failed"
    if system._closed or (
        error is not None and not isinstance(error, (Exception, SystemExit, KeyboardInterrupt))
    ):
        return "system_shutdown"  # or cancelled: its task lives in its system's task group
    return UNKNOWN


def _outcome(failure: Failure, life: Life) -> str | None:
    if failure.directive == "restart":
        return failure.restart.outcome if failure.restart is not None else None
    if failure.escalated:
        return "escalated"
    if not life.ending:
        return None
    return "ignored" if failure.directive == "ignore" else "stopped"


def _cancelled(error: BaseException) -> bool:
    """Say whether *error* is this task's own cancellation: no failure, then."""
    if isinstance(error, (Exception, SystemExit, KeyboardInterrupt)):
        return False
    if isinstance(error, GeneratorExit):
        return True
    return (
        isinstance(error, anyio.get_cancelled_exc_class())
        and anyio.get_current_task().has_pending_cancellation()
    )
