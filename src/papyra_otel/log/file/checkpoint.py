"""How far delivery is: a private file per outlet, ``.delivery/<outlet>.json``, replaced as a whole.

    {"v":1,"outlet":"otlp","cursor":"f1...","delivered":1042,"time":"2026-11-22T20:02:45.123456789Z","crc":"5b0e19aa"}

one line; ``system`` is there when only one is delivered; ``crc`` is that of the line format. A file that is not exactly
what was written is damaged: delivery then begins with the oldest fact that is stored, so nothing is missed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final
from zlib import crc32

import msgspec

from papyra_otel.errors import ConfigError, LogTooNew
from papyra_otel.log.cursor import Position, parse_cursor
from papyra_otel.log.file.fs import FileSystem
from papyra_otel.log.file.layout import DELIVERY
from papyra_otel.log.file.replace import replace_file

__all__ = ["Checkpoint", "Damaged", "Held", "checkpoints", "load", "save"]

_FORMAT: Final = 1
_SUFFIX = ".json"
_END = re.compile(rb',"crc":"([0-9a-f]{8})"\}\n\Z')
_VERSION = re.compile(rb'\A\{"v":(\d{1,9}),')
_READ_BYTES = 1 << 20


class Damaged(Exception):
    """The file is not what was written."""


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What the file says. *delivered* counts facts that were delivered since the beginning, as far as is known."""

    outlet: str
    system: str | None = None
    cursor: str | None = None
    delivered: int = 0
    time: str = ""

    def positions(self) -> dict[str, Position]:
        """Return how far each source is delivered."""
        return {} if self.cursor is None else parse_cursor(self.cursor, newest_first=False)


@dataclass(frozen=True, slots=True)
class Held:
    """What one outlet has not delivered yet stays: *positions* None when its note is damaged, so nothing is known."""

    outlet: str
    system: str | None
    positions: Mapping[str, Position] | None


def save(fs: FileSystem, root: str, checkpoint: Checkpoint) -> None:
    """Write *checkpoint*; durable on return. Raises OSError."""
    members = msgspec.json.encode(checkpoint)[1:-1]
    body = b'{"v":%d,%b' % (_FORMAT, members)
    folder = os.path.join(root, DELIVERY)
    fs.make_folder(folder)
    line = b'%b,"crc":"%08x"}\n' % (body, crc32(b"}", crc32(body)))
    replace_file(fs, folder, checkpoint.outlet + _SUFFIX, [line])


def load(fs: FileSystem, root: str, outlet: str) -> Checkpoint | None:
    """Return the checkpoint of *outlet*, None if there is none. Raises Damaged, LogTooNew, OSError."""
    path = os.path.join(root, DELIVERY, outlet + _SUFFIX)
    try:
        data = _read(fs, path)
    except FileNotFoundError:
        return None
    end = _END.search(data)
    if end is None or crc32(b"}", crc32(data[: end.start()])) != int(end[1], 16):
        raise Damaged
    version = _VERSION.search(data)
    if version is not None and int(version[1]) > _FORMAT:
        raise LogTooNew(path, int(version[1]))
    if version is None or int(version[1]) != _FORMAT:
        raise Damaged
    try:
        found = msgspec.json.decode(b"{" + data[version.end() : end.start()] + b"}", type=Checkpoint)
        found.positions()
    except (msgspec.MsgspecError, UnicodeDecodeError, ConfigError):
        raise Damaged from None
    if found.outlet != outlet:
        raise Damaged
    return found


def checkpoints(fs: FileSystem, root: str) -> Iterator[Held]:
    """Yield what every outlet of the log has delivered. Raises OSError, LogTooNew."""
    try:
        names = fs.names(os.path.join(root, DELIVERY))
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in names:
        outlet = name.removesuffix(_SUFFIX)
        if outlet == name:
            continue
        try:
            found = load(fs, root, outlet)
        except Damaged:
            yield Held(outlet, None, None)
        else:
            if found is not None:
                yield Held(outlet, found.system, found.positions())


def _read(fs: FileSystem, path: str) -> bytes:
    fd = fs.open_read(path)
    try:
        data, offset = b"", 0
        while chunk := fs.pread(fd, _READ_BYTES, offset):
            data += chunk
            offset += len(chunk)
        return data
    finally:
        fs.close(fd)
