"""The one line that tells what a fact is about: the attributes that matter, in few words.

Attributes come from a log and may be anything: what has not the expected type is shown as it is, and
nothing here raises. What is returned is not yet fit for a terminal.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from papyra_otel import semconv as s
from papyra_otel.cli.text import duration
from papyra_otel.facts import Fact

__all__ = ["actor_text", "detail_text", "name_text"]

_PREFIX = "papyra."
_URN = "urn:uuid:"
_OF_A_MESSAGE = ("retry", "give_up", "reject")


def name_text(fact: Fact) -> str:
    """Return the name without ``papyra.``, and the kind where the name does not tell it."""
    name = fact.name.removeprefix(_PREFIX)
    told = fact.kind.value == "event" or name.startswith(f"{fact.kind.value}.")
    return name if told else f"{fact.kind.value}: {name}"


def actor_text(fact: Fact) -> str:
    """Return the actor's class and address (a UUID without ``urn:uuid:``); for system facts, the system."""
    actor_type = str(fact.attributes.get(s.ACTOR_TYPE, "")).rpartition(".")[2]
    address = fact.system if fact.actor is None else fact.actor.removeprefix(_URN)
    return f"{actor_type} {address}".strip()


def detail_text(fact: Fact) -> str:
    """Return what there is to say beyond name and actor."""
    say = _DETAILS.get(fact.name)
    return _rest(fact.attributes) if say is None else say(_Attributes(fact.attributes))


class _Attributes:
    """Attributes of a fact, read without trusting their types."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

    def text(self, name: str, before: str = "", after: str = "") -> str:
        """Return the value with words around it, or nothing when there is none."""
        value = self.values.get(name)
        return "" if value is None or value == [] else f"{before}{_plain(value)}{after}"

    def count(self, name: str, thing: str) -> str:
        """Return how many things there are, or nothing when that is not known."""
        return self.text(name, "", f" {thing}" if self.values.get(name) == 1 else f" {thing}s")

    def time(self, name: str, before: str = "", after: str = "") -> str:
        """Return a duration with words around it, or nothing when there is none."""
        value = self.values.get(name)
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            return self.text(name, before, after)
        return f"{before}{duration(value)}{after}"


def _plain(value: Any) -> str:
    """Return a JSON value in words."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(item, str) for item in value):  # pyright: ignore[reportUnknownVariableType]
        return ", ".join(value)  # pyright: ignore[reportUnknownArgumentType]
    return json.dumps(value, ensure_ascii=False)


def _joined(*parts: str) -> str:
    return ", ".join(filter(None, parts))


def _rest(attributes: Mapping[str, Any]) -> str:
    named_elsewhere = {s.SYSTEM_ID, s.ACTOR_ADDRESS, s.ACTOR_TYPE}
    return " ".join(
        f"{name.removeprefix(_PREFIX)}={_plain(value)}"
        for name, value in attributes.items()
        if name not in named_elsewhere
    )


def _runtime(a: _Attributes) -> str:
    return a.text(s.RUNTIME_NAME) + a.text(s.RUNTIME_VERSION, " ")


def _started(a: _Attributes) -> str:
    again = "" if a.values.get(s.ACTOR_INCARNATION) == 0 else a.text(s.ACTOR_INCARNATION, "incarnation ")
    return _joined(a.text(s.ACTOR_NAME, "named "), a.text(s.ACTOR_PARENT, "child of "), again)


def _stopped(a: _Attributes) -> str:
    return _joined(a.text(s.STOP_REASON), a.time(s.ACTOR_LIFETIME, "lived "))


def _exception(a: _Attributes) -> str:
    return a.text(s.ERROR_TYPE) + a.text(s.EXCEPTION_MESSAGE, ": ") + a.text(s.FAILURE_PHASE, " (in ", ")")


def _restarted(a: _Attributes) -> str:
    return a.text(s.ACTOR_INCARNATION, "incarnation ")


def _declared(a: _Attributes) -> str:
    return a.text(s.MAILBOX_NAME, "queue ")


def _decided(a: _Attributes) -> str:
    counted = "retries " if a.values.get(s.SUPERVISION_DIRECTIVE) in _OF_A_MESSAGE else "restarts "
    limit = a.text(s.RESTART_LIMIT, " of ") + a.time(s.RESTART_WINDOW, " in ")
    return _joined(
        a.text(s.SUPERVISION_DIRECTIVE) + a.text(s.SUPERVISION_OUTCOME, " → "),
        a.text(s.RESTART_COUNT, counted, limit),
        a.text(s.SUPERVISION_SOURCE, "by "),
    )


