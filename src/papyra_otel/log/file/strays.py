"""What lies in the log's folders without belonging there, or was left behind by a crash."""

from __future__ import annotations

import os
from collections.abc import Iterator

from papyra_otel.log.file.folder import LogFolder
from papyra_otel.log.file.layout import (
    KIND_FOLDERS,
    NOT_SYSTEMS,
    PROBE,
    QUARANTINE,
    RECOVERING,
    REMOVING,
    RESERVE,
    TMP,
    VERIFIED,
    SegmentName,
)
from papyra_otel.log.file.summary import opened
from papyra_otel.reports import Anomaly

__all__ = ["strays"]

_UNTOLD = "a recovery was cut short before it was recorded: recover again"


def strays(folder: LogFolder) -> Iterator[Anomaly]:
    """Yield an anomaly for each file that no part of the log put there, or that a crash left half-made."""
    fs = folder.fs
    systems = folder.system_folders()
    for name in fs.names(folder.root):
        if name not in NOT_SYSTEMS and not fs.is_folder(os.path.join(folder.root, name)):
            known = name == RESERVE + TMP or (name.startswith(PROBE) and name.endswith(TMP))
            yield from _stray(folder, name, known=known)
    for system in systems:
        if not fs.is_folder(os.path.join(folder.root, system)):
            continue
        for name in _names(folder, system):
            place = f"{system}/{name}"
            if name in KIND_FOLDERS or name == QUARANTINE:
                if fs.is_folder(os.path.join(folder.root, place)):
                    yield from _in_stream(folder, place, name)
                else:
                    yield Anomaly(type="unexpected_file", place=place, detail="should be a folder")
            elif name != VERIFIED:
                known = name in {VERIFIED + TMP, RECOVERING, RECOVERING + TMP}
                yield from _stray(folder, place, known=known)


def _in_stream(folder: LogFolder, place: str, kind: str) -> Iterator[Anomaly]:
    for name in _names(folder, place):
        stem = name.removesuffix(TMP).removesuffix(REMOVING)
        known = stem.endswith(".ndjson") if kind == QUARANTINE else SegmentName.parse(stem) is not None
        if not known or stem != name:
            yield from _stray(folder, f"{place}/{name}", known=known)


def _names(folder: LogFolder, place: str) -> list[str]:
    try:
        return folder.fs.names(os.path.join(folder.root, place))
    except OSError:  # gone meanwhile, or told as unreadable where its segments are read
        return []


def _stray(folder: LogFolder, place: str, *, known: bool) -> Iterator[Anomaly]:
    """Tell a half-made file of ours whose maker is gone from one that is none of ours."""
    path = os.path.join(folder.root, place)
    if not known:
        yield Anomaly(
            type="unexpected_file",
            place=place,
            detail="not a part of the log: move it elsewhere",
            offset=None,
        )
        return
    try:
        with opened(folder.fs, path) as fd:
            if folder.fs.locked(fd):
                return
    except FileNotFoundError:
        return
    except OSError as error:
        yield Anomaly(type="unreadable", place=place, detail=f"cannot be opened: {error.strerror}")
        return
    detail = _UNTOLD if place.endswith("/" + RECOVERING) else "left behind by a crash; recovery removes it"
    yield Anomaly(type="tmp_leftover", place=place, detail=detail)
