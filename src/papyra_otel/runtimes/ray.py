"""ray (2.40 and later): actors in processes of their own, watched from inside and from the job's driver.

Needed of ray, all private: ``FunctionActorManager._make_actor_method_executor`` (calls, in the actor's process),
``worker.connect`` and ``worker.disconnect`` (a job's begin and end), ``Worker.get_objects`` (time-outs), and two
services of the control store. What is missing makes an ability "not supported", with one warning.

Who tells what (docs/decisions/0046): an actor's own process that it started, was restarted, handled a call, raised;
the driver, and only it, what became of its job's actors and of calls that were lost (``_ray_history``). Workers come to
record by the hook that ray runs in each of them (``ray_processes``); public functions of ``ray`` are never replaced,
because programs pickle them. Nothing here imports ray: it is wrapped when the application imports it.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib import util
from typing import Any

from wrapt import register_post_import_hook

from papyra_otel.pipeline.gauges import RuntimeGauges
from papyra_otel.pipeline.guard import Guard
from papyra_otel.recorder import Actor, AuditSnapshot, Recorder
from papyra_otel.runtimes._ray_calls import Calls
from papyra_otel.runtimes._ray_gcs import Cluster, missing_stubs
from papyra_otel.runtimes._ray_history import History
from papyra_otel.runtimes._ray_state import NEEDS, NOTES
from papyra_otel.runtimes._ray_watch import Watch
from papyra_otel.runtimes.adapter import Ability, RuntimeCapabilities, supported, warn_of_missing
from papyra_otel.runtimes.patches import Patches
from papyra_otel.runtimes.ray_processes import HOOK_TAKEN, with_hook

__all__ = ["RayAdapter"]

_logger = logging.getLogger("papyra_otel")

_MODULE = "ray"
_WORKER = "ray._private.worker"
_MANAGER = "ray._private.function_manager"


class RayAdapter:
    """Records what ray's actors do. See the module's text for how, and ``Adapter`` for the contract."""

    name = "ray"

    def __init__(
        self,
        recorder: Recorder,
        guard: Guard,
        system: str,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._recorder = recorder
        self._guard = guard
        self._system = system
        self._calls = Calls(recorder, guard, system, clock=clock)
        self._inherited: Mapping[str, str] | None = None
        self._on = False
        self._awaited = False  # the import hook is registered, which cannot be undone
        self._hooked: Any = None  # the module that is wrapped
        self._patches = Patches()
        self._missing: frozenset[str] = frozenset()
        self._watch: Watch | None = None

    # --- the contract ---------------------------------------------------------------------------

    def hand_down(self, inherited: Mapping[str, str]) -> None:
        """Take what workers need to record as this process does; without it they do not record."""
        self._inherited = inherited

    def capabilities(self) -> RuntimeCapabilities:
        """Return what can be told; once ray was imported, without what it lacks the hooks for."""
        return supported(self.name, NEEDS, missing=self._missing, notes=NOTES)

    def install(self) -> None:
        """Wrap what is needed of ray, now or when it is imported. Twice is once.

        Raises ModuleNotFoundError when it is not installed.
        """
        if self._on:
            return
        module = sys.modules.get(_MODULE)
        if module is None and util.find_spec(_MODULE) is None:
            message = f"No module named {_MODULE!r}"
            raise ModuleNotFoundError(message, name=_MODULE)
        self._on = True
        if module is not None:
            self._hook_into(module)
            self._join_running(module)
        elif not self._awaited:
            self._awaited = True
            register_post_import_hook(self._hook_when_imported, _MODULE)

    def uninstall(self) -> None:
        """Restore ray. Actors that run already go on recording in their own processes until they end."""
        self._on = self._calls.on = False
        self._hooked = None
        self._patches.undo()
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.end(job_ends=False)

    def gauges(self) -> Iterable[RuntimeGauges]:
        """Return how long the call that this process's actor handles runs by now."""
        longest = self._calls.longest_seconds()
        return (RuntimeGauges(system=self._system, longest_active_seconds=longest),) if longest else ()

    def audits(self) -> Iterable[AuditSnapshot]:
        """Return the state of the job's actors, in its driver; nothing elsewhere."""
        watch = self._watch
        snapshot = None if watch is None else watch.audit(self.capabilities().unsupported())
        return () if snapshot is None else (snapshot,)

    # --- hooking --------------------------------------------------------------------------------

    def _hook_when_imported(self, module: Any) -> None:
        if self._on:
            with self._guard("ray.import"):
                self._hook_into(module)

    def _hook_into(self, module: Any) -> None:
        if self._hooked is module:
            return
        worker: Any = sys.modules[_WORKER]
        manager: Any = sys.modules[_MANAGER]
        wraps = (
            (manager.FunctionActorManager, "_make_actor_method_executor", self._calls.around_factory),
            (worker, "connect", self._around_connect),
            (worker, "disconnect", self._around_disconnect),
            (worker.Worker, "get_objects", self._around_get),
        )
        for owner, name, make in wraps:
            self._patches.wrap(owner, name, make)
        absent = {name.removeprefix("ray._private.") for name in self._patches.missing} | missing_stubs()
        self._missing = frozenset(absent)
        self._hooked = module
        self._calls.on = True
        warn_of_missing(self.capabilities(), NEEDS, self._missing)

    def _join_running(self, module: Any) -> None:
        """Watch the job that this process is the driver of already; its workers cannot be reached any more."""
        worker: Any = sys.modules[_WORKER].global_worker
        if worker.connected and worker.mode == module.SCRIPT_MODE:
            _logger.warning("papyra_otel: ray.init() was called before recording began: %s", _NOT_INSIDE)
            with self._guard("ray.connected"):
                self._connected(worker)

    # --- a job ----------------------------------------------------------------------------------

    def _around_connect(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def connect(*args: Any, **kwargs: Any) -> Any:
            driver = False
            if self._on:
                try:
                    driver = self._is_driver(kwargs)
                    if driver:
                        kwargs = self._hooking(kwargs)
                except Exception:
                    self._guard.failed("ray.connect")
            result = original(*args, **kwargs)
            if driver and self._on:
                with self._guard("ray.connected"):
                    self._connected(sys.modules[_WORKER].global_worker)
            return result

        return connect

    @staticmethod
    def _is_driver(kwargs: dict[str, Any]) -> bool:
        serves_client = getattr(kwargs.get("job_config"), "_client_job", False)
        ray: Any = sys.modules[_MODULE]
        return kwargs.get("mode") == ray.SCRIPT_MODE and not serves_client

    def _hooking(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return *kwargs* so that the job's workers record."""
        inherited = self._inherited
        if inherited is None or inherited["log"].startswith("memory:"):
            _logger.warning("papyra_otel: a log in memory is of one process: %s", _NOT_INSIDE)
            return kwargs
        config = kwargs.get("job_config")
        if config is None:
            config = sys.modules["ray.job_config"].JobConfig()
        chosen = with_hook(config, inherited)
        if chosen is None:
            _logger.warning("papyra_otel: %s", HOOK_TAKEN)
            return kwargs
        return {**kwargs, "job_config": chosen}

    def _connected(self, worker: Any) -> None:
        ray: Any = sys.modules[_MODULE]
        version: str = ray.__version__
        self._tell(
            Ability.SYSTEM,
            lambda: self._recorder.system_started(self._system, runtime="ray", version=version),
        )
        if self._watch is not None or Ability.DECIDED not in self.capabilities().able:
            return
        cluster = Cluster(worker.gcs_client.address, worker.current_job_id.binary())
        watch = Watch(cluster, History(self._recorder, self._guard, self._system), self._guard)
        watch.start()
        self._watch = watch

    def _around_disconnect(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def disconnect(*args: Any, **kwargs: Any) -> Any:
            watch, self._watch = self._watch, None
            if watch is not None:
                with self._guard("ray.disconnect"):
                    watch.end(job_ends=True)
            result = original(*args, **kwargs)
            if watch is not None:
                self._tell(Ability.SYSTEM, lambda: self._recorder.system_stopped(self._system, runtime="ray"))
            return result

        return disconnect

    def _tell(self, ability: Ability, verb: Callable[[], None]) -> None:
        if self._on and ability in self.capabilities().able:
            with self._guard("ray.job"):
                verb()

    # --- time-outs ------------------------------------------------------------------------------

    def _around_get(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def get_objects(worker: Any, object_refs: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                return original(worker, object_refs, *args, **kwargs)
            except Exception as error:
                if self._on and type(error).__name__ == "GetTimeoutError":
                    with self._guard("ray.timed_out"):
                        self._timed_out(object_refs, kwargs.get("timeout", args[0] if args else None))
                raise

        return get_objects

    def _timed_out(self, object_refs: Iterable[Any], seconds: float | None) -> None:
        """Tell of each call whose answer is not there; only in a driver, where the actors are known."""
        watch = self._watch
        if watch is None:
            return
        refs = list(dict.fromkeys(object_refs))
        ray: Any = sys.modules[_MODULE]
        _, waiting = ray.wait(refs, num_returns=len(refs), timeout=0, fetch_local=False)
        for ref in waiting:
            actor_id = ref.task_id().actor_id()
            if not actor_id.is_nil():
                address: str = actor_id.hex()
                watch.when_known(address, partial(self._tell_timed_out, address, seconds or 0.0))

    def _tell_timed_out(self, address: str, seconds: float, actor: Actor | None) -> None:
        asked = actor or Actor(system=self._system, type="ray.actor.ActorHandle", address=address)
        self._recorder.ask_timed_out(asked, message_type="ray.ObjectRef", timeout_seconds=seconds)


_NOT_INSIDE = "what ray's workers do is not recorded, only what becomes of them"
