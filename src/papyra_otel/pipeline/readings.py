"""What this process's metrics are right now, as plain values: for ``papyra-otel metrics``, without any SDK."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from opentelemetry.metrics import CallbackOptions, Observation

from papyra_otel.pipeline.metrics import Metrics, Source

__all__ = ["readings"]


class _Meter:
    """Stands where a meter stands, and keeps what is made of it. Histograms keep nothing: they are not observed."""

    def __init__(self) -> None:
        self.made: list[
            tuple[str, str, str, Sequence[Callable[[CallbackOptions], Iterable[Observation]]]]
        ] = []

    def get_meter(self, *names: Any, **more: Any) -> _Meter:
        """Be the provider, too."""
        del names, more
        return self

    def _keep(self, kind: str) -> Callable[..., None]:
        def make(name: str, callbacks: Any, unit: str = "", description: str = "") -> None:
            del description
            self.made.append((name, kind, unit, callbacks))

        return make

    def __getattr__(self, name: str) -> Any:
        if name.startswith("create_observable_"):
            return self._keep(name.removeprefix("create_observable_"))
        if name.startswith("create_"):
            return _nothing
        raise AttributeError(name)


def _nothing(*given: Any, **more: Any) -> None:
    """Keep nothing of it."""


def readings(source: Source, clock: Callable[[], int] = time.time_ns) -> list[dict[str, Any]]:
    """Return each metric that *source* has values of, fit for JSON.

    Its ``name``, ``type``, ``unit``, and ``points`` with ``attributes`` and ``value``.
    """
    meter: Any = _Meter()
    Metrics(meter, clock).attach(source)
    found: list[dict[str, Any]] = []
    for name, kind, unit, callbacks in meter.made:
        points = [
            {"attributes": dict(each.attributes or {}), "value": each.value}
            for callback in callbacks
            for each in callback(CallbackOptions())
        ]
        if points:
            found.append({"name": name, "type": kind, "unit": unit, "points": points})
    return sorted(found, key=lambda each: str(each["name"]))
