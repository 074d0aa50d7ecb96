"""``papyra-otel facts``: what was recorded, as a table for people or as JSON for programs."""

from __future__ import annotations

import re
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import Any

from papyra_otel import semconv
from papyra_otel.cli.logs import add_log_options, opened
from papyra_otel.cli.moments import Moment
from papyra_otel.cli.timeline import JsonTimeline, TableTimeline
from papyra_otel.cli.verb import Surroundings, Verb, whole_number
from papyra_otel.errors import ConfigError
from papyra_otel.facts import Entry, Fact, FactKind
from papyra_otel.log import FactLog

__all__ = ["FACTS"]

_LAST_ON_A_TERMINAL = 50
_LAST_WHEN_FOLLOWING = 10
_SHOWN_AT_ONCE_MAX = 1000
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_KINDS = {text: kind for kind in FactKind for text in (kind.value, kind.plural)}
_OWN_NAMES = {
    semconv.SYSTEM_STARTED,
    semconv.SYSTEM_STOPPED,
    semconv.ACTOR_DECLARED,
    semconv.ACTOR_STARTED,
    semconv.ACTOR_STOPPED,
    semconv.ACTOR_EXCEPTION,
    semconv.ACTOR_RESTARTED,
    semconv.SUPERVISION_DECIDED,
    semconv.MESSAGE_PROCESSED,
    semconv.ASK_TIMED_OUT,
    semconv.DEAD_LETTER_CAPTURED,
    semconv.AUDIT_COMPLETED,
    semconv.FACT_DROPPED,
    semconv.LOG_SCANNED,
    semconv.LOG_ANOMALY,
    semconv.LOG_RECOVERED,
    semconv.LOG_COMPACTED,
    semconv.LOG_OPENED,
    semconv.LOG_SEALED,
}

_DESCRIPTION = f"""\
Show recorded facts, oldest first. Damaged lines and what retention hides are skipped.

On a terminal the {_LAST_ON_A_TERMINAL} newest are shown unless --last, --limit or --after says otherwise;
into a pipe or file, and with --json, all of them.

--json prints one object a line with the members uid, kind, name, time (RFC 3339, UTC, nanoseconds),
system, actor, severity, trace_id, span_id, attributes, cursor; absent ones are left out.
A cursor given to --after resumes just past its fact, in the direction it was read:
one printed with --newest-first or --last needs --newest-first.
"""


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--kind",
        action="append",
        type=_kind,
        metavar="KIND",
        help="only facts of this kind: event, audit or dead_letter; may be repeated",
    )
    parser.add_argument("--name", type=_name, help="only facts of this name, such as actor.exception")
    parser.add_argument("--actor", type=_actor, metavar="ADDRESS", help="only facts about this actor")
    parser.add_argument(
        "--since",
        type=Moment,
        metavar="TIME",
        help="from this time on: 2026-11-22, 2026-11-22T20:02:45Z (UTC without a zone), or ago: 15m, 2h, 7d",
    )
    parser.add_argument("--until", type=Moment, metavar="TIME", help="before this time")
    parser.add_argument("--after", metavar="CURSOR", help="just past this fact; see --json")
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument(
        "--last", type=whole_number, metavar="N", help="the N newest facts, oldest of them first"
    )
    amount.add_argument(
        "--limit", type=whole_number, metavar="N", help="at most N facts, then stop; 0 for all"
    )
    parser.add_argument("--newest-first", action="store_true", help="show the newest fact first")
    parser.add_argument(
        "--follow",
        action="store_true",
        help=f"show the last facts (--last, else {_LAST_WHEN_FOLLOWING}), then new ones as they come, until Ctrl-C",
    )
    parser.add_argument(
        "--retention",
        metavar="TEXT",
        help="hide older facts, for example events=7d,1GiB;dead_letters=90d "
        "(default: OTEL_PYTHON_PAPYRA_RETENTION, else none)",
    )
    add_log_options(parser)


def _kind(text: str) -> FactKind:
    kind = _KINDS.get(text.strip().lower().replace("-", "_"))
    if kind is None:
        raise ArgumentTypeError(f"{text!r} is not a kind of fact; use {', '.join(FactKind)}")
    return kind


def _name(text: str) -> str:
    """Return the name on the wire: our own ones may be given as they are shown, without ``papyra.``."""
    return f"papyra.{text}" if f"papyra.{text}" in _OWN_NAMES else text


