"""``papyra-otel compact``: remove for good what retention hides already."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from papyra_otel.cli.caretaker import looking_after
from papyra_otel.cli.findings import counted, print_next, print_skipped, skipped_members
from papyra_otel.cli.logs import add_log_options, command, opened, shown_url
from papyra_otel.cli.progress import Meter
from papyra_otel.cli.screen import Cell, Column, Row, Screen, Table
from papyra_otel.cli.text import json_line, size
from papyra_otel.cli.verb import Surroundings, Verb
from papyra_otel.config import OTEL_PYTHON_PAPYRA_RETENTION, Settings
from papyra_otel.errors import CompactionRefused, ConfigError
from papyra_otel.facts import FactKind
from papyra_otel.log.retention import Retention, parse_retention
from papyra_otel.reports import CompactionReport, GroupHold, StreamCompaction

__all__ = ["COMPACT"]

_EXAMPLE = "events=7d,1GiB;dead_letters=90d"
_DESCRIPTION = f"""\
Remove for good what retention hides already: whole files, oldest first, then the beginning of one more.
Readers see the same before, after and in between; writers go on, and what they are writing to stays.
Works on a full disk. Damaged bytes that would go too are kept beside the log. What is not delivered yet
(papyra-otel ship, forward=outbox) stays, too, and in Redis what a consumer group has not acknowledged.

Without --retention, what OTEL_PYTHON_PAPYRA_RETENTION says; one of the two must be set. Ends with 0 when
done, and with 1 when refused: an age limit would remove most of the log, and a wrong clock may be why.
--force does both: it believes the clock, and takes what is not delivered, or not read by consumer groups.

--json prints one object with the members log, dry_run, records_removed, bytes_freed, streams (objects
with system, kind, records_removed, records_kept, bytes_freed, segments_removed, segments_replaced),
kept_in, skipped (objects with place and reason), recorded (ids of the facts about it), groups (objects
with system, kind, group, unread, pending, lost) and duration_seconds; when refused, log, dry_run and refused (why).

