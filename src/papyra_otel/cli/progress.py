"""How far a long look is, in one line of standard error that comes and goes; only where that is a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import TracebackType

from papyra_otel.cli.text import duration, size
from papyra_otel.cli.verb import Surroundings
from papyra_otel.reports import Progress, ProgressCallback

__all__ = ["Meter"]

_UPDATE_SECONDS = 0.1
_PATIENCE_SECONDS = 0.3  # what is faster needs no line
_BAR_COLUMNS = 18


class Meter:
    """Shows progress while it is entered, and leaves the terminal as it was, whatever happens.

    What is told begins anew where the amount done becomes smaller: that is a next step of the same work.
    """

    def __init__(self, here: Surroundings, *, quiet: bool = False) -> None:
        self._screen = here.screen
        self._ticks = here.ticks
        self._wanted = here.screen.shows_progress and not quiet
        self._begun = self._shown = here.ticks()
        self._done_bytes = 0
        self._is_shown = False

    def __enter__(self) -> ProgressCallback | None:
        return self._update if self._wanted else None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_shown:
            self._show()

    def _update(self, progress: Progress) -> None:
        now = self._ticks()
        if progress.done_bytes < self._done_bytes:
            self._begun = now
        self._done_bytes = progress.done_bytes
        if now - self._begun >= _PATIENCE_SECONDS and now - self._shown >= _UPDATE_SECONDS:
            self._shown = now
            self._is_shown = True
            self._show(*_parts(progress, now - self._begun))

    def _show(self, *parts: str) -> None:
        try:
            self._screen.passing(*parts)
        except OSError:  # the terminal is gone; the work goes on
            self._wanted = False


def _parts(progress: Progress, elapsed_seconds: float) -> Sequence[str]:
    """Return percent, time left, rate, amount and a bar: a narrow terminal shows the first of them."""
    total = max(progress.total_bytes, progress.done_bytes, 1)
    share = progress.done_bytes / total
    rate = progress.done_bytes / elapsed_seconds
    left_seconds = math.ceil((total - progress.done_bytes) / rate) if rate else 0
    left = f"{duration(left_seconds)} left" if left_seconds else ""
    amount = f"{size(progress.done_bytes)} of {size(total)}"
    full = int(share * _BAR_COLUMNS)
    bar = "━" * full + "─" * (_BAR_COLUMNS - full)
    return f"{int(share * 100):>3} %", f"{left:<12}", f"{size(int(rate)):>9}/s", f"{amount:<22}", bar
