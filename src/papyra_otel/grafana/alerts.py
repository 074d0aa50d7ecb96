"""The alerts on metrics, for Prometheus, Mimir and whatever else reads its rules."""

from __future__ import annotations

from typing import Final

from papyra_otel.grafana.actor_alerts import ACTOR_ALERTS, TELEMETRY_ABSENT, WATCH_ALERTS
from papyra_otel.grafana.log_alerts import LOG_ALERTS
from papyra_otel.grafana.rules import Alert

__all__ = ["ALERTS", "TELEMETRY_ABSENT"]

ALERTS: Final[dict[str, tuple[Alert, ...]]] = {
    "papyra-log": LOG_ALERTS,
    "papyra-actors": ACTOR_ALERTS,
    "papyra-watch": WATCH_ALERTS,
}
"""The alerts, by the name of their group."""
