"""The recording of this process: the only global state.

There is one, besides those on lease. Every way of enabling (entry points, declarative configuration, ``enable()``) ends
here; each runtime is instrumented once. What a recording is made of is in ``recording``.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping
from typing import Any

from papyra_otel import ends
from papyra_otel.config import Settings, StartupMode
from papyra_otel.errors import (
    ConfigError,
    LogDamaged,
    LogError,
    PapyraOtelError,
)
from papyra_otel.recording import Recording, process_metrics
from papyra_otel.runtimes.known import RUNTIMES, known_runtimes
from papyra_otel.saying import say

__all__ = [
    "RUNTIMES",
    "Recording",
    "current",
    "disable",
    "enable",
    "instrument",
    "is_instrumented",
    "lease",
    "release",
    "seal_last",
    "uninstrument",
]

_logger = logging.getLogger("papyra_otel")

# --- the process's recording ------------------------------------------------------------------------

_lock = threading.RLock()
_recording: Recording | None = None
_leased: list[Recording] = []  # besides ``_recording``


def current() -> Recording | None:
    """Return this process's recording, or None when none was asked for."""
    return _recording


def enable(
    log: str | None = None,
    *,
    system: str | None = None,
    runtimes: Iterable[str] | None = None,
    **settings: Any,
) -> Recording:
    """Record this process's actor runtimes from now on; call it before the first actor is made.

    *log* is a log URL. *runtimes* are those to instrument, by default all that are installed. *settings* are
    named as the environment variables without their prefix, in lower case (``retention="events=7d"``,
    ``messages="failed"``, ``audit_interval="30s"``, ...); what is not given comes from the environment.

    What is wrong is said on stderr and through ``logging``, and the recording returned is then not *active*.
    Raises nothing, except LogDamaged where ``startup="fail"`` asks for it. Enabling again returns the same recording.
    """
    with _lock:
        overrides = {"log": log, "system": system, **settings}
        recording = _obtain(overrides)
        wanted = (
            known_runtimes() if runtimes is None else [runtimes] if isinstance(runtimes, str) else runtimes
        )
        for runtime in wanted:
            if runtime not in RUNTIMES and runtime not in known_runtimes():
                say(
                    f"there is no adapter for the runtime {runtime!r}; known are {', '.join(known_runtimes())}."
                )
                continue
            _guarded_instrument(recording, runtime)
        return recording


def join(runtime: str, inherited: Mapping[str, str]) -> Recording:
    """Record *runtime* in this process as the one that started it does: see ``HandsDown``. Raises nothing."""
    return enable(runtimes=(runtime,), **dict[str, Any](inherited))


def disable() -> None:
    """Restore every runtime, write what waits, close the log. Without a recording it does nothing.

    A log that a ``PapyraPersistence`` writes to as well is closed with that.
    """
    global _recording
    with _lock:
        recording, _recording = _recording, None
        if recording is None:
            return
        if recording.leases:
            _leased.append(recording)
            recording.rest()
        else:
            recording.close()


def lease(overrides: Mapping[str, Any], *, again: bool = False) -> Recording:
    """Return a recording into the log that *overrides* name, for facts that come without an adapter.

    It is the process's own recording where that writes to the same log, so that facts keep one order and share
    what absorbs an outage; else one besides it. Give it back with ``release``. Raises ConfigError for wrong settings;
    a log that cannot be written is said, and the recording is then not *active*. *again*: it was leased before, and
    an actor may be waiting, so nothing is asked of a network here.
    """
    with _lock:
        settings = Settings.load(overrides)
        for recording in (_recording, *_leased):
            if (
                recording is not None
                and recording.active
                and recording.settings is not None
                and recording.settings.log == settings.log
            ):
                recording.leases += 1
                return recording
        recording = _besides(settings, again=again)
        recording.leases += 1
        if recording.active:
            _leased.append(recording)
            ends.hook(_at_exit, _after_fork_in_child)
        return recording


