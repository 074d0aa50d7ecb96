"""The append-only file of a stopped server, to be looked at and damaged."""

from __future__ import annotations

import os
from pathlib import Path


class AofFiles:
    """The append-only files below *folder*: one file for Redis 6.2, several with a manifest since 7.0.

    Damage goes to ``tail``, the file that is appended to. Damage only a server that does not run.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def files(self) -> list[Path]:
        """The data files, oldest first; the manifest is not one."""
        parts = self._folder / "appendonlydir"
        if parts.is_dir():
            base, rest = sorted(parts.glob("*.base.*")), list(parts.glob("*.incr.aof"))
            return [*base, *sorted(rest, key=lambda path: int(path.name.split(".")[-3]))]
        return sorted(self._folder.glob("*.aof"))

    @property
    def tail(self) -> Path:
        """The file that is appended to."""
        return self.files[-1]

    @property
    def manifest(self) -> Path | None:
        """The file that lists the others, where there is one."""
        return next(iter((self._folder / "appendonlydir").glob("*.manifest")), None)

    def truncate(self, *, cut_bytes: int) -> bytes:
        """Cut the last *cut_bytes* off the tail, as a power failure does; return them."""
        data = self.tail.read_bytes()
        kept = max(0, len(data) - cut_bytes)
        os.truncate(self.tail, kept)
        return data[kept:]

    def flip(self, offset: int, *, mask: int = 0xFF) -> None:
        """Invert the bits of *mask* in the byte at *offset* of the tail; below 0 counts from its end."""
        data = bytearray(self.tail.read_bytes())
        data[offset] ^= mask
        self.tail.write_bytes(data)

    def replace(self, old: bytes, new: bytes) -> int:
        """Replace *old* by *new*, which is as long, in the tail; return how often it was there."""
        if len(old) != len(new):
            raise ValueError("the replacement has to be as long as what it replaces")
        data = self.tail.read_bytes()
        self.tail.write_bytes(data.replace(old, new))
        return data.count(old)
