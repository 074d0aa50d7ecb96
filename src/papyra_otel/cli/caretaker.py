"""Looking after a log on behalf of an operator: telemetry of it goes where the environment says, if it does."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Protocol

from papyra_otel.cli.screen import Screen
from papyra_otel.config import ForwardMode, Settings, otlp_protocols, resource_attributes
from papyra_otel.log import FactLog
from papyra_otel.log.retention import Retention
from papyra_otel.reports import CompactionReport, ProgressCallback, RecoveryReport, ScanReport

__all__ = ["Caretaker", "looking_after"]


class Caretaker(Protocol):
    """What scans, recovers and compacts: a log, or what does it for a log and tells of it."""

    def scan(self, progress: ProgressCallback | None = None, *, incremental: bool = False) -> ScanReport:
        """See FactLog."""
        ...

    def recover(
        self, mode: str = "quarantine", *, dry_run: bool = False, progress: ProgressCallback | None = None
    ) -> RecoveryReport:
        """See FactLog."""
        ...

    def compact(
        self,
        retention: Retention | str | None = None,
        force: bool = False,
        *,
        dry_run: bool = False,
        progress: ProgressCallback | None = None,
    ) -> CompactionReport:
        """See FactLog."""
        ...


@contextmanager
def looking_after(log: FactLog, system: str | None, screen: Screen) -> Generator[Caretaker]:
    """Yield what looks after *log*, and export what came of it when the block ends, also by an error.

    Without an OTLP endpoint in the environment it is the log itself. What cannot be exported is said in one line on
    stderr; nothing else depends on it.
    """
    protocols = otlp_protocols()
    settings = Settings.load()
    if settings.forward is ForwardMode.OFF:
        protocols.pop("logs", None)
    if not protocols:
        yield log
        return
    from papyra_otel.pipeline.once import Once  # noqa: PLC0415 - slow to import, and few need it

    once = Once(
        log,
        protocols,
        resource_attributes(),
        system=system,
        stored=settings.forward is ForwardMode.LIVE,  # an outbox delivers what is stored
        seconds_max=settings.exit_timeout_seconds,
    )
    try:
        yield once.upkeep
        screen.flush()  # first what was asked for
    except BrokenPipeError:
        raise
    except Exception:
        _export(once.export, screen)
        raise
    _export(once.export, screen)


def _export(export: Callable[[], Sequence[str]], screen: Screen) -> None:
    for problem in export():
        screen.remark(f"Telemetry of this run was not exported: {' '.join(problem.split())}.")
