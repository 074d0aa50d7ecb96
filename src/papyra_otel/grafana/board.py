"""A dashboard as Grafana's classic JSON (docs/decisions/0060)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from papyra_otel import semconv as s
from papyra_otel.grafana.model import Board, Kind, Panel, Query, Row, Source, Variable
from papyra_otel.grafana.names import label, metric
from papyra_otel.grafana.promql import events, facts

__all__ = ["SCHEMA_VERSION", "TAG", "as_json", "as_text"]

SCHEMA_VERSION = 42
TAG = "papyra"
_COLUMNS = 24
_PLUGIN_VERSION = "13.0.0"

_Json = dict[str, Any]


def as_text(board: Board) -> str:
    """Return *board* as the text of a file: the same bytes for the same board."""
    return json.dumps(as_json(board), indent=2, ensure_ascii=False) + "\n"


def as_json(board: Board) -> _Json:
    """Return *board* as Grafana's model of a dashboard."""
    return {
        "uid": board.uid,
        "title": board.title,
        "description": board.description,
        "tags": [TAG],
        "schemaVersion": SCHEMA_VERSION,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timepicker": {},
        "timezone": "browser",
        "weekStart": "",
        "fiscalYearStartMonth": 0,
        "liveNow": False,
        "links": [_tag_links()],
        "annotations": {"list": [_own_annotations(), *_fact_annotations()]},
        "templating": {"list": [*_common_variables(), *map(_variable, board.variables)]},
        "panels": [*_laid_out(board.rows)],
    }


# --- what all dashboards share ------------------------------------------------------------------------


def _tag_links() -> _Json:
    return {
        "type": "dashboards",
        "title": TAG,
        "tags": [TAG],
        "icon": "external link",
        "tooltip": "",
        "url": "",
        "asDropdown": False,
        "includeVars": True,
        "keepTime": True,
        "targetBlank": False,
    }


def _own_annotations() -> _Json:
    return {
        "builtIn": 1,
        "datasource": {"type": "grafana", "uid": "-- Grafana --"},
        "enable": True,
        "hide": True,
        "iconColor": "rgba(0, 211, 255, 1)",
        "name": "Annotations & Alerts",
        "type": "dashboard",
    }


def _fact_annotations() -> Iterator[_Json]:
    for name, event, colour, title in (
        ("Anomalies", s.LOG_ANOMALY, "red", f"{{{{{label(s.ANOMALY_TYPE)}}}}}"),
        ("Recoveries", s.LOG_RECOVERED, "orange", f"recovered: {{{{{label(s.RECOVERY_MODE)}}}}}"),
        ("Compactions", s.LOG_COMPACTED, "blue", "compacted"),
    ):
        yield {
            "datasource": _datasource(Source.LOKI),
            "enable": True,
            "expr": facts(events(event)),
            "iconColor": colour,
            "name": name,
            "titleFormat": title,
        }


def _common_variables() -> list[_Json]:
    reporting = metric(s.QUEUE_CAPACITY)
    return [
        *(
            {
                "type": "datasource",
                "name": f"{source.value}_datasource",
                "label": source.value.capitalize(),
                "query": source.value,
                "refresh": 1,
                "hide": 0,
                "includeAll": False,
                "multi": False,
                "options": [],
                "regex": "",
            }
            for source in Source
        ),
        _variable(Variable(name="job", label="Job", query=f"label_values({reporting}, job)")),
        _variable(
            Variable(
                name="instance", label="Instance", query=f'label_values({reporting}{{job=~"$job"}}, instance)'
            )
        ),
        _variable(
            Variable(name="service", label="Service (facts)", query="service_name", source=Source.LOKI)
        ),
    ]


def _variable(variable: Variable) -> _Json:
    if not variable.query:
        return {
            "type": "textbox",
            "name": variable.name,
            "label": variable.label,
            "query": "",
            "hide": 0,
            "options": [],
        }
    query: _Json = (
        {"query": variable.query, "refId": "StandardVariableQuery"}
        if variable.source is Source.PROMETHEUS
        else {"label": variable.query, "refId": "LokiVariableQuery", "stream": "", "type": 1}
    )
    return {
        "type": "query",
        "name": variable.name,
        "label": variable.label,
        "datasource": _datasource(variable.source),
        "definition": variable.query,
        "query": query,
        "allValue": ".+" if not variable.matched else variable.matched,
        "includeAll": True,
        "multi": True,
        "refresh": 2,
        "sort": 1,
        "hide": 0,
        "options": [],
        "regex": "",
    }


def _datasource(source: Source) -> _Json:
    return {"type": source.value, "uid": f"${{{source.value}_datasource}}"}


# --- panels -------------------------------------------------------------------------------------------


def _laid_out(rows: Sequence[Row]) -> Iterator[_Json]:
    """Yield rows and panels from the top down, panels from left to right; no line is wider than the page."""
    y = 0
    for row in rows:
        place = {"h": 1, "w": _COLUMNS, "x": 0, "y": y}
        yield {
            "id": row.id,
            "type": "row",
            "title": row.title,
            "collapsed": False,
            "gridPos": place,
            "panels": [],
        }
        y += 1
        x = height = 0
        for panel in row.panels:
            if x + panel.width > _COLUMNS:
                x, y, height = 0, y + height, 0
            yield _panel(panel, {"h": panel.height, "w": panel.width, "x": x, "y": y})
            x, height = x + panel.width, max(height, panel.height)
        y += height