Example: papyra-otel compact --retention '{_EXAMPLE}' --dry-run
"""


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--retention",
        metavar="TEXT",
        help=f"what stays, for example {_EXAMPLE} (default: OTEL_PYTHON_PAPYRA_RETENTION)",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="also when the clock looks wrong, and what is not delivered, or not acknowledged by a consumer group",
    )
    parser.add_argument("--dry-run", action="store_true", help="change nothing, tell what would be removed")
    add_log_options(parser)


def _run(args: Namespace, here: Surroundings) -> int:
    url = shown_url(args)
    retention = _retention(args)
    try:
        with opened(args) as log, looking_after(log, args.system, here.screen) as caretaker:
            with Meter(here) as progress:
                report = caretaker.compact(retention, args.force, dry_run=args.dry_run, progress=progress)
            if args.json:
                here.screen.raw(json_line({"log": url, **_members(report)}))
            else:
                _print(here.screen, report, args, delivers=log.capabilities.backend == "file")
    except CompactionRefused as refused:
        if args.json:
            here.screen.raw(json_line({"log": url, "dry_run": args.dry_run, "refused": str(refused)}))
        here.screen.flush()
        here.screen.error(str(refused))
        return 1
    except KeyboardInterrupt:
        if not args.dry_run:
            here.screen.remark("Interrupted. What readers see is the same; the next run removes the rest.")
        raise
    return 0


def _retention(args: Namespace) -> Retention:
    """Return what stays. Raises ConfigError if nothing says so: compacting without a limit is a mistake."""
    given = args.retention is not None
    retention = parse_retention(args.retention) if given else Settings.load({"log": args.log}).retention
    if all(retention.of(kind).unlimited for kind in FactKind):
        what = f"--retention {args.retention!r} has no limit" if given else "no retention is set"
        raise ConfigError(
            f"{what}: nothing says what may be removed; write --retention '{_EXAMPLE}', "
            f"or set {OTEL_PYTHON_PAPYRA_RETENTION}"
        )
    return retention


def _members(report: CompactionReport) -> dict[str, Any]:
    return {
        "dry_run": report.dry_run,
        "records_removed": report.records_removed,
        "bytes_freed": report.bytes_freed,
        "streams": [
            {
                "system": stream.system,
                "kind": stream.kind.value,
                "records_removed": stream.records_removed,
                "records_kept": stream.records_kept,
                "bytes_freed": stream.bytes_freed,
                "segments_removed": stream.segments_removed,
                "segments_replaced": stream.segments_replaced,
            }
            for stream in report.streams
        ],
        "kept_in": list(report.kept_in),
        "skipped": skipped_members(report.skipped),
        "recorded": [fact.uid for fact in report.recorded],
        "groups": [
            {
                "system": hold.system,
                "kind": hold.kind.value,
                "group": hold.group,
                "unread": hold.unread,
                "pending": hold.pending,
                "lost": hold.lost,
            }
            for hold in report.groups
        ],
        "duration_seconds": round(report.duration_seconds, 6),
    }


# --- for people ---------------------------------------------------------------------------------------


def _print(screen: Screen, report: CompactionReport, args: Namespace, *, delivers: bool) -> None:
    if report.streams:
        _print_table(screen, report)
        screen.line()
    for place in report.kept_in:
        screen.line(Cell("damaged bytes kept in ", "dim"), Cell(place, "cyan"))
    print_skipped(screen, report.skipped)
    for hold in report.groups:
        _print_hold(screen, hold, dry_run=report.dry_run, delivers=delivers)
    amount = f"{counted(report.records_removed, 'fact')}, {size(report.bytes_freed)}"
    if not any(map(_touched, report.streams)):
        screen.prose("Nothing to remove: retention hides nothing that could go.", "bold green")
    elif report.dry_run:
        screen.prose(f"Would remove {amount}. This was a dry run: nothing was changed.", "bold")
        retention = () if args.retention is None else ("--retention", args.retention)
        print_next(screen, command("compact", args, *retention, *(["--force"] * args.force)), "To do it")
    else:
        screen.prose(f"Removed {amount}.", "bold green")


def _print_hold(screen: Screen, hold: GroupHold, *, dry_run: bool, delivers: bool) -> None:
    """Say what a consumer group, or an outlet, held back or lost."""
    verb = "holds back" if not hold.lost else "would lose" if dry_run else "lost"
    missing = {
        "not delivered" if delivers else "not read": hold.unread,
        "not acknowledged": hold.pending,
    }
    amounts = " and ".join(f"{counted(number, 'fact')} {why}" for why, number in missing.items() if number)
    screen.line(
        Cell("outlet " if delivers else "consumer group "),
        Cell(hold.group, "cyan"),
        Cell(f" {verb} {amounts}", "bold red" if hold.lost else "yellow"),
        Cell(f" ({hold.system} {hold.kind.plural})", "dim"),
    )


def _touched(stream: StreamCompaction) -> bool:
    return bool(stream.records_removed or stream.segments_removed or stream.segments_replaced)


def _print_table(screen: Screen, report: CompactionReport) -> None:
    columns = [
        Column("SYSTEM", share=0.25),
        Column("KIND"),
        Column("REMOVED", right=True),
        Column("KEPT", right=True),
        Column("FREED", right=True),
    ]
    Table(screen, columns).print(_row(stream) for stream in report.streams)


def _row(stream: StreamCompaction) -> Row:
    return [
        Cell(stream.system, "cyan"),
        Cell(stream.kind.value),
        Cell(f"{stream.records_removed:,}", "bold" if stream.records_removed else "dim"),
        Cell(f"{stream.records_kept:,}"),
        Cell(size(stream.bytes_freed) if stream.bytes_freed else "-"),
    ]


COMPACT = Verb(
    name="compact",
    help="remove for good what retention hides",
    description=_DESCRIPTION,
    add_arguments=_add_arguments,
    run=_run,
)
