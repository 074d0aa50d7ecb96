"""What is known about a tag's streams beside the fence: the fields of ``papyra:{<tag>}:meta``.

system                      the system's whole name
forgotten                   server's time (ms): writers last seen before may have been taken out of the fence
restored:<kind>:<id>        the corrected line that stands in the place of entry <id>
hole:<writer>-<kind>-<first>..<last>    facts that are missing for a reason that a recovery recorded
settled:<kind>:<id>         what is wrong with entry <id> for ever, and was told: readers get along with it
recovered:<what>            how much recoveries did that is not on record yet
verified:<kind>             what incremental scans need not read again (JSON)
upkeep                      who recovers or compacts just now, and until when: <token> <ms>
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from papyra_otel.facts import FactKind
from papyra_otel.log.redis.keys import EntryId

__all__ = ["HOLE", "RECOVERED", "RESTORED", "SETTLED", "UPKEEP", "VERIFIED", "Meta", "parse_meta"]

RESTORED = "restored:"
HOLE = "hole:"
SETTLED = "settled:"
RECOVERED = "recovered:"
VERIFIED = "verified:"
UPKEEP = "upkeep"
_ID = re.compile(r"(\d{1,20})-(\d{1,20})", re.ASCII)
_KINDS = {kind.value: kind for kind in FactKind}


@dataclass(frozen=True, slots=True)
class Meta:
    """The fields that readers and upkeep need, parsed. *restored* is ascending."""

    system: str | None = None
    restored: Mapping[FactKind, list[tuple[EntryId, bytes]]] = field(
        default_factory=dict[FactKind, list[tuple[EntryId, bytes]]]
    )
    holes: tuple[str, ...] = ()
    settled: Mapping[FactKind, list[EntryId]] = field(default_factory=dict[FactKind, list[EntryId]])
    recovered: Mapping[str, int] = field(default_factory=dict[str, int])
    verified: Mapping[FactKind, bytes] = field(default_factory=dict[FactKind, bytes])


def parse_meta(fields: Mapping[bytes, bytes]) -> Meta:
    """Read what there is; what makes no sense is passed over."""
    restored: dict[FactKind, list[tuple[EntryId, bytes]]] = {}
    settled: dict[FactKind, list[EntryId]] = {}
    holes: list[str] = []
    recovered: dict[str, int] = {}
    verified: dict[FactKind, bytes] = {}
    for name, value in fields.items():
        word, colon, rest = name.decode(errors="replace").partition(":")
        word += colon
        if word == HOLE:
            holes.append(rest)
        elif word == VERIFIED and rest in _KINDS:
            verified[_KINDS[rest]] = value
        elif word == RECOVERED and value.isdigit():
            recovered[rest] = int(value)
        elif word in {RESTORED, SETTLED}:
            kind, _, entry_id = rest.partition(":")
            if kind in _KINDS and (found := _ID.fullmatch(entry_id)):
                place = EntryId(int(found[1]), int(found[2]))
                if word == RESTORED:
                    restored.setdefault(_KINDS[kind], []).append((place, value))
                else:
                    settled.setdefault(_KINDS[kind], []).append(place)
    for lines in restored.values():
        lines.sort()
    system = fields.get(b"system")
    return Meta(
        system=None if system is None else system.decode(errors="replace"),
        restored=restored,
        holes=tuple(holes),
        settled=settled,
        recovered=recovered,
        verified=verified,
    )
