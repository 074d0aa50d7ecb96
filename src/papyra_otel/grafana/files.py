"""All files for Grafana, Prometheus, Loki and Alertmanager, by their names in the folder grafana/."""

from __future__ import annotations

from typing import Final

from papyra_otel.grafana import provisioning
from papyra_otel.grafana.actor import ACTOR
from papyra_otel.grafana.alerts import ALERTS
from papyra_otel.grafana.board import as_text
from papyra_otel.grafana.dead_letters import DEAD_LETTERS
from papyra_otel.grafana.loki import LOKI_ALERTS
from papyra_otel.grafana.overview import OVERVIEW
from papyra_otel.grafana.persistence import PERSISTENCE
from papyra_otel.grafana.routing import managed_rules, route
from papyra_otel.grafana.rules import RUNBOOKS, Conditions, group
from papyra_otel.grafana.yaml_text import as_yaml

__all__ = ["BOARDS", "files", "prometheus_rules"]

BOARDS: Final = (OVERVIEW, PERSISTENCE, DEAD_LETTERS, ACTOR)

_MADE = "Made by `papyra-otel dashboards export` from papyra_otel.grafana: change it there, not here."


def files(runbooks: str = RUNBOOKS) -> dict[str, str]:
    """Return every file's name and text. *runbooks* is the address under which docs/runbooks is read."""
    plain = Conditions()
    return {
        **{f"dashboards/{board.uid}.json": as_text(board) for board in BOARDS},
        "provisioning/dashboards.yaml": as_yaml(
            provisioning.dashboards(),
            f"{_MADE}\nFor /etc/grafana/provisioning/dashboards; the path is an example.",
        ),
        "provisioning/datasources.yaml": as_yaml(
            provisioning.datasources(),
            f"{_MADE}\nFor /etc/grafana/provisioning/datasources; addresses are examples.",
        ),
        "alerts/prometheus-rules.yaml": prometheus_rules(plain, runbooks),
        "alerts/loki-rules.yaml": as_yaml(
            {"groups": [group("papyra-facts", LOKI_ALERTS, plain, runbooks)]},
            f"{_MADE}\nFor the ruler of Loki.",
        ),
        "alerts/alertmanager.yaml": as_yaml(
            route(), f"{_MADE}\nAn example: take over the route and the inhibitions, and name your receivers."
        ),
        "alerts/grafana-managed.yaml": as_yaml(
            managed_rules(plain, runbooks),
            f"{_MADE}\nAn example, for Grafana without rules in Prometheus: "
            "/etc/grafana/provisioning/alerting.",
        ),
    }


def prometheus_rules(conditions: Conditions, runbooks: str = RUNBOOKS, interval: float = 30) -> str:
    """Return the rules for Prometheus, made with *conditions*, evaluated every *interval* seconds."""
    groups = [group(name, alerts, conditions, runbooks, interval) for name, alerts in ALERTS.items()]
    return as_yaml({"groups": groups}, f"{_MADE}\nFor rule_files of Prometheus, and for Mimir.")
