"""What becomes of a job's actors, told from what the cluster shows of them one look after another.

A look shows states, not events. How often an actor was restarted, that it is dead, and why, no look can miss; that an
actor *failed* is known for its last death only, because ray tells no cause while it restarts one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextvars import Context, copy_context
from dataclasses import dataclass, replace
from typing import Final

from papyra_otel.pipeline.guard import Guard
from papyra_otel.recorder import Actor, AuditSnapshot, Recorder
from papyra_otel.runtimes._ray_gcs import Losses
from papyra_otel.runtimes._ray_state import KIND, ActorSeen, Death, LostTask, is_told

__all__ = ["History"]

_GONE: Final = "DEAD"
_WAITING_MAX: Final = 1000
_BY_CAUSE: Final = {
    "RAY_KILL": "requested",
    "OUT_OF_SCOPE": "out_of_scope",
    "REF_DELETED": "out_of_scope",
    "OWNER_DIED": "parent",
}
_CRASHES: Final = frozenset({"WORKER_DIED", "NODE_DIED", "oom_context"})
_NEVER_STARTED: Final = frozenset(
    {"creation_task_failure_context", "runtime_env_failed_context", "actor_unschedulable_context"}
)


@dataclass(slots=True)
class _Told:
    """How much of one actor is told."""

    restarts: int = 0
    gone: bool = False


@dataclass(frozen=True, slots=True)
class _Waiting:
    """What is to be told of an actor that no look has shown yet, in the context it was said in."""

    actor_id: str
    tell: Callable[[Actor | None], None]
    context: Context
    looks: int = 0


class History:
    """Turns looks at one job into facts, each once. Used by one thread at a time; forgets what ray forgets.

    Only ``when_known`` and ``who`` may be called by any thread.
    """

    def __init__(self, recorder: Recorder, guard: Guard, system: str) -> None:
        self._recorder = recorder
        self._guard = guard
        self._system = system
        self._told: dict[str, _Told] = {}
        self._seen: dict[str, ActorSeen] = {}
        self._letters: dict[tuple[str, int], bool] = {}  # of failed calls: whether nothing more is to be done
        self._waiting: deque[_Waiting] = deque()
        self._dead_letters = 0
        self.untold = 0
        self.silence = ""  # why the cluster did not answer lately
        self._ended = False

    def who(self, actor_id: str) -> Actor | None:
        """Return the actor of this id, None when no look has shown it yet."""
        seen = self._seen.get(actor_id)
        return None if seen is None else self._actor(seen)

    def when_known(self, actor_id: str, tell: Callable[[Actor | None], None]) -> None:
        """Call *tell* with the actor of this id: at once if a look has shown it, else in the next looks' thread.

        With None when two more looks have not shown it, or when too much waits.
        """
        actor = self.who(actor_id)
        if actor is not None or len(self._waiting) >= _WAITING_MAX:
            tell(actor)
        else:
            self._waiting.append(_Waiting(actor_id, tell, copy_context()))

    def tell_waiting(self, shown: Mapping[str, ActorSeen] | None = None) -> None:
        """Tell what waits for actors that are *shown* now; without a look, all of it."""
        for _ in range(len(self._waiting)):
            waiting = self._waiting.popleft()
            seen = (self._seen if shown is None else shown).get(waiting.actor_id)
            if seen is None and shown is not None and waiting.looks == 0:
                self._waiting.append(replace(waiting, looks=1))  # this look may have begun before the actor
                continue
            with self._guard("ray.timed_out"):
                waiting.context.run(waiting.tell, None if seen is None else self._actor(seen))

    def may_have_losses(self) -> bool:
        """Say whether any actor's process has ended: no call is lost before."""
        return any(seen.state == _GONE or seen.restarts for seen in self._seen.values())

    # --- actors -----------------------------------------------------------------------------------

    def look(self, actors: Iterable[ActorSeen]) -> None:
        """Tell what happened since the last look."""
        shown = {actor.id: actor for actor in actors}
        self.tell_waiting(shown)  # first: it was before whatever this look shows
        for actor in shown.values():
            with self._guard("ray.look"):
                self._look_at(actor)
        self._seen = shown
        self._told = {actor_id: told for actor_id, told in self._told.items() if actor_id in shown}

    def end(self) -> None:
        """Tell that the job ends, and with it every actor that is not detached. A second time does nothing."""
        if self._ended:
            return
        self._ended = True
        for actor in self._seen.values():
            if not (self._told.setdefault(actor.id, _Told()).gone or actor.detached):
                with self._guard("ray.end"):
                    self._stopped(actor, "system_shutdown")

    def _look_at(self, actor: ActorSeen) -> None:
        told = self._told.setdefault(actor.id, _Told())
        if told.gone:
            return
        self._tell_restarts(actor, told)
        if actor.state == _GONE:
            told.gone = True
            self._tell_death(actor, actor.death or Death(cause="", text=""))

    def _tell_restarts(self, actor: ActorSeen, told: _Told) -> None:
        """Tell of each restart once its outcome shows: the actor lives, is restarted again, or is dead."""
        settled = actor.restarts if actor.state in {"ALIVE", _GONE} else actor.restarts - 1
        failed = actor.state == _GONE and actor.death is not None and actor.death.cause in _NEVER_STARTED
        while told.restarts < settled:
            told.restarts += 1
            last = told.restarts == actor.restarts
            self._decided(
                actor, "restart", "restart_failed" if failed and last else "restarted", told.restarts
            )

    def _tell_death(self, actor: ActorSeen, death: Death) -> None:
        if death.cause in _NEVER_STARTED:
            if death.cause != "creation_task_failure_context":  # of that, its own process has told
                self._crashed(actor, death, "start")
            self._decided(actor, "stop", "stopped", actor.restarts)
            self._stopped(actor, "start_failed")
        elif death.cause in _CRASHES and "INTENDED_USER_EXIT" in death.text:
            self._stopped(actor, "self")
        elif death.cause in _CRASHES and "INTENDED_SYSTEM_EXIT" not in death.text:
            self._crashed(actor, death, "receive")
            exhausted = 0 < actor.max_restarts <= actor.restarts
            directive, outcome = ("restart", "restart_limit_exceeded") if exhausted else ("stop", "stopped")
            self._decided(actor, directive, outcome, actor.restarts)
            self._stopped(actor, "restart_limit" if exhausted else "supervision")
        else:
            self._stopped(actor, _BY_CAUSE.get(death.cause, "unknown"))

    def _crashed(self, actor: ActorSeen, death: Death, phase: str) -> None:
        error = death.error or RuntimeError(death.text or death.cause)
        self._recorder.crashed(self._actor(actor), error, phase=phase, incarnation=actor.restarts)

    def _decided(self, actor: ActorSeen, directive: str, outcome: str, restarts: int) -> None:
        self._recorder.decided(
            self._actor(actor),
            directive=directive,
            source="policy",
            outcome=outcome,
            restart_count=restarts,
            restart_limit=actor.max_restarts if actor.max_restarts >= 0 else None,
        )

    def _stopped(self, actor: ActorSeen, reason: str) -> None:
        lived = (actor.end_ms - actor.start_ms) / 1000 if actor.start_ms and actor.end_ms else None
        self._recorder.stopped(
            self._actor(actor),
            reason=reason,
            lifetime_seconds=lived,
            incarnation=actor.restarts,
            was_started=False,  # counted where it was started: in its own process, which is gone
        )

    def _actor(self, seen: ActorSeen) -> Actor:
        return Actor(system=self._system, type=seen.type, address=seen.id, name=seen.name)

    # --- lost calls -------------------------------------------------------------------------------

    def candidates(self, losses: Losses) -> tuple[list[LostTask], list[LostTask]]:
        """Return the calls among *losses* that are new, and those that were new the last time.

        What is new may yet be tried again by ray, which shows a little later.
        """
        self.untold = losses.untold
        keys = {(task.id, task.attempt) for task in losses.tasks}
        self._letters = {key: done for key, done in self._letters.items() if key in keys}
        told = [task for task in losses.tasks if is_told(task.method)]
        new = [task for task in told if (task.id, task.attempt) not in self._letters]
        due = [task for task in told if self._letters.get((task.id, task.attempt)) is False]
        self._letters.update(dict.fromkeys(((task.id, task.attempt) for task in new), False))
        return new, due

    def settle(self, task: LostTask, last_attempt: int) -> None:
        """Tell of *task* unless it was tried again."""
        self._letters[task.id, task.attempt] = True
        if task.attempt >= last_attempt:
            with self._guard("ray.lost"):
                self._tell_lost(task)

    def _tell_lost(self, task: LostTask) -> None:
        reason = "undrained" if task.sent else "actor_stopped"
        if task.error == "ACTOR_UNAVAILABLE":
            reason = "unknown"
        unseen = Actor(system=self._system, type="ray.actor.ActorHandle", address=task.actor)
        self._dead_letters += 1
        self._recorder.dead_letter(
            self.who(task.actor) or unseen, message_type=task.method, reason=reason, kind=KIND
        )

    # --- audits -----------------------------------------------------------------------------------

    def audit(self, unsupported: tuple[str, ...]) -> AuditSnapshot:
        """Return what the last look showed."""
        living = [actor for actor in self._seen.values() if actor.state != _GONE]
        reasons = [f"the cluster does not answer: {self.silence}"] if self.silence else []
        if self.untold:
            reasons.append(f"ray does not tell of {self.untold} calls: dead letters may be missing")
        return AuditSnapshot(
            system=self._system,
            actors_total=len(living),
            actors_alive=sum(actor.state == "ALIVE" for actor in living),
            actors_restarting=sum(actor.state == "RESTARTING" for actor in living),
            registry_size=sum(actor.name is not None for actor in living),
            dead_letters=self._dead_letters,
            reasons=reasons,
            unsupported=unsupported,
        )
