"""The dashboards: the committed files are what the specification makes, and keep the rules of Grafana's linter."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest

from papyra_otel import semconv
from papyra_otel.grafana import files
from papyra_otel.grafana.alerts import ALERTS
from papyra_otel.grafana.files import BOARDS
from papyra_otel.grafana.loki import LOKI_ALERTS
from papyra_otel.grafana.names import METRICS, label

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "grafana"
MADE = {name: json.loads(text) for name, text in files().items() if name.startswith("dashboards/")}
PANELS = [
    pytest.param(panel, id=f"{board['uid']}-{panel['id']}")
    for board in MADE.values()
    for panel in board["panels"]
    if panel["type"] != "row"
]
FROZEN = {
    "papyra-overview": [1, *range(2, 10), 10, 11, 12, 13, 20, *range(21, 27), 30, 31, 32],
    "papyra-persistence": [
        1,
        *range(2, 10),
        10,
        *range(11, 17),
        20,
        *range(21, 27),
        30,
        *range(31, 37),
        40,
        41,
    ],
    "papyra-dead-letters": [1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15, 20, 21],
    "papyra-actor": [1, 2, 3, 4, 7, 5, 6, 10, 11, 12, 13, 20, 21],
}


def queries(panel, source="prometheus"):
    return [target["expr"] for target in panel["targets"] if target["datasource"]["type"] == source]


def every_expression() -> list[str]:
    from papyra_otel.grafana.rules import Conditions

    alerts = [alert.expr(Conditions()) for alert in [*itertools.chain(*ALERTS.values()), *LOKI_ALERTS]]
    shown = [
        target["expr"] for board in MADE.values() for p in board["panels"] for target in p.get("targets", [])
    ]
    annotations = [a["expr"] for board in MADE.values() for a in board["annotations"]["list"] if "expr" in a]
    return [*alerts, *shown, *annotations]


# --- the files ------------------------------------------------------------------------------------------


def test_the_committed_files_are_what_is_made_now_and_no_others():
    committed = {
        str(path.relative_to(FOLDER)): path.read_bytes()
        for path in FOLDER.rglob("*")
        if path.suffix in {".json", ".yaml"}
    }
    made = {name: text.encode() for name, text in files().items()}
    assert sorted(committed) == sorted(made), "run: papyra-otel dashboards export grafana"
    stale = [name for name in made if committed[name] != made[name]]
    assert stale == [], "run: papyra-otel dashboards export grafana"


def test_making_them_twice_gives_the_same_bytes():
    assert files() == files()


# --- names ----------------------------------------------------------------------------------------------


def test_uids_and_panel_ids_are_frozen_since_links_and_alerts_name_them():
    assert {board["uid"]: [panel["id"] for panel in board["panels"]] for board in MADE.values()} == FROZEN


def test_expressions_name_only_metrics_and_attributes_that_are_ours():
    constants = {value for name, value in vars(semconv).items() if name.isupper() and isinstance(value, str)}
    known = {label(name) for name in constants}
    series = {f"{name}{suffix}" for name in METRICS.values() for suffix in ("", "_bucket", "_sum", "_count")}
    asked = {
        name for expr in every_expression() for name in re.findall(r"(?<![-\w.])papyra_[a-z_0-9]+", expr)
    }
    assert len(asked) > 40
    assert asked - known - series == set()


def test_events_that_are_asked_for_are_ours():
    constants = {value for name, value in vars(semconv).items() if name.isupper() and isinstance(value, str)}
    asked = {
        name.replace("[.]", ".")
        for expr in every_expression()
        for value in re.findall(r'event_name[!=]=?~?"([^"]+)"', expr)
        for name in value.split("|")
    }
    assert asked - constants == {"papyra..+"}


def test_every_metric_is_on_a_dashboard():
    shown = " ".join(every_expression())
    assert [
        name for name in METRICS.values() if not re.search(rf"\b{name}(_bucket|_sum|_count)?\b", shown)
    ] == []


def test_no_address_is_asked_of_prometheus():
    address = label(semconv.ACTOR_ADDRESS)
    assert not [expr for param in PANELS for expr in queries(param.values[0]) if address in expr]


# --- the linter's rules ----------------------------------------------------------------------------------


@pytest.mark.parametrize("board", MADE.values(), ids=lambda board: board["uid"])
def test_a_dashboard_is_one_that_provisioning_takes(board):
    assert board["schemaVersion"] == 42
    assert board["editable"] is False
    assert (board["refresh"], board["graphTooltip"], board["tags"]) == ("30s", 1, ["papyra"])
    assert not {"id", "version", "gnetId", "__inputs", "__requires"} & set(board)
    assert (
        board["links"][0] | {"type": "dashboards", "keepTime": True, "includeVars": True} == board["links"][0]
    )


@pytest.mark.parametrize("board", MADE.values(), ids=lambda board: board["uid"])
def test_variables_are_data_sources_job_and_instance_and_are_loaded_anew_with_the_range(board):
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    assert list(variables)[:5] == ["prometheus_datasource", "loki_datasource", "job", "instance", "service"]
    for variable in variables.values():
        assert "current" not in variable
        assert variable["label"]
        if variable["type"] == "query":
            assert (variable["multi"], variable["includeAll"], variable["allValue"]) == (True, True, ".+")
            assert variable["refresh"] == 2


@pytest.mark.parametrize("board", MADE.values(), ids=lambda board: board["uid"])
def test_annotations_are_anomalies_recoveries_and_compactions(board):
    assert [each["name"] for each in board["annotations"]["list"]][1:] == [
        "Anomalies",
        "Recoveries",
        "Compactions",
    ]


@pytest.mark.parametrize("board", MADE.values(), ids=lambda board: board["uid"])
def test_panels_lie_side_by_side_within_the_page_and_none_on_another(board):
    taken = {}
    for panel in board["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for cell in itertools.product(
            range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        ):
            assert taken.setdefault(cell, panel["id"]) == panel["id"]
    lines = {}
    for (_, y), panel in taken.items():
        lines.setdefault(y, set()).add(panel)
    assert sorted(lines) == list(range(max(lines) + 1))


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_has_what_the_linter_asks_for(panel):
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["targets"]
    for target in panel["targets"]:
        assert target["datasource"] == {
            "type": target["datasource"]["type"],
            "uid": f"${{{target['datasource']['type']}_datasource}}",
        }


@pytest.mark.parametrize("panel", PANELS)
def test_queries_of_prometheus_pick_job_and_instance_everywhere_and_rate_over_the_right_interval(panel):
    for expr in queries(panel):
        selectors = re.findall(r"(?:papyra_\w+|ALERTS)(?<!\bby)\{([^}]*)\}", expr)
        assert selectors
        for selector in selectors:
            assert 'job=~"$job' in selector
            assert 'instance=~"$instance' in selector
        without_labels = re.sub(r"by \([^)]*\)|\{[^}]*\}", "", expr)
        assert len(re.findall(r"\bpapyra_\w+|ALERTS", without_labels)) == len(selectors)
        for window in re.findall(r"\b(?:rate|deriv)\([^\[]*\[([^\]]+)\]", expr):
            assert window == "$__rate_interval"
        assert re.search(r"\b(sum|max|count)\b", expr), "a graph of thousands of series helps nobody"
        assert "target_info" not in expr
        assert "otel_scope" not in expr


@pytest.mark.parametrize("panel", PANELS)
def test_a_counter_is_never_shown_bare(panel):
    for expr in queries(panel):
        for name in re.findall(r"\bpapyra_\w+_total\{[^}]*\}(?!\[)", expr):
            assert f"offset {name}" in expr, f"{name} is no rate"


@pytest.mark.parametrize("panel", PANELS)
def test_only_stats_that_ask_for_action_have_a_colour(panel):
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    assert steps[0]["color"] == "text"
    assert [step["color"] for step in steps[1:]] in ([], ["red"])
    if len(steps) > 1 and panel["type"] == "stat":
        assert "Red:" in panel["description"]


def test_links_lead_to_our_dashboards_and_variables_that_they_have():
    for panel in (param.values[0] for param in PANELS):
        links = [*panel.get("links", []), *panel["fieldConfig"]["defaults"].get("links", [])]
        for link in links:
            uid = re.match(r"/d/([\w-]+)\?", link["url"])[1]
            (target,) = [board for board in MADE.values() if board["uid"] == uid]
            names = {variable["name"] for variable in target["templating"]["list"]}
            assert set(re.findall(r"var-(\w+)=|\{(\w+):queryparam", link["url"])) <= {
                *((name, "") for name in names),
                *(("", name) for name in names),
            }


# --- alerts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "alert", [*itertools.chain(*ALERTS.values()), *LOKI_ALERTS], ids=lambda alert: alert.name
)
def test_an_alert_says_what_to_do_and_where_to_look(alert):
    assert alert.severity in {"critical", "warning", "info"}
    assert alert.summary
    assert not alert.summary.endswith(".")
    assert alert.description.endswith(".")
    (board,) = [board for board in BOARDS if board.uid == alert.dashboard]
    assert alert.panel in {panel.id for panel in board.panels()}
    page = (ROOT / "docs/runbooks" / f"{alert.runbook}.md").read_text("utf-8")
    assert page.startswith(f"# {alert.name}\n\nSeverity: {alert.severity}.\n")
    headings = re.findall(r"^## (.+)$", page, re.MULTILINE)
    assert headings == ["Meaning", "Impact", "How to look", "How to fix", "How to verify"]
    assert (
        alert.annotations("https://wiki/papyra/")["runbook_url"] == f"https://wiki/papyra/{alert.runbook}.md"
    )


def test_every_runbook_belongs_to_an_alert_and_is_in_the_index():
    pages = {path.stem for path in (ROOT / "docs/runbooks").glob("*.md")} - {"README"}
    assert pages == {alert.runbook for alert in [*itertools.chain(*ALERTS.values()), *LOKI_ALERTS]}
    index = (ROOT / "docs/runbooks/README.md").read_text("utf-8")
    assert set(re.findall(r"\]\(([\w-]+)\.md\)", index)) == pages


@pytest.mark.parametrize("path", sorted((ROOT / "docs/runbooks").glob("*.md")), ids=lambda path: path.stem)
def test_a_runbook_names_panels_verbs_and_settings_that_there_are(path):
    from papyra_otel.cli.app import VERBS
    from papyra_otel.config import _FIELDS

    text = " ".join(path.read_text("utf-8").split())
    assert set(re.findall(r"papyra-otel (\w+)", text)) <= {verb.name for verb in VERBS}
    assert {name.lower() for name in re.findall(r"OTEL_PYTHON_PAPYRA_([A-Z_]+)", text)} <= {*_FIELDS, "log"}
    titles = {board.title for board in BOARDS} | {panel.title for board in BOARDS for panel in board.panels()}
    if path.stem != "README":
        words = {name for name in re.findall(r"(?<!\*)\*([^*]+)\*", text) if name[0].isupper()} - {"Targets"}
        assert words - titles == set()


def test_durations_are_written_as_prometheus_reads_them():
    from papyra_otel.grafana.thresholds import Windows

    assert [Windows()(seconds) for seconds in (30, 60, 90, 600, 3600, 86_400)] == [
        "30s",
        "1m",
        "90s",
        "10m",
        "1h",
        "1d",
    ]
    assert Windows(lambda seconds: seconds / 400)(600) == "1500ms"
