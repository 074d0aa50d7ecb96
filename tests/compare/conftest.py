"""Collects one row per attack and prints the table; with ``--write`` the document is refreshed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from compare.attacks import ATTACKS
from compare.table import DOCUMENT, render, replaced

_rows: dict[str, tuple[str, str]] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write", action="store_true", help="write the table of nox -s compare to docs/compare.md"
    )


@pytest.fixture
def told() -> Callable[..., None]:
    """Note what an attack did to papyra and to us."""

    def note(attack: str, *, papyra: object, ours: object) -> None:
        assert attack in ATTACKS
        assert attack not in _rows, "each attack has one row"
        _rows[attack] = (str(papyra), str(ours))

    return note


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _rows:
        return
    table = render(_rows)
    terminalreporter.section("the same attacks on both")
    terminalreporter.write_line(table)
    if not terminalreporter.config.getoption("write", default=False):
        return
    if missing := ATTACKS.keys() - _rows.keys():
        terminalreporter.write_line(f"not written, these rows are missing: {', '.join(sorted(missing))}")
        return
    DOCUMENT.write_text(replaced(DOCUMENT.read_text("utf-8"), table), "utf-8")
    terminalreporter.write_line(f"written to {DOCUMENT}")
