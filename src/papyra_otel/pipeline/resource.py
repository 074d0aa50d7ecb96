"""Who recorded a fact: the scope, and the resource of this process, to be stored beside its facts."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from opentelemetry.sdk.resources import Resource

from papyra_otel import semconv
from papyra_otel.pipeline.otel import Scope, current_provider

__all__ = ["own_scope", "resource_reader"]


def own_scope() -> Scope:
    """Return the instrumentation scope of all that this library emits."""
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - slow to import

    try:
        known: str | None = version("papyra-otel")
    except PackageNotFoundError:
        known = None
    return Scope(semconv.SCOPE_NAME, known, semconv.SCHEMA_URL)


def resource_reader() -> Callable[[], Mapping[str, object]]:
    """Return a function that tells the resource attributes of the application's provider of that moment.

    Without one (or with one that is not the SDK's) they are what the SDK makes of the environment now, which may take
    a while: it asks detectors. The function itself is quick.
    """
    otherwise = Resource.create()

    def read() -> Mapping[str, object]:
        provider = current_provider()
        resource = getattr(provider, "resource", None) or getattr(provider, "_resource", None)
        return (resource if isinstance(resource, Resource) else otherwise).attributes

    return read
