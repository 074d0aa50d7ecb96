"""What a scan found: for people, and as the members of ``--json``. Shared by the verbs that scan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from papyra_otel.cli.screen import Cell, Column, Row, Screen, Table
from papyra_otel.cli.text import duration, size
from papyra_otel.facts import FactKind
from papyra_otel.reports import ANOMALY_SEVERITIES, Anomaly, Check, ScanReport, Skipped, StreamScan

__all__ = [
    "check_members",
    "counted",
    "print_amounts",
    "print_anomalies",
    "print_next",
    "print_risks",
    "print_skipped",
    "print_verdict",
    "remark_on_nothing",
    "scan_members",
    "skipped_members",
]

_PLACES_PER_TYPE = 3
_PLACES_MAX = 12
_NARROW = 60
_DETAIL_INDENT = 33
_SEVERITIES = ("ERROR", "WARN", "INFO")
_STYLES = {"ERROR": "bold red", "WARN": "yellow", "INFO": "dim"}
_MEANINGS: Mapping[str, str] = {
    "torn_tail": "the last line is unfinished: its writer was killed",
    "torn_inside": "an unfinished line, with others after it",
    "nul_run": "zero bytes where facts were: a power cut, or a disk",
    "lost_newline": "a good line without its line end",
    "crc_mismatch": "a line was changed after it was written",
    "corrupt_line": "bytes that are no line of ours",
    "foreign_json": "JSON that we did not write",
    "schema_invalid": "a line of ours with members that make no sense",
    "future_version": "lines of a newer papyra-otel: kept, not read",
    "oversize_line": "longer than any line of ours",
    "duplicate": "the same fact twice: read once",
    "fork_conflict": "two different facts with the same identity",
    "gap": "facts are missing, and nothing says why",
    "out_of_order": "a writer's facts are not in their order",
    "clock_jump": "a writer's clock stepped",
    "head_missing": "a segment does not begin with its header",
    "segment_missing": "a whole segment is gone",
    "segment_digest": "a segment is not what its seal says",
    "unclean_shutdown": "a writer ended without sealing: it was killed",
    "tmp_leftover": "a file left behind by a crash",
    "unexpected_file": "a file that is not part of the log",
    "unreadable": "could not be read",
}


def counted(number: int, thing: str, things: str | None = None) -> str:
    """Return ``1 fact`` or ``2 facts``."""
    return f"{number:,} {thing if number == 1 else things or thing + 's'}"


# --- for programs -------------------------------------------------------------------------------------


def scan_members(report: ScanReport) -> dict[str, Any]:
    """Return what ``--json`` prints of a scan. The names are stable."""
    return {
        "backend": report.backend,
        "healthy": report.healthy,
        "damaged": report.damaged,
        "complete": report.complete,
        "systems": list(report.systems),
        "writers": report.writers,
        "places": report.places,
        "places_remembered": report.places_remembered,
        "places_unread": report.places_unread,
        "read_bytes": report.read_bytes,
        "duration_seconds": round(report.duration_seconds, 6),
        "kinds": {kind.value: _stream_members(_stream(report, kind)) for kind in FactKind},
        "counts": {name: count for name, count in report.counts.items() if count},
        "anomalies": [_anomaly_members(anomaly) for anomaly in report.anomalies],
        **({"risks": [check_members(risk) for risk in report.risks]} if report.risks else {}),
    }


def check_members(check: Check) -> dict[str, str]:
    """Return what ``--json`` prints of something that was looked at before a start."""
    members = {"name": check.name, "status": check.status, "detail": check.detail}
    return members if check.remedy is None else {**members, "remedy": check.remedy}


def print_risks(screen: Screen, report: ScanReport) -> None:
    """Print what may lose facts from now on, and what to do about it."""
    for risk in report.risks:
        remedy = "" if risk.remedy is None else f" → {risk.remedy}"
        screen.prose(
            f"{risk.detail}{remedy}", start=[Cell(f"{risk.status:<4}  {risk.name}", "yellow")], indent=6
        )


def _stream(report: ScanReport, kind: FactKind) -> StreamScan:
    return report.streams.get(kind, StreamScan())


def _stream_members(stream: StreamScan) -> dict[str, int]:
    return {
        "records": stream.records,
        "bytes": stream.size_bytes,
        "good_bytes": stream.good_bytes,
        "mark_bytes": stream.mark_bytes,
        "newer_bytes": stream.newer_bytes,
        "damaged_bytes": stream.damaged_bytes,
        "in_flight_bytes": stream.in_flight_bytes,
    }


def _anomaly_members(anomaly: Anomaly) -> dict[str, Any]:
    members = {
        "type": anomaly.type,
        "severity": anomaly.severity,
        "place": anomaly.place,
        "offset": anomaly.offset,
        "length": anomaly.length,
        "system": anomaly.system,
        "kind": None if anomaly.kind is None else anomaly.kind.value,
        "writer": anomaly.writer,
        "detail": anomaly.detail,
    }
    return {name: value for name, value in members.items() if value is not None}


def skipped_members(skipped: Iterable[Skipped]) -> list[dict[str, str]]:
    """Return what ``--json`` prints of what was left as it is."""
    return [{"place": each.place, "reason": each.reason} for each in skipped]


# --- for people ---------------------------------------------------------------------------------------


def print_anomalies(screen: Screen, report: ScanReport) -> None:
    """Print how many of each type, worst first, then the first places; nothing where there is none."""
    found = {name: count for name, count in report.counts.items() if count}
    if not found:
        return
    names = sorted(found, key=lambda name: (_SEVERITIES.index(ANOMALY_SEVERITIES[name]), -found[name], name))
    columns = [Column("LEVEL"), Column("ANOMALY"), Column("COUNT", right=True), Column("WHAT IT IS")]
    narrow = screen.width is not None and screen.width < _NARROW
    rows: list[Row] = [_row(name, found[name])[: 3 if narrow else 4] for name in names]
    Table(screen, columns[: 3 if narrow else 4], wraps=True).print(rows)
    screen.line()
    shown = list(_first_places(report.anomalies))
    by_place: dict[str, list[Anomaly]] = {}
    for anomaly in shown:
        by_place.setdefault(anomaly.place, []).append(anomaly)
    for place, anomalies in by_place.items():
        screen.line(Cell(place or "the log's folder", "cyan"))
        for anomaly in sorted(anomalies, key=lambda each: each.offset or 0):
            start = [Cell(f"  {anomaly.type:<17}", _STYLES[anomaly.severity]), Cell(f"{_span(anomaly):<13} ")]
            screen.prose(anomaly.detail, start=start, indent=4 if narrow else _DETAIL_INDENT)
    if more := sum(found.values()) - len(shown):
        screen.line(Cell(f"and {more:,} more; --json lists {_listed(report)}", "dim"))
    screen.line()


def _row(name: str, count: int) -> list[Cell]:
    severity = ANOMALY_SEVERITIES[name]
    style = _STYLES[severity]
    return [Cell(severity, style), Cell(name, style), Cell(f"{count:,}"), Cell(_MEANINGS.get(name, ""))]


def _first_places(anomalies: Iterable[Anomaly]) -> Iterator[Anomaly]:
    shown: Counter[str] = Counter()
    for anomaly in sorted(anomalies, key=lambda each: _SEVERITIES.index(each.severity)):
        if shown.total() < _PLACES_MAX and shown[anomaly.type] < _PLACES_PER_TYPE:
            shown[anomaly.type] += 1
            yield anomaly


def _span(anomaly: Anomaly) -> str:
    """Return ``offset+length`` in bytes, as far as known."""
    if anomaly.offset is None:
        return ""
    return str(anomaly.offset) if not anomaly.length else f"{anomaly.offset}+{anomaly.length}"


def _listed(report: ScanReport) -> str:
    kept, total = len(report.anomalies), sum(report.counts.values())
    return "all" if kept >= total else f"the first {kept:,}"


def print_amounts(screen: Screen, report: ScanReport) -> None:
    """Print how much of what kind there is and what was read of it."""
    streams = [(kind.value, _stream(report, kind)) for kind in FactKind]
    streams.append(("all", sum((stream for _, stream in streams), StreamScan())))
    total = streams[-1][1]
    columns = [Column("KIND"), Column("RECORDS", right=True), Column("SIZE", right=True)]
    amounts = [("DAMAGED", "damaged_bytes")]
    if total.newer_bytes:
        amounts.append(("NEWER", "newer_bytes"))
    if total.in_flight_bytes:
        amounts.append(("IN FLIGHT", "in_flight_bytes"))
    columns += [Column(title, right=True) for title, _ in amounts]
    Table(screen, columns).print(_amounts_row(name, stream, amounts) for name, stream in streams)
    screen.line()


def _amounts_row(name: str, stream: StreamScan, amounts: Iterable[tuple[str, str]]) -> Row:
    style = "bold" if name == "all" else ""
    row = [
        Cell(name, style or "cyan"),
        Cell(f"{stream.records:,}", style),
        Cell(size(stream.size_bytes), style),
    ]
    for title, member in amounts:
        found: int = getattr(stream, member)
        style_found = "bold red" if found and title == "DAMAGED" else style
        row.append(Cell(size(found) if found else "-", style_found))
    return row


def print_verdict(screen: Screen, report: ScanReport) -> None:
    """Print what it comes to, in one sentence, and how much of the log that sentence is about."""
    text, style = _verdict(report)
    screen.prose(text, style)
    screen.prose(_coverage(report), "dim")


def _verdict(report: ScanReport) -> tuple[str, str]:
    number = report.unresolved
    if report.damaged:
        lost = sum(count for name, count in report.counts.items() if ANOMALY_SEVERITIES[name] == "ERROR")
        of = "" if lost == number else f" of {number:,} anomalies"
        what = counted(lost, "anomaly", "anomalies") if lost == number else f"{lost:,}{of}"
        return f"Damaged: {what} {'is' if lost == 1 else 'are'} damage or loss.", "bold red"
    if number:
        what = counted(number, "anomaly", "anomalies")
        return f"Not damaged, but look at it: {what}.", "bold yellow"
    return "Healthy.", "bold green"


def _coverage(report: ScanReport) -> str:
    rate = (
        f", {size(int(report.read_bytes / report.duration_seconds))}/s"
        if report.read_bytes > 1 << 20 and report.duration_seconds > 0
        else ""
    )
    places, writers = counted(report.places, "place"), counted(report.writers, "writer")
    took = duration(report.duration_seconds)
    told = [f"Read {size(report.read_bytes)} in {places} of {writers}, {took}{rate}."]
    if report.places_remembered:
        were = "was" if report.places_remembered == 1 else "were"
        told.append(f"{report.places_remembered:,} {were} verified before and passed over.")
    if report.places_unread:
        were = "was" if report.places_unread == 1 else "were"
        told.append(f"{report.places_unread:,} {were} left unread for lack of time.")
    return " ".join(told)


def print_skipped(screen: Screen, skipped: Iterable[Skipped]) -> None:
    """Print what was left as it is, and why."""
    for each in skipped:
        screen.line(Cell("left ", "yellow"), Cell(each.place or "the record of it", "cyan"))
        screen.prose(each.reason, indent=2)


def remark_on_nothing(screen: Screen, report: ScanReport, system: str | None) -> None:
    """Say so if there was nothing to look at: a misspelt system is healthy, too."""
    if report.places == 0 and not report.systems:
        of = "" if system is None else f" of a system {system!r}"
        screen.remark(f"Nothing has been recorded{of} in this log yet.")


def print_next(screen: Screen, command: str, why: str = "Next") -> None:
    """Print the command to go on with, whole, so that it can be copied."""
    screen.line(Cell(f"{why}: ", "bold"), Cell(command))
