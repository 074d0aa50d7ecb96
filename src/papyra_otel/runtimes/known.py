"""Which adapters there are: ours, and those that other distributions bring."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Final

from papyra_otel.runtimes.adapter import Adapter

__all__ = ["ENTRY_POINT_GROUP", "RUNTIMES", "adapter_class", "known_runtimes"]

ENTRY_POINT_GROUP: Final = "papyra_otel.runtime"
RUNTIMES: Final[Mapping[str, str]] = {
    "papyra": "papyra_otel.runtimes.papyra:PapyraAdapter",
    "pykka": "papyra_otel.runtimes.pykka:PykkaAdapter",
    "dramatiq": "papyra_otel.runtimes.dramatiq:DramatiqAdapter",
    "ray": "papyra_otel.runtimes.ray:RayAdapter",
}


def known_runtimes() -> tuple[str, ...]:
    """Return the names of all adapters, ours first."""
    from importlib.metadata import entry_points  # noqa: PLC0415 - slow to import

    return tuple(dict.fromkeys([*RUNTIMES, *sorted(entry_points(group=ENTRY_POINT_GROUP).names)]))


def adapter_class(runtime: str) -> Callable[..., Adapter] | None:
    """Return what makes the adapter of *runtime*, None for an unknown one. Raises what importing it raises."""
    if runtime in RUNTIMES:
        module, name = RUNTIMES[runtime].split(":")
        ours: Callable[..., Adapter] = getattr(import_module(module), name)
        return ours
    from importlib.metadata import entry_points  # noqa: PLC0415 - see above

    for entry_point in entry_points(group=ENTRY_POINT_GROUP, name=runtime):
        theirs: Callable[..., Adapter] = entry_point.load()
        return theirs
    return None