def _besides(settings: Settings, *, again: bool) -> Recording:
    try:
        return Recording(settings, again=again)
    except ConfigError:
        raise
    except LogError as error:
        say(f"not recording: {str(error).rstrip('.')}. The application runs on without it.")
        return Recording(None, error)


def release(recording: Recording) -> bool:
    """Give back what ``lease`` returned; say whether somebody else still records there. The last one closes the log."""
    with _lock:
        recording.leases -= 1
        if recording.leases > 0 or recording is _recording:
            return True
        _leased[:] = [other for other in _leased if other is not recording]
        recording.close()
        return False


def instrument(runtime: str, overrides: Mapping[str, Any] | None = None) -> Recording:
    """Instrument one runtime, as an entry point does. Ends the process where ``startup=fail`` asks for it."""
    with _lock:
        chosen = any(value is not None for value in (overrides or {}).values())
        if _recording is not None and _recording.was_chosen and not (_recording.active or chosen):
            return _recording  # one that was configured otherwise failed: no other was asked for in its place
        try:
            recording = _obtain(overrides or {})
        except LogDamaged as error:
            ends.refuse(error)
        recording.was_chosen |= chosen
        _guarded_instrument(recording, runtime)
        return recording


def is_instrumented(runtime: str) -> bool:
    """Say whether *runtime* is being recorded now: ``disable()`` ends that for all."""
    recording = _recording
    return recording is not None and recording.has(runtime)


def uninstrument(runtime: str) -> None:
    """Undo ``instrument``; with the last runtime the recording ends."""
    with _lock:
        if _recording is None or (_recording.active and not _recording.has(runtime)):
            return
        if not _recording.uninstrument(runtime):
            disable()


def _obtain(overrides: Mapping[str, Any]) -> Recording:
    global _recording  # noqa: PLW0603 - this module is where the global state is
    if _recording is not None and _recording.active:
        return _recording
    failed_before = "" if _recording is None else str(_recording.error)
    try:
        _recording = _new_recording(Settings.load(overrides))
    except LogDamaged as error:
        _recording = Recording(None, error)
        raise
    except (ConfigError, LogError) as error:
        if str(error) != failed_before:  # several instrumentors ask for the same recording: said once
            say(f"not recording: {str(error).rstrip('.')}. The application runs on without it.")
        _recording = Recording(None, error)
    except Exception as error:
        _logger.exception("papyra_otel could not start")
        say(f"not recording: {type(error).__name__} while starting; see the log. The application runs on.")
        _recording = Recording(None, PapyraOtelError(type(error).__name__))
    else:
        ends.hook(_at_exit, _after_fork_in_child)
    return _recording


def _new_recording(settings: Settings) -> Recording:
    """Begin to record. With ``startup=fail`` a log that is out of reach is as bad as a damaged one."""
    try:
        return Recording(settings)
    except LogDamaged:
        raise
    except (ConfigError, LogError) as error:
        if settings.startup is StartupMode.FAIL:
            raise LogDamaged(str(error)) from error
        raise


def _guarded_instrument(recording: Recording, runtime: str) -> None:
    try:
        recording.instrument(runtime)
    except Exception:
        _logger.exception("papyra_otel could not instrument %s", runtime)
        say(f"{runtime} is not recorded: its instrumentation failed; see the log. The application runs on.")


# --- the ends of this process -----------------------------------------------------------------------


def seal_last() -> None:
    """Seal once more at exit, after every handler registered later than this call: call it early.

    An SDK that exports to us hands over its last batch in its own exit handler, past the one of ours.
    """
    ends.hook_last(_at_exit)


def _at_exit() -> None:
    for recording in _all():
        recording.at_exit()


def _all() -> list[Recording]:
    return [recording for recording in (_recording, *_leased) if recording is not None]


def _after_fork_in_child() -> None:
    global _lock  # noqa: PLW0603 - another thread of the parent may have held it
    _lock = threading.RLock()
    process_metrics.after_fork_in_child()
    for recording in _all():
        recording.after_fork_in_child()
