"""``papyra-otel doctor``: look before a start whether recording will work, and what it will do first."""

from __future__ import annotations

import os
import platform
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from papyra_otel import config
from papyra_otel.cli.findings import check_members, counted
from papyra_otel.cli.logs import add_log_options, command
from papyra_otel.cli.outbox import delivery_checks
from papyra_otel.cli.progress import Meter
from papyra_otel.cli.screen import Cell, Column, Row, Screen, Table
from papyra_otel.cli.text import json_line, size
from papyra_otel.cli.verb import Surroundings, Verb
from papyra_otel.config import Settings, StartupMode
from papyra_otel.errors import ConfigError, LogError, LogTooNew, LogUnavailable, NotSupported
from papyra_otel.facts import FactKind, LogStats
from papyra_otel.log import FactLog, open_log
from papyra_otel.payload import redact_text, redact_url
from papyra_otel.reports import Check, ScanReport

__all__ = ["DOCTOR"]

_PREFIX = "OTEL_PYTHON_PAPYRA_"
_STORED_TOO_MUCH = 2  # times what retention shows: then somebody should compact
_STATUS_COLUMNS, _NAME_COLUMNS = 6, 15
_NARROW = 60
_STYLES = {"ok": "green", "warn": "yellow", "FAIL": "bold red"}

_DESCRIPTION = """\
Look whether an application started with these settings, as this user, could record: settings and where
each comes from, runtimes, the log's folder, permissions and disk space, or its server, the spill, what the
start-up policy would do now. No log is created or changed; where there is one in a folder, a file
.doctor-....tmp is made there for a moment, to try locks. Ends with 0 if no check fails (with --strict: and
none warns), 1 if one does. In front of an application, in an init container or in CI:

  papyra-otel doctor && exec opentelemetry-instrument python app.py

--json prints one object with the members log, ok, checks (objects with name, status: ok, warn or FAIL,
detail, remedy) and settings (objects with name, value, from: default, environment or --log).
"""


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--strict", action="store_true", help="end with 1 when a check warns, too")
    add_log_options(parser)


def _run(args: Namespace, here: Surroundings) -> int:
    chosen, wrong = _chosen(args.log)
    checks = [*wrong] or [_settings_check(chosen)]
    checks += [
        *_software_checks(),
        *delivery_checks(chosen.settings),
        *_log_checks(args, chosen.settings, here),
    ]
    bad = {"FAIL", "warn"} if args.strict else {"FAIL"}
    passed = not any(check.status in bad for check in checks)
    if args.json:
        here.screen.raw(json_line(_members(chosen, checks, passed=passed)))
    else:
        _print(here.screen, chosen, checks, passed=passed)
    return 0 if passed else 1


# --- settings -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chosen:
    """The settings that are valid, and of each: its name without prefix, its value as text, where it is from."""

    settings: Settings
    rows: Sequence[tuple[str, str, str]]


def _chosen(log: str | None) -> tuple[_Chosen, list[Check]]:
    """Return the settings of the environment and of ``--log``, and a failed check for each that is wrong."""
    texts = {name: text for name, text in os.environ.items() if name.startswith(_PREFIX) and text != ""}
    wrong: list[Check] = []
    for name, text in sorted(texts.items()):
        try:
            Settings.load({}, {name: text})
        except ConfigError as error:
            remedy = "correct it: with it nothing would be recorded"
            wrong.append(Check(name="settings", ok=False, detail=redact_text(str(error)), remedy=remedy))
            del texts[name]
    settings = Settings.load({"log": log}, {**_others(), **texts})
    return _Chosen(settings=settings, rows=list(_rows(settings, texts, log))), wrong


def _others() -> Mapping[str, str]:
    """Return the variables that are not ours: the service's name is one."""
    return {name: text for name, text in os.environ.items() if not name.startswith(_PREFIX)}


def _rows(settings: Settings, texts: Mapping[str, str], log: str | None) -> Iterator[tuple[str, str, str]]:
    for variable in (name for name in vars(config) if name.startswith(_PREFIX)):
        name = variable.removeprefix(_PREFIX)
        if name == "LOG":
            value = redact_url(settings.log)
        else:
            value = redact_text(texts.get(variable, _default(settings, name.lower())))
        chosen = "--log" if name == "LOG" and log is not None else "environment"
        yield name, value, chosen if chosen == "--log" or variable in texts else "default"


