"""The options that say which log, and opening it. Wrong settings in the environment are told here too."""

from __future__ import annotations

import shlex
from argparse import ArgumentParser, Namespace

from papyra_otel.config import Settings
from papyra_otel.errors import ConfigError
from papyra_otel.log import FactLog, open_log
from papyra_otel.payload import redact_url

__all__ = ["add_json_option", "add_log_options", "command", "opened", "shown_url"]


def add_log_options(parser: ArgumentParser) -> None:
    """Add ``--log``, ``--system`` and ``--json``."""
    parser.add_argument(
        "--log",
        metavar="URL",
        help="the log: file:relative/dir, file:///absolute/dir, redis://host:6379/0, ... "
        "(default: OTEL_PYTHON_PAPYRA_LOG, else file:papyra-facts)",
    )
    parser.add_argument("--system", metavar="ID", help="only this actor system (default: all in the log)")
    add_json_option(parser)


def add_json_option(parser: ArgumentParser) -> None:
    """Add ``--json``."""
    parser.add_argument("--json", action="store_true", help="print JSON for programs, with stable members")


def shown_url(args: Namespace) -> str:
    """Return the URL of the log that *args* and the environment name, credentials masked."""
    return redact_url(Settings.load({"log": args.log}).log)


def command(verb: str, args: Namespace, *options: str) -> str:
    """Return the command line for *verb* about the same log, to be shown; credentials are masked."""
    log = [] if args.log is None else ["--log", redact_url(args.log)]
    system = [] if args.system is None else ["--system", args.system]
    return shlex.join(["papyra-otel", verb, *log, *system, *options])


def opened(args: Namespace, *, retention: str | None = None) -> FactLog:
    """Open the log that *args* and the environment name. Raises ConfigError and what opening raises."""
    settings = Settings.load({"log": args.log})
    log = open_log(settings.log, args.system, retention or settings.retention)
    if not log.capabilities.shared_between_processes:
        log.close()
        raise ConfigError(
            f"{redact_url(settings.log)} lives inside the process that writes it, out of reach from here; "
            f"name a log that is shared, such as file:papyra-facts"
        )
    return log
