"""Adapters: one thin module per actor runtime, and what is needed to write one more (docs/adding-a-runtime.md).

No runtime is imported here: an adapter imports its own when it is installed.
"""

from papyra_otel.pipeline.gauges import RuntimeGauges
from papyra_otel.pipeline.guard import Guard
from papyra_otel.recorder import Actor, AuditSnapshot, Recorder, qualified_name
from papyra_otel.runtimes.adapter import (
    CAPABILITIES,
    Ability,
    Adapter,
    RuntimeCapabilities,
    supported,
    warn_of_missing,
)
from papyra_otel.runtimes.patches import Patches
from papyra_otel.runtimes.tracing import Handling, Tracing, context_from, inject, sender_context

__all__ = [
    "CAPABILITIES",
    "Ability",
    "Actor",
    "Adapter",
    "AuditSnapshot",
    "Guard",
    "Handling",
    "Patches",
    "Recorder",
    "RuntimeCapabilities",
    "RuntimeGauges",
    "Tracing",
    "context_from",
    "inject",
    "qualified_name",
    "sender_context",
    "supported",
    "warn_of_missing",
]
