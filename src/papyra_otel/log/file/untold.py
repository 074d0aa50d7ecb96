"""Recoveries that no fact tells of yet: noted before anything is changed, forgotten when the fact is on the disk.

    <system>/recovering.json    {"v":1,"told":["events-20261122T...-000001-<digest>.ndjson",...],"crc":...}

*told* are the quarantine files that were there before: every other one is a recovery's that was cut short, or whose
fact could not be stored, and the next recovery tells of it. Told twice if the machine goes off between the fact and
the note's removal; never not at all. docs/decisions/0024 says why.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress

import msgspec

from papyra_otel.errors import LineDamaged
from papyra_otel.log.codec import sign, signed
from papyra_otel.log.file.fs import FileSystem
from papyra_otel.log.file.layout import QUARANTINE, RECOVERING
from papyra_otel.log.file.lines import lines_forward
from papyra_otel.log.file.quarantine import KeptEdit, KeptSegment, read_quarantine
from papyra_otel.log.file.replace import replace_file
from papyra_otel.log.file.summary import opened

__all__ = ["forget", "kept_in", "note", "noted", "quarantined"]

_VERSION = 1


class _Note(msgspec.Struct, kw_only=True):
    v: int
    told: list[str]


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(_Note)


def note(fs: FileSystem, system_path: str, told: Iterable[str]) -> None:
    """Note, durably, that what is in a system's quarantine from now on is untold but for *told*. Raises OSError."""
    body = _encoder.encode(_Note(v=_VERSION, told=sorted(told)))
    replace_file(fs, system_path, RECOVERING, [sign(body)])


def noted(fs: FileSystem, system_path: str) -> frozenset[str] | None:
    """Return which quarantine files were told of when a system's note was made; None if there is no note.

    A note that cannot be read tells of none: rather twice than never.
    """
    try:
        with opened(fs, os.path.join(system_path, RECOVERING)) as fd:
            for _, line in lines_forward(fs, fd, 0):
                if signed(line):
                    return frozenset(_decoder.decode(line).told)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError, ValueError):
        pass
    return frozenset()


def forget(fs: FileSystem, system_path: str) -> None:
    """Remove a system's note. What comes back after a power cut is told again. Never raises."""
    with suppress(OSError):
        fs.unlink(os.path.join(system_path, RECOVERING))
        fs.fsync_folder(system_path)


def quarantined(fs: FileSystem, system_path: str) -> frozenset[str]:
    """Return the names of a system's quarantine files. Raises OSError."""
    path = os.path.join(system_path, QUARANTINE)
    return (
        frozenset(name for name in fs.names(path) if name.endswith(".ndjson"))
        if fs.is_folder(path)
        else frozenset()
    )


def kept_in(fs: FileSystem, system_path: str, name: str) -> tuple[KeptSegment | None, bool]:
    """Return what a quarantine file says of its segment, and whether that was rewritten. Never raises.

    Of a damaged one, what comes before the damage.
    """
    kept: KeptSegment | None = None
    rewrites = False
    with suppress(LineDamaged, OSError):
        for each in read_quarantine(fs, os.path.join(system_path, QUARANTINE, name)):
            if isinstance(each, KeptEdit):
                rewrites = rewrites or bool(each.length or each.replaced_by)
            else:
                kept = each
    return kept, rewrites
