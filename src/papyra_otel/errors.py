"""The error tree, cut by what the caller can do: fix the call, try again, or look at the bytes."""

from __future__ import annotations

__all__ = [
    "CompactionRefused",
    "ConfigError",
    "LineDamaged",
    "LogBusy",
    "LogDamaged",
    "LogError",
    "LogTooNew",
    "LogUnavailable",
    "NotSupported",
    "PapyraOtelError",
]


class PapyraOtelError(Exception):
    """Everything this library raises on purpose."""


class ConfigError(PapyraOtelError, ValueError):
    """The call or a setting is wrong: fix it. The message names the setting, its value and the remedy."""


class LogError(PapyraOtelError):
    """Something about the log itself, not about the call."""


class LogUnavailable(LogError):
    """The log cannot be reached or written now: try again later. ``error_type`` is short and fit for a metric."""

    def __init__(self, message: str, *, error_type: str = "unavailable") -> None:
        super().__init__(message)
        self.error_type = error_type


class LogTooNew(LogError):
    """The log holds a format newer than this library reads: upgrade. ``version`` is what was found."""

    def __init__(self, where: str, version: int) -> None:
        super().__init__(
            f"{where}: written in line format {version} by a newer papyra-otel; this one reads format 1. "
            f"Upgrade papyra-otel to read it; nothing was changed."
        )
        self.version = version


class LogDamaged(LogError):
    """Damage was found where ``startup=fail`` asks not to start with it: look with ``papyra-otel scan``."""


class LogBusy(LogError):
    """Another process is recovering or compacting this log now: try again when it is done."""


class CompactionRefused(LogError):
    """Compacting would remove most of the log because of what looks like a wrong clock; ``force`` does it."""


class NotSupported(LogError):
    """This backend cannot do that; ``log.capabilities`` tells beforehand."""


class LineDamaged(LogError):
    """Stored bytes are not a good fact line. ``anomaly`` is one of the fixed anomaly type names."""

    def __init__(self, anomaly: str, detail: str) -> None:
        super().__init__(f"{anomaly}: {detail}")
        self.anomaly = anomaly
        self.detail = detail