def _default(settings: Settings, name: str) -> str:
    if name == "retention":
        return "(for ever)"
    if name == "system":
        return settings.service_name or "(the runtime's own)"
    if name.endswith(("_interval", "_timeout")):
        seconds: float | None = getattr(settings, f"{name}_seconds")
        return "off" if seconds is None else f"{seconds:g}s"
    if name == "write" and settings.write is None:
        return "(by the log)"
    if name == "spill":
        return settings.spill or "off"
    value = getattr(settings, name)
    return str(value).lower() if isinstance(value, bool) else str(getattr(value, "value", None) or value.text)


def _settings_check(chosen: _Chosen) -> Check:
    number = sum(1 for _, _, source in chosen.rows if source != "default")
    return Check(
        name="settings", ok=True, detail=f"valid: {number} chosen, {len(chosen.rows) - number} by default"
    )


# --- software -----------------------------------------------------------------------------------------


def _software_checks() -> Iterator[Check]:
    from papyra_otel.auto import INSTRUMENTORS  # noqa: PLC0415 - takes a while to import

    yield Check(
        name="software",
        ok=True,
        detail=f"papyra-otel {_version('papyra-otel')}, Python {platform.python_version()}",
    )
    found: list[str] = []
    for instrumentor in INSTRUMENTORS:
        installed = _version(instrumentor.runtime)
        if installed is None:
            continue
        found.append(f"{instrumentor.runtime} {installed}")
        least = instrumentor.requirement.rpartition(" ")[2]
        if _numbers(installed) < _numbers(least):
            yield Check(
                name="runtimes",
                ok=False,
                severity="WARN",
                detail=f"{instrumentor.runtime} {installed} is too old to be recorded",
                remedy=f"pip install '{instrumentor.requirement.replace(' ', '')}'",
            )
    if found:
        yield Check(name="runtimes", ok=True, detail=", ".join(found))
    else:
        remedy = "install the application's own requirements here, or run this where they are"
        yield Check(
            name="runtimes",
            ok=False,
            severity="WARN",
            detail=f"none of {', '.join(each.runtime for each in INSTRUMENTORS)} is installed",
            remedy=remedy,
        )
    yield _otel_check()