def _actor(text: str) -> str:
    """Return the address on the wire: a UUID may be given as it is shown, without ``urn:uuid:``."""
    return f"urn:uuid:{text}" if _UUID.fullmatch(text) else text


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """Which facts were asked for. Times in nanoseconds since the epoch."""

    kinds: list[FactKind] | None
    name: str | None
    actor: str | None
    since: int | None
    until: int | None

    def filters(self) -> dict[str, Any]:
        """Return the arguments for ``FactLog.read``."""
        return {name: getattr(self, name) for name in ("kinds", "name", "actor", "since", "until")}

    def followed(self) -> dict[str, Any]:
        """Return the arguments for ``FactLog.follow``."""
        return {name: getattr(self, name) for name in ("kinds", "name", "actor", "since")}

    def matches(self, fact: Fact) -> bool:
        """Say whether a fact of the wanted kinds is one of them."""
        return (
            (self.name is None or fact.name == self.name)
            and (self.actor is None or fact.actor == self.actor)
            and (self.since is None or fact.time_unix_nano >= self.since)
        )


def _wanted(args: Namespace, now_unix_nano: int) -> _Wanted:
    since = None if args.since is None else args.since.unix_nano(now_unix_nano)
    until = None if args.until is None else args.until.unix_nano(now_unix_nano)
    if since is not None and until is not None and since >= until:
        raise ConfigError("--since must be before --until")
    return _Wanted(kinds=args.kind, name=args.name, actor=args.actor, since=since, until=until)


def _check_combination(args: Namespace) -> None:
    if args.follow:
        given = {"--limit": args.limit, "--newest-first": args.newest_first or None, "--until": args.until}
        for option, value in given.items():
            if value is not None:
                raise ConfigError(f"--follow and {option} exclude one another")
    if args.last is not None and args.after is not None:
        raise ConfigError("--last and --after exclude one another; use --limit with --after")


def _run(args: Namespace, here: Surroundings) -> int:
    _check_combination(args)
    wanted = _wanted(args, here.clock())
    timeline = JsonTimeline(here.screen) if args.json else TableTimeline(here.screen)
    with opened(args, retention=args.retention) as log:
        if args.follow:
            _follow(log, wanted, args, timeline, here)
        else:
            _show(log, wanted, args, timeline, here)
    return 0


def _show(
    log: FactLog, wanted: _Wanted, args: Namespace, timeline: JsonTimeline | TableTimeline, here: Surroundings
) -> None:
    unasked = (
        here.screen.is_terminal
        and not args.json
        and args.last is None
        and args.limit is None
        and args.after is None
    )
    last = _LAST_ON_A_TERMINAL if unasked else args.last
    older = False
    if last is None:
        limit = args.limit or None
        entries = log.read(**wanted.filters(), after=args.after, limit=limit, newest_first=args.newest_first)
    else:
        newest = list(islice(log.read(**wanted.filters(), newest_first=True), last + 1))
        older = len(newest) > last
        entries = iter(newest[:last] if args.newest_first else newest[:last][::-1])
    printed = timeline.print(entries)
    if unasked and older:
        here.screen.remark(f"The {last} newest; there are older ones: --last N shows more, --limit 0 all.")
    if not printed and not args.json:
        here.screen.remark(_why_nothing(log, args))


def _why_nothing(log: FactLog, args: Namespace) -> str:
    systems = log.stats().systems
    if systems:
        return "No facts match."
    if args.system is not None:
        return f"No facts: nothing has been recorded of a system {args.system!r} in this log."
    return "No facts: nothing has been recorded in this log yet."


# --- following ------------------------------------------------------------------------------------


def _follow(
    log: FactLog, wanted: _Wanted, args: Namespace, timeline: JsonTimeline | TableTimeline, here: Surroundings
) -> None:
    """Show what is new until interrupted."""
    place = args.after
    if place is None:
        # Filters here, not in the log, so that the place moves past all.
        last: deque[Entry] = deque(maxlen=_LAST_WHEN_FOLLOWING if args.last is None else args.last)
        entry: Entry | None = None
        for entry in log.read(kinds=wanted.kinds):
            if wanted.matches(entry.fact):
                last.append(entry)
        place = None if entry is None else entry.cursor
        timeline.print(last)

    fresh: list[Entry] = []

    def show() -> None:
        some = list(fresh)
        fresh.clear()
        timeline.print(some)
        here.screen.flush()

    def wait(seconds: float) -> None:
        show()
        if seconds:
            here.wait(seconds)

    try:
        for found in log.follow(**wanted.followed(), after=place, wait=wait):
            fresh.append(found)
            if len(fresh) >= _SHOWN_AT_ONCE_MAX:
                show()
    finally:
        show()


FACTS = Verb(
    name="facts",
    help="show recorded facts, with filters; follow new ones",
    description=_DESCRIPTION,
    add_arguments=_add_arguments,
    run=_run,
)
