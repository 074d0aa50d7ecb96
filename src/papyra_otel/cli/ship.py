"""``papyra-otel ship``: deliver a log's facts to an OTLP receiver, beside the program that records them or after it."""

from __future__ import annotations

import signal
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from papyra_otel.cli.findings import counted
from papyra_otel.cli.logs import add_log_options, opened, shown_url
from papyra_otel.cli.text import json_line
from papyra_otel.cli.verb import Surroundings, Verb
from papyra_otel.config import Settings
from papyra_otel.log.outlet import OUTLET

if TYPE_CHECKING:
    from papyra_otel.pipeline.delivery.deliverer import Deliverer

__all__ = ["SHIP"]

_DESCRIPTION = """\
Deliver the facts of a log to an OTLP receiver, oldest first, and go on where delivery stopped before: each fact
at least once, with the same log.record.uid if it comes again. What forward=outbox does inside a program, this
does beside it (--follow), or after it. Facts are only read.

The receiver is that of the variables OTEL_EXPORTER_OTLP_ENDPOINT, _PROTOCOL (grpc or http/protobuf), _HEADERS,
_COMPRESSION, _TIMEOUT, _CERTIFICATE, ..., as the OpenTelemetry SDK reads them; those with _LOGS_ go first.
What leaves is said by OTEL_PYTHON_PAPYRA_FORWARD_MESSAGES and _FORWARD_PAYLOAD; both are off unless set.

Without --follow it ends when everything is delivered, with 0; or with 1 when the receiver has taken nothing for
--patience seconds, or refused facts for good (they are kept beside the log). With --follow it never gives up, and
waits while another process delivers; SIGTERM ends it in order, with 0.

--json prints one object at the end, with the members log, receiver, outlet, delivered, refused and complete.

Example: papyra-otel ship --follow --log file:///var/lib/shop/facts
"""
_PATIENCE_SECONDS = 60.0
_SLICE_SECONDS = 0.2


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--follow", action="store_true", help="go on with what is recorded from now on")
    parser.add_argument(
        "--patience",
        type=_positive,
        metavar="SECONDS",
        help=f"give up when the receiver has taken nothing for so long (default: {_PATIENCE_SECONDS:g}; "
        "with --follow never)",
    )
    parser.add_argument(
        "--rate", type=_positive, metavar="N", help="at most N facts per second (default: as fast as can be)"
    )
    parser.add_argument(
        "--outlet",
        default=OUTLET,
        metavar="NAME",
        help="under which name it is noted how far delivery is (default: %(default)s): one for each receiver",
    )
    add_log_options(parser)


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def _run(args: Namespace, here: Surroundings) -> int:
    from papyra_otel.pipeline.counters import Counters  # noqa: PLC0415 - gRPC is slow to import, and only for this verb
    from papyra_otel.pipeline.delivery.deliverer import Pace  # noqa: PLC0415 - as above
    from papyra_otel.pipeline.delivery.outbox import new_client, new_deliverer  # noqa: PLC0415 - as above
    from papyra_otel.pipeline.delivery.target import Target  # noqa: PLC0415 - as above
    from papyra_otel.pipeline.resource import own_scope  # noqa: PLC0415 - as above

    target = Target.load()
    settings = Settings.load({"log": args.log})
    client = new_client(target)
    patience = args.patience or (None if args.follow else _PATIENCE_SECONDS)
    waiting = _Waiting(here, patience, settings.exit_timeout_seconds)
    try:
        with opened(args) as log:
            deliverer = waiting.deliverer = new_deliverer(
                log,
                client,
                target,
                Counters(),
                own_scope(),
                told=here.screen.remark,
                outlet=args.outlet,
                messages=settings.forward_messages,
                payload=settings.forward_payload,
                pace=Pace(rate=args.rate),
                ticks=here.ticks,
                wait=waiting,
            )
            with _ended_by_sigterm(waiting):
                complete = deliverer.run(follow=args.follow)
    finally:
        client.close()
    shipper = deliverer.shipper
    if args.json:
        told = {
            "log": shown_url(args),
            "receiver": target.shown,
            "outlet": args.outlet,
            "delivered": shipper.delivered,
            "refused": shipper.refused,
            "complete": complete,
        }
        here.screen.raw(json_line(told))
    else:
        refused = f"; {counted(shipper.refused, 'fact')} refused for good" if shipper.refused else ""
        rest = "" if complete else " What is left stays in the log."
        style = "bold green" if complete and not refused else "bold yellow"
        here.screen.prose(
            f"Delivered {counted(shipper.delivered, 'fact')} to {target.shown}{refused}.{rest}", style
        )
    done = (complete or waiting.asked_to_end) and not shipper.refused
    return 0 if done else 1


class _Waiting:
    """Waits between requests, in slices; ends delivery when patience does, or when asked to."""

    def __init__(self, here: Surroundings, patience_seconds: float | None, exit_seconds: float) -> None:
        self._here = here
        self._patience_seconds = patience_seconds
        self._exit_seconds = exit_seconds
        self._since = here.ticks()
        self._ended = False
        self.asked_to_end = False
        self.deliverer: Deliverer | None = None

    def __call__(self, seconds: float) -> bool:
        until = self._here.ticks() + seconds
        while not self._ended:
            now = self._here.ticks()
            if self._is_impatient(now):
                self._end(0.0)
            elif self.asked_to_end:
                self._end(self._exit_seconds)
            elif now >= until:
                return False
            else:
                self._here.wait(min(until - now, _SLICE_SECONDS))
        return True

    def _is_impatient(self, now: float) -> bool:
        deliverer = self.deliverer
        if deliverer is None or self._patience_seconds is None:
            return False
        if not deliverer.shipper.failing:
            self._since = now
        return now - self._since >= self._patience_seconds

    def _end(self, within_seconds: float) -> None:
        self._ended = True
        if self.deliverer is not None:
            self.deliverer.end(within_seconds)

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Note that it is time to end: what is under way is finished, or left after the exit timeout."""
        del number, frame
        self.asked_to_end = True
        self._end(self._exit_seconds)


@contextmanager
def _ended_by_sigterm(waiting: _Waiting) -> Generator[None]:
    try:
        before = signal.signal(signal.SIGTERM, waiting.on_signal)
    except ValueError:  # not in the main thread: whoever runs us there ends us some other way
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


SHIP = Verb(
    name="ship",
    help="deliver facts to an OTLP receiver, and go on where that stopped",
    description=_DESCRIPTION,
    add_arguments=_add_arguments,
    run=_run,
)
