"""The flight recorder of Python actor systems.

``enable()`` records what the actor runtimes of this process do, ``open_log(url)`` reads it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from papyra_otel.errors import (
        CompactionRefused,
        ConfigError,
        LogBusy,
        LogDamaged,
        LogError,
        LogTooNew,
        LogUnavailable,
        NotSupported,
        PapyraOtelError,
    )
    from papyra_otel.facts import Entry, Fact, FactKind
    from papyra_otel.log import FactLog, open_log
    from papyra_otel.persistence import PapyraPersistence
    from papyra_otel.plugin import Recording, current, disable, enable
    from papyra_otel.recorder import Actor, Recorder
    from papyra_otel.reports import Anomaly, CompactionReport, Progress, RecoveryReport, ScanReport

__all__ = [
    "Actor",
    "Anomaly",
    "CompactionRefused",
    "CompactionReport",
    "ConfigError",
    "Entry",
    "Fact",
    "FactKind",
    "FactLog",
    "LogBusy",
    "LogDamaged",
    "LogError",
    "LogTooNew",
    "LogUnavailable",
    "NotSupported",
    "PapyraOtelError",
    "PapyraPersistence",
    "Progress",
    "Recorder",
    "Recording",
    "RecoveryReport",
    "ScanReport",
    "current",
    "disable",
    "enable",
    "open_log",
]

# Loaded when first asked for: importing this package must cost an application next to nothing.
_HOMES = {
    "errors": (
        "CompactionRefused",
        "ConfigError",
        "LogBusy",
        "LogDamaged",
        "LogError",
        "LogTooNew",
        "LogUnavailable",
        "NotSupported",
        "PapyraOtelError",
    ),
    "facts": ("Entry", "Fact", "FactKind"),
    "log": ("FactLog", "open_log"),
    "persistence": ("PapyraPersistence",),
    "plugin": ("Recording", "current", "disable", "enable"),
    "recorder": ("Actor", "Recorder"),
    "reports": ("Anomaly", "CompactionReport", "Progress", "RecoveryReport", "ScanReport"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
