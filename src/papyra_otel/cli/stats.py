"""``papyra-otel stats``: how much a log holds, and of what."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from papyra_otel.cli.logs import add_log_options, opened, shown_url
from papyra_otel.cli.screen import Cell, Column, Row, Screen, Table
from papyra_otel.cli.text import json_line, size, size_exact
from papyra_otel.cli.verb import Surroundings, Verb
from papyra_otel.facts import FactKind, LogStats, StreamStats
from papyra_otel.log.times import format_time

__all__ = ["STATS"]

_DESCRIPTION = """\
Count what is stored, by kind. Facts that retention hides count until they are compacted away; lines are
counted, not verified.

--json prints one object: {"log": URL, "systems": [ID, ...], "writers": N, "kinds": {"event":
{"records": N, "bytes": N, "oldest": TIME, "newest": TIME}, "audit": ..., "dead_letter": ...}};
times are RFC 3339 in UTC with nanoseconds, left out where there is no fact.
"""


def _run(args: Namespace, here: Surroundings) -> int:
    url = shown_url(args)
    with opened(args) as log:
        stats = log.stats()
    if args.json:
        here.screen.raw(json_line(_members(url, stats)))
    else:
        _print(here.screen, url, stats)
    return 0


def _members(url: str, stats: LogStats) -> dict[str, Any]:
    kinds = {kind.value: _stream_members(stats.streams[kind]) for kind in FactKind}
    return {"log": url, "systems": list(stats.systems), "writers": stats.writers, "kinds": kinds}


def _stream_members(stream: StreamStats) -> dict[str, Any]:
    members: dict[str, Any] = {"records": stream.records, "bytes": stream.bytes}
    if stream.oldest_unix_nano is not None:
        members["oldest"] = format_time(stream.oldest_unix_nano)
    if stream.newest_unix_nano is not None:
        members["newest"] = format_time(stream.newest_unix_nano)
    return members


def _print(screen: Screen, url: str, stats: LogStats) -> None:
    columns = [
        Column("KIND"),
        Column("RECORDS", right=True),
        Column("SIZE", right=True),
        Column("BYTES", right=True),
        Column("OLDEST (UTC)"),
        Column("NEWEST (UTC)"),
    ]
    rows = [_row(kind.value, stats.streams[kind], screen) for kind in FactKind]
    Table(screen, columns).print([*rows, _row("all", _total(stats), screen)])
    screen.line()
    screen.line(Cell("Log      ", "dim"), Cell(url))
    screen.line(Cell("Systems  ", "dim"), Cell(", ".join(stats.systems) or "none yet"))
    screen.line(Cell("Writers  ", "dim"), Cell(f"{stats.writers:,}"))


def _row(title: str, stream: StreamStats, screen: Screen) -> Row:
    total = "bold" if title == "all" else ""
    return [
        Cell(title, total or "cyan"),
        Cell(f"{stream.records:,}", total),
        Cell(size(stream.bytes), total),
        Cell(size_exact(stream.bytes), "dim"),
        Cell(_time(stream.oldest_unix_nano, screen)),
        Cell(_time(stream.newest_unix_nano, screen)),
    ]


def _time(unix_nano: int | None, screen: Screen) -> str:
    """Return a time to the second, or whole where width does not matter."""
    if unix_nano is None:
        return "-"
    text = format_time(unix_nano)
    return text if screen.width is None else text[:19].replace("T", " ")


def _total(stats: LogStats) -> StreamStats:
    streams = list(stats.streams.values())
    return StreamStats(
        records=sum(stream.records for stream in streams),
        bytes=sum(stream.bytes for stream in streams),
        oldest_unix_nano=min(
            (s.oldest_unix_nano for s in streams if s.oldest_unix_nano is not None), default=None
        ),
        newest_unix_nano=max(
            (s.newest_unix_nano for s in streams if s.newest_unix_nano is not None), default=None
        ),
    )


STATS = Verb(
    name="stats",
    help="count what is stored, by kind",
    description=_DESCRIPTION,
    add_arguments=add_log_options,
    run=_run,
)
