"""What papyra says of itself, as events of ours. Reads arbitrary objects, so what is here may raise."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from papyra.address import ActorAddress

from papyra_otel import semconv as s
from papyra_otel.payload import describe_exception, jsonable, payload_text
from papyra_otel.persistence.outgoing import CRASHED, RESTARTED, STARTED, STOPPED, payload_of_event
from papyra_otel.recorder import qualified_name

__all__ = [
    "Event",
    "Known",
    "address_text",
    "audit",
    "dead_letter",
    "lifecycle",
    "since_unix_nano",
    "unreadable",
]

_NAMES = {
    STARTED: (s.ACTOR_STARTED, "INFO"),
    STOPPED: (s.ACTOR_STOPPED, "INFO"),
    CRASHED: (s.ACTOR_EXCEPTION, "ERROR"),
    RESTARTED: (s.ACTOR_RESTARTED, "WARN"),
}
_AUDIT_FIELDS = {
    "total_actors": s.AUDIT_ACTORS_TOTAL,
    "alive_actors": s.AUDIT_ACTORS_ALIVE,
    "stopping_actors": s.AUDIT_ACTORS_STOPPING,
    "restarting_actors": s.AUDIT_ACTORS_RESTARTING,
    "registry_size": s.AUDIT_REGISTRY_SIZE,
    "dead_letters_count": s.AUDIT_DEAD_LETTERS,
}
_REGISTRY_FIELDS = {"registry_orphans": s.AUDIT_REGISTRY_ORPHANS, "registry_dead": s.AUDIT_REGISTRY_DEAD}
_REGISTRY_NAMES_MAX = 20
_PAYLOAD_CHARS_MAX = 32_768
_UNKNOWN = "unknown"
_MISSING: Any = object()
# What lies outside cannot be a wall time of now, so it is another clock's: papyra's is that of the event loop.
_EARLIEST_SECONDS = 946_684_800.0  # 2000-01-01
_LATEST_SECONDS = 9_000_000_000.0  # 2255, before nanoseconds leave 64 bits


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What is to be emitted."""

    name: str
    severity: str
    time_unix_nano: int
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known beside the record, when papyra itself hands it over: its system, and the objects meant."""

    system: Any
    subject: Any
    runtime: Any = None

    @property
    def closing(self) -> bool:
        """The system is going down."""
        return bool(getattr(self.system, "_closed", False))


def lifecycle(record: object, known: Known | None, system: str | None) -> Event:
    """Return the event of a ``PersistedEvent``, or of anything like it. *system* overrides its own."""
    given = _fields(record, ("system_id", "actor_address", "address", "event_type", "payload", "timestamp"))
    event_type = given.get("event_type")
    kind = event_type if isinstance(event_type, str) else type(record).__name__
    name, severity = _NAMES.get(kind, (s.PERSISTENCE_RECORDED, "INFO"))
    at, kept = _time(given.get("timestamp"), known)
    attributes = _about(given, ("actor_address", "address"), known, system, kept)
    if name == s.PERSISTENCE_RECORDED:
        kept["event_type"] = jsonable(kind, redact=True)
        attributes = {key: attributes[key] for key in (s.SYSTEM_ID, s.ACTOR_ADDRESS, s.ACTOR_TYPE)}
    said: Any = given.get("payload")
    if said is None and event_type is None and not isinstance(record, Mapping):
        said = record
    payload: Any = {} if said is None else jsonable(said, redact=True, max_total_chars=_PAYLOAD_CHARS_MAX)
    attributes |= _detail(name, payload, known)
    if payload != payload_of_event(name, attributes):
        kept["payload"] = payload
    return _event(name, severity, at, attributes, kept)


def dead_letter(record: object, known: Known | None, system: str | None, payload_mode: str) -> Event:
    """Return the event of a ``PersistedDeadLetter``, or of anything like it."""
    given = _fields(record, ("system_id", "target", "message_type", "message", "payload", "timestamp"))
    at, kept = _time(given.get("timestamp"), known)
    attributes = _about(given, ("target",), known, system, kept)
    letter = known.subject if known is not None else record
    message: Any = given.get("payload", given.get("message"))
    named = given.get("message_type")
    told = isinstance(named, str) and known is None
    attributes[s.MESSAGE_TYPE] = named if told else _type_of(message)
    asked = getattr(letter, "expects_reply", None)
    attributes[s.MESSAGE_KIND] = _UNKNOWN if asked is None else "ask" if asked else "tell"
    attributes[s.DEAD_LETTER_REASON] = _reason(known)
    text = payload_text(message, mode=payload_mode)
    if text is not None:
        attributes[s.MESSAGE_PAYLOAD] = text
    severity = "DEBUG" if known is not None and known.closing else "WARN"
    return _event(s.DEAD_LETTER_CAPTURED, severity, at, attributes, kept)


def audit(record: object, known: Known | None, system: str | None) -> Event:
    """Return the event of a ``PersistedAudit``, or of anything like it."""
    names = (*_AUDIT_FIELDS, *_REGISTRY_FIELDS, "system_id", "timestamp")
    given = _fields(record, names)
    at, kept = _time(given.get("timestamp"), known)
    attributes: dict[str, Any] = {s.SYSTEM_ID: _system(given, system)}
    for field, attribute in _AUDIT_FIELDS.items():
        count = given.get(field)
        if isinstance(count, int):
            attributes[attribute] = count
    reasons: list[str] = []
    for field, attribute in _REGISTRY_FIELDS.items():
        registered = _texts(given.get(field))
        if registered is None:
            continue
        attributes[attribute] = registered[:_REGISTRY_NAMES_MAX]
        if len(registered) > _REGISTRY_NAMES_MAX:
            kept[field] = jsonable(registered, redact=True)
        if registered:
            reasons.append(f"{len(registered)} {field.replace('_', ' ')}")
    attributes[s.AUDIT_HEALTHY] = not reasons
    if reasons:
        attributes[s.AUDIT_REASONS] = reasons
    return _event(s.AUDIT_COMPLETED, "WARN" if reasons else "INFO", at, attributes, kept)


def since_unix_nano(seconds: float | None) -> int | None:
    """Return from when on facts can be of *seconds* or later; None where any can: some keep another clock's time."""
    if seconds is None or not _EARLIEST_SECONDS <= seconds <= _LATEST_SECONDS:
        return None
    return _nanos(seconds)


