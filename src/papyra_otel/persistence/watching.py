"""Seeing what papyra hands to its backend, and what it does not: see docs/decisions/0048.

papyra starts a task for every record, in its own task group; once a system is closing there is none any more, and
what happens from then on reaches no backend. So three methods of ``ActorSystem`` are wrapped, once per process:
while one of them runs, the backend knows which system speaks, and what was not handed over is taken afterwards.
A system with another backend passes through untouched.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, Protocol

from papyra import system as papyra_system
from papyra.persistence.models import PersistedAudit, PersistedDeadLetter, PersistedEvent

from papyra_otel.persistence.incoming import Known, address_text
from papyra_otel.runtimes.patches import Patches

__all__ = ["Hand", "Taker", "in_hand", "install"]

_logger = logging.getLogger("papyra_otel")
_local = threading.local()
_RECORDS = {"event": PersistedEvent, "audit": PersistedAudit, "dead_letter": PersistedDeadLetter}
_lock = threading.Lock()
_patches: Patches | None = None


class Taker(Protocol):
    """The part of the backend that is called from here."""

    def take(self, kind: str, record: object, known: Known) -> None:
        """Record what papyra did not hand over. Never raises."""
        ...

    def note_failure(self, what: str) -> None:
        """Count the exception that is being handled."""
        ...


class Hand:
    """One happening that papyra is about to hand over: which, to whom, and whether it did."""

    __slots__ = ("kind", "known", "taken", "taker")

    def __init__(self, kind: str, taker: Taker, known: Known) -> None:
        self.kind: str = kind
        self.taker: Taker = taker
        self.known: Known = known
        self.taken: bool = False


def in_hand(kind: str, taker: Taker, record: object) -> Known | None:
    """Return what is known of *record* if it is what papyra gives *taker* right now; None for anybody else's."""
    hand: Hand | None = getattr(_local, "hand", None)
    if hand is None or hand.taken or hand.kind != kind or hand.taker is not taker:
        return None
    if type(record) is not _RECORDS[kind]:  # a user's hook, or callback, that records while papyra speaks
        return None
    if isinstance(record, PersistedEvent) and record.event_type != type(hand.known.subject).__name__:
        return None
    hand.taken = True
    return hand.known


def install(takers: type[Any]) -> None:
    """Wrap papyra's methods for systems whose backend is one of *takers*. Twice is once."""
    global _patches  # noqa: PLW0603 - papyra's classes exist once per process, and so does this
    with _lock:
        if _patches is not None:
            return
        _patches = Patches()
        system: Any = papyra_system.ActorSystem
        _patches.wrap(system, "_emit", _around(takers, "event", _event))
        _patches.wrap(system, "audit", _around(takers, "audit", _audit))
        _patches.wrap(system, "_on_dead_letter", _around(takers, "dead_letter", _letter))
        if _patches.missing:
            _logger.warning(
                "this papyra has no %s: what happens while a system closes is not recorded, and times are papyra's",
                ", ".join(_patches.missing),
            )


_Told = Callable[[Any, Any], tuple[Known, Callable[[Any], object]]]


def _around(takers: type[Any], kind: str, tell: _Told) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
            backend = getattr(self, "_persistence", None)
            if not isinstance(backend, takers):
                return original(self, *args, **kwargs)
            taker: Any = backend
            hand = record = None
            before = getattr(_local, "hand", None)
            try:
                known, record = tell(self, args[0] if args else None)
                hand = _local.hand = Hand(kind, taker, known)
            except Exception:
                taker.note_failure(f"persistence.{kind}.begins")
            try:
                result = original(self, *args, **kwargs)
            finally:
                _local.hand = before
            try:
                if hand is not None and record is not None and not hand.taken:
                    taker.take(kind, record(result), hand.known)
            except Exception:
                taker.note_failure(f"persistence.{kind}.ends")
            return result

        return wrapper

    return make


def _event(system: Any, event: Any) -> tuple[Known, Callable[[Any], object]]:
    runtime = system._by_id.get(event.address["actor_id"])  # noqa: SLF001 - nothing public leads there
    return Known(system=system, subject=event, runtime=runtime), lambda _: {
        "system_id": system.system_id,
        "actor_address": address_text(event.address),
        "event_type": type(event).__name__,
        "payload": event.payload,
    }


def _audit(system: Any, _: Any) -> tuple[Known, Callable[[Any], object]]:
    return Known(system=system, subject=None), lambda report: report


def _letter(system: Any, letter: Any) -> tuple[Known, Callable[[Any], object]]:
    runtime = system._by_id.get(getattr(letter.target, "_rid", None))  # noqa: SLF001 - see above
    return Known(system=system, subject=letter, runtime=runtime), lambda _: {
        "system_id": system.system_id,
        "target": letter.target,
        "payload": letter.message,
    }
