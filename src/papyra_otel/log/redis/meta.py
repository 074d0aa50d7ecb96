"""What is known about a tag's streams beside the fence: the fields of ``papyra:{<tag>}:meta``.

system                      the system's whole name
forgotten                   server's time (ms): writers last seen before may have been taken out of the fence
restored:<kind>:<id>        the corrected line that stands in the place of entry <id>
hole:<writer>-<kind>-<first>..<last>    facts that are missing for a reason that a recovery recorded
verified:<kind>             what incremental scans need not read again (JSON)
upkeep                      who recovers or compacts just now, and until when: <token> <ms>
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from papyra_otel.facts import FactKind
from papyra_otel.log.redis.keys import EntryId

__all__ = ["HOLE", "RESTORED", "UPKEEP", "VERIFIED", "Meta", "parse_meta"]

RESTORED = "restored:"
HOLE = "hole:"
VERIFIED = "verified:"
UPKEEP = "upkeep"
_KINDS = {kind.value: kind for kind in FactKind}


@dataclass(frozen=True, slots=True)
class Meta:
    """The fields that readers and upkeep need, parsed. *restored* is ascending."""

    system: str | None = None
    restored: Mapping[FactKind, list[tuple[EntryId, bytes]]] = field(
        default_factory=dict[FactKind, list[tuple[EntryId, bytes]]]
    )
    holes: tuple[str, ...] = ()
    verified: Mapping[FactKind, bytes] = field(default_factory=dict[FactKind, bytes])


def parse_meta(fields: Mapping[bytes, bytes]) -> Meta:
    """Read what there is; what makes no sense is passed over."""
    restored: dict[FactKind, list[tuple[EntryId, bytes]]] = {}
    holes: list[str] = []
    verified: dict[FactKind, bytes] = {}
    for name, value in fields.items():
        text = name.decode(errors="replace")
        if text.startswith(RESTORED):
            kind, _, entry_id = text.removeprefix(RESTORED).partition(":")
            try:
                restored.setdefault(_KINDS[kind], []).append((EntryId.parse(entry_id.encode()), value))
            except (KeyError, ValueError):
                continue
        elif text.startswith(HOLE):
            holes.append(text.removeprefix(HOLE))
        elif text.startswith(VERIFIED) and text.removeprefix(VERIFIED) in _KINDS:
            verified[_KINDS[text.removeprefix(VERIFIED)]] = value
    for lines in restored.values():
        lines.sort()
    system = fields.get(b"system")
    return Meta(None if system is None else system.decode(errors="replace"), restored, tuple(holes), verified)
