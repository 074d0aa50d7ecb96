"""``papyra-otel recover``: take damage out of the way of readers, keeping every byte of it."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from typing import Any

from papyra_otel.cli.caretaker import Caretaker, looking_after
from papyra_otel.cli.findings import (
    counted,
    print_anomalies,
    print_next,
    print_skipped,
    print_verdict,
    remark_on_nothing,
    scan_members,
    skipped_members,
)
from papyra_otel.cli.logs import add_log_options, command, opened, shown_url
from papyra_otel.cli.progress import Meter
from papyra_otel.cli.screen import Cell, Screen
from papyra_otel.cli.text import json_line, size
from papyra_otel.cli.verb import Surroundings, Verb
from papyra_otel.reports import RecoveryReport

__all__ = ["RECOVER"]

_PLACES_MAX = 5
_DESCRIPTION = """\
Take damage out of the way of readers. Good facts are never dropped; damaged bytes are kept, exactly, in
files beside the log; what a living writer writes to is left alone. A second run changes nothing; after
an interruption the next run finishes. Ends with 0 if nothing remains to be looked at, 1 if something
does (with --dry-run: if there are anomalies).

--mode quarantine moves damaged bytes aside; repair first corrects single flipped bits, where that is
beyond doubt; ignore only looks.

--json prints one object with the members log, mode, dry_run, changed, found and remaining (as of scan),
rewritten, kept_in, leftovers_removed (lists of places), quarantined_spans, quarantined_bytes,
repaired_lines, skipped (objects with place and reason), recorded (ids of the facts about it) and
duration_seconds.
"""


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--mode",
        choices=("quarantine", "repair", "ignore"),
        default="quarantine",
        help="what to do about damage (default: quarantine)",
    )
    parser.add_argument("--dry-run", action="store_true", help="change nothing, tell what would be done")
    add_log_options(parser)


def _run(args: Namespace, here: Surroundings) -> int:
    url = shown_url(args)
    with opened(args) as log, looking_after(log, args.system, here.screen) as caretaker:
        report = _recovered(caretaker, args, here)
        if args.json:
            here.screen.raw(json_line({"log": url, **_members(report)}))
        else:
            _print(here.screen, report, args)
            remark_on_nothing(here.screen, report.found, args.system)
    return 0 if report.remaining.healthy else 1


def _recovered(caretaker: Caretaker, args: Namespace, here: Surroundings) -> RecoveryReport:
    try:
        with Meter(here) as progress:
            return caretaker.recover(args.mode, dry_run=args.dry_run, progress=progress)
    except KeyboardInterrupt:
        if not args.dry_run and args.mode != "ignore":
            here.screen.remark("Interrupted. No fact is lost by that; the next run finishes what is left.")
        raise


def _members(report: RecoveryReport) -> dict[str, Any]:
    return {
        "mode": report.mode,
        "dry_run": report.dry_run,
        "changed": report.changed,
        "found": scan_members(report.found),
        "remaining": scan_members(report.remaining),
        "rewritten": list(report.rewritten),
        "kept_in": list(report.kept_in),
        "leftovers_removed": list(report.leftovers_removed),
        "quarantined_spans": report.quarantined_spans,
        "quarantined_bytes": report.quarantined_bytes,
        "repaired_lines": report.repaired_lines,
        "skipped": skipped_members(report.skipped),
        "recorded": [fact.uid for fact in report.recorded],
        "duration_seconds": round(report.duration_seconds, 6),
    }


# --- for people ---------------------------------------------------------------------------------------


def _print(screen: Screen, report: RecoveryReport, args: Namespace) -> None:
    looked_only = report.dry_run or report.mode == "ignore"
    print_anomalies(screen, report.found)
    if report.changed:
        for title, lines in _deeds(report):
            screen.line(Cell(title, "bold"))
            for line in lines:
                screen.line(Cell(line, "cyan"), indent=2)
        screen.line()
    print_skipped(screen, report.skipped)
    if looked_only or not report.changed:
        print_verdict(screen, report.found)
        _print_unchanged(screen, report, args)
    elif report.remaining.healthy:
        screen.prose("Recovered: nothing remains to be looked at.", "bold green")
    else:
        screen.prose("Recovered. What remains:", "bold yellow")
        screen.line()
        print_anomalies(screen, report.remaining)
        print_verdict(screen, report.remaining)
        screen.prose(_WHY_REMAINS, "dim")


_WHY_REMAINS = (
    "Recovery leaves what a living writer writes to (run it again when that has ended), files that are "
    "not part of the log (move them), and what it may not read or write."
)


def _print_unchanged(screen: Screen, report: RecoveryReport, args: Namespace) -> None:
    if report.dry_run and report.changed:
        screen.prose("This was a dry run: nothing was changed.")
        print_next(screen, command("recover", args, *_mode(args)), "To do it")
    elif report.mode == "ignore" and not report.found.healthy:
        print_next(screen, command("recover", args, "--dry-run"))
    elif report.found.healthy:
        screen.prose("There is nothing to recover.")
    else:
        screen.prose(f"Nothing of that can be recovered now. {_WHY_REMAINS}")


def _mode(args: Namespace) -> Sequence[str]:
    return () if args.mode == "quarantine" else ("--mode", args.mode)


def _deeds(report: RecoveryReport) -> Iterator[tuple[str, Sequence[str]]]:
    """Yield what was done or would be, in words, each with the places."""
    will = "Would " if report.dry_run else ""

    def told(would: str, did: str) -> str:
        return f"{will}{would}" if will else did

    if report.kept_in:
        damage = (
            f"{counted(report.quarantined_spans, 'damaged span')} ({size(report.quarantined_bytes)})"
            if report.quarantined_spans
            else "the evidence"
        )
        yield f"{told('keep', 'Kept')} {damage} in", _shortened(report.kept_in)
    if report.repaired_lines:
        yield f"{told('repair', 'Repaired')} {counted(report.repaired_lines, 'line')}", ()
    if report.rewritten:
        files = counted(len(report.rewritten), "segment")
        yield (
            f"{told('rewrite', 'Rewrote')} {files}, every good fact in its place",
            _shortened(report.rewritten),
        )
    if report.leftovers_removed:
        files = counted(len(report.leftovers_removed), "leftover")
        yield f"{told('remove', 'Removed')} {files}", _shortened(report.leftovers_removed)


def _shortened(places: Sequence[str]) -> Sequence[str]:
    if len(places) <= _PLACES_MAX:
        return places
    return [*places[: _PLACES_MAX - 1], f"and {len(places) - _PLACES_MAX + 1:,} more; --json lists all"]


RECOVER = Verb(
    name="recover",
    help="take damage out of the way of readers, losing nothing",
    description=_DESCRIPTION,
    add_arguments=_add_arguments,
    run=_run,
)
