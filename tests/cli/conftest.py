from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.support import DAY, NANOS, NOON, Done, HandMadeLog, Terminal
from papyra_otel import Fact, open_log
from papyra_otel.cli import doctor, logs, main


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names = {"COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"}
    for name in [name for name in os.environ if name.startswith("OTEL_") or name in names]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., str]:
    """Writes facts into a log and returns its URL."""

    def write(*facts: Fact) -> str:
        url = (tmp_path / "facts").as_uri()
        with open_log(url) as log:
            log.prepare()
            log.append(facts)
        return url

    return write


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Runs a command line in this process."""

    def call(*argv: str, **stand_ins: Any) -> Done:
        try:
            code = main(list(argv), **{"clock": lambda: NOON + 3600 * NANOS, **stand_ins})
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        return Done(code, out, err)

    return call


@pytest.fixture
def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """Runs a command line on a terminal of so many columns."""

    def call(*argv: str, columns: int = 100, **stand_ins: Any) -> Done:
        out, err = Terminal(), Terminal()
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        code = main(list(argv), **{"clock": lambda: NOON + 3600 * NANOS, **stand_ins})
        monkeypatch.undo()
        return Done(code, out.getvalue(), err.getvalue())

    return call


@pytest.fixture
def a_day(written: Callable[..., str]) -> str:
    """A log with one fact of each sort: the URL."""
    return written(*DAY)


@pytest.fixture
def damaged(a_day: str, tmp_path: Path) -> str:
    """A log of which a line was changed, one was lost, and one file is a stranger: the URL."""
    (events,) = tmp_path.glob("facts/shop/events/*.ndjson")
    header, first, _lost, third, *rest = events.read_bytes().splitlines(keepends=True)
    events.write_bytes(header + first.replace(b"papyra.system", b"papyra.sys_tem") + third + b"".join(rest))
    (tmp_path / "facts" / "shop" / "events" / "b\udcffd.txt").touch()
    return a_day


@pytest.fixture
def hand_made(monkeypatch: pytest.MonkeyPatch) -> Callable[..., HandMadeLog]:
    """Makes every URL open a log that reports what it is told to."""

    def make(**reports: Any) -> HandMadeLog:
        log = HandMadeLog(**reports)
        for module in (logs, doctor):
            monkeypatch.setattr(module, "open_log", lambda *_, **__: log)
        return log

    return make
