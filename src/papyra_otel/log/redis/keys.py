"""Where things are: the names of keys, and the identifiers of entries.

    papyra:{<tag>}:events            a stream; each entry has one field, data: the exact bytes of one line
    papyra:{<tag>}:audits            ...
    papyra:{<tag>}:dead_letters      ...
    papyra:{<tag>}:fence             a hash: <writer>-<kind> -> how far that writer came (``fence``)
    papyra:{<tag>}:meta              a hash: what is known about the streams (``meta``)
    papyra:{<tag>}:resources       a hash: <writer> -> what its process calls itself (OTel resource attributes)
    papyra:{<tag>}:quarantine        a stream: damaged entries, moved there whole
    papyra:{<tag>}:quarantine:<what>:<n>    what had the name of a key of ours, and was something else
    papyra:systems                   a set: all tags

A tag is the system's name, percent-encoded where it has to be; with several shards, all but the first have
``~s<number>`` behind it. All keys of a tag are in one hash slot. ``papyra`` is the prefix, which the URL can change.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from papyra_otel.facts import FactKind
from papyra_otel.log.cursor import Position
from papyra_otel.log.naming import folder_of_system, is_whole_name, system_of_folder

__all__ = ["KINDS", "EntryId", "Tag", "index_key", "is_own", "tag_of_key"]

KINDS = tuple(FactKind)
SEQUENCE_MAX = 2**63 - 1  # Redis allows 2**64 - 1; nobody adds that many entries in a millisecond
_OWN = re.compile(
    rf"(?:{'|'.join(kind.plural for kind in KINDS)}|fence|meta|resources|quarantine(?::[a-z_]+:\d+)?)",
    re.ASCII,
)
_SHARD = re.compile(r"~s([1-9]\d{0,3})$")


class EntryId(NamedTuple):
    """An entry's identifier: milliseconds of the server's clock, and a number within that millisecond."""

    milliseconds: int
    number: int

    @classmethod
    def parse(cls, text: bytes) -> EntryId:
        """Read ``<ms>-<number>``."""
        milliseconds, _, number = text.partition(b"-")
        return cls(int(milliseconds), int(number or b"0"))

    @classmethod
    def of(cls, position: Position) -> EntryId:
        """Return the identifier at a cursor's *position*."""
        return cls(position[0], position[1] if len(position) > 1 else 0)

    def next(self) -> EntryId:
        """Return the smallest identifier that is greater."""
        return EntryId(self.milliseconds, self.number + 1)

    def previous(self) -> EntryId:
        """Return the greatest identifier that is smaller; 0-0 stays."""
        if self.number > 0:
            return EntryId(self.milliseconds, self.number - 1)
        return EntryId(self.milliseconds - 1, SEQUENCE_MAX) if self.milliseconds else self

    def __str__(self) -> str:
        return f"{self.milliseconds}-{self.number}"

    def __bytes__(self) -> bytes:
        return b"%d-%d" % self


@dataclass(frozen=True, slots=True)
class Tag:
    """One system's keys, or one shard's of them. *name* is what stands between the braces."""

    prefix: str
    name: str

    @classmethod
    def new(cls, prefix: str, system: str, shard: int = 0) -> Tag:
        """Return the tag of *system*'s shard number *shard*, from 0."""
        return cls(prefix, folder_of_system(system) + (f"~s{shard}" if shard else ""))

    @property
    def system(self) -> str:
        """The system's name; of a very long one, its beginning."""
        return system_of_folder(_SHARD.sub("", self.name))

    @property
    def is_whole(self) -> bool:
        """Whether *system* is the whole name; otherwise ``meta`` has it."""
        return is_whole_name(_SHARD.sub("", self.name))

    @property
    def shard(self) -> str:
        """What follows the system's name: empty for the first shard, then ``~s1``, ``~s2``, ..."""
        found = _SHARD.search(self.name)
        return "" if found is None else found[0]

    def is_of(self, system: str) -> bool:
        """Say whether this is a shard of *system*."""
        return _SHARD.sub("", self.name) == folder_of_system(system)

    def key(self, what: str) -> str:
        """Return the key of *what* (``fence``, ``meta``, ``quarantine``)."""
        return f"{self.prefix}:{{{self.name}}}:{what}"

    def stream(self, kind: FactKind) -> str:
        """Return the key of the stream of *kind*."""
        return self.key(kind.plural)

    @property
    def fence(self) -> str:
        """The key of the fence."""
        return self.key("fence")

    @property
    def meta(self) -> str:
        """The key of what is known about the streams."""
        return self.key("meta")

    @property
    def resources(self) -> str:
        """The key of what the writers' processes call themselves."""
        return self.key("resources")

    @property
    def quarantine(self) -> str:
        """The key of what was damaged."""
        return self.key("quarantine")


def index_key(prefix: str) -> str:
    """Return the key of the set of all tags."""
    return f"{prefix}:systems"


def tag_of_key(prefix: str, key: str) -> tuple[Tag, str] | None:
    """Return the tag that *key* belongs to and what it is of it; None if it is none of ours."""
    match = re.fullmatch(rf"{re.escape(prefix)}:\{{([^{{}}]+)\}}:(.+)", key, re.DOTALL)
    return None if match is None else (Tag(prefix, match[1]), match[2])


def is_own(what: str) -> bool:
    """Say whether a tag may have a key of *what*; anything else is somebody's who uses our names."""
    return _OWN.fullmatch(what) is not None
