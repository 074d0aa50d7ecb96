"""What happens to alerts: a route for Alertmanager, and one rule that Grafana manages itself, as examples."""

from __future__ import annotations

from typing import Any

from papyra_otel.grafana.alerts import ALERTS, TELEMETRY_ABSENT
from papyra_otel.grafana.rules import RUNBOOKS, Alert, Conditions

__all__ = ["managed_rules", "route"]

_OURS = 'component="papyra"'


def route() -> dict[str, Any]:
    """Return an Alertmanager configuration: critical ones wake somebody, absence silences the rest."""
    return {
        "route": {
            "receiver": "everything-else",
            "routes": [
                {
                    "matchers": [_OURS],
                    "receiver": "papyra-tickets",
                    "group_by": ["alertname", "job"],
                    "group_wait": "30s",
                    "group_interval": "5m",
                    "repeat_interval": "12h",
                    "routes": [
                        {
                            "matchers": ['severity="critical"'],
                            "receiver": "papyra-pager",
                            "group_wait": "10s",
                            "repeat_interval": "1h",
                        },
                        {
                            "matchers": ['severity="info"'],
                            "receiver": "papyra-weekly",
                            "repeat_interval": "7d",
                        },
                    ],
                }
            ],
        },
        "inhibit_rules": [
            {
                "source_matchers": [f'alertname="{TELEMETRY_ABSENT}"'],
                "target_matchers": [_OURS, f'alertname!="{TELEMETRY_ABSENT}"'],
                "equal": ["job"],
            },
            {
                "source_matchers": [_OURS, 'alertname=~"PapyraFactsDropped|PapyraQueueSaturated"'],
                "target_matchers": [_OURS, 'alertname=~"PapyraAppendErrors|PapyraDurabilityLag"'],
                "equal": ["job", "instance"],
            },
        ],
        "receivers": [
            {"name": name} for name in ("everything-else", "papyra-pager", "papyra-tickets", "papyra-weekly")
        ],
    }


def managed_rules(conditions: Conditions, runbooks: str = RUNBOOKS) -> dict[str, Any]:
    """Return the first-anomaly alert as one that Grafana evaluates itself."""
    (alert,) = (alert for alert in ALERTS["papyra-log"] if alert.name == "PapyraAnomalyFound")
    rules = [_managed(alert, conditions, runbooks)]
    return {
        "apiVersion": 1,
        "groups": [{"orgId": 1, "name": "papyra", "folder": "Papyra", "interval": "30s", "rules": rules}],
    }


def _managed(alert: Alert, conditions: Conditions, runbooks: str) -> dict[str, Any]:
    annotations = alert.annotations(runbooks)
    placed = {
        "__dashboardUid__": annotations.pop("dashboard_uid"),
        "__panelId__": annotations.pop("panel_id"),
    }
    query = {
        "refId": "A",
        "expr": alert.expr(conditions),
        "instant": True,
        "range": False,
        "editorMode": "code",
    }
    threshold = {
        "refId": "C",
        "type": "threshold",
        "expression": "A",
        "conditions": [{"evaluator": {"type": "gt", "params": [0]}}],
    }
    return {
        "uid": "papyra-anomaly-found",
        "title": alert.name,
        "condition": "C",
        "data": [
            {
                "refId": "A",
                "relativeTimeRange": {"from": 600, "to": 0},
                "datasourceUid": "prometheus",
                "model": query,
            },
            {"refId": "C", "datasourceUid": "__expr__", "model": threshold},
        ],
        "noDataState": "OK",
        "execErrState": "Error",
        "for": "0s",
        "keepFiringFor": conditions.windows(alert.keeps),
        "labels": {"severity": alert.severity, "component": "papyra"},
        "annotations": {**annotations, **placed},
    }
