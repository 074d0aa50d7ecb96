"""The command: which verbs there are, what they share, and what their errors become.

Exit codes: 0 healthy or done; 1 anomalies (or they remain, compacting was refused, a check failed); 2 wrong usage,
or the log cannot be reached or read; 70 a bug of ours, with its traceback; 130 Ctrl-C (that is how ``--follow``
ends); 141 nobody reads our output any more.
"""

from __future__ import annotations

import sys
import time
import traceback
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import NoReturn

from papyra_otel.cli.compact import COMPACT
from papyra_otel.cli.dashboards import DASHBOARDS
from papyra_otel.cli.demo import DEMO
from papyra_otel.cli.doctor import DOCTOR
from papyra_otel.cli.facts import FACTS
from papyra_otel.cli.metrics import METRICS
from papyra_otel.cli.recover import RECOVER
from papyra_otel.cli.scan import SCAN
from papyra_otel.cli.screen import Screen
from papyra_otel.cli.ship import SHIP
from papyra_otel.cli.stats import STATS
from papyra_otel.cli.verb import Surroundings, Verb
from papyra_otel.errors import PapyraOtelError

__all__ = ["VERBS", "main"]

VERBS: Sequence[Verb] = (
    COMPACT,
    DASHBOARDS,
    DEMO,
    DOCTOR,
    FACTS,
    METRICS,
    RECOVER,
    SCAN,
    SHIP,
    STATS,
)

_WRONG, _BUG, _INTERRUPTED, _NOBODY_READS = 2, 70, 130, 141

_DESCRIPTION = "The flight recorder of Python actor systems: look at what was recorded, and look after it."
_EPILOG = """\
The log is that of --log, else of OTEL_PYTHON_PAPYRA_LOG, else file:papyra-facts. All times are UTC.
Exit codes: 0 healthy or done, 1 anomalies, 2 wrong usage or the log cannot be reached, 130 Ctrl-C.
Begin with: papyra-otel demo
"""


def main(
    argv: Sequence[str] | None = None,
    *,
    clock: Callable[[], int] = time.time_ns,
    ticks: Callable[[], float] = time.monotonic,
    wait: Callable[[float], None] = time.sleep,
) -> int:
    """Run the command line *argv* (the process's by default) and return the exit code.

    Raises SystemExit, as argparse does, for ``--help``, ``--version`` and a wrong command line.
    *clock* (nanoseconds since the epoch), *ticks* and *wait* (seconds) are for tests.
    """
    parser = _parser()
    args = parser.parse_args(argv)
    if args.verb is None:
        parser.print_help(sys.stderr)
        return _WRONG
    verb = next(verb for verb in VERBS if verb.name == args.verb)
    screen = Screen(sys.stdout, sys.stderr)
    try:
        code = verb.run(args, Surroundings(screen=screen, clock=clock, ticks=ticks, wait=wait))
        screen.flush()
    except PapyraOtelError as error:
        with suppress(BrokenPipeError):
            screen.flush()
        screen.error(str(error))
        return _WRONG
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        return _NOBODY_READS
    except Exception:
        traceback.print_exc()
        screen.error("this is a bug in papyra-otel; please report it with the lines above")
        return _BUG
    return code


class _Parser(ArgumentParser):
    """Tells a wrong command line in one line."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and where help is, and exit."""
        Screen(sys.stdout, sys.stderr).error(f"{message}; see {self.prog} --help")
        raise SystemExit(_WRONG)


def _parser() -> ArgumentParser:
    parser = _Parser(
        prog="papyra-otel",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"papyra-otel {_version()}")
    verbs = parser.add_subparsers(title="verbs", dest="verb", metavar="VERB", parser_class=_Parser)
    for verb in VERBS:
        sub = verbs.add_parser(
            verb.name,
            help=verb.help,
            description=verb.description,
            formatter_class=RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        verb.add_arguments(sub)
    return parser


def _version() -> str:
    try:
        return version("papyra-otel")
    except PackageNotFoundError:
        return "(not installed)"
