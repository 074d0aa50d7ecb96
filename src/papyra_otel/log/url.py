"""From a log URL to an open log."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module

from papyra_otel.errors import ConfigError
from papyra_otel.log.contract import FactLog, LogOptions
from papyra_otel.log.retention import Retention, parse_retention
from papyra_otel.payload import redact_url

__all__ = ["open_log"]

ENTRY_POINT_GROUP = "papyra_otel.log"
_BUILT_IN = {
    "file": ("papyra_otel.log.file", "open_file_log"),
    "memory": ("papyra_otel.log.memory", "open_memory_log"),
    **dict.fromkeys(
        (
            *("redis", "rediss", "unix", "redis+unix"),
            *("redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"),
        ),
        ("papyra_otel.log.redis", "open_redis_log"),
    ),
}
_Opener = Callable[..., FactLog]


def open_log(
    url: str,
    system: str | None = None,
    retention: Retention | str | None = None,
    *,
    options: LogOptions | None = None,
) -> FactLog:
    """Open the log at *url*: ``file:relative/dir``, ``file:///abs/dir``, ``memory:``, or a third party's scheme.

    *system* restricts reading to one actor system; None reads all. *retention* (text as in the settings,
    or a value) hides old facts from ``read``. Opening touches nothing: ``prepare`` and the first append
    create what is missing. Raises ConfigError for a malformed URL, an unknown scheme or a bad retention.
    """
    scheme = re.match(r"([a-z][a-z0-9+.-]*):", url)
    if scheme is None:
        raise ConfigError(
            f"log URL {redact_url(url)!r} has no scheme; for a folder write file:{redact_url(url)}"
        )
    opener = _opener(scheme[1], url)
    limits = parse_retention(retention) if isinstance(retention, str) else retention or Retention()
    return opener(url, system=system, retention=limits, options=options or LogOptions())


def _opener(scheme: str, url: str) -> _Opener:
    if scheme in _BUILT_IN:
        module, name = _BUILT_IN[scheme]
        built_in: _Opener = getattr(import_module(module), name)
        return built_in
    from importlib.metadata import entry_points  # noqa: PLC0415 - slow to import, and only third parties need it

    for entry_point in entry_points(group=ENTRY_POINT_GROUP, name=scheme):
        third_party: _Opener = entry_point.load()
        return third_party
    known = sorted({*_BUILT_IN, *entry_points(group=ENTRY_POINT_GROUP).names})
    raise ConfigError(f"log URL {redact_url(url)!r}: no backend for {scheme!r}; known are {', '.join(known)}")
