"""What an alert is, and how it becomes a rule of Prometheus, or of Loki's ruler."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from papyra_otel.grafana.thresholds import Thresholds, Windows

__all__ = ["RUNBOOKS", "Alert", "Conditions", "group"]

RUNBOOKS = "https://github.com/papyra-otel/papyra-otel/blob/main/docs/runbooks"
"""Where the pages of docs/runbooks are read; ``papyra-otel dashboards export --runbooks`` says another "
"place."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """What expressions are made from: the numbers, and the durations."""

    limits: Thresholds = field(default_factory=Thresholds)
    windows: Windows = field(default_factory=Windows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One alert. *panel* is the id of the panel, on *dashboard*, that shows what it is about.

    *severity* ``critical`` wakes somebody, ``warning`` is looked at today, ``info`` this week. *stays* and
    *keeps* are in seconds: how long the condition must hold, and for how long the alert goes on after it.
    *description* says what to do. *runbook* names its page.
    """

    name: str
    severity: str
    expr: Callable[[Conditions], str]
    summary: str
    description: str
    dashboard: str
    panel: int
    runbook: str
    stays: float = 0
    keeps: float = 0

    def rule(self, conditions: Conditions, runbooks: str = RUNBOOKS) -> dict[str, Any]:
        """Return the alert as a rule."""
        made: dict[str, Any] = {"alert": self.name, "expr": self.expr(conditions)}
        if self.stays:
            made["for"] = conditions.windows(self.stays)
        if self.keeps:
            made["keep_firing_for"] = conditions.windows(self.keeps)
        made["labels"] = {"severity": self.severity, "component": "papyra"}
        made["annotations"] = self.annotations(runbooks)
        return made

    def annotations(self, runbooks: str = RUNBOOKS) -> dict[str, str]:
        """Return what is told with the alert."""
        return {
            "summary": self.summary,
            "description": self.description,
            "runbook_url": f"{runbooks.rstrip('/')}/{self.runbook}.md",
            "dashboard_uid": self.dashboard,
            "panel_id": str(self.panel),
        }


def group(
    name: str, alerts: Iterable[Alert], conditions: Conditions, runbooks: str = RUNBOOKS, interval: float = 30
) -> dict[str, Any]:
    """Return *alerts* as a group of rules that are evaluated every *interval* seconds."""
    rules = [alert.rule(conditions, runbooks) for alert in alerts]
    return {"name": name, "interval": conditions.windows(interval), "rules": rules}
