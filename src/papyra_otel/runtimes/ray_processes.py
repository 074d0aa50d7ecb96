"""Which processes are ray's, and how those that run actors learn that they are to record.

Ray starts its own processes and the workers; none of them runs the program's ``__main__``. What a worker is to do when
it starts, ray lets a job say: ``worker_process_setup_hook``. Ours is added to the job's, where there is one.
"""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

__all__ = ["HOOK_TAKEN", "belongs_to_ray", "with_hook"]

_RAYS_OWN: Final = re.compile(r"[/\\]ray[/\\](?:_private|autoscaler|dashboard|util[/\\]client)[/\\].*\.py$")
_HOOK: Final = "worker_process_setup_hook"
_VARIABLE: Final = "__RAY_WORKER_PROCESS_SETUP_HOOK_ENV_VAR"

HOOK_TAKEN: Final = (
    "ray: this job's workers already start by a hook that was set outside of the program, and ray takes but one; "
    "what they do is not recorded. Set worker_process_setup_hook in ray.init(runtime_env=...) instead."
)


def belongs_to_ray(arguments: Sequence[str] | None = None) -> bool:
    """Say whether this process (or one with these *arguments*) is a worker or a service that ray started."""
    given = sys.orig_argv if arguments is None else arguments
    return any(_RAYS_OWN.search(argument) for argument in given[1:4])


def with_hook(job_config: Any, inherited: Mapping[str, str]) -> Any | None:
    """Return a copy of *job_config* whose workers record as *inherited* says; None if that cannot be.

    The program's own hook runs first, and outside any ``try`` of ours. *job_config* itself stays as it is.
    """
    environment = dict(job_config.runtime_env or {})
    variables = environment.get("env_vars")
    if variables is not None:
        if _VARIABLE in variables:
            return None
        environment["env_vars"] = dict(variables)  # ray writes into it
    environment[_HOOK] = _hook(environment.get(_HOOK), dict(inherited))
    chosen = copy.copy(job_config)
    chosen.set_runtime_env(environment)
    return chosen


def _hook(theirs: Any, inherited: dict[str, str]) -> Callable[[], None]:
    """Return what each worker runs. Pickled by value, for it must run, and do no harm, where papyra-otel is not."""

    def papyra_otel_setup() -> None:
        import sys  # noqa: PLC0415 - a function that is pickled by value brings no globals
        from importlib import import_module  # noqa: PLC0415 - same

        if theirs is not None:
            hook = theirs
            if isinstance(hook, str):
                module, _, name = hook.rpartition(".")
                hook = getattr(import_module(module), name)
            hook()
        try:
            import_module("papyra_otel.plugin").join("ray", inherited)
        except Exception as error:
            told = f"papyra-otel: this ray worker is not recorded: {type(error).__name__}: {error}\n"
            if sys.stderr is not None:
                sys.stderr.write(told)

    papyra_otel_setup.__name__ = getattr(theirs, "__name__", papyra_otel_setup.__name__)  # ray shows it
    return papyra_otel_setup