def unreadable(kind: str, system: str | None, error: BaseException) -> Event:
    """Return what stands for a record that raised *error* when it was read: it does not vanish."""
    why = f"the record could not be read: {qualified_name(type(error))}"
    attributes: dict[str, Any] = {s.SYSTEM_ID: system or "local"}
    if kind == "audit":
        attributes |= {s.AUDIT_HEALTHY: False, s.AUDIT_REASONS: [why]}
        return _event(s.AUDIT_COMPLETED, "WARN", time.time_ns(), attributes, {})
    attributes |= {s.ACTOR_ADDRESS: _UNKNOWN, s.ACTOR_TYPE: _UNKNOWN}
    kept = {"address": None, "event_type": _UNKNOWN, "payload": why}
    if kind == "event":
        return _event(s.PERSISTENCE_RECORDED, "INFO", time.time_ns(), attributes, kept)
    attributes |= {s.MESSAGE_TYPE: _UNKNOWN, s.MESSAGE_KIND: _UNKNOWN, s.DEAD_LETTER_REASON: _UNKNOWN}
    return _event(s.DEAD_LETTER_CAPTURED, "WARN", time.time_ns(), attributes, kept)


# --- parts -------------------------------------------------------------------------------------------


def _event(name: str, severity: str, at: int, attributes: dict[str, Any], kept: Mapping[str, Any]) -> Event:
    if kept:
        attributes[s.PERSISTED] = msgspec.json.encode(kept).decode()
    return Event(name=name, severity=severity, time_unix_nano=at, attributes=attributes)


def _fields(record: object, names: Iterable[str]) -> dict[str, Any]:
    """Return what *record*, a dict or any object, holds under *names*."""
    if isinstance(record, Mapping):
        return {name: record[name] for name in names if name in record}
    found = {name: getattr(record, name, _MISSING) for name in names}
    return {name: value for name, value in found.items() if value is not _MISSING}


