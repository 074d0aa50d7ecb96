"""Asking a cluster's control store (GCS) about the actors and the failed calls of one job.

Over ray's own protocol, and with time limits: it needs no dashboard, which ``ray.util.state`` does, and not ray's C++
client, which ends the whole process when the store stays away. Nothing that users have put into ray is fetched.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any, Final, NamedTuple

from papyra_otel.runtimes._ray_state import ActorSeen, Death, LostTask, type_name

__all__ = ["Cluster", "Losses", "incarnation_of", "missing_stubs"]

_SERVICES: Final = "ray.core.generated.gcs_service_pb2_grpc"
_MESSAGES: Final = "ray.core.generated.gcs_service_pb2"
_STUBS: Final = {
    "ActorInfoGcsServiceStub": ("GetAllActorInfo", "GetActorInfo"),
    "TaskInfoGcsServiceStub": ("GetTaskEvents",),
}
_SECONDS_MAX: Final = 2.0
_TASKS_MAX: Final = 10_000
_SUBMITTED_TO_WORKER: Final = 5
_ACTOR_TASK: Final = 2
_LOST: Final = ("ACTOR_DIED", "ACTOR_UNAVAILABLE")
_COUNTS_ATTEMPTS: Final = (2, 60)  # from here on a worker is told how often its actor began before


class Losses(NamedTuple):
    """Calls that failed for their actor's sake; *untold*: how many calls ray itself lost sight of, or did not list."""

    tasks: list[LostTask]
    untold: int


def missing_stubs() -> set[str]:
    """Return which calls of the control store this ray does not have."""
    services = import_module(_SERVICES)
    servicers = {name: getattr(services, name.replace("Stub", "Servicer"), None) for name in _STUBS}
    return {
        f"{name}.{call}"
        for name, calls in _STUBS.items()
        for call in calls
        if not hasattr(servicers[name], call)
    }


class Cluster:
    """The control store at *address*, asked about job *job_id* only. Thread-safe.

    Every question raises ``grpc.RpcError`` when there is no answer within two seconds.
    """

    def __init__(self, address: str, job_id: bytes) -> None:
        self._job_id = job_id
        self._messages: Any = import_module(_MESSAGES)
        services: Any = import_module(_SERVICES)
        self._channel: Any = import_module("ray._private.gcs_utils").create_gcs_channel(address)
        self._actors = services.ActorInfoGcsServiceStub(self._channel)
        self._tasks = services.TaskInfoGcsServiceStub(self._channel)

    def actors(self) -> list[ActorSeen]:
        """Return every actor of the job that the cluster remembers."""
        request = self._messages.GetAllActorInfoRequest()
        request.filters.job_id = self._job_id
        answer = self._actors.GetAllActorInfo(request, timeout=_SECONDS_MAX)
        return [_seen(data) for data in answer.actor_table_data if data.job_id == self._job_id]

    def restarts(self, actor_id: str) -> int:
        """Return how often the actor was restarted."""
        request = self._messages.GetActorInfoRequest(actor_id=bytes.fromhex(actor_id))
        return int(self._actors.GetActorInfo(request, timeout=_SECONDS_MAX).actor_table_data.num_restarts)

    def losses(self) -> Losses:
        """Return the calls of the job that failed because of their actor."""
        request = self._request()
        if _filters_are_lists(request.filters):
            request.filters.state_filters.add(state="FAILED", predicate=0)
        else:
            request.filters.state = "FAILED"
        answer = self._tasks.GetTaskEvents(request, timeout=_SECONDS_MAX)
        lost = (_lost(event) for event in answer.events_by_task)
        untold = answer.num_status_task_events_dropped + answer.num_truncated
        return Losses([task for task in lost if task is not None], untold)

    def last_attempt(self, task: LostTask) -> int:
        """Return the number of the last attempt of *task* that ray knows of."""
        request = self._request()
        if _filters_are_lists(request.filters):  # of which each must hold: one task at a time
            request.filters.task_filters.add(task_id=bytes.fromhex(task.id), predicate=0)
        else:
            request.filters.task_ids.append(bytes.fromhex(task.id))
        answer = self._tasks.GetTaskEvents(request, timeout=_SECONDS_MAX)
        return max((event.attempt_number for event in answer.events_by_task), default=task.attempt)

    def close(self) -> None:
        """Give up the connection."""
        self._channel.close()

    def _request(self) -> Any:
        request = self._messages.GetTaskEventsRequest(limit=_TASKS_MAX)
        request.filters.exclude_driver = True
        if _filters_are_lists(request.filters):
            request.filters.job_filters.add(job_id=self._job_id, predicate=0)
        else:
            request.filters.job_id = self._job_id
        return request


def incarnation_of(actor_id: str) -> int | None:
    """Return how often the actor of this process was restarted before; None if the cluster does not say so in time."""
    ray: Any = sys.modules["ray"]
    module: Any = sys.modules["ray._private.worker"]
    attempt = int(module.global_worker.core_worker.get_current_task_attempt_number())
    if attempt or _version(ray.__version__) >= _COUNTS_ATTEMPTS:
        return attempt
    cluster = Cluster(module.global_worker.gcs_client.address, b"")
    try:
        return cluster.restarts(actor_id)
    finally:
        cluster.close()


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdecimal())


def _filters_are_lists(filters: Any) -> bool:
    """Say whether each filter is a list of conditions, as it is since about 2.43."""
    return hasattr(filters, "state_filters")


def _seen(data: Any) -> ActorSeen:
    described = data.function_descriptor.python_function_descriptor
    states = data.DESCRIPTOR.enum_types_by_name["ActorState"].values_by_number
    return ActorSeen(
        id=data.actor_id.hex(),
        type=type_name(described.module_name, described.class_name or data.class_name),
        name=data.name or None,
        state=states[data.state].name,
        restarts=data.num_restarts,
        max_restarts=data.max_restarts,
        detached=data.is_detached,
        start_ms=data.start_time,
        end_ms=data.end_time,
        death=_death(data.death_cause) if data.HasField("death_cause") else None,
    )


def _death(cause: Any) -> Death:
    case = cause.WhichOneof("context")
    if case is None:
        return Death(cause="", text="")
    context = getattr(cause, case)
    text = str(getattr(context, "error_message", ""))
    if case != "actor_died_error_context":
        return Death(cause=case, text=text)
    reasons = context.DESCRIPTOR.enum_types_by_name["Reason"].values_by_number
    error: Exception = import_module("ray.exceptions").ActorDiedError(context)
    return Death(cause=reasons[context.reason].name, text=text, error=error)


def _lost(event: Any) -> LostTask | None:
    error_types = event.state_updates.error_info.DESCRIPTOR.fields_by_name["error_type"].enum_type
    error = error_types.values_by_number[event.state_updates.error_info.error_type].name
    if event.task_info.type != _ACTOR_TASK or error not in _LOST:
        return None
    return LostTask(
        id=event.task_id.hex(),
        attempt=event.attempt_number,
        actor=event.task_info.actor_id.hex(),
        method=event.task_info.func_or_class_name.rpartition(".")[2],
        error=error,
        sent=_SUBMITTED_TO_WORKER in event.state_updates.state_ts_ns,
    )
