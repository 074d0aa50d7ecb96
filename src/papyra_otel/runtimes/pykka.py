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
from collections.abc import Callable, Iterable
from typing import Any

from papyra_otel.pipeline.gauges import RuntimeGauges
from papyra_otel.pipeline.guard import Guard
from papyra_otel.recorder import AuditSnapshot, Recorder, qualified_name
from papyra_otel.runtimes._pykka_actors import Actors
from papyra_otel.runtimes._pykka_state import ACTOR_REFS, NEEDS, NOTES, Never, stamped_envelope
from papyra_otel.runtimes.adapter import Ability, RuntimeCapabilities, supported
from papyra_otel.runtimes.patches import Patches

__all__ = ["PykkaAdapter"]

_logger = logging.getLogger("papyra_otel")


class PykkaAdapter(Actors):
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
        self._patches = Patches()
        self._missing: frozenset[str] = frozenset()
        self._tells_ages = True
        self._registry: Any = None

    # --- the contract ---------------------------------------------------------------------------

    def capabilities(self) -> RuntimeCapabilities:
        """Return what can be told; after ``install`` without what this pykka lacks the hooks for."""
        return supported(self.name, NEEDS, missing=self._missing, notes=NOTES)

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
        listed: list[Any] | None = getattr(self._registry, ACTOR_REFS, None)
        refs: list[Any] = list(listed or ())
        depths: dict[str, list[int]] = {}
        dead = 0
        for ref in refs:
            with self._guard("pykka.gauges"):
                dead += not ref.is_alive() or ref.actor_stopped in self._finished
                qsize: Any = getattr(ref.actor_inbox, "qsize", None)
                if qsize is not None:
                    depths.setdefault(qualified_name(ref.actor_class), []).append(qsize())
        now, longest = self._clock(), dict.fromkeys(depths if self._tells_ages else (), 0.0)
        for state in list(self._states.values()):
            if (since := state.active_since) is not None:
                longest[state.actor.type] = max(longest.get(state.actor.type, 0.0), now - since)
        return (
            RuntimeGauges(
                system=self._system,
                mailbox_depths=depths,
                longest_active_seconds=longest,
                registry_entries={} if listed is None else {"ok": len(refs) - dead, "dead": dead},
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
        self._actor_type = pykka.Actor
        patches.wrap(pykka.ActorRegistry, "stop_all", self._around_stop_all)
        patches.wrap(pykka.ActorRegistry, "broadcast", self._around_broadcast)
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
        self._tells_late = Ability.LATE_REPLY in able
        self._tells_nobody = Ability.NO_SUBSCRIBER in able
        self._tells_ages = Ability.ACTIVE_AGE in able
        self._traces = Ability.TRACE_CONTEXT in able
        if self._missing:
            lost = ", ".join(ability.value for ability in NEEDS if ability not in able)
            _logger.warning(
                "papyra_otel: this pykka has no %s; not recorded: %s", ", ".join(sorted(self._missing)), lost
            )

    def _stamped(self, base: Any) -> Any:
        self._envelope_type = stamped_envelope(
            base,
            asking=self._asking,
            asked=self._asked,
            shutting=self._shutting,
            clock=self._clock,
            guard=self._guard,
        )
        return self._envelope_type
