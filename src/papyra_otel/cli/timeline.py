"""Facts as a timeline: a table for people, or one JSON object a line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from papyra_otel.cli.details import actor_text, detail_text, name_text
from papyra_otel.cli.screen import Cell, Column, Row, Screen, Table
from papyra_otel.cli.text import json_line
from papyra_otel.facts import Entry, Fact
from papyra_otel.log.times import format_time

__all__ = ["JsonTimeline", "TableTimeline", "Timeline", "members_of"]

_LEVEL_STYLES = {
    "TRACE": "dim",
    "DEBUG": "dim",
    "INFO": "green",
    "WARN": "yellow",
    "ERROR": "bold red",
    "FATAL": "bold white on red",
}
_DATE_CHARS = len("2026-11-22")
_TIME = slice(len("2026-11-22T"), len("2026-11-22T20:02:45.123"))
_TIME_WIDE = slice(len("2026-11-22T"), len("2026-11-22T20:02:45.123456"))


def members_of(entry: Entry) -> dict[str, Any]:
    """Return what ``--json`` prints of a fact. The names are stable; what is absent is left out."""
    fact = entry.fact
    members = {
        "uid": fact.uid,
        "kind": fact.kind.value,
        "name": fact.name,
        "time": format_time(fact.time_unix_nano),
        "system": fact.system,
        "actor": fact.actor,
        "severity": fact.severity,
        "trace_id": fact.trace_id,
        "span_id": fact.span_id,
        "attributes": fact.attributes,
        "cursor": entry.cursor,
    }
    return {name: value for name, value in members.items() if value is not None}


class JsonTimeline:
    """One JSON object a line."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen

    def print(self, entries: Iterable[Entry]) -> int:
        """Print *entries* as they come; return how many."""
        printed = 0
        for entry in entries:
            self._screen.raw(json_line(members_of(entry)))
            printed += 1
        return printed


class TableTimeline:
    """A table. Times are UTC: of the day under a line with the date, or whole where width does not matter."""

    def __init__(self, screen: Screen) -> None:
        self._whole_times = screen.width is None
        self._time = _TIME_WIDE if screen.is_wide else _TIME
        columns = [
            Column("TIME (UTC)"),
            Column("LEVEL"),
            Column("FACT", share=0.25),
            Column("ACTOR", share=0.2),
            Column("DETAIL"),
        ]
        self._table = Table(screen, columns, wraps=True)
        self._date = ""

    def print(self, entries: Iterable[Entry]) -> int:
        """Print *entries* as they come; return how many."""
        return self._table.print(self._rows(entries))

    def _rows(self, entries: Iterable[Entry]) -> Iterator[Row | str]:
        for entry in entries:
            time = format_time(entry.fact.time_unix_nano)
            if self._whole_times:
                yield _row(time, entry.fact)
                continue
            if time[:_DATE_CHARS] != self._date:
                self._date = time[:_DATE_CHARS]
                yield self._date
            yield _row(time[self._time], entry.fact)


def _row(time: str, fact: Fact) -> Row:
    style = _LEVEL_STYLES.get(fact.severity.rstrip("234"), "")
    quiet = "dim" if style == "dim" else ""
    return [
        Cell(time, "dim"),
        Cell(fact.severity, style),
        Cell(name_text(fact), style if "red" in style else quiet or "bold"),
        Cell(actor_text(fact), quiet or "cyan"),
        Cell(detail_text(fact), quiet),
    ]


Timeline = JsonTimeline | TableTimeline