def _message(a: _Attributes) -> str:
    return " ".join(filter(None, (a.text(s.MESSAGE_KIND), a.text(s.MESSAGE_TYPE))))


def _processed(a: _Attributes) -> str:
    took = a.time(s.MESSAGE_DURATION, "took ")
    return _joined(_message(a) + a.text(s.ERROR_TYPE, " failed: "), took, a.time(s.MESSAGE_WAIT, "waited "))


def _timed_out(a: _Attributes) -> str:
    return _message(a) + a.time(s.MESSAGE_DURATION, ", gave up after ")


def _dead_letter(a: _Attributes) -> str:
    return a.text(s.DEAD_LETTER_REASON, "", ": ") + _message(a) + a.text(s.MESSAGE_PAYLOAD, " ")


def _audit(a: _Attributes) -> str:
    healthy = "healthy" if a.values.get(s.AUDIT_HEALTHY) is True else "UNHEALTHY"
    alive = a.text(s.AUDIT_ACTORS_ALIVE) + a.text(s.AUDIT_ACTORS_TOTAL, " of ") + " actors alive"
    waiting = a.count(s.AUDIT_MAILBOX_TOTAL, "message") + " waiting" + a.text(s.AUDIT_MAILBOX_TOP, " (", ")")
    return f"{healthy}: " + _joined(
        a.text(s.AUDIT_REASONS),
        alive if s.AUDIT_ACTORS_ALIVE in a.values else "",
        waiting.replace(_URN, "") if s.AUDIT_MAILBOX_TOTAL in a.values else "",
        a.count(s.AUDIT_DEAD_LETTERS, "dead letter"),
    )


def _dropped(a: _Attributes) -> str:
    return a.count(s.DROPPED_COUNT, "fact") + " lost" + a.text(s.DROPPED_BY_KIND, ": ")


def _scanned(a: _Attributes) -> str:
    counts = a.text(s.SCAN_COUNTS)
    found = counts or "nothing wrong"
    unread = (
        "" if a.values.get(s.SCAN_PLACES_UNREAD) == 0 else a.text(s.SCAN_PLACES_UNREAD, "", " left unread")
    )
    return _joined(found, a.count(s.SCAN_PLACES, "file"), unread, a.time(s.SCAN_DURATION, "took "))


def _anomaly(a: _Attributes) -> str:
    place = a.text(s.ANOMALY_PLACE, " in ") + a.text(s.ANOMALY_OFFSET, " at ")
    return a.text(s.ANOMALY_TYPE) + place + a.text(s.ANOMALY_DETAIL, ": ")


def _recovered(a: _Attributes) -> str:
    return a.text(s.RECOVERY_MODE, "", ": ") + _joined(
        a.count(s.RECOVERY_SEGMENTS, "file") + " rewritten",
        a.count(s.RECOVERY_REPAIRED_LINES, "line") + " repaired",
        a.count(s.RECOVERY_QUARANTINED_SPANS, "damaged span") + " kept",
    )


def _compacted(a: _Attributes) -> str:
    return _joined(a.count(s.COMPACTION_RECORDS, "fact") + " removed", a.count(s.COMPACTION_BYTES, "byte"))


_DETAILS: Mapping[str, Callable[[_Attributes], str]] = {
    s.SYSTEM_STARTED: _runtime,
    s.SYSTEM_STOPPED: _runtime,
    s.ACTOR_DECLARED: _declared,
    s.ACTOR_STARTED: _started,
    s.ACTOR_STOPPED: _stopped,
    s.ACTOR_EXCEPTION: _exception,
    s.ACTOR_RESTARTED: _restarted,
    s.SUPERVISION_DECIDED: _decided,
    s.MESSAGE_PROCESSED: _processed,
    s.ASK_TIMED_OUT: _timed_out,
    s.DEAD_LETTER_CAPTURED: _dead_letter,
    s.AUDIT_COMPLETED: _audit,
    s.FACT_DROPPED: _dropped,
    s.LOG_SCANNED: _scanned,
    s.LOG_ANOMALY: _anomaly,
    s.LOG_RECOVERED: _recovered,
    s.LOG_COMPACTED: _compacted,
}
