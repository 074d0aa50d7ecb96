"""Facts to read, and what a command line did."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from papyra_otel import Fact, FactKind

NANOS = 1_000_000_000
NOON = 1_795_348_800 * NANOS  # 2026-11-22T12:00:00Z


def fact(seconds: float = 0, name: str = "papyra.actor.started", **members: Any) -> Fact:
    """A fact so many seconds after noon."""
    kind = members.pop("kind", FactKind.EVENT)
    system = members.pop("system", "shop")
    return Fact(kind=kind, name=name, time_unix_nano=NOON + int(seconds * NANOS), system=system, **members)


@dataclass
class Done:
    code: int
    out: str
    err: str

    @property
    def objects(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


DAY: Sequence[Fact] = (
    fact(
        0,
        "papyra.system.started",
        attributes={"papyra.runtime.name": "papyra", "papyra.runtime.version": "0.3"},
    ),
    fact(60, actor="shop:1", attributes={"papyra.actor.type": "app.Clerk", "papyra.actor.name": "anna"}),
    fact(
        120,
        "papyra.actor.exception",
        actor="shop:1",
        severity="ERROR",
        trace_id="4bf92f3577b34da6a3ce929d0e0e4736",
        span_id="00f067aa0ba902b7",
        attributes={
            "papyra.actor.type": "app.Clerk",
            "error.type": "ValueError",
            "exception.message": "no such article",
            "papyra.failure.phase": "receive",
        },
    ),
    fact(
        180,
        "papyra.dead_letter.captured",
        kind=FactKind.DEAD_LETTER,
        actor="urn:uuid:1c9e0a52-7b1d-4c55-9a3e-2f1f0c6d8e11",
        severity="WARN",
        system="store",
        attributes={
            "papyra.actor.type": "Robot",
            "papyra.message.type": "Pick",
            "papyra.message.kind": "tell",
            "papyra.dead_letter.reason": "actor_stopped",
        },
    ),
    fact(
        240,
        "papyra.audit.completed",
        kind=FactKind.AUDIT,
        attributes={
            "papyra.audit.healthy": False,
            "papyra.audit.reasons": ["1 dead actor in the registry"],
            "papyra.audit.actors.alive": 1,
            "papyra.audit.actors.total": 2,
            "papyra.audit.dead_letters": 1,
        },
    ),
    fact(86_400, "order.placed", attributes={"order": 7}),
)
