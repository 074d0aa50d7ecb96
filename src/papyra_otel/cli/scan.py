"""``papyra-otel scan``: look at every stored byte and tell what is not as it should be."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from papyra_otel.cli.caretaker import looking_after
from papyra_otel.cli.findings import (
    print_amounts,
    print_anomalies,
    print_next,
    print_risks,
    print_verdict,
    remark_on_nothing,
    scan_members,
)
from papyra_otel.cli.logs import add_log_options, command, opened, shown_url
from papyra_otel.cli.progress import Meter
from papyra_otel.cli.screen import Screen
from papyra_otel.cli.text import json_line
from papyra_otel.cli.verb import Surroundings, Verb
from papyra_otel.reports import ScanReport

__all__ = ["SCAN"]

_DESCRIPTION = """\
Look at every stored byte and tell what is not as it should be: damage, loss, leftovers. Nothing is
changed; writers may go on. Ends with 0 if the log is healthy, 1 if there are anomalies of level ERROR
(facts are damaged or lost) or WARN (nothing is lost, but look at it); INFO is healthy.

--json prints one object with the members log, backend, healthy, damaged, complete, systems, writers,
places, places_remembered, places_unread, read_bytes, duration_seconds, kinds (per kind: records, bytes,
good_bytes, mark_bytes, newer_bytes, damaged_bytes, in_flight_bytes), counts (per anomaly type) and
anomalies (the first thousand of each type: type, severity, place, offset, length, system, kind, writer,
detail; absent ones are left out), and risks where there are any: settings of the server that may lose facts
(name, status, detail, remedy); they do not change the exit code.
"""


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--incremental",
        action="store_true",
        help="pass over what a start of the application verified before and was not changed since",
    )
    parser.add_argument(
        "--quiet", action="store_true", help="no progress, and nothing at all of a log that is healthy"
    )
    add_log_options(parser)


def _run(args: Namespace, here: Surroundings) -> int:
    url = shown_url(args)
    with opened(args) as log, looking_after(log, args.system, here.screen) as caretaker:
        with Meter(here, quiet=args.quiet) as progress:
            report = caretaker.scan(progress, incremental=args.incremental)
        _show(here.screen, report, args, url)
    return 0 if report.healthy else 1


def _show(screen: Screen, report: ScanReport, args: Namespace, url: str) -> None:
    if args.json:
        screen.raw(json_line({"log": url, **scan_members(report)}))
    elif not (args.quiet and report.healthy):
        print_anomalies(screen, report)
        print_amounts(screen, report)
        print_verdict(screen, report)
        print_risks(screen, report)
        if not report.healthy:
            print_next(screen, command("recover", args, "--dry-run"))
        remark_on_nothing(screen, report, args.system)


SCAN = Verb(
    name="scan",
    help="look at every stored byte, tell what is damaged or lost",
    description=_DESCRIPTION,
    add_arguments=_add_arguments,
    run=_run,
)
