"""What earlier scans verified, so that a start need not read a large log again. Only an optimisation.

``<system>/verified.json`` holds the summaries of sound segments and what identifies each file (size, inode, ctime).
Damaged, missing or of another version, it is as if nothing had been verified.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from papyra_otel.log.codec import sign, signed
from papyra_otel.log.file.folder import LogFolder
from papyra_otel.log.file.layout import VERIFIED
from papyra_otel.log.file.replace import replace_file
from papyra_otel.log.file.summary import Summary, opened

if TYPE_CHECKING:
    from papyra_otel.log.file.scan import Scanned

__all__ = ["recall", "remember"]

_VERSION = 1
_CHUNK_BYTES = 1 << 20


class _Verified(msgspec.Struct, kw_only=True):
    v: int
    segments: list[Summary]


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(_Verified)


def recall(folder: LogFolder, system_folder: str) -> dict[str, Summary]:
    """Return the summaries that were kept for a system, by place. Never raises."""
    chunks: list[bytes] = []
    try:
        with opened(folder.fs, os.path.join(folder.root, system_folder, VERIFIED)) as fd:
            while chunk := folder.fs.pread(fd, _CHUNK_BYTES, sum(map(len, chunks))):
                chunks.append(chunk)
        text = b"".join(chunks)[:-1]
        kept = _decoder.decode(text) if signed(text) else None
    except (OSError, msgspec.MsgspecError, ValueError):
        return {}
    return {} if kept is None or kept.v != _VERSION else {each.place: each for each in kept.segments}


def remember(folder: LogFolder, scanned: Scanned) -> None:
    """Keep the summaries of what was found sound. Never raises: what cannot be kept is read again."""
    by_system: defaultdict[str, list[Summary]] = defaultdict(list)
    for summary in scanned.summaries:
        if summary.sound:
            by_system[summary.system_folder].append(summary)
    for system_folder, summaries in by_system.items():
        with suppress(OSError):
            _keep(folder, system_folder, summaries)


def _keep(folder: LogFolder, system_folder: str, summaries: Sequence[Summary]) -> None:
    summaries = sorted(summaries, key=lambda summary: summary.place)
    if all(summary.remembered for summary in summaries) and len(recall(folder, system_folder)) == len(
        summaries
    ):
        return
    for summary in summaries:
        if (
            not summary.remembered
        ):  # what was read may be in the kernel only: a power cut must not make it untrue
            with opened(folder.fs, os.path.join(folder.root, summary.place)) as fd:
                folder.fs.fsync(fd)
    body = _encoder.encode(_Verified(v=_VERSION, segments=list(summaries)))
    replace_file(folder.fs, os.path.join(folder.root, system_folder), VERIFIED, [sign(body)])
