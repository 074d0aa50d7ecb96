"""Moments as people write them on a command line. All times are UTC, as all times that are shown."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from datetime import datetime, timedelta, timezone

from papyra_otel.log.times import MAX_UNIX_NANO

__all__ = ["Moment"]

_NANOS = 1_000_000_000
_UNIT_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}
_AGO = re.compile(r"(\d{1,9})\s*(ms|s|min|m|h|d|w)(?:\s+ago)?", re.ASCII)
_ABSOLUTE = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[Tt ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,9})\d*)?)?\s*([Zz]|[+-]\d\d:?\d\d)?)?",
    re.ASCII,
)
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class Moment:
    """A moment, absolute or so long ago. Built by argparse from text; ArgumentTypeError says what is wrong."""

    def __init__(self, text: str) -> None:
        self._ago_nanos: int | None = None
        self._unix_nano = 0
        if ago := _AGO.fullmatch(text.strip()):
            self._ago_nanos = round(int(ago[1]) * _UNIT_SECONDS[ago[2]] * _NANOS)
        elif absolute := _ABSOLUTE.fullmatch(text.strip()):
            self._unix_nano = _absolute(text, absolute)
        else:
            raise ArgumentTypeError(
                f"{text!r} is not a time; write 2026-11-22, 2026-11-22T20:02:45Z "
                f"(UTC without a zone), or how long ago: 15m, 2h, 7d"
            )

    def unix_nano(self, now_unix_nano: int) -> int:
        """Return nanoseconds since the epoch."""
        moment = self._unix_nano if self._ago_nanos is None else now_unix_nano - self._ago_nanos
        return min(max(moment, 0), MAX_UNIX_NANO)


def _absolute(text: str, found: re.Match[str]) -> int:
    year, month, day, hour, minute, second, fraction, zone = found.groups()
    try:
        moment = datetime(
            int(year),
            int(month),
            int(day),
            int(hour or 0),
            int(minute or 0),
            int(second or 0),
            tzinfo=timezone.utc,
        )
    except ValueError as error:
        raise ArgumentTypeError(f"{text!r} is not a time: {error}") from None
    seconds = (moment - _EPOCH) // timedelta(seconds=1) - _offset_seconds(zone)
    return seconds * _NANOS + int((fraction or "").ljust(9, "0"))


def _offset_seconds(zone: str | None) -> int:
    if zone is None or zone in "Zz":
        return 0
    sign = -1 if zone[0] == "-" else 1
    return sign * (int(zone[1:3]) * 3600 + int(zone[-2:]) * 60)
