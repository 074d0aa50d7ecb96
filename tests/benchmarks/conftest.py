"""One table for all figures, printed at the end of ``nox -s bench``."""

from __future__ import annotations

from collections.abc import Callable

import pytest

_rows: list[tuple[str, str, str, str]] = []


@pytest.fixture
def report() -> Callable[[str, float, str, bool], None]:
    """Note a figure: what, the ratio measured, the target as text, and whether it is met."""

    def note(what: str, ratio: float, target: str, met: bool, unit: str = "x") -> None:
        _rows.append((what, f"{ratio:.2f} {unit}", target, "met" if met else "MISSED"))

    return note


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _rows:
        return
    terminalreporter.section("measured within this run")
    widths = [max(len(row[column]) for row in _rows) for column in range(4)]
    for row in _rows:
        terminalreporter.write_line(
            "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))
        )
