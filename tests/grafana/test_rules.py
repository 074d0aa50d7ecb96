"""The rules, in promtool and amtool: each alert fires for what it is about and is silent otherwise."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from grafana.programs import npm_installed, passed, program, ran
from papyra_otel import semconv as s
from papyra_otel.grafana import files
from papyra_otel.grafana.alerts import ALERTS
from papyra_otel.grafana.files import prometheus_rules
from papyra_otel.grafana.loki import LOKI_ALERTS
from papyra_otel.grafana.names import label, metric
from papyra_otel.grafana.rules import Conditions

pytestmark = pytest.mark.grafana

FOLDER = Path(__file__).parents[2] / "grafana"
HERE = Path(__file__).parent
NAMES = [alert.name for alert in itertools.chain(*ALERTS.values())]


@dataclass(frozen=True)
class Case:
    """What Prometheus gets, a sample every 30 s, and when the alert fires: (minutes, how many series of it)."""

    alert: str
    about: str
    series: dict[str, str]
    fires: Sequence[tuple[float, int]] = field(default=())

    def __str__(self) -> str:
        return f"{self.alert}-{self.about}".replace(" ", "-")


def series(name: str, suffix: str = "", job: str = "shop", instance: str = "a", **labels: str) -> str:
    inner = ",".join(
        f'{key}="{value}"' for key, value in {"job": job, "instance": instance, **labels}.items()
    )
    return f"{metric(name)}{suffix}{{{inner}}}"


def of(name: str, **labels: str):
    """Return what makes a Case of samples of one series of metric *name*."""

    def case(alert: str, about: str, samples: str, *fires: tuple[float, int]) -> Case:
        return Case(alert, about, {series(name, **labels): samples}, fires)

    return case


TYPE, REASON = label(s.ACTOR_TYPE), label(s.DEAD_LETTER_REASON)
BACKEND = {label(s.BACKEND_TYPE): "file"}
LOST_BIT = series(s.PERSISTENCE_ANOMALIES, papyra_anomaly_type="crc_mismatch", **BACKEND)
REBORN = series(s.PERSISTENCE_ANOMALIES, papyra_anomaly_type="crc_mismatch", instance="b", **BACKEND)
FIRST = "PapyraAnomalyFound"

FIRST_ANOMALY = [
    # (minutes, firing): the alert ends when ten minutes, and the five for which it is kept, are over
    Case(FIRST, "born with one", {LOST_BIT: "_x10 1x60"}, [(4, 0), (5, 1), (14, 1), (25, 0), (34, 0)]),
    Case(FIRST, "zero, then one", {LOST_BIT: "0x20 1x60"}, [(10, 0), (10.5, 1), (15, 1), (30, 0), (39, 0)]),
    Case(FIRST, "healthy", {LOST_BIT: "0x120"}, [(5, 0), (30, 0), (60, 0)]),
    Case(
        FIRST,
        "restart with the same identity",
        {LOST_BIT: "0x10 1x50 0x4 1x60"},
        [(6, 1), (29, 0), (32.5, 0), (34.5, 1)],
    ),
    Case(
        FIRST,
        "restart with a new identity that finds it again",
        {LOST_BIT: "1x40 stale", REBORN: "_x44 1x60"},
        [(0, 1), (19, 0), (23, 1), (45, 0)],
    ),
    Case(FIRST, "a second one later", {LOST_BIT: "1x80 2x60"}, [(0, 1), (30, 0), (41, 1), (60, 0)]),
    Case(FIRST, "a short gap in scraping", {LOST_BIT: "1x80 _x4 1x60"}, [(30, 0), (41, 0), (43, 0), (60, 0)]),
    Case(FIRST, "a gap of hours in scraping", {LOST_BIT: "1x80 _x480 1x60"}, [(30, 0), (281, 0), (290, 0)]),
    Case(
        FIRST,
        "the same value right after a restart",
        {LOST_BIT: "1x60 _x2 1x60"},
        [(25, 0), (32, 0), (50, 0)],
    ),
    Case(FIRST, "first seen at seven", {LOST_BIT: "_x20 7x60"}, [(9, 0), (10, 1), (30, 0)]),
    # The documented miss: a process with the same labels had found as many, and dies before its second scrape.
    Case(
        FIRST,
        "missed where an earlier life had as many",
        {LOST_BIT: "1x80 stale 1 stale"},
        [(30, 0), (41, 0)],
    ),
    Case(
        FIRST,
        "harmless types wake nobody",
        {
            series(s.PERSISTENCE_ANOMALIES, papyra_anomaly_type=name, **BACKEND): "1x60"
            for name in ("clock_jump", "unclean_shutdown", "tmp_leftover")
        },
        [(1, 0), (10, 0)],
    ),
    Case(
        FIRST,
        "a type of a newer version does",
        {series(s.PERSISTENCE_ANOMALIES, papyra_anomaly_type="something_new", **BACKEND): "1x60"},
        [(1, 1)],
    ),
]

untidy = of(s.PERSISTENCE_ANOMALIES, papyra_anomaly_type="unclean_shutdown", **BACKEND)
damaged = of(s.PERSISTENCE_ANOMALIES, papyra_anomaly_type="gap", **BACKEND)
harmless = of(s.PERSISTENCE_ANOMALIES, papyra_anomaly_type="clock_jump", **BACKEND)
unresolved = of(s.ANOMALY_COUNT, **BACKEND)
dropped = of(s.PERSISTENCE_DROPPED, papyra_fact_kind="event", error_type="ENOSPC", **BACKEND)
appends = of(s.OPERATION_DURATION, suffix="_count", papyra_operation="append", error_type="EIO", **BACKEND)
good_appends = of(s.OPERATION_DURATION, suffix="_count", papyra_operation="append", **BACKEND)
scans = of(s.OPERATION_DURATION, suffix="_count", papyra_operation="scan", error_type="EIO", **BACKEND)
oldest = of(s.QUEUE_OLDEST_AGE, **BACKEND)
undelivered = of(s.DELIVERY_AGE)
scanned = of(s.SCAN_AGE, **BACKEND)
stored = of(s.STORAGE_SIZE, papyra_fact_kind="event", **BACKEND)
exceeded = of(s.SUPERVISION_DECISIONS, papyra_supervision_outcome="restart_limit_exceeded", **{TYPE: "Bank"})
restarted = of(s.SUPERVISION_DECISIONS, papyra_supervision_outcome="restarted", **{TYPE: "Bank"})
restarts = of(s.ACTOR_RESTARTS, **{TYPE: "Bank"})
failed_start = of(s.ACTOR_FAILURES, papyra_failure_phase="start", error_type="OSError", **{TYPE: "Bank"})
failed_later = of(s.ACTOR_FAILURES, papyra_failure_phase="receive", error_type="OSError", **{TYPE: "Bank"})
running = of(s.ACTIVE_MAX_AGE, **{TYPE: "Bank"})
letters = of(s.DEAD_LETTER_MESSAGES, **{TYPE: "Bank", REASON: "actor_stopped"})
undrained = of(s.DEAD_LETTER_MESSAGES, **{TYPE: "Bank", REASON: "undrained"})
lost = of(s.DEAD_LETTER_MESSAGES, **{TYPE: "Bank", REASON: "lost"})
audited = of(s.AUDIT_AGE, papyra_system_id="shop")
orphans = of(s.REGISTRY_ENTRIES, papyra_system_id="shop", state="orphan")
entries = of(s.REGISTRY_ENTRIES, papyra_system_id="shop", state="ok")
alive = of(s.QUEUE_CAPACITY, **BACKEND)
GIB = 1 << 30


def filled(about: str, samples: str, *fires: tuple[float, int]) -> Case:
    queue = {series(s.QUEUE_SIZE, **BACKEND): samples, series(s.QUEUE_CAPACITY, **BACKEND): "10000x60"}
    return Case("PapyraQueueSaturated", about, queue, fires)


CASES = [
    *FIRST_ANOMALY,
    untidy("PapyraLogUntidy", "after a kill", "1x60", (0, 1), (5, 1), (20, 0)),
    damaged("PapyraLogUntidy", "damage is another alert", "1x60", (0, 0), (5, 0)),
    harmless("PapyraLogUntidy", "harmless", "1x60", (0, 0), (5, 0)),
    unresolved("PapyraAnomaliesUnresolved", "for an hour", "3x200", (59, 0), (61, 1)),
    unresolved("PapyraAnomaliesUnresolved", "recovered in time", "3x60 0x120", (59, 0), (61, 0)),
    dropped("PapyraFactsDropped", "the first", "0x20 1x60", (9, 0), (11, 1), (30, 0)),
    dropped("PapyraFactsDropped", "born with some", "_x20 80x60", (9, 0), (10, 1), (30, 0)),
    dropped("PapyraFactsDropped", "none", "0x60", (10, 0), (29, 0)),
    appends("PapyraAppendErrors", "the disk is full", "_x20 1+1x60", (10, 0), (12, 1)),
    appends("PapyraAppendErrors", "long ago", "5x60", (20, 0), (29, 0)),
    good_appends("PapyraAppendErrors", "all is well", "1+9x60", (20, 0)),
    scans("PapyraAppendErrors", "a scan that fails is no append", "1+9x60", (20, 0)),
    oldest("PapyraDurabilityLag", "the log is away", "0x10 0+30x20", (5, 0), (8, 1), (12, 1)),
    oldest("PapyraDurabilityLag", "slow for a moment", "0x10 40 0x40", (5, 0), (5.5, 0), (7, 0)),
    oldest("PapyraDurabilityLag", "some seconds", "5x60", (20, 0)),
    filled("nine tenths", "0x10 9000x40", (5, 0), (7, 1)),
    filled("half", "5000x60", (20, 0)),
    undelivered("PapyraDeliveryLag", "the collector is away", "0+30x60", (9, 0), (16, 1)),
    undelivered("PapyraDeliveryLag", "back in time", "0+30x14 0x60", (9, 0), (12, 0), (16, 0)),
    scanned("PapyraScanStale", "nine days", "777600+30x60", (5, 0), (11, 1)),
    scanned("PapyraScanStale", "yesterday", "86400+30x60", (11, 0)),
    stored("PapyraStorageFillingUp", "a gibibyte an hour", f"0+{GIB // 120}x200", (20, 0), (40, 1)),
    stored("PapyraStorageFillingUp", "a little", "0+1000x200", (40, 0), (99, 0)),
    stored("PapyraStorageFillingUp", "large and steady", f"{60 * GIB}x200", (40, 0), (99, 0)),
    exceeded("PapyraRestartLimitExceeded", "the first", "0x10 1x60", (4, 0), (6, 1), (25, 0)),
    restarted("PapyraRestartLimitExceeded", "restarts within the limit", "0+1x60", (6, 0)),
    restarts("PapyraRestartStorm", "ten a minute", "0+5x60", (1, 0), (4, 1), (20, 1)),
    restarts("PapyraRestartStorm", "born into it", "_x10 30x40", (5, 0), (6.5, 1), (12, 0)),
    restarts("PapyraRestartStorm", "one a minute", "0 0 1 1 2 2 3 3 4 4 5 5 6 6 7 7 8 8", (4, 0), (8, 0)),
    failed_start("PapyraStartFailures", "at the start of the process", "1x60", (0, 1), (5, 1), (20, 0)),
    failed_later("PapyraStartFailures", "failures later on", "0+1x60", (5, 0)),
    running("PapyraHandlerStuck", "it hangs", "0+30x60", (6, 0), (8, 1)),
    running("PapyraHandlerStuck", "slow, but ends", "0+30x9 0x40", (4, 0), (12, 0)),
    letters("PapyraDeadLetterBurst", "in one scrape of a new series", "_x10 500x40", (4, 0), (5, 1), (12, 0)),
    letters("PapyraDeadLetterBurst", "of a known series", "0x20 200x40", (10, 0), (10.5, 1), (17, 0)),
    letters("PapyraDeadLetterBurst", "a few", "0+1x60", (10, 0)),
    letters("PapyraDeadLettersSustained", "for an hour", "0+6x120", (10, 0), (30, 0), (40, 1), (50, 1)),
    letters("PapyraDeadLettersSustained", "a burst that ends", "0+6x20 120x100", (25, 0), (45, 0)),
    letters("PapyraDeadLettersSustained", "now and then", "0+1x120", (45, 0)),
    undrained("PapyraMessagesLost", "left in a mailbox", "_x4 2x60", (1, 0), (2, 1), (25, 0)),
    lost("PapyraMessagesLost", "acknowledged and gone", "0x4 1x60", (1, 0), (3, 1)),
    letters("PapyraMessagesLost", "never accepted", "0+1x60", (5, 0)),
    audited("PapyraAuditStale", "it hangs", "0+30x60", (6, 0), (8, 1)),
    audited("PapyraAuditStale", "every minute", "0 30 0 30 0 30 0 30 0 30 0 30 0 30 0 30", (7, 0)),
    orphans("PapyraRegistryUnhealthy", "orphans", "2x60", (5, 0), (11, 1)),
    orphans("PapyraRegistryUnhealthy", "for a moment", "2x4 0x60", (11, 0)),
    entries("PapyraRegistryUnhealthy", "all is well", "7x60", (11, 0)),
    alive("PapyraTelemetryAbsent", "gone", "1x60 stale", (30, 0), (39, 0), (41, 1), (240, 1), (420, 0)),
    alive("PapyraTelemetryAbsent", "a short restart", "1x60 stale _x8 1x60", (30, 0), (36, 0), (60, 0)),
    alive("PapyraTelemetryAbsent", "there", "1x120", (30, 0), (60, 0)),
    Case(
        "PapyraTelemetryAbsent",
        "one process of two is gone",
        {series(s.QUEUE_CAPACITY): "1x10 stale", series(s.QUEUE_CAPACITY, instance="b"): "1x120"},
        [(30, 0)],
    ),
]


def as_promtool(case: Case) -> dict:
    """Return *case* as a query for how many series of the alert fire: its texts are not the question here."""
    counted = f'count(ALERTS{{alertname="{case.alert}",alertstate="firing"}}) or vector(0)'
    return {
        "name": str(case),
        "interval": "30s",
        "input_series": [{"series": name, "values": samples} for name, samples in case.series.items()],
        "promql_expr_test": [
            {
                "expr": counted,
                "eval_time": f"{round(at * 60)}s",
                "exp_samples": [{"labels": "{}", "value": firing}],
            }
            for at, firing in case.fires
        ],
    }


def ran_promtool(tmp_path: Path, rules: str, *cases: Case):
    (tmp_path / "rules.yaml").write_text(rules)
    tests = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "30s",
        "tests": [as_promtool(c) for c in cases],
    }
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(tests, sort_keys=False))
    return ran([program("promtool"), "test", "rules", "tests.yaml"], cwd=tmp_path)


def test_the_rules_are_rules():
    told = passed([program("promtool"), "check", "rules", str(FOLDER / "alerts/prometheus-rules.yaml")])
    assert f"{len(NAMES)} rules found" in told


@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_alert_fires_for_what_it_is_about_and_not_otherwise(case, tmp_path):
    done = ran_promtool(tmp_path, (FOLDER / "alerts/prometheus-rules.yaml").read_text(), case)
    assert done.returncode == 0, done.stdout + done.stderr


def test_there_is_a_firing_and_a_silent_case_for_every_alert():
    firing = {case.alert for case in CASES if any(count for _, count in case.fires)}
    silent = {case.alert for case in CASES if not any(count for _, count in case.fires)}
    assert firing == silent == set(NAMES)


def test_a_bare_increase_would_miss_what_a_process_is_born_with(tmp_path):
    """The reason for the long expressions: the cases notice if somebody shortens them."""
    rules = yaml.safe_load((FOLDER / "alerts/prometheus-rules.yaml").read_text())
    (rule,) = [rule for group in rules["groups"] for rule in group["rules"] if rule["alert"] == FIRST]
    rule["expr"] = f"increase({metric(s.PERSISTENCE_ANOMALIES)}[10m]) > 0"
    done = ran_promtool(tmp_path, yaml.safe_dump(rules), FIRST_ANOMALY[0])
    assert done.returncode != 0


def test_what_an_alert_tells_names_its_labels(tmp_path):
    (tmp_path / "rules.yaml").write_text((FOLDER / "alerts/prometheus-rules.yaml").read_text())
    (alert,) = [
        alert for alert in itertools.chain(*ALERTS.values()) if alert.name == "PapyraRestartLimitExceeded"
    ]
    labels = {"job": "shop", "instance": "a", TYPE: "Bank", "severity": "critical", "component": "papyra"}
    told = {**alert.annotations(), "summary": "a: an actor of type Bank failed too often and is gone"}
    case = exceeded("PapyraRestartLimitExceeded", "text", "0x10 1x60")
    test = as_promtool(case) | {
        "alert_rule_test": [
            {
                "alertname": case.alert,
                "eval_time": "6m",
                "exp_alerts": [{"exp_labels": labels, "exp_annotations": told}],
            }
        ]
    }
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump({"rule_files": ["rules.yaml"], "tests": [test]}))
    passed([program("promtool"), "test", "rules", "tests.yaml"], cwd=tmp_path)


def test_durations_can_be_shortened_without_changing_anything_else(tmp_path):
    from papyra_otel.grafana.thresholds import Windows

    (tmp_path / "short.yaml").write_text(
        prometheus_rules(Conditions(windows=Windows(lambda seconds: seconds / 100)))
    )
    passed([program("promtool"), "check", "rules", str(tmp_path / "short.yaml")])


# --- Alertmanager, Loki, Grafana --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "receiver"),
    [
        (["component=papyra", "severity=critical"], "papyra-pager"),
        (["component=papyra", "severity=warning"], "papyra-tickets"),
        (["component=papyra", "severity=info"], "papyra-weekly"),
        (["component=other", "severity=critical"], "everything-else"),
    ],
)
def test_the_route_leads_alerts_to_who_should_get_them(labels, receiver):
    route = str(FOLDER / "alerts/alertmanager.yaml")
    passed([program("amtool"), "check-config", route])
    command = [program("amtool"), "config", "routes", "test", f"--config.file={route}", *labels]
    assert passed(command).strip() == receiver


def test_inhibitions_name_alerts_that_there_are():
    rules = yaml.safe_load((FOLDER / "alerts/alertmanager.yaml").read_text())["inhibit_rules"]
    matchers = " ".join(
        matcher for rule in rules for key in rule if "matchers" in key for matcher in rule[key]
    )
    named = {name for name in NAMES if name in matchers}
    assert len(named) == 5
    assert matchers.count("Papyra") == 6


def test_the_alert_that_grafana_manages_is_the_same_as_that_of_prometheus():
    managed = yaml.safe_load((FOLDER / "alerts/grafana-managed.yaml").read_text())
    (rule,) = managed["groups"][0]["rules"]
    (alert,) = [alert for alert in itertools.chain(*ALERTS.values()) if alert.name == rule["title"]]
    assert rule["data"][0]["model"]["expr"] == alert.expr(Conditions())
    assert rule["annotations"]["__dashboardUid__"] == alert.dashboard
    assert rule["annotations"]["__panelId__"] == str(alert.panel)


def test_every_file_of_yaml_says_to_a_library_what_was_meant():
    from papyra_otel.grafana import provisioning
    from papyra_otel.grafana.routing import managed_rules, route
    from papyra_otel.grafana.rules import group

    meant = {
        "alerts/alertmanager.yaml": route(),
        "alerts/grafana-managed.yaml": managed_rules(Conditions()),
        "alerts/loki-rules.yaml": {"groups": [group("papyra-facts", LOKI_ALERTS, Conditions())]},
        "alerts/prometheus-rules.yaml": {"groups": [group(n, a, Conditions()) for n, a in ALERTS.items()]},
        "provisioning/dashboards.yaml": provisioning.dashboards(),
        "provisioning/datasources.yaml": provisioning.datasources(),
    }
    read = {name: yaml.safe_load(text) for name, text in files().items() if name.endswith(".yaml")}
    assert json.loads(json.dumps(read)) == json.loads(json.dumps(meant))


def logql() -> dict[str, str]:
    boards = {name: json.loads(text) for name, text in files().items() if name.startswith("dashboards/")}
    asked = {
        f"{name} panel {panel['id']}": target["expr"]
        for name, board in boards.items()
        for panel in board["panels"]
        for target in panel.get("targets", [])
        if target["datasource"]["type"] == "loki"
    }
    asked |= {
        f"{name} annotation {each['name']}": each["expr"]
        for name, board in boards.items()
        for each in board["annotations"]["list"]
        if "expr" in each
    }
    asked |= {alert.name: alert.expr(Conditions()) for alert in LOKI_ALERTS}
    return {
        name: expr.replace("[$__range]", "[1h]").replace("[$__auto]", "[1m]") for name, expr in asked.items()
    }


@pytest.mark.timeout(400)
def test_logql_is_read_by_grafanas_own_grammar():
    folder = npm_installed(HERE / "logql")
    node = shutil.which("node") or program("node")
    broken = {"broken": '{service_name=~".+"} | event_name='}
    told = json.loads(passed([node, "parse.mjs"], cwd=folder, stdin=json.dumps({**logql(), **broken})))
    assert set(told) == {"broken"}
    assert len(logql()) == 5 + 12 + 3
