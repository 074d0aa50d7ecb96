"""What of a fact leaves this machine, and as which attributes: the same live and from the log (0009, 0050)."""

from __future__ import annotations

from typing import Any

from papyra_otel import semconv
from papyra_otel.facts import KIND_TEXTS, Fact
from papyra_otel.log.codec import faithful

__all__ = ["attributes_of", "leaves"]


def leaves(fact: Fact, *, messages: bool) -> bool:
    """Say whether *fact* is forwarded at all: ``message.processed`` facts are bulky, so only if *messages*."""
    return messages or fact.name != semconv.MESSAGE_PROCESSED


def attributes_of(fact: Fact, *, payload: bool) -> dict[str, Any]:
    """Return the attributes of *fact*'s OTel log record; message payloads, which may be private, only if *payload*."""
    attributes = faithful(fact.attributes)
    if not payload:
        attributes.pop(semconv.MESSAGE_PAYLOAD, None)
        attributes.pop(semconv.PERSISTED, None)
    attributes[semconv.SYSTEM_ID] = fact.system
    if fact.actor is not None:
        attributes[semconv.ACTOR_ADDRESS] = fact.actor
    attributes[semconv.FACT_KIND] = KIND_TEXTS[fact.kind]
    uid = fact.uid
    if uid is not None:
        attributes[semconv.LOG_RECORD_UID] = uid
    return attributes
