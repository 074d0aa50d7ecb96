"""Who recorded a fact: the scope, and the resource of this process, to be stored beside its facts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from papyra_otel import semconv
from papyra_otel.config import resource_attributes
from papyra_otel.pipeline.otel import Scope, current_provider

__all__ = ["own_scope", "resource_now"]


def own_scope() -> Scope:
    """Return the instrumentation scope of all that this library emits."""
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - slow to import

    try:
        known: str | None = version("papyra-otel")
    except PackageNotFoundError:
        known = None
    return Scope(semconv.SCOPE_NAME, known, semconv.SCHEMA_URL)


def resource_now() -> Mapping[str, object]:
    """Return the resource attributes of the application's provider of this moment. Quick, and without the SDK.

    Where there is no provider yet, or it tells no resource, they are what the environment says.
    """
    provider = current_provider()
    resource = getattr(provider, "resource", None) or getattr(provider, "_resource", None)
    attributes: Any = getattr(resource, "attributes", None)
    return (
        cast("Mapping[str, object]", attributes)
        if isinstance(attributes, Mapping)
        else dict(resource_attributes())
    )
