"""The log's folder as a whole: which systems, kinds and segments there are. Looks, never changes anything."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from papyra_otel.facts import FactKind
from papyra_otel.log.file.fs import FileSystem
from papyra_otel.log.file.layout import KIND_FOLDERS, NOT_SYSTEMS, SegmentName, folder_of_system

__all__ = ["LogFolder", "StreamFolder"]


@dataclass(frozen=True, slots=True)
class StreamFolder:
    """The folder of one system's stream of one kind. *place* is its path relative to the log's folder."""

    path: str
    system_folder: str
    kind: FactKind

    @property
    def place(self) -> str:
        """``<system>/<kinds>``, as reports name it."""
        return f"{self.system_folder}/{self.kind.plural}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFolder:
    """A log's root, restricted to one *system* if that is not None. Methods raise OSError as the kernel says."""

    fs: FileSystem
    root: str
    system: str | None = None

    def system_folders(self) -> list[str]:
        """Return the folder names of the systems, sorted. Raises FileNotFoundError if there is no log."""
        names = self.fs.names(self.root)
        if self.system is None:
            return [name for name in names if name not in NOT_SYSTEMS and not name.startswith(".")]
        wanted = folder_of_system(self.system)
        return [wanted] if wanted in names else []

    def streams(self) -> Iterator[StreamFolder]:
        """Yield the folders of all streams, those that do not exist included."""
        for system_folder in self.system_folders():
            for plural, kind in KIND_FOLDERS.items():
                yield StreamFolder(os.path.join(self.root, system_folder, plural), system_folder, kind)

    def segments(self, stream: StreamFolder) -> list[SegmentName]:
        """Return the segments of *stream* by name: by time, each writer's in order. Empty if there is none."""
        try:
            names = self.fs.names(stream.path)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(name for name in map(SegmentName.parse, names) if name is not None)
