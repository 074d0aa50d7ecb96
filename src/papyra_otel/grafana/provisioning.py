"""Files with which a Grafana finds the dashboards, and the data sources that link facts to traces."""

from __future__ import annotations

from typing import Any

__all__ = ["dashboards", "datasources"]


def dashboards() -> dict[str, Any]:
    """Return a provider that reads the dashboards from a folder."""
    return {
        "apiVersion": 1,
        "providers": [
            {
                "name": "papyra",
                "folder": "Papyra",
                "type": "file",
                "disableDeletion": False,
                "allowUiUpdates": False,
                "updateIntervalSeconds": 30,
                "options": {"path": "/var/lib/grafana/dashboards/papyra"},
            }
        ],
    }


def datasources() -> dict[str, Any]:
    """Return data sources whose facts and exemplars lead to their traces. The addresses are examples."""
    return {
        "apiVersion": 1,
        "datasources": [
            {
                "name": "Prometheus",
                "uid": "prometheus",
                "type": "prometheus",
                "access": "proxy",
                "url": "http://prometheus:9090",
                "jsonData": {"exemplarTraceIdDestinations": [{"name": "trace_id", "datasourceUid": "tempo"}]},
            },
            {
                "name": "Loki",
                "uid": "loki",
                "type": "loki",
                "access": "proxy",
                "url": "http://loki:3100",
                "jsonData": {
                    "derivedFields": [
                        {
                            "name": "Trace",
                            "matcherType": "label",
                            "matcherRegex": "trace_id",
                            "url": "$${__value.raw}",
                            "urlDisplayLabel": "Show the trace",
                            "datasourceUid": "tempo",
                        }
                    ]
                },
            },
            {"name": "Tempo", "uid": "tempo", "type": "tempo", "access": "proxy", "url": "http://tempo:3200"},
        ],
    }
