"""A system has a bad day in front of a real Prometheus: every panel shows it, and every alert says so, no other."""

from __future__ import annotations

import math
import re

import pytest

from grafana.asked import BOARDS, asked, panel
from grafana.conftest import AtRest
from grafana.scenario.day import ALSO, EXPECTED, Day
from papyra_otel.grafana.alerts import ALERTS
from papyra_otel.grafana.names import METRICS

pytestmark = [pytest.mark.grafana, pytest.mark.timeout(900)]  # the first one may have to build

TARGETS = [
    pytest.param(target["expr"], id=f"{board['uid']}-{panel['id']}{target['refId']}")
    for board in BOARDS.values()
    for panel in board["panels"]
    for target in panel.get("targets", [])
    if target["datasource"]["type"] == "prometheus"
]


def test_in_a_quiet_time_nothing_fires(day: Day):
    assert day.early - {("neglected", alert) for alert in EXPECTED["neglected"]} == set()


def test_every_alert_fires_for_its_incident_and_no_other_does(day: Day):
    expected = {(name, alert) for name, alerts in EXPECTED.items() for alert in alerts}
    also = {(name, alert) for name, alerts in ALSO.items() for alert in alerts}
    assert day.fired - also == expected


def test_the_day_has_an_incident_for_every_alert():
    assert {alert.name for group in ALERTS.values() for alert in group} == set.union(*EXPECTED.values())


def test_all_alerts_resolve(day: Day):
    assert day.unresolved == set()


@pytest.mark.parametrize("expr", TARGETS)
def test_every_query_of_every_panel_has_data(day: Day, expr):
    series = day.prometheus.query_range(asked(expr), day.begin, day.end, 1)
    values = [float(value) for each in series for _, value in each["values"]]
    assert any(not math.isnan(value) for value in values)


def test_metrics_are_called_in_prometheus_what_we_think_they_are(day: Day):
    seen = {name for name in day.prometheus.ask("label/__name__/values") if name.startswith("papyra_")}
    stripped = {re.sub(r"(_seconds)_(bucket|sum|count)$", r"\1", name) for name in seen}
    assert stripped == set(METRICS.values())


def test_legends_name_labels_that_the_data_has(day: Day):
    for board in BOARDS.values():
        for shown in board["panels"]:
            for target in shown.get("targets", []):
                names = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) - {
                    "error_type"
                }  # of failures only
                if target["datasource"]["type"] != "prometheus" or not names:
                    continue
                series = day.prometheus.query_range(asked(target["expr"]), day.begin, day.end, 1)
                assert names <= set().union(*(each["metric"] for each in series)), target["expr"]


def test_what_the_panels_count_is_what_the_programs_did(day: Day, at_rest: AtRest):
    """By their own count."""

    def shown(number: int, name: str) -> float:
        found = day.prometheus.query(asked(panel("papyra-overview", number), instance=name))
        return float(found[0]["value"][1]) if found else 0

    expected = {
        name: [did.get(what, 0) for what in ("failed", "restarted", "dead")]
        for name, did in at_rest.did.items()
    }
    assert {name: [shown(number, name) for number in (5, 6, 7)] for name in expected} == expected


def test_whatever_was_away_that_was_no_error_of_the_instrumentation(day: Day):
    errors = day.prometheus.query("papyra_instrumentation_errors_total > 0")
    assert [(each["metric"]["instance"], each["metric"]["what"]) for each in errors] == []