def _panel(panel: Panel, place: Mapping[str, int]) -> _Json:
    source = panel.queries[0].source
    made: _Json = {
        "id": panel.id,
        "type": panel.kind.value,
        "title": panel.title,
        "description": panel.description,
        "gridPos": dict(place),
        "datasource": _datasource(source),
        "pluginVersion": _PLUGIN_VERSION,
        "fieldConfig": {"defaults": _defaults(panel), "overrides": [*_overrides(panel)]},
        "options": _OPTIONS[panel.kind](panel),
        "targets": [_target(panel, query, index) for index, query in enumerate(panel.queries)],
    }
    if panel.link is not None and panel.carries is None:
        made["links"] = [{"title": "More", "url": _url(panel.link, ""), "targetBlank": False}]
    return made


def _url(uid: str, more: str) -> str:
    return f"/d/{uid}?${{__url_time_range}}&${{job:queryparam}}&${{instance:queryparam}}&${{service:queryparam}}{more}"


def _target(panel: Panel, query: Query, index: int) -> _Json:
    made: _Json = {
        "refId": chr(ord("A") + index),
        "datasource": _datasource(query.source),
        "editorMode": "code",
        "expr": query.expr,
        "legendFormat": query.legend or "__auto",
    }
    if query.source is Source.LOKI:
        return {**made, "queryType": "instant" if query.instant else "range"}
    made |= {"instant": query.instant, "range": not query.instant}
    return {**made, "format": "heatmap"} if panel.kind is Kind.HEATMAP else made


def _defaults(panel: Panel) -> _Json:
    made: _Json = {"unit": panel.unit, "thresholds": _thresholds(panel.red_from), "mappings": []}
    coloured = panel.kind is Kind.STAT
    made["color"] = {"mode": "thresholds" if coloured else "palette-classic"}
    if panel.kind is Kind.STAT:
        made["noValue"] = panel.empty
    if panel.kind is not Kind.LOGS:
        made["min"] = 0
    if panel.maximum is not None:
        made["max"] = panel.maximum
    if panel.decimals is not None:
        made["decimals"] = panel.decimals
    if panel.kind is Kind.LINES:
        made["custom"] = _lines(panel)
    if panel.link is not None and panel.carries is not None:
        name, variable = panel.carries
        more = f"&var-{variable}=${{__field.labels.{label(name)}}}"
        made["links"] = [{"title": "Its facts", "url": _url(panel.link, more), "targetBlank": False}]
    return made


def _thresholds(red_from: float | None) -> _Json:
    steps: list[_Json] = [{"color": "text", "value": None}]
    if red_from is not None:
        steps.append({"color": "red", "value": red_from})
    return {"mode": "absolute", "steps": steps}


def _lines(panel: Panel) -> _Json:
    return {
        "drawStyle": "line",
        "lineInterpolation": "linear",
        "lineWidth": 1,
        "fillOpacity": 30 if panel.stacked else 8,
        "showPoints": "auto",
        "pointSize": 4,
        "spanNulls": False,
        "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
        "thresholdsStyle": {"mode": "off" if panel.red_from is None else "dashed"},
        "axisPlacement": "auto",
        "axisSoftMin": 0,
    }


def _overrides(panel: Panel) -> Iterator[_Json]:
    if panel.on_the_right is not None:
        properties = [
            {"id": "custom.axisPlacement", "value": "right"},
            {"id": "unit", "value": panel.right_unit},
        ]
        yield {"matcher": {"id": "byRegexp", "options": panel.on_the_right}, "properties": properties}


def _stat_options(panel: Panel) -> _Json:
    return {
        "colorMode": "none" if panel.red_from is None else "value",
        "graphMode": "none",
        "justifyMode": "auto",
        "orientation": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "textMode": "auto",
        "wideLayout": True,
    }


def _line_options(_: Panel) -> _Json:
    return {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }


def _heatmap_options(panel: Panel) -> _Json:
    return {
        "calculate": False,
        "cellGap": 1,
        "color": {"mode": "scheme", "scheme": "Blues", "steps": 64, "exponent": 0.5, "scale": "exponential"},
        "filterValues": {"le": 1e-9},
        "legend": {"show": True},
        "rowsFrame": {"layout": "auto"},
        "tooltip": {"mode": "single", "showColorScale": False, "yHistogram": False},
        "yAxis": {"axisPlacement": "left", "reverse": False, "unit": panel.unit},
    }


def _bar_options(_: Panel) -> _Json:
    return {
        "displayMode": "basic",
        "orientation": "horizontal",
        "showUnfilled": True,
        "valueMode": "color",
        "namePlacement": "auto",
        "sizing": "auto",
        "minVizWidth": 8,
        "minVizHeight": 16,
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    }


def _log_options(_: Panel) -> _Json:
    return {
        "dedupStrategy": "none",
        "enableLogDetails": True,
        "prettifyLogMessage": False,
        "showCommonLabels": False,
        "showLabels": False,
        "showTime": True,
        "sortOrder": "Descending",
        "wrapLogMessage": True,
    }


_OPTIONS = {
    Kind.STAT: _stat_options,
    Kind.LINES: _line_options,
    Kind.HEATMAP: _heatmap_options,
    Kind.BARS: _bar_options,
    Kind.LOGS: _log_options,
}
