from __future__ import annotations

import json
from argparse import ArgumentTypeError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.support import NANOS, NOON
from papyra_otel.cli.moments import Moment
from papyra_otel.cli.text import cut, duration, json_line, neutral, size, width, wrap

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, Zoë, 東京, é", "plain, Zoë, 東京, é"),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\x1b[2J\x07\x9b", r"\x1b[2J\x07\x9b"),
        ("\u202eevil\u2069\ufeff", r"\u202eevil\u2069\ufeff"),
        ("\ud800", r"\ud800"),
        ("\U000e0001", r"\U000e0001"),
    ],
)
def test_what_a_terminal_could_obey_is_written_as_an_escape(text: str, shown: str) -> None:
    assert neutral(text) == shown


@given(st.recursive(TEXT | st.integers(), lambda inner: st.dictionaries(TEXT, inner)))
def test_json_lines_are_harmless_and_mean_the_same(value: object) -> None:
    line = json_line(value)
    assert line.isprintable()
    assert json.loads(line) == value


@given(TEXT, st.integers(1, 30))
def test_cutting_fits_and_shows_that_it_cut(text: str, columns: int) -> None:
    shown = cut(text, columns)
    assert width(shown) <= columns
    assert shown == text or (shown.endswith("…") and text.startswith(shown[:-1]))


@given(TEXT.map(neutral), st.integers(2, 30), st.integers(1, 4))
def test_wrapping_fits_and_loses_only_spaces(text: str, columns: int, lines_max: int) -> None:
    lines = wrap(text, columns, lines_max)
    assert len(lines) <= lines_max
    assert all(width(line) <= columns for line in lines)
    kept = "".join(lines).replace(" ", "")
    whole = text.replace(" ", "")
    assert kept == whole or (kept.endswith("…") and whole.startswith(kept[:-1]))


@pytest.mark.parametrize(
    ("text", "columns", "lines"),
    [
        ("one two three", 7, ["one two", "three"]),
        ("one two three", 8, ["one two", "three"]),
        ("abcdefghij", 4, ["abcd", "efgh", "ij"]),
        ("abcdefghijklmn", 4, ["abcd", "efgh", "ijk…"]),
        ("東京東京", 5, ["東京", "東京"]),
        ("", 5, [""]),
    ],
)
def test_wrapping_breaks_at_spaces(text: str, columns: int, lines: list[str]) -> None:
    assert wrap(text, columns, 3) == lines


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0µs"),
        (3.7e-6, "3.7µs"),
        (999.9e-6, "1ms"),
        (0.0123, "12.3ms"),
        (0.99999, "1s"),
        (1.5, "1.5s"),
        (59.99, "1min"),
        (90, "1.5min"),
        (7200, "2h"),
        (7 * 86_400, "7d"),
        (1e9, "11,574.1d"),
    ],
)
def test_durations_are_short(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


@pytest.mark.parametrize(
    ("size_bytes", "shown"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (2**30, "1.0 GiB"), (2**51, "2,048.0 TiB")],
)
def test_sizes_are_short(size_bytes: int, shown: str) -> None:
    assert size(size_bytes) == shown


@pytest.mark.parametrize(
    ("text", "seconds_after_noon"),
    [
        ("2026-11-22T12:00:00Z", 0),
        ("2026-11-22t12:00:01.5z", 1.5),
        ("2026-11-22 12:00", 0),
        ("2026-11-22T12:00:00", 0),
        ("2026-11-22T14:00:00+02:00", 0),
        ("2026-11-22T07:30-0430", 0),
        ("2026-11-22", -12 * 3600),
        ("0s", 3600),
        ("500ms", 3599.5),
        ("15m", 2700),
        ("15 min ago", 2700),
        ("1h ago", 0),
        ("1d", 3600 - 86_400),
        ("1w", 3600 - 604_800),
    ],
)
def test_moments_are_read(text: str, seconds_after_noon: float) -> None:
    assert Moment(text).unix_nano(NOON + 3600 * NANOS) == NOON + int(seconds_after_noon * NANOS)


def test_moments_keep_nanoseconds_and_stay_within_what_a_log_can_hold() -> None:
    assert Moment("2026-11-22T12:00:00.123456789Z").unix_nano(0) == NOON + 123_456_789
    assert Moment("99999w").unix_nano(NOON) == 0
    assert Moment("0001-01-01").unix_nano(NOON) == 0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "15",
        "-1h",
        "1y",
        "2026",
        "2026-11-22T25:00",
        "2026-02-30",
        "2026-11-22T12",
        "\N{ARABIC-INDIC DIGIT FIVE}m",
        "12:00",
    ],
)
def test_what_is_no_moment_is_told(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="is not a time"):
        Moment(text)
