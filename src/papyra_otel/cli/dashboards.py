"""``papyra-otel dashboards export``: write dashboards, alert rules and their routing into a folder."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from papyra_otel.cli.logs import add_json_option
from papyra_otel.cli.screen import Cell
from papyra_otel.cli.text import json_line
from papyra_otel.cli.verb import Surroundings, Verb
from papyra_otel.errors import ConfigError
from papyra_otel.grafana import RUNBOOKS, files

__all__ = ["DASHBOARDS"]

_DESCRIPTION = """\
Write what Grafana, Prometheus, Loki and Alertmanager need into a folder: dashboards (*.json), alert rules,
a route and provisioning files (*.yaml). Files of these names that are there already are replaced, others
are left alone. The same version of papyra-otel always writes the same bytes.

  papyra-otel dashboards export ./grafana

--json prints one object with the members folder and files (their paths within the folder).
"""


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("action", choices=["export"], help="what to do: write the files")
    parser.add_argument("folder", metavar="DIR", help="the folder, made if it is not there")
    parser.add_argument(
        "--runbooks",
        metavar="URL",
        default=RUNBOOKS,
        help="where the alerts' runbooks are read, if not where papyra-otel publishes them",
    )
    add_json_option(parser)


def _run(args: Namespace, here: Surroundings) -> int:
    made = files(args.runbooks)
    folder = Path(args.folder)
    for name, text in made.items():
        _write(folder / name, text)
    if args.json:
        here.screen.raw(json_line({"folder": str(folder), "files": sorted(made)}))
        return 0
    here.screen.line(Cell(f"{len(made)} files in {folder}:", "bold"))
    for name in sorted(made):
        here.screen.line(Cell(f"  {name}"))
    return 0


def _write(path: Path, text: str) -> None:
    """Write one file; readable by all, as a Grafana runs as somebody else and nothing here is secret."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8", newline="\n")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; choose a folder that this user may write to") from error


DASHBOARDS = Verb(
    name="dashboards",
    help="write dashboards for Grafana and alert rules into a folder",
    description=_DESCRIPTION,
    add_arguments=_add_arguments,
    run=_run,
)
