"""``papyra-otel metrics``: what running processes count, or else what the log itself can tell."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import Any

from papyra_otel import semconv as s
from papyra_otel.cli.logs import add_log_options, opened, shown_url
from papyra_otel.cli.screen import Cell, Column, Table
from papyra_otel.cli.text import json_line
from papyra_otel.cli.verb import Surroundings, Verb
from papyra_otel.config import OTEL_PYTHON_PAPYRA_METRICS_SOCKET, Settings
from papyra_otel.errors import LogError, NotSupported
from papyra_otel.log import FactLog
from papyra_otel.log.outlet import OUTLET

__all__ = ["METRICS"]

_NANOS = 1_000_000_000
_DESCRIPTION = f"""\
Show metrics without a collector: those that running processes count, each by its process id, and what the log
itself can tell: how much is stored, and how much of it is not delivered.

A process can be asked if it records into a file log with {OTEL_PYTHON_PAPYRA_METRICS_SOCKET}=true: then
it listens on a UNIX socket beside the log, for its own user and root only. Histograms are not shown.

--json prints one object with the members log, processes (objects with pid, system, started and metrics) and stored
(metrics); a metric is an object with name, type, unit and points (objects with attributes and value).

Example: papyra-otel metrics --name actor.failures
"""


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--name", metavar="TEXT", help="only metrics whose name contains this")
    parser.add_argument(
        "--outlet", default=OUTLET, metavar="NAME", help="whose delivery is told (default: %(default)s)"
    )
    add_log_options(parser)


def _run(args: Namespace, here: Surroundings) -> int:
    url = Settings.load({"log": args.log}).log
    with opened(args) as log:
        stored = _stored(log, args.outlet, here.clock())
    stored = _wanted(stored, args)
    processes = _processes(url, here) if url.startswith("file:") else []
    for process in processes:
        process["metrics"] = _wanted(process["metrics"], args)
    if args.json:
        here.screen.raw(json_line({"log": shown_url(args), "processes": processes, "stored": stored}))
        return 0
    for process in processes:
        _print(here, f"process {process['pid']}, since {process['started']}", process["metrics"])
    _print(here, "the log", stored)
    if not processes:
        here.screen.remark(
            f"No process can be asked: none records here, or none with {OTEL_PYTHON_PAPYRA_METRICS_SOCKET}=true."
        )
    return 0


def _wanted(metrics: Sequence[dict[str, Any]], args: Namespace) -> list[dict[str, Any]]:
    return [each for each in metrics if args.name is None or args.name in each["name"]]


def _processes(url: str, here: Surroundings) -> list[dict[str, Any]]:
    from papyra_otel.log.file.layout import root_of_url  # noqa: PLC0415 - only for file logs
    from papyra_otel.pipeline.hatch import ask, sockets  # noqa: PLC0415 - as above

    root = root_of_url(url)
    found: list[dict[str, Any]] = []
    for name in sockets(root):
        try:
            told = ask(root, name)
        except PermissionError:
            here.screen.remark(
                f"{name}: it is another user's process, and only that user and root may ask it."
            )
            continue
        if told is not None:
            found.append(told)
    return found


def _stored(log: FactLog, outlet_name: str, now: int) -> list[dict[str, Any]]:
    stats = log.stats()
    backend = {s.BACKEND_TYPE: log.capabilities.backend}
    sizes = [(kind.value, stream) for kind, stream in stats.streams.items()]
    metrics = [
        _metric(
            s.STORAGE_RECORDS, "{record}", [(backend | {s.FACT_KIND: k}, each.records) for k, each in sizes]
        ),
        _metric(s.STORAGE_SIZE, "By", [(backend | {s.FACT_KIND: k}, each.bytes) for k, each in sizes]),
    ]
    try:
        outlet = log.outlet(outlet_name)
        backlog = outlet.backlog() if outlet.begun() else None
    except (NotSupported, LogError):
        backlog = None
    if backlog is not None:
        oldest = backlog.oldest_unix_nano
        age = 0.0 if oldest is None else max(now - oldest, 0) / _NANOS
        metrics.append(_metric(s.DELIVERY_LAG, "{record}", [(backend, backlog.records)]))
        metrics.append(_metric(s.DELIVERY_AGE, "s", [(backend, age)]))
    return metrics


def _metric(name: str, unit: str, points: Sequence[tuple[dict[str, str], float]]) -> dict[str, Any]:
    kind = "up_down_counter" if "storage" in name else "gauge"
    told = [{"attributes": attributes, "value": value} for attributes, value in points]
    return {"name": name, "type": kind, "unit": unit, "points": told}


def _print(here: Surroundings, title: str, metrics: Sequence[dict[str, Any]]) -> None:
    here.screen.line(Cell(title, "bold"))
    columns = (Column("METRIC"), Column("VALUE", right=True), Column("UNIT"), Column("ATTRIBUTES"))
    Table(here.screen, columns, wraps=True).print(
        (
            Cell(metric["name"].removeprefix("papyra.")),
            Cell(f"{point['value']:g}" if isinstance(point["value"], float) else str(point["value"])),
            Cell(metric["unit"], "dim"),
            Cell(" ".join(f"{k.removeprefix('papyra.')}={v}" for k, v in point["attributes"].items()), "dim"),
        )
        for metric in metrics
        for point in metric["points"]
    )
    here.screen.line()


METRICS = Verb(
    name="metrics",
    help="show what running processes count, and what the log itself can tell",
    description=_DESCRIPTION,
    add_arguments=_add_arguments,
    run=_run,
)
