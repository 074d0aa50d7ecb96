from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cli.support import Done, HandMadeLog, Terminal, report_of
from papyra_otel.cli.progress import Meter
from papyra_otel.cli.screen import Screen
from papyra_otel.cli.verb import Surroundings
from papyra_otel.reports import Progress

MIB = 1 << 20
ERASED = "\r\x1b[K"
Make = Callable[..., HandMadeLog]


def step(done_bytes: int, total_bytes: int = 100 * MIB) -> Progress:
    return Progress(done_bytes=done_bytes, total_bytes=total_bytes, place="p")


def shown(steps: list[tuple[float, Progress]], **surroundings: Any) -> list[str]:
    """What a terminal is shown for progress at such times: each text that stood in the line."""
    err = Terminal()
    now = 0.0
    here = Surroundings(
        screen=Screen(Terminal(), err), clock=lambda: 0, ticks=lambda: now, wait=lambda _: None
    )
    with Meter(here, **surroundings) as progress:
        for now, each in steps:  # noqa: B007 - ticks() looks at it
            if progress is not None:
                progress(each)
    return err.getvalue().split("\r")[1:]


def test_percent_time_left_rate_amount_and_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert shown([(2.0, step(25 * MIB))]) == [
        " 25 %  6s left        12.5 MiB/s  25.0 MiB of 100.0 MiB   ━━━━──────────────\x1b[K",
        "\x1b[K",
    ]


@pytest.mark.parametrize("columns", [40, 50, 60, 80])
def test_a_narrow_terminal_shows_less_and_never_wraps(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    line = shown([(2.0, step(25 * MIB))])[0].removesuffix("\x1b[K")
    assert line.startswith(" 25 %  6s left ")
    assert len(line) < columns


def test_what_is_done_soon_shows_nothing() -> None:
    assert shown([(0.1, step(MIB)), (0.2, step(100 * MIB))]) == []


def test_it_changes_ten_times_a_second_at_most() -> None:
    steps = [(n / 1000, step(n * MIB // 100)) for n in range(10_000)]
    assert 90 <= len(shown(steps)) <= 100


def test_a_next_step_of_the_same_work_begins_anew() -> None:
    lines = shown([(10.0, step(90 * MIB)), (11.0, step(MIB)), (12.0, step(11 * MIB))])
    assert "11.0 MiB/s" in lines[-2]
    assert "9s left" in lines[-2]


@pytest.mark.parametrize("total_bytes", [0, 1])
def test_totals_that_are_too_small_are_no_matter(total_bytes: int) -> None:
    assert shown([(1.0, step(0, 0)), (2.0, step(MIB, total_bytes))])[1].startswith("100 %")


def test_quiet_a_file_or_a_dumb_terminal_get_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown([(9.0, step(MIB))], quiet=True) == []
    monkeypatch.setenv("TERM", "dumb")
    assert shown([(9.0, step(MIB))]) == []


def test_a_pipe_gets_no_progress(run: Callable[..., Done], hand_made: Make) -> None:
    log = hand_made(scan=report_of())
    log.steps = [step(MIB)]
    ticks: Iterator[float] = iter(range(100))
    assert run("scan", ticks=lambda: next(ticks)).err == ""


def test_a_terminal_that_is_not_utf_8_gets_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Terminal, "encoding", "ascii", raising=False)
    monkeypatch.setenv("COLUMNS", "300")
    assert shown([(2.0, step(25 * MIB))])[0].isascii()


def test_a_terminal_that_goes_away_does_not_end_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(self: Terminal, text: str) -> int:
        raise BrokenPipeError

    monkeypatch.setattr(Terminal, "write", gone)
    assert shown([(2.0, step(MIB)), (3.0, step(2 * MIB))]) == []


@pytest.mark.parametrize("verb", ["scan", "recover", "compact --retention 1"])
def test_the_line_is_erased_before_anything_else_is_said(
    verb: str, on_terminal: Callable[..., Done], hand_made: Make
) -> None:
    name = verb.split(maxsplit=1)[0]
    for error, code in ((KeyboardInterrupt(), 130), (ZeroDivisionError(), 70), (OSError(), 70)):
        log = hand_made(**{name: error})
        log.steps = [step(MIB)]
        ticks: Iterator[float] = iter(range(100))
        done = on_terminal(*verb.split(), ticks=lambda ticks=ticks: next(ticks))
        assert done.code == code
        line, end = done.err.split("\r")[1:]
        assert line.endswith("\x1b[K")
        assert end.startswith("\x1b[K")


@pytest.mark.slow
def test_ctrl_c_on_a_real_terminal_leaves_it_clean(a_day: str) -> None:
    """A scan that takes for ever, interrupted as the terminal does it."""
    import pty

    program = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # whoever started us may have it ignored
        "from papyra_otel.cli import main\n"
        "from papyra_otel.log.file.filelog import FileLog\n"
        "from papyra_otel.reports import Progress\n"
        "def scan(self, progress, **_):\n"
        "    for n in range(1, 10**6):\n"
        "        progress(Progress(done_bytes=n, total_bytes=10**6, place='p'))\n"
        "        time.sleep(0.01)\n"
        "FileLog.scan = scan\n"
        f"sys.exit(main(['scan', '--log', {a_day!r}]))\n"
    )
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    ) as process:
        os.close(theirs)
        try:
            seen = until(ours, lambda seen: seen.count(b"left") > 1)
            process.send_signal(signal.SIGINT)
            seen += until(ours, lambda seen: seen.endswith(b"\r\x1b[K"))
            assert process.wait(30) == 130
        finally:
            process.kill()
    os.close(ours)
    assert re.search(rb"left[^\r]*\r\x1b\[K$", seen), seen[-200:]


def until(fd: int, enough: Callable[[bytes], bool]) -> bytes:
    """Read until *enough*, for half a minute at most."""
    seen = b""
    while not enough(seen) and select.select([fd], [], [], 30)[0]:
        seen += os.read(fd, 1000)
    return seen
