"""Carrying out what was decided of one system: keep damaged bytes, record, remove. The order is what makes it safe."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Sequence
from typing import Protocol

from papyra_otel.facts import Fact, FactKind
from papyra_otel.log.file.compact_plan import StreamPlan, SystemPlan
from papyra_otel.log.file.cut import REWRITTEN, Cut, shortened
from papyra_otel.log.file.fs import FileSystem, error_name
from papyra_otel.log.file.layout import QUARANTINE, REMOVING
from papyra_otel.log.file.quarantine import FORMAT, KeptSegment, quarantine_lines, quarantine_name
from papyra_otel.log.file.replace import replace_file
from papyra_otel.log.file.summary import opened
from papyra_otel.log.merge import floors_of

__all__ = ["Record", "Removal"]

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})


class Record(Protocol):
    """Appends facts about the log and forces them to the disk.

    On a full disk it calls *make_room* and tries again, with the same identities, for as long as that returns True.
    """

    def __call__(self, facts: Sequence[Fact], make_room: Callable[[], bool]) -> tuple[Fact, ...]:
        """Return the facts with their identities. Raises LogUnavailable."""
        ...


class Removal(SystemPlan):
    """One system's part of a compaction. Not thread-safe; whoever carries it out holds the system's lock."""

    def carry_out(self, record: Record) -> tuple[Fact, ...]:
        """Move damage aside, record, remove. Return what was recorded."""
        self._keep_damage()
        facts = self._telling()
        if not facts:
            return ()
        recorded = record(facts, self._make_room)
        self._stay_with_the_visible()
        for cut in self._whole():
            _unlink(self._fs, cut.path + (REMOVING if cut.path in self._renamed else ""))
        for stream in self._streams:
            for name in stream.removing:
                _unlink(self._fs, os.path.join(stream.folder.path, name))
            if stream.removing or any(cut.keep_from is None for cut in stream.cuts):
                self._fs.fsync_folder(stream.folder.path)
        for stream in self._streams:
            stream.cuts = [cut for cut in stream.cuts if cut.keep_from is None or self._shorten(stream, cut)]
        return recorded

    def _whole(self) -> list[Cut]:
        """Return what goes as a whole, oldest first, but each writer's in order."""
        keyed: list[tuple[str, str, int, Cut]] = []
        for stream in self._streams:
            latest: dict[str, str] = {}
            for cut in stream.cuts:
                stamp = latest[cut.name.writer] = max(latest.get(cut.name.writer, ""), cut.name.stamp)
                if cut.keep_from is None:
                    keyed.append((stamp, cut.stream.place + cut.name.writer, cut.name.number, cut))
        return [cut for _, _, _, cut in sorted(keyed, key=lambda each: each[:3])]

    def _keep_damage(self) -> None:
        """Keep the damaged bytes that would go. Where there is no space for that, nothing goes."""
        for stream in self._streams:
            staying: set[str] = set()
            for cut in list(stream.cuts):
                if cut.name.writer not in staying and self._kept(stream, cut):
                    continue
                staying.add(cut.name.writer)
                stream.cuts.remove(cut)

    def _kept(self, stream: StreamPlan, cut: Cut) -> bool:
        if not cut.damaged:
            return True
        kinds = stream.folder.kind.plural
        said = KeptSegment(
            v=FORMAT,
            segment=f"{kinds}/{cut.name}",
            size_bytes=cut.size_bytes,
            digest=cut.digest,
            mode=REWRITTEN,
        )
        path = os.path.join(self._folder.root, self._name, QUARANTINE)
        name = quarantine_name(kinds, cut.name, cut.digest)
        try:
            self._fs.make_folder(path)
            self._fs.fsync_folder(os.path.dirname(path))
            with opened(self._fs, cut.path) as fd:
                lines = quarantine_lines(
                    said, cut.damaged, lambda size, offset: self._fs.pread(fd, size, offset)
                )
                replace_file(self._fs, path, name, lines)
        except OSError as error:
            if error.errno not in _NO_SPACE:
                raise
            self._skip(stream, cut.name, f"no space to keep its damaged bytes ({error_name(error)})")
            return False
        self.kept_in.append(f"{self._name}/{QUARANTINE}/{name}")
        return True

    def _make_room(self) -> bool:
        """Empty the oldest segment that goes as a whole; False when there is none left."""
        for cut in self._whole():
            if cut.path in self._renamed:
                continue
            self._fs.rename(cut.path, cut.path + REMOVING)
            self._renamed.add(cut.path)
            self._fs.fsync_folder(cut.stream.path)  # the name must be there before the content goes
            self._fs.truncate(cut.path + REMOVING, 0)
            return True
        return False

    def _stay_with_the_visible(self) -> None:
        """Leave what turns out to be visible now that the record is among the events.

        Room was left as for the newest event of all, of the greatest length it can have. It is not the newest
        where a clock is behind, and may be shorter.
        """
        events = self._events()
        limits = self._limits.of(FactKind.EVENT)
        if events is None or not events.cuts:
            return
        if limits.max_bytes is None and (limits.max_records is None or self._is_newest(events)):
            return
        fresh = self._found(events.folder)
        floors, _ = floors_of(self._sources(fresh), limits, self._now)
        changed = False
        for source in self._sources(events):
            planned, true = events.floors.get(source.id), floors.get(source.id)
            if planned is None or (true is not None and source.order(true) >= source.order(planned)):
                continue
            changed = True
            if true is None:
                del events.floors[source.id]
            else:
                events.floors[source.id] = true
        if changed:
            self._decide(events, _unheard)

    def _is_newest(self, events: StreamPlan) -> bool:
        """Say whether all events that were there are earlier than now."""
        newest = (next(source.backward(None), None) for source in self._sources(events))
        return all(stored is None or stored.fact.time_unix_nano < self._now for stored in newest)

    def _shorten(self, stream: StreamPlan, cut: Cut) -> bool:
        try:
            replace_file(self._fs, stream.folder.path, str(cut.name), shortened(self._fs, cut))
        except OSError as error:
            if error.errno not in {*_NO_SPACE, errno.EBUSY}:
                raise
            self._skip(stream, cut.name, f"cannot be replaced by what is visible of it ({error_name(error)})")
            return False
        return True


def _unheard(place: str, size_bytes: int) -> None:
    """Tell nobody how far reading is."""


def _unlink(fs: FileSystem, path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        fs.unlink(path)
