"""Compacting a log: removing what retention hides already, so that every state in between reads the same.

Per system: see what can go, move damaged bytes that would go with it aside, record what is about to
happen (``papyra.log.compacted``, with a low mark per writer and kind), and only then remove: whole segments, oldest
first; last the segments of which something stays, by replacing them. The order is what makes it safe. A crash
before the record leaves all as it was, one after it leaves hidden facts that the next compaction removes.

Segments of living writers are left alone, and no lock of theirs is ever waited for or held: appending
goes on. Which writers live is asked before it is worked out what is hidden, so nothing appended since can be in
a segment that is taken for a dead one's.

What is hidden and not delivered yet stays, with all that its writer wrote behind it, unless forced (``held``).

When the disk is too full even for the record, the oldest segment that can go makes room: it is renamed to
``<name>.removing``, which stays as evidence until the record is written, and cut to nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import ExitStack

from papyra_otel.errors import LogBusy
from papyra_otel.log.file.checkpoint import checkpoints
from papyra_otel.log.file.compact_removal import Record, Removal
from papyra_otel.log.file.folder import LogFolder
from papyra_otel.log.retention import Retention
from papyra_otel.reports import CompactionReport, Progress, ProgressCallback

__all__ = ["Record", "compact_log"]


def compact_log(
    folder: LogFolder,
    clock: Callable[[], int],
    limits: Retention,
    *,
    force: bool = False,
    dry_run: bool = False,
    progress: ProgressCallback | None = None,
    record: Record,
    ticks: Callable[[], float] = time.monotonic,
) -> CompactionReport:
    """Compact the log in *folder*. See ``FactLog.compact``; *ticks* are seconds of a clock that never steps.

    Raises OSError when something cannot be removed; what was done until then stands, the rest is done next time.
    """
    begun = ticks()
    now = clock()
    with ExitStack() as locks:
        held = [*checkpoints(folder.fs, folder.root)]
        systems = [
            Removal(folder, system_folder, limits, now, held, force=force)
            for system_folder in _locked_systems(folder, locks)
        ]
        if not force:
            for system in systems:
                system.refuse_wrong_clock()
        meter = _Meter(progress, sum(system.look() for system in systems))
        for system in systems:
            system.plan(meter.read)
        recorded = () if dry_run else tuple(fact for system in systems for fact in system.carry_out(record))
        return CompactionReport(
            dry_run=dry_run,
            streams=tuple(stream for system in systems for stream in system.streams()),
            skipped=tuple(skipped for system in systems for skipped in system.skipped),
            kept_in=tuple(sorted(place for system in systems for place in system.kept_in)),
            recorded=recorded,
            groups=tuple(hold for system in systems for hold in system.holds()),
            duration_seconds=ticks() - begun,
        )


def _locked_systems(folder: LogFolder, locks: ExitStack) -> list[str]:
    """Return the systems' folders, all locked against other maintenance. Raises LogBusy."""
    found: list[str] = []
    for name in folder.system_folders():
        path = os.path.join(folder.root, name)
        if not folder.fs.is_folder(path):
            continue
        fd = folder.fs.lock_folder(path)
        if fd is None:
            raise LogBusy(f"another process is recovering or compacting {path}; try again when it is done")
        locks.callback(folder.fs.close, fd)
        found.append(name)
    return found


class _Meter:
    """Tells how far reading is."""

    def __init__(self, progress: ProgressCallback | None, total_bytes: int) -> None:
        self._progress = progress
        self._total_bytes = total_bytes
        self._done_bytes = 0

    def read(self, place: str, size_bytes: int) -> None:
        self._done_bytes += size_bytes
        if self._progress is not None and size_bytes:
            total = max(self._total_bytes, self._done_bytes)
            self._progress(Progress(done_bytes=self._done_bytes, total_bytes=total, place=place))
