"""What a dashboard is here: plain values. ``board`` turns them into Grafana's JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

__all__ = ["Board", "Kind", "Panel", "Query", "Row", "Source", "Variable"]


class Source(Enum):
    """Where a query is sent: the type of the data source, and so the variable that picks it."""

    PROMETHEUS = "prometheus"
    LOKI = "loki"


class Kind(Enum):
    """The panels of Grafana that are used."""

    STAT = "stat"
    LINES = "timeseries"
    HEATMAP = "heatmap"
    BARS = "bargauge"
    LOGS = "logs"


@dataclass(frozen=True, slots=True)
class Query:
    """One query. *legend* is Grafana's pattern. *instant* asks for the last moment only."""

    expr: str
    legend: str = ""
    source: Source = Source.PROMETHEUS
    instant: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One panel. *id* is frozen: links and alerts name it.

    *unit* is Grafana's name of a unit. *width* is in 24ths of the page. From *red_from* on a value means: act.
    *link* is the uid of the dashboard that shows more, *carries* the label it is opened for, as one of its variables.
    *empty* is what a stat shows where there is nothing.
    """

    id: int
    kind: Kind
    title: str
    description: str
    unit: str
    queries: Sequence[Query]
    width: int = 8
    height: int = 8
    stacked: bool = False
    maximum: float | None = None
    red_from: float | None = None
    decimals: int | None = None
    link: str | None = None
    carries: tuple[str, str] | None = None
    empty: str = "-"
    on_the_right: str | None = None
    right_unit: str = "short"


@dataclass(frozen=True, slots=True)
class Row:
    """A titled stretch of the page. *id* is frozen."""

    id: int
    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """A choice at the top of the page: by *query*, or free text where there is none."""

    name: str
    label: str
    query: str = ""
    source: Source = Source.PROMETHEUS
    matched: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """A dashboard. *uid* is frozen, and also names its file."""

    uid: str
    title: str
    description: str
    rows: Sequence[Row]
    variables: Sequence[Variable] = ()

    def panels(self) -> list[Panel]:
        """Return all panels, in order."""
        return [panel for row in self.rows for panel in row.panels]
