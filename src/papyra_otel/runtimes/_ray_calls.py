"""What an actor does, seen in its own process: the executor that ray makes of each method is watched.

One process has one actor, whose state is here, so its facts are told here: started, restarted, every call, every
exception. Whoever reads ``executor.name`` and ``executor.method`` (ray's task loop does) finds those of the original.
"""

from __future__ import annotations

import functools
import inspect
import sys
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from typing import Any

from papyra_otel.config import SpanMode
from papyra_otel.pipeline.guard import Guard
from papyra_otel.recorder import Actor, Recorder
from papyra_otel.runtimes._ray_gcs import incarnation_of
from papyra_otel.runtimes._ray_state import KIND, is_told, type_name
from papyra_otel.runtimes.tracing import Tracing, context_from

__all__ = ["Calls"]

_INIT = "__init__"
_CARRIED = "_ray_trace_ctx"  # what ray's own tracing adds to the arguments


class _Call:
    """One call under way. *carrier* is what ray's own tracing brought along."""

    __slots__ = ("actor", "began_seconds", "carrier", "method")

    def __init__(self, actor: Actor, method: str, began_seconds: float, carrier: Any) -> None:
        self.actor = actor
        self.method = method
        self.began_seconds = began_seconds
        self.carrier = carrier


class Calls:
    """Watches the calls that actors handle in this process, while *on*. Thread-safe, and never raises."""

    def __init__(
        self,
        recorder: Recorder,
        guard: Guard,
        system: str,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.on = False
        self._recorder = recorder
        self._guard = guard
        self._system = system
        self._clock = clock  # seconds, monotonic
        self._under_way: dict[int, _Call] = {}
        self._known: tuple[Any, Actor] | None = None  # the actor of this process
        self._incarnation: int | None = None
        self._tracing = Tracing(SpanMode.OFF, "ray", told=KIND)

    def longest_seconds(self) -> dict[str, float]:
        """Return how long the longest call runs by now, by actor type; 0 where the actor is idle."""
        now, known = self._clock(), self._known
        longest = {} if known is None else {known[1].type: 0.0}
        for call in list(self._under_way.values()):
            longest[call.actor.type] = max(longest.get(call.actor.type, 0.0), now - call.began_seconds)
        return longest

    def around_factory(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap ``FunctionActorManager._make_actor_method_executor``."""

        def make_executor(*args: Any, **kwargs: Any) -> Any:
            executor = original(*args, **kwargs)
            if self.on:
                try:
                    if is_told(executor.name):
                        return self._watched(executor)
                except Exception:
                    self._guard.failed("ray.executor")
            return executor

        return make_executor

    def _watched(self, executor: Callable[..., Any]) -> Callable[..., Any]:
        name: str = executor.name  # type: ignore[attr-defined] # set by ray

        @functools.wraps(executor)  # copies name and method, too
        def actor_method_executor(actor: Any, *args: Any, **kwargs: Any) -> Any:
            call = self._begun(actor, name, kwargs) if self.on else None
            if call is None:
                return executor(actor, *args, **kwargs)
            try:
                result = executor(actor, *args, **kwargs)
            except BaseException as error:
                self._ended(call, error)
                raise
            lasting = self._lasting(call, result)
            if lasting is not None:
                return lasting
            self._ended(call)
            return result

        return actor_method_executor

    def _lasting(self, call: _Call, result: object) -> Any:
        """Return what runs *result* when that is done only later, None when the call has ended."""
        lasting: Any = None
        if inspect.iscoroutine(result):
            lasting = self._awaited(call, result)
        elif inspect.isgenerator(result):
            lasting = self._generated(call, result)
        elif inspect.isasyncgen(result):
            lasting = self._generated_async(call, result)
        if lasting is not None:
            self._under_way.pop(id(call), None)  # until it runs
        return lasting

    async def _awaited(self, call: _Call, running: Coroutine[Any, Any, Any]) -> Any:
        self._resumed(call)
        try:
            result = await running
        except BaseException as error:
            self._ended(call, error)
            raise
        self._ended(call)
        return result

    def _generated(self, call: _Call, running: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        self._resumed(call)
        try:
            result = yield from running
        except BaseException as error:
            self._ended(call, error)
            raise
        self._ended(call)
        return result

    async def _generated_async(
        self, call: _Call, running: AsyncGenerator[Any, Any]
    ) -> AsyncGenerator[Any, Any]:
        self._resumed(call)
        try:
            async for item in running:
                yield item
        except BaseException as error:
            await running.aclose()
            self._ended(call, error)
            raise
        self._ended(call)

    # --- telling ------------------------------------------------------------------------------------

    def _begun(self, actor: Any, method: str, kwargs: dict[str, Any]) -> _Call | None:
        try:
            call = _Call(self._who(actor), method, self._clock(), kwargs.get(_CARRIED))
            self._under_way[id(call)] = call
        except Exception:
            self._guard.failed("ray.begun")
            return None
        return call

    def _resumed(self, call: _Call) -> None:
        call.began_seconds = self._clock()
        self._under_way[id(call)] = call

    def _ended(self, call: _Call, error: BaseException | None = None) -> None:
        self._under_way.pop(id(call), None)
        if not self.on:
            return
        try:
            seconds = self._clock() - call.began_seconds
            sender = context_from(call.carrier) if call.carrier else None
            handling = self._tracing.begin(sender, call.actor, None, asked=True)
            try:
                self._tell(call, seconds, None if _is_leaving(error) else error)
            finally:
                if handling is not None:
                    self._tracing.leave(handling)
        except Exception:
            self._guard.failed("ray.ended")

    def _tell(self, call: _Call, seconds: float, error: BaseException | None) -> None:
        if call.method == _INIT:
            self._tell_start(call.actor, error)
            return
        self._recorder.processed(
            call.actor, message_type=call.method, kind=KIND, duration_seconds=seconds, error=error
        )
        if isinstance(error, Exception):
            self._recorder.crashed(call.actor, error, phase="receive", incarnation=self._incarnation)

    def _tell_start(self, actor: Actor, error: BaseException | None) -> None:
        incarnation: int | None = None
        with self._guard("ray.incarnation"):
            incarnation = incarnation_of(actor.address)
        if error is not None:
            self._recorder.crashed(actor, error, phase="start", incarnation=incarnation)
        elif incarnation:
            self._recorder.restarted(actor, incarnation=incarnation)
        else:
            self._recorder.started(actor, incarnation=incarnation)
        self._incarnation = incarnation

    def _who(self, actor: Any) -> Actor:
        known = self._known
        if known is not None and known[0] is actor:
            return known[1]
        worker = sys.modules["ray._private.worker"].global_worker
        name = worker.core_worker.get_actor_name()
        who = Actor(
            system=self._system,
            type=type_name(type(actor).__module__, type(actor).__name__),
            address=worker.actor_id.hex(),
            name=name.decode() if isinstance(name, bytes) and name else None,
        )
        self._known = (actor, who)
        return who


def _is_leaving(error: BaseException | None) -> bool:
    """Say whether *error* is how a method ends its actor in order: ``exit_actor()``, or exit code 0."""
    if isinstance(error, SystemExit):
        return error.code in {None, 0}
    return type(error).__name__ == "AsyncioActorExit"
