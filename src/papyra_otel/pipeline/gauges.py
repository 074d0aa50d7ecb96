"""What actor runtimes show of themselves at the moment of collection, by actor type."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from opentelemetry.metrics import Observation

from papyra_otel import semconv as s

__all__ = ["GAUGES", "Gauge", "RuntimeGauges"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeGauges:
    """The state of one actor system now. An empty mapping, or None: this runtime cannot tell.

    *mailbox_depths* are those of each actor, *longest_active_seconds* how long the longest handler runs by now,
    *blocked_senders* how many wait for room in a full mailbox: all by actor type. *registry_entries* by state:
    ``ok``, ``orphan``, ``dead``.
    """

    system: str
    mailbox_depths: Mapping[str, Sequence[int]] = field(default_factory=dict[str, Sequence[int]])
    longest_active_seconds: Mapping[str, float] = field(default_factory=dict[str, float])
    blocked_senders: Mapping[str, int] = field(default_factory=dict[str, int])
    registry_entries: Mapping[str, int] = field(default_factory=dict[str, int])

    def folded(self, name_of: Mapping[str, str] | None = None) -> RuntimeGauges:
        """Return the same with actor types renamed by *name_of*; those that become one are joined."""
        names = name_of or {}
        depths: dict[str, list[int]] = {}
        for type_name, found in self.mailbox_depths.items():
            depths.setdefault(names.get(type_name, type_name), []).extend(found)
        longest: dict[str, float] = {}
        for type_name, seconds in self.longest_active_seconds.items():
            name = names.get(type_name, type_name)
            longest[name] = max(seconds, longest.get(name, 0.0))
        blocked: dict[str, int] = {}
        for type_name, count in self.blocked_senders.items():
            name = names.get(type_name, type_name)
            blocked[name] = blocked.get(name, 0) + count
        return RuntimeGauges(
            system=self.system,
            mailbox_depths=depths,
            longest_active_seconds=longest,
            blocked_senders=blocked,
            registry_entries=self.registry_entries,
        )

    def joined(self, other: RuntimeGauges) -> RuntimeGauges:
        """Return what both show together, of one system: metrics can have but one value for it."""
        ours, theirs = self.mailbox_depths, other.mailbox_depths
        depths = {name: [*ours.get(name, ()), *theirs.get(name, ())] for name in (*ours, *theirs)}
        longest = dict(self.longest_active_seconds)
        for name, seconds in other.longest_active_seconds.items():
            longest[name] = max(seconds, longest.get(name, 0.0))
        return RuntimeGauges(
            system=self.system,
            mailbox_depths=depths,
            longest_active_seconds=longest,
            blocked_senders=_added(self.blocked_senders, other.blocked_senders),
            registry_entries=_added(self.registry_entries, other.registry_entries),
        )

    def types(self) -> set[str]:
        """Return every actor type that occurs."""
        return {*self.mailbox_depths, *self.longest_active_seconds, *self.blocked_senders}


def _added(ours: Mapping[str, int], theirs: Mapping[str, int]) -> dict[str, int]:
    return {name: ours.get(name, 0) + theirs.get(name, 0) for name in (*ours, *theirs)}


@dataclass(frozen=True, slots=True)
class Gauge:
    """One instrument over ``RuntimeGauges``."""

    name: str
    unit: str
    description: str
    up_down: bool

    def read(self, state: RuntimeGauges) -> Iterable[Observation]:
        """Yield what *state* says."""
        if self.name == s.REGISTRY_ENTRIES:
            for entry_state, count in state.registry_entries.items():
                yield Observation(count, {s.SYSTEM_ID: state.system, s.STATE: entry_state})
            return
        for type_name, value in self._by_type(state):
            yield Observation(value, {s.SYSTEM_ID: state.system, s.ACTOR_TYPE: type_name})

    def _by_type(self, state: RuntimeGauges) -> Iterable[tuple[str, float]]:
        if self.name == s.MAILBOX_COUNT:
            return ((name, sum(depths)) for name, depths in state.mailbox_depths.items())
        if self.name == s.MAILBOX_MAX:
            return ((name, max(depths, default=0)) for name, depths in state.mailbox_depths.items())
        if self.name == s.BLOCKED_SENDERS:
            return state.blocked_senders.items()
        return state.longest_active_seconds.items()


GAUGES = (
    Gauge(s.ACTIVE_MAX_AGE, "s", "How long the longest handler runs by now, 0 when none does", up_down=False),
    Gauge(s.MAILBOX_COUNT, "{message}", "Messages waiting in mailboxes", up_down=True),
    Gauge(s.MAILBOX_MAX, "{message}", "Messages waiting in the fullest mailbox", up_down=False),
    Gauge(s.BLOCKED_SENDERS, "{sender}", "Senders waiting for room in a full mailbox", up_down=True),
    Gauge(s.REGISTRY_ENTRIES, "{entry}", "Names in the registry, by state", up_down=True),
)
