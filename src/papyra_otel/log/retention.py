"""How long facts stay visible: limits per kind, and the text they are written as.

Retention hides the oldest part of a stream at read time and destroys nothing; compaction removes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from papyra_otel.errors import ConfigError
from papyra_otel.facts import FactKind

__all__ = ["KindRetention", "Retention", "parse_retention"]

_NANOS = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class KindRetention:
    """Limits for one stream (one kind of one system); None means no limit. The strictest one decides.

    *max_bytes* counts stored lines with their line ends; the fact that reaches it is shown whole.
    """

    max_records: int | None = None
    max_age_seconds: float | None = None
    max_bytes: int | None = None

    @property
    def unlimited(self) -> bool:
        """True when nothing is ever hidden."""
        return self.max_records is None and self.max_age_seconds is None and self.max_bytes is None

    def oldest_unix_nano(self, now_unix_nano: int) -> int | None:
        """Return the time before which facts are hidden, in nanoseconds since the epoch; None for no limit."""
        if self.max_age_seconds is None:
            return None
        return now_unix_nano - int(self.max_age_seconds * _NANOS)


@dataclass(frozen=True, slots=True)
class Retention:
    """Limits per kind; a kind that is not named has none."""

    by_kind: Mapping[FactKind, KindRetention] = field(default_factory=dict[FactKind, KindRetention])

    def of(self, kind: FactKind) -> KindRetention:
        """Return the limits of *kind*."""
        return self.by_kind.get(kind, _UNLIMITED)


_UNLIMITED = KindRetention()
_KINDS = {kind.plural: kind for kind in FactKind} | {kind.value: kind for kind in FactKind}
_AGE_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_SIZE_BYTES = {
    "B": 1,
    "kB": 1000,
    "KiB": 1024,
    "MB": 1000**2,
    "MiB": 1024**2,
    "GB": 1000**3,
    "GiB": 1024**3,
    "TB": 1000**4,
    "TiB": 1024**4,
}
_HELP = (
    "write, for example, events=7d,1GiB;dead_letters=90d;audits=100000 "
    "(ages in s m h d w, sizes in B to TiB, plain numbers are records)"
)


def parse_retention(text: str) -> Retention:
    """Read ``events=7d,1GiB;dead_letters=90d;audits=100000``; without ``kind=`` the limits hold for every kind.

    Raises ConfigError that quotes the part it does not understand.
    """
    by_kind: dict[FactKind, KindRetention] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        name, equals, limits = part.rpartition("=")
        if equals and name.strip() not in _KINDS:
            raise ConfigError(f"retention {text!r}: {name.strip()!r} is not a kind of fact; {_HELP}")
        kinds = [_KINDS[name.strip()]] if equals else list(FactKind)
        parsed = _parse_limits(text, limits)
        for kind in kinds:
            if kind in by_kind:
                raise ConfigError(f"retention {text!r}: {kind.plural} is given twice; {_HELP}")
            by_kind[kind] = parsed
    return Retention(by_kind)


def _parse_limits(text: str, limits: str) -> KindRetention:
    found: dict[str, int] = {}
    for limit in (limit.strip() for limit in limits.split(",")):
        name, value = _parse_limit(text, limit)
        if name in found:
            raise ConfigError(f"retention {text!r}: {limit!r} is a second limit of the same sort; {_HELP}")
        found[name] = value
    return KindRetention(
        max_records=found.get("records"), max_age_seconds=found.get("age"), max_bytes=found.get("bytes")
    )


def _parse_limit(text: str, limit: str) -> tuple[str, int]:
    match = re.fullmatch(r"([0-9]{1,18})\s*([A-Za-z]*)", limit)
    if match is None:
        raise ConfigError(f"retention {text!r}: {limit!r} is not a limit; {_HELP}")
    number, unit = int(match[1]), match[2]
    if number == 0:
        raise ConfigError(f"retention {text!r}: {limit!r} would hide everything; {_HELP}")
    if not unit:
        return "records", number
    if unit in _AGE_SECONDS:
        return "age", number * _AGE_SECONDS[unit]
    if unit in _SIZE_BYTES:
        return "bytes", number * _SIZE_BYTES[unit]
    raise ConfigError(f"retention {text!r}: {unit!r} is not a unit; {_HELP}")
