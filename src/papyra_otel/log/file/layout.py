"""Where things are.

    <root>/<system>/events/20261122T200245Z-9f2c41d07be3a815-000001.ndjson
                                    audits/...   dead_letters/...
                    quarantine/events-20261122T200245Z-9f2c41d07be3a815-000001-<digest>.ndjson
                    verified.json      what incremental scans need not read again
                    recovering.json    there while a recovery is not recorded yet
    <root>/.delivery/                  how far outlets are, and what receivers refused (``outlet``)
    <root>/.metrics/                   sockets of processes that may be asked for their metrics (``pipeline.hatch``)
    <root>/reserve                     space given up when the disk is full
    <root>/.doctor-<random>.tmp        tried by the doctor, for a moment

Names are final: never reused, never changed. They sort by time; per writer they sort by number. A file is
born as ``<name>.tmp``, locked and complete before it gets its name; a segment that is about to be removed
for lack of space is called ``<name>.removing``. Nothing else belongs here.
"""

from __future__ import annotations

import re
import time
from typing import NamedTuple
from urllib.parse import unquote

from papyra_otel.errors import ConfigError
from papyra_otel.facts import FactKind
from papyra_otel.log.naming import folder_of_system, is_whole_name, system_of_folder
from papyra_otel.payload import redact_url

__all__ = [
    "DELIVERY",
    "KIND_FOLDERS",
    "NOT_SYSTEMS",
    "PROBE",
    "QUARANTINE",
    "RECOVERING",
    "REMOVING",
    "RESERVE",
    "TMP",
    "VERIFIED",
    "SegmentName",
    "folder_of_system",
    "is_whole_name",
    "root_of_url",
    "system_of_folder",
]

DELIVERY = ".delivery"  # no system's folder begins with a point
QUARANTINE = "quarantine"
VERIFIED = "verified.json"
RECOVERING = "recovering.json"
RESERVE = "reserve"
PROBE = ".doctor-"
NOT_SYSTEMS = frozenset(
    {RESERVE, "lost+found"}
)  # a volume's own folder: common where a log has a volume to itself
TMP = ".tmp"
REMOVING = ".removing"
KIND_FOLDERS = {kind.plural: kind for kind in FactKind}
_SEGMENT = re.compile(r"(\d{8}T\d{6}Z)-([0-9a-f]{16})-(\d{6,})\.ndjson", re.ASCII)


class SegmentName(NamedTuple):
    """What a segment's file name says: when it was begun, by which writer, its how-many-th it is (*number*, from 1)."""

    stamp: str
    writer: str
    number: int

    @classmethod
    def new(cls, now_unix_nano: int, writer: str, number: int) -> SegmentName:
        """Name a segment that begins now."""
        return cls(
            time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now_unix_nano // 1_000_000_000)), writer, number
        )

    @classmethod
    def parse(cls, file_name: str) -> SegmentName | None:
        """Return what *file_name* says, or None when it is not a segment's."""
        match = _SEGMENT.fullmatch(file_name)
        return None if match is None else cls(match[1], match[2], int(match[3]))

    def __str__(self) -> str:
        return f"{self.stamp}-{self.writer}-{self.number:06d}.ndjson"


def root_of_url(url: str) -> str:
    """Return the folder of a ``file:`` URL. Raises ConfigError saying what is wrong with it."""
    shown = redact_url(url)
    rest = url.partition(":")[2]
    if rest.startswith("//"):
        host, slash, path = rest[2:].partition("/")
        if host not in {"", "localhost"}:
            raise ConfigError(
                f"log URL {shown!r} names a host; for a local folder write file:///{host}{slash}{path}"
            )
        rest = slash + path
    if "?" in rest or "#" in rest:
        raise ConfigError(
            f"log URL {shown!r} has a query or fragment; a file log takes none (write ? as %3F, # as %23)"
        )
    path = unquote(rest)
    if not path or "\0" in path:
        raise ConfigError(
            f"log URL {shown!r} names no folder; write file:relative/dir or file:///absolute/dir"
        )
    return path
