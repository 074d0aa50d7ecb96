"""Wall time as text: RFC 3339 in UTC with exactly nine digits, the only form on the wire.

Never a JSON number: jq and Go collectors round those to 2**53. Fixed width, so text order is time order.
"""

from __future__ import annotations

import re
import time
from datetime import datetime, timezone
from functools import lru_cache

__all__ = ["MAX_UNIX_NANO", "format_time", "is_time", "parse_time", "unix_nano_of"]

_NANOS = 1_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_NAIVE_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - texts here are all UTC; without a zone it is faster
MAX_UNIX_NANO = 253_402_300_799_999_999_999  # 9999-12-31T23:59:59.999999999Z
_CHARS = len("2026-11-22T20:02:45.123456789Z")
_FRACTION = re.compile(r"\d{9}", re.ASCII)
_latest = (-1, "")
_SECONDS = frozenset(f"{second:02d}" for second in range(60))
_SHAPE = re.compile(r"\d{4}-\d\d-\d\dT(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d", re.ASCII)


def format_time(unix_nano: int) -> str:
    """Return ``2026-11-22T20:02:45.123456789Z``; times outside the years 1970 to 9999 become the nearest."""
    global _latest  # noqa: PLW0603 - most facts are of the same second as the one before
    seconds = unix_nano // _NANOS
    known, text = _latest
    if seconds != known:
        unix_nano = min(max(unix_nano, 0), MAX_UNIX_NANO)
        seconds = unix_nano // _NANOS
        text = _second_text(seconds)
        _latest = seconds, text  # one assignment: threads see a matching pair
    return f"{text}.{unix_nano - seconds * _NANOS:09d}Z"


def parse_time(text: str) -> int:
    """Return nanoseconds since the epoch. Raises ValueError for anything but the exact form above."""
    if len(text) != _CHARS or text[19] != "." or text[29] != "Z" or _FRACTION.fullmatch(text, 20, 29) is None:
        raise ValueError(f"{text!r} is not a UTC time with nine digits")
    return _second_number(text[:19]) * _NANOS + int(text[20:29])


def is_time(text: str) -> bool:
    """Say whether *parse_time* would take *text*, at less cost."""
    fraction = text[20:29]
    return (
        len(text) == _CHARS
        and text[19] == "."
        and text[29] == "Z"
        and fraction.isdigit()
        and fraction.isascii()
        and text[17:19] in _SECONDS
        and _is_minute(text[:17])
    )


def unix_nano_of(moment: datetime | int) -> int:
    """Return *moment* in nanoseconds since the epoch; an int already is. A naive datetime is local time."""
    if isinstance(moment, int):
        return moment
    # Not timestamp(): a float does not hold microseconds for ever.
    since = (moment if moment.tzinfo else moment.astimezone()) - _EPOCH
    return (since.days * 86_400 + since.seconds) * _NANOS + since.microseconds * 1000


def _second_text(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)).rjust(19, "0")


@lru_cache(maxsize=4096)
def _second_number(text: str) -> int:
    if _SHAPE.fullmatch(text) is None:
        raise ValueError(f"{text!r} is not a UTC time")
    since = datetime.fromisoformat(text) - _NAIVE_EPOCH
    return since.days * 86_400 + since.seconds


@lru_cache(maxsize=4096)
def _is_minute(text: str) -> bool:
    try:
        _second_number(text + "00")
    except ValueError:
        return False
    return True