def _time(timestamp: object, known: Known | None) -> tuple[int, dict[str, Any]]:
    """Return the wall time of a record, and what to keep of its own: papyra's is its event loop's clock."""
    if isinstance(timestamp, (int, float)) and not isinstance(timestamp, bool):
        if _EARLIEST_SECONDS <= timestamp <= _LATEST_SECONDS:
            return _nanos(timestamp), {}
        if known is None:
            return time.time_ns(), {"timestamp": jsonable(timestamp)}
    return time.time_ns(), {}


def _nanos(seconds: float) -> int:
    """Return nanoseconds so exact that dividing them gives *seconds* again."""
    numerator, denominator = seconds.as_integer_ratio()
    return (2_000_000_000 * numerator + denominator) // (2 * denominator)


def _system(given: Mapping[str, Any], override: str | None) -> str:
    own = given.get("system_id")
    return override or (str(own) if own else "local")


def _about(
    given: Mapping[str, Any],
    names: Iterable[str],
    known: Known | None,
    system: str | None,
    kept: dict[str, Any],
) -> dict[str, Any]:
    address: Any = next((given[name] for name in names if given.get(name) is not None), None)
    if address is None or _is_mapping(address):
        kept["address"] = jsonable(address, redact=True)
    attributes: dict[str, Any] = {
        s.SYSTEM_ID: _system(given, system),
        s.ACTOR_ADDRESS: _UNKNOWN if address is None else address_text(address),
        s.ACTOR_TYPE: _UNKNOWN,
    }
    runtime = None if known is None else known.runtime
    if runtime is not None:
        attributes[s.ACTOR_TYPE] = _type_of(runtime.actor)
        if runtime.name is not None:
            attributes[s.ACTOR_NAME] = str(runtime.name)
        if runtime.parent is not None:
            attributes[s.ACTOR_PARENT] = str(runtime.parent.address)
    return attributes


def address_text(value: Any) -> str:
    """Return the address of whoever is meant: text, papyra's address or its dict, or a reference."""
    if isinstance(value, str):
        return value
    if _is_mapping(value):
        try:
            return str(ActorAddress.from_dict(dict(value)))
        except (KeyError, TypeError, ValueError):
            return str(jsonable(value, redact=True))
    of_ref = None if isinstance(value, ActorAddress) else getattr(value, "address", None)
    return str(value if of_ref is None else of_ref)


def _is_mapping(value: object) -> bool:
    return isinstance(value, Mapping)


def _detail(name: str, payload: Any, known: Known | None) -> dict[str, Any]:
    if name == s.ACTOR_STOPPED:
        return {s.STOP_REASON: "system_shutdown" if known is not None and known.closing else _UNKNOWN}
    if name != s.ACTOR_EXCEPTION:
        return {}
    error = None if known is None else getattr(known.subject, "error", None)
    if isinstance(error, BaseException):
        error_type, message, stacktrace = describe_exception(error)
        return {
            s.ERROR_TYPE: error_type,
            s.EXCEPTION_TYPE: error_type,
            s.EXCEPTION_MESSAGE: message,
            s.EXCEPTION_STACKTRACE: stacktrace,
        }
    text = payload.get("error") if isinstance(payload, dict) else None  # pyright: ignore[reportUnknownVariableType,reportUnknownMemberType]
    error_type, _, message = text.partition(": ") if isinstance(text, str) else (_UNKNOWN, "", "")
    return {s.ERROR_TYPE: error_type, s.EXCEPTION_TYPE: error_type, s.EXCEPTION_MESSAGE: message}


def _reason(known: Known | None) -> str:
    if known is None:
        return _UNKNOWN
    if known.closing:
        return "system_stopping"
    runtime = known.runtime
    if runtime is not None and runtime.alive and not runtime.stopping:
        return "mailbox_closed"
    return "actor_stopped"


def _type_of(value: object) -> str:
    return qualified_name(type(value))


def _texts(value: object) -> list[str] | None:
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        return None
    return [str(item) for item in value]  # pyright: ignore[reportUnknownVariableType,reportUnknownArgumentType]
