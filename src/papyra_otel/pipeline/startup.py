"""What is done about old damage before the first actor runs: ``OTEL_PYTHON_PAPYRA_STARTUP``."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable

from papyra_otel.config import StartupMode
from papyra_otel.errors import LogBusy, LogDamaged
from papyra_otel.payload import redact_url
from papyra_otel.pipeline.upkeep import Upkeep
from papyra_otel.reports import ANOMALY_SEVERITIES, Check, ScanReport

__all__ = ["SCAN_SECONDS_MAX", "start"]

_logger = logging.getLogger("papyra_otel")

SCAN_SECONDS_MAX = 5.0


def start(upkeep: Upkeep, mode: StartupMode, url: str, say: Callable[[str], None]) -> None:
    """Do what *mode* asks. Raises LogDamaged, and only for ``fail``; *say* is given one line for an operator."""
    if mode is StartupMode.IGNORE:
        return
    _look_for_risks(upkeep, mode, redact_url(url), say)
    capabilities = upkeep.capabilities
    if not capabilities.scan:
        if mode is not StartupMode.SCAN:
            say(f"startup={mode.value}: the {capabilities.backend} log cannot be scanned; recording begins.")
        return
    shown = redact_url(url)
    try:
        found = _scan(upkeep, mode)
    except Exception as error:
        if mode is StartupMode.FAIL:
            raise LogDamaged(f"{shown} could not be scanned: {_said(error)}") from error
        _logger.warning("papyra_otel could not scan %s", shown, exc_info=error)
        say(f"{shown} could not be scanned: {_said(error)} Recording begins all the same.")
        return
    if found.healthy:
        return
    if mode is StartupMode.RECOVER:
        _recover(upkeep, found, shown, say)
    elif mode is StartupMode.FAIL and found.damaged:
        raise LogDamaged(f"{shown} has {in_words(found)}. {_remedy(shown)}")
    else:
        say(f"{shown} has {in_words(found)}. {_remedy(shown)}")


def _look_for_risks(upkeep: Upkeep, mode: StartupMode, shown: str, say: Callable[[str], None]) -> None:
    """Refuse, or tell, what could lose acknowledged facts without a word."""
    try:
        found = [risk for risk in upkeep.risks() if not risk.ok]
    except Exception as error:
        if mode is StartupMode.FAIL:
            raise LogDamaged(f"{shown}: what could lose facts cannot be looked at: {_said(error)}") from error
        _logger.warning("papyra_otel could not look at the risks of %s", shown, exc_info=error)
        say(
            f"{shown}: what could lose facts cannot be looked at: {_said(error)} Recording begins all the same."
        )
        return
    severe = [risk for risk in found if risk.status == "FAIL"]
    if severe and mode is StartupMode.FAIL:
        raise LogDamaged(f"{shown} could lose facts without a word: {' '.join(map(_risk_in_words, severe))}")
    for risk in found:
        say(f"{shown}: {_risk_in_words(risk)}")
        upkeep.tell_risk(risk)


def _risk_in_words(risk: Check) -> str:
    remedy = "" if risk.remedy is None else f" Remedy: {risk.remedy.rstrip('.')}."
    return f"{risk.name}: {risk.detail.rstrip('.')}.{remedy}"


def in_words(report: ScanReport) -> str:
    """Return how many anomalies need looking at, and of which types."""
    types = [f"{n} {name}" for name, n in report.counts.items() if n and ANOMALY_SEVERITIES[name] != "INFO"]
    return f"{report.unresolved} {'anomaly' if report.unresolved == 1 else 'anomalies'} ({', '.join(types)})"


def _scan(upkeep: Upkeep, mode: StartupMode) -> ScanReport:
    """Scan what is new since earlier starts. A start that is refused leaves no facts: it may come again and again."""
    report = upkeep.scan(
        incremental=True,
        seconds_max=SCAN_SECONDS_MAX,
        silent=lambda found: mode is StartupMode.FAIL and found.damaged,
    )
    upkeep.remember()
    if report.places_unread:
        _logger.info(
            "papyra_otel read %d of %d files of the log in %g s; the next start goes on, a full scan reads all",
            report.places - report.places_unread,
            report.places,
            SCAN_SECONDS_MAX,
        )
    return report


def _recover(upkeep: Upkeep, found: ScanReport, shown: str, say: Callable[[str], None]) -> None:
    had = f"{shown} had {in_words(found)}"
    try:
        report = upkeep.recover("quarantine")
    except LogBusy:
        say(f"{had}; another process is recovering it.")
        return
    except Exception as error:
        _logger.warning("papyra_otel could not recover %s", shown, exc_info=error)
        say(f"{had}; it could not be recovered: {_said(error)} {_remedy(shown)}")
        return
    kept = f", damaged bytes are kept in {', '.join(report.kept_in[:3])}" if report.kept_in else ""
    left = (
        f"{in_words(report.remaining)} left. {_remedy(shown)}"
        if report.remaining.unresolved
        else "none left."
    )
    say(f"{had}; recovered{kept}: {left}")


def _said(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return f"{text.rstrip('.')}."


def _remedy(shown: str) -> str:
    log = shlex.quote(shown)
    return f"Look: papyra-otel scan --log {log}; take it out of the way: papyra-otel recover --log {log}"