def _otel_check() -> Check:
    sdk, distro = _version("opentelemetry-sdk"), _version("opentelemetry-distro")
    if sdk is None:
        return Check(
            name="opentelemetry",
            ok=False,
            severity="WARN",
            detail="no SDK: facts are stored, and go nowhere else",
            remedy="pip install opentelemetry-sdk",
        )
    without = ", no distro (opentelemetry-instrument sets up no exporter)"
    return Check(
        name="opentelemetry", ok=True, detail=f"SDK {sdk}{f', distro {distro}' if distro else without}"
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _numbers(text: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", text)[:3]]


# --- the log ------------------------------------------------------------------------------------------


def _log_checks(args: Namespace, settings: Settings, here: Surroundings) -> Iterator[Check]:
    try:
        log = open_log(settings.log, args.system, settings.retention)
    except ConfigError as error:
        if args.log is not None:  # wrong usage, as with every verb
            raise
        yield Check(name="log", ok=False, detail=str(error), remedy="correct OTEL_PYTHON_PAPYRA_LOG")
        return
    with log:
        before = log.preflight()
        yield from before
        yield from _spill_checks(settings, log)
        if log.capabilities.shared_between_processes and all(check.status != "FAIL" for check in before):
            yield from _content_checks(log, args, settings, here)


def _spill_checks(settings: Settings, log: FactLog) -> Iterator[Check]:
    """Tell whether facts could wait on the disk, and what waits there now."""
    if settings.spill is None:
        return
    if not log.capabilities.behind_a_network:
        detail = f"not used: the {log.capabilities.backend} log is on this machine"
        yield Check(name="spill", ok=True, detail=detail)
        return
    from papyra_otel.log.file.spool import Spool  # noqa: PLC0415 - takes a while to import

    waiting = Spool(settings.spill).size_bytes()
    folder = settings.spill if os.path.exists(settings.spill) else os.path.dirname(settings.spill)  # noqa: PTH110, PTH120
    if os.access(folder, os.W_OK | os.X_OK):
        detail = (
            f"{size(waiting)} wait in {settings.spill}" if waiting else f"nothing waits in {settings.spill}"
        )
        yield Check(name="spill", ok=True, detail=detail)
    else:
        yield Check(
            name="spill",
            ok=False,
            severity="WARN",
            detail=f"{folder} cannot be written by this user, or is not there: facts would wait in memory only",
            remedy="create it, give this user the folder, or choose another OTEL_PYTHON_PAPYRA_SPILL",
        )


def _content_checks(log: FactLog, args: Namespace, settings: Settings, here: Surroundings) -> Iterator[Check]:
    stats: LogStats | None = None
    try:
        stats = log.stats()
    except LogUnavailable as error:
        if error.error_type == "ENOENT":
            yield Check(name="log", ok=True, detail="nothing has been recorded yet")
            yield _startup_check(settings, None, args)
        else:
            yield Check(name="log", ok=False, detail=str(error))
        return
    except LogTooNew as error:
        detail = f"cannot be counted: a newer papyra-otel wrote line format {error.version} there"
        yield Check(name="log", ok=False, severity="WARN", detail=detail, remedy="upgrade papyra-otel")
    else:
        yield Check(name="log", ok=True, detail=_stored(stats))
    report, integrity = _integrity(log, args, here)
    yield integrity
    yield _startup_check(settings, report, args, readable=report is not None or integrity.ok)
    if stats is not None:
        yield _retention_check(stats, settings, args)


def _stored(stats: LogStats) -> str:
    records = sum(stream.records for stream in stats.streams.values())
    size_bytes = sum(stream.bytes for stream in stats.streams.values())
    systems = counted(len(stats.systems), "system")
    return (
        f"{counted(records, 'fact')}, {size(size_bytes)}, {systems}"
        if records
        else "nothing has been recorded yet"
    )


def _integrity(log: FactLog, args: Namespace, here: Surroundings) -> tuple[ScanReport | None, Check]:
    """Scan as a start does: what was verified before is passed over, and it takes some seconds at most."""
    from papyra_otel.pipeline.startup import SCAN_SECONDS_MAX  # noqa: PLC0415 - takes a while to import

    try:
        with Meter(here) as progress:
            report = log.scan(progress, incremental=True, seconds_max=SCAN_SECONDS_MAX)
    except NotSupported as error:
        return None, Check(name="integrity", ok=True, detail=f"not looked at: {error}")
    except LogError as error:
        return None, Check(name="integrity", ok=False, severity="WARN", detail=str(error))
    unread = (
        f"; {counted(report.places_unread, 'place')} left unread for lack of time"
        if report.places_unread
        else ""
    )
    if report.healthy:
        return report, Check(name="integrity", ok=True, detail=f"healthy{unread}")
    what = "damage or loss" if report.damaged else "nothing lost"
    types = ", ".join(f"{name} {count:,}" for name, count in sorted(report.counts.items()) if count)
    detail = f"{counted(report.unresolved, 'anomaly', 'anomalies')}, {what}: {types}{unread}"
    remedy = f"{command('scan', args)}, then recover"
    return report, Check(name="integrity", ok=False, severity="WARN", detail=detail, remedy=remedy)


def _startup_check(
    settings: Settings, report: ScanReport | None, args: Namespace, *, readable: bool = True
) -> Check:
    """Tell what the start-up policy would do now."""
    policy = settings.startup
    would = {
        StartupMode.IGNORE: "a start looks at nothing",
        StartupMode.SCAN: "a start looks, tells what it finds, and goes on",
        StartupMode.RECOVER: "a start recovers what is damaged, and goes on",
        StartupMode.FAIL: "a start goes on, as nothing is damaged",
    }[policy]
    if policy is StartupMode.FAIL and not readable:
        detail = "startup=fail: the application would not start, as the log cannot be scanned"
        return Check(name="start-up", ok=False, detail=detail, remedy="see integrity above")
    if policy is StartupMode.FAIL and report is not None and report.damaged:
        detail = "startup=fail: the application would not start, as facts are damaged or lost"
        return Check(name="start-up", ok=False, detail=detail, remedy=command("recover", args))
    if report is not None and policy is StartupMode.RECOVER:
        would = (
            "a start finds nothing to recover"
            if report.healthy
            else f"a start recovers {counted(report.unresolved, 'anomaly', 'anomalies')}, and goes on"
        )
    return Check(name="start-up", ok=True, detail=f"startup={policy.value}: {would}")


def _retention_check(stats: LogStats, settings: Settings, args: Namespace) -> Check:
    """Compare what is stored with what retention shows: only compacting makes the difference go away."""
    size_bytes = sum(stream.bytes for stream in stats.streams.values())
    if all(settings.retention.of(kind).unlimited for kind in FactKind):
        return Check(
            name="retention", ok=True, detail=f"none: facts stay for ever, {size(size_bytes)} until now"
        )
    systems = max(len(stats.systems), 1)  # limits are per system and kind
    over: list[str] = []
    for kind in FactKind:
        limits, stream = settings.retention.of(kind), stats.streams[kind]
        most = _STORED_TOO_MUCH * systems
        if limits.max_bytes is not None and stream.bytes > most * limits.max_bytes:
            over.append(f"{kind.plural} take {size(stream.bytes)}, the limit is {size(limits.max_bytes)}")
        elif limits.max_records is not None and stream.records > most * limits.max_records:
            over.append(f"there are {stream.records:,} {kind.plural}, the limit is {limits.max_records:,}")
    if over:
        detail = f"more than twice what is shown is stored: {'; '.join(over)}"
        remedy = f"{command('compact', args)} removes the rest"
        return Check(name="retention", ok=False, severity="WARN", detail=detail, remedy=remedy)
    return Check(name="retention", ok=True, detail=f"{size(size_bytes)} stored, within twice the limits")


# --- telling ------------------------------------------------------------------------------------------


def _members(chosen: _Chosen, checks: Sequence[Check], *, passed: bool) -> dict[str, Any]:
    return {
        "log": redact_url(chosen.settings.log),
        "ok": passed,
        "checks": [check_members(check) for check in checks],
        "settings": [{"name": name, "value": value, "from": source} for name, value, source in chosen.rows],
    }


def _print(screen: Screen, chosen: _Chosen, checks: Sequence[Check], *, passed: bool) -> None:
    _print_settings(screen, chosen)
    screen.line()
    for check in checks:
        _print_check(screen, check)
    screen.line()
    failed = sum(check.status == "FAIL" for check in checks)
    warned = sum(check.status == "warn" for check in checks)
    told = [counted(number, what) for number, what in ((failed, "failure"), (warned, "warning")) if number]
    if passed:
        screen.prose(" ".join(["Ready to record", *(f"with {each}" for each in told)]) + ".", "bold green")
    else:
        screen.prose(f"Not ready: {', '.join(told)}.", "bold red")


def _print_settings(screen: Screen, chosen: _Chosen) -> None:
    columns = [Column(f"{_PREFIX}…"), Column("FROM"), Column("VALUE")]
    rows: list[Row] = [
        [Cell(name, "cyan"), Cell(source, "dim" if source == "default" else "bold"), Cell(value)]
        for name, value, source in chosen.rows
    ]
    if _is_narrow(screen):
        del columns[1]
        rows = [[row[0], row[2]] for row in rows]
    Table(screen, columns, wraps=True).print(rows)


def _is_narrow(screen: Screen) -> bool:
    return screen.width is not None and screen.width < _NARROW


def _print_check(screen: Screen, check: Check) -> None:
    start = [Cell(f"{check.status:<{_STATUS_COLUMNS}}", _STYLES[check.status]), Cell(check.name, "bold")]
    indent = _STATUS_COLUMNS if _is_narrow(screen) else _STATUS_COLUMNS + _NAME_COLUMNS
    if screen.width is None:  # one line for each, for programs that look for lines
        remedy = "" if check.remedy is None else f" → {check.remedy}"
        screen.prose(check.detail + remedy, start=start, indent=indent)
        return
    screen.prose(check.detail, start=start, indent=indent)
    if check.remedy is not None:
        screen.prose(f"→ {check.remedy}", _STYLES[check.status], indent=indent)


DOCTOR = Verb(
    name="doctor",
    help="look before a start whether recording will work",
    description=_DESCRIPTION,
    add_arguments=_add_arguments,
    run=_run,
)
