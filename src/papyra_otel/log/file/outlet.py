"""The file log's outlet: a walk over all segments, and beside them ``.delivery/`` with a checkpoint and a lock.

.delivery/<outlet>.json                   how far delivery is (``checkpoint``)
.delivery/<outlet>.lock                   locked by the one that delivers, for as long as it does
.delivery/<outlet>.refused-<uid>.ndjson   facts that the receiver will never take, and what it said
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import cast

from papyra_otel import semconv
from papyra_otel.errors import ConfigError, LineDamaged, LogBusy, LogTooNew, LogUnavailable
from papyra_otel.facts import Entry, Fact
from papyra_otel.log.codec import SEGMENT_OPEN, parse
from papyra_otel.log.cursor import Position, Vector
from papyra_otel.log.file.checkpoint import Checkpoint, Damaged, load, save
from papyra_otel.log.file.folder import LogFolder
from papyra_otel.log.file.fs import error_name
from papyra_otel.log.file.layout import DELIVERY, SegmentName, folder_of_system
from papyra_otel.log.file.lines import lines_forward
from papyra_otel.log.file.reader import FileSource
from papyra_otel.log.file.replace import replace_file
from papyra_otel.log.merge import Query, read_merged
from papyra_otel.log.outlet import Backlog, Batch, Item, Reading, Refusal, refusal_line
from papyra_otel.log.retention import Retention
from papyra_otel.log.times import format_time

__all__ = ["FileOutlet"]

_logger = logging.getLogger("papyra_otel")
_REFUSED_FILES_MAX = 1000
_SEQ = 2  # where a position has the seq of the fact before it


class FileOutlet:
    """See ``Outlet``. *sources* lists what there is to read; it raises LogUnavailable."""

    shared = False

    def __init__(
        self,
        folder: LogFolder,
        name: str,
        sources: Callable[[], list[FileSource]],
        clock: Callable[[], int],
    ) -> None:
        self._folder = folder
        self._fs = folder.fs
        self._name = name
        self._sources = sources
        self._clock = clock
        self._reading = Reading(self._read)
        self._lock: int | None = None
        self._known = Checkpoint(outlet=name, system=folder.system)
        self._given: str | None = None

    # --- one at a time --------------------------------------------------------------------------------

    def acquire(self) -> None:
        """See Outlet. Raises ConfigError when the outlet delivers another choice of systems."""
        if self._lock is not None:
            return
        fs, path = self._fs, os.path.join(self._folder.root, DELIVERY, f"{self._name}.lock")
        try:
            fs.make_folder(os.path.dirname(path))
            try:
                fd = fs.create(path)
            except FileExistsError:
                fd = fs.open_read(path)
            if not fs.lock(fd):
                fs.close(fd)
                raise LogBusy(
                    f"another process delivers the facts of {self._folder.root} (outlet {self._name!r}); "
                    f"it goes on with all of them, and when it ends another can"
                )
        except OSError as error:
            raise self._unavailable(error) from error
        self._lock = fd
        try:
            self._load()
        except BaseException:
            self.release()
            raise

    def _load(self) -> None:
        fresh = Checkpoint(outlet=self._name, system=self._folder.system)
        try:
            self._known = load(self._fs, self._folder.root, self._name) or fresh
        except Damaged:
            _logger.error(  # noqa: TRY400 - what is wrong with it helps nobody
                "papyra_otel: the note of how far delivery is, %s, is damaged: delivering all facts of the log again",
                os.path.join(self._folder.root, DELIVERY, f"{self._name}.json"),
            )
            self._known = fresh
        except OSError as error:
            raise self._unavailable(error) from error
        if self._known.system != self._folder.system:
            whose = "every system" if self._known.system is None else f"the system {self._known.system!r}"
            raise ConfigError(
                f"outlet {self._name!r} of {self._folder.root} delivers {whose}: use another name for other facts"
            )
        self._given = self._known.cursor

    def release(self) -> None:
        """See Outlet."""
        self._reading.stop()
        self.abandon()

    def abandon(self) -> None:
        """See Outlet. What is inherited is closed, not unlocked: the lock is the parent's."""
        self._reading = Reading(self._read)
        fd, self._lock = self._lock, None
        if fd is not None:
            with contextlib.suppress(OSError):
                self._fs.close(fd)

    # --- reading --------------------------------------------------------------------------------------

    def next_batch(self, wanted: Callable[[Fact], bool], records_max: int, bytes_max: int) -> Batch:
        """See Outlet."""
        if not self._reading.going:
            self._given = self._tidied(self._given)
        batch = self._reading.batch(self._given, self._item, wanted, records_max, bytes_max)
        self._given = batch.token
        return batch

    def rewind(self) -> None:
        """See Outlet."""
        self._reading.stop()
        self._given = self._known.cursor

    def rest(self) -> None:
        """See Outlet. The walk goes on from where it was."""
        self._reading.stop()

    def _read(self, after: str | None) -> Iterator[Entry]:
        query = Query.of(
            kinds=None,
            since=None,
            until=None,
            actor=None,
            name=None,
            after=after,
            limit=None,
            newest_first=False,
        )
        return read_merged(self._sources(), query, Retention(), self._clock)

    def _tidied(self, cursor: str | None) -> str | None:
        """Forget how far sources are that are gone: a program that starts a thousand times a day leaves as many."""
        if cursor is None or self._folder.system is not None:
            return cursor
        positions = Checkpoint(outlet=self._name, cursor=cursor).positions()
        there = {source.id for source in self._sources()}
        kept = {source: position for source, position in positions.items() if source in there}
        return cursor if len(kept) == len(positions) else Vector(kept).render(newest_first=False)

    def _item(self, fact: Fact) -> Item:
        return Item(fact, lambda: self._resource(fact))

    def _resource(self, fact: Fact) -> Mapping[str, object] | None:
        """Return what the header of the writer's oldest segment says of its process."""
        for stream in self._folder.streams():
            if stream.kind is not fact.kind or stream.system_folder != folder_of_system(fact.system):
                continue
            for name in self._folder.segments(stream):
                if name.writer == fact.writer:
                    return self._header(os.path.join(stream.path, str(name)), name)
        return None

    def _header(self, path: str, name: SegmentName) -> Mapping[str, object] | None:
        try:
            fd = self._fs.open_read(path)
        except OSError:  # compacted away meanwhile
            return None
        try:
            for _, line in islice(lines_forward(self._fs, fd, 0), 1):
                header = parse(line)
                if header.kind == SEGMENT_OPEN and header.writer == name.writer:
                    resource = header.attributes.get(semconv.SEGMENT_RESOURCE)
                    return cast("dict[str, object]", resource) if isinstance(resource, dict) else None
        except (OSError, LineDamaged, LogTooNew):
            return None
        finally:
            self._fs.close(fd)
        return None

    # --- done -----------------------------------------------------------------------------------------

    def done(self, batch: Batch) -> None:
        """See Outlet."""
        cursor = batch.token
        assert cursor is None or isinstance(cursor, str)  # noqa: S101 - ours
        self._known = Checkpoint(
            outlet=self._name,
            system=self._folder.system,
            cursor=cursor,
            delivered=self._known.delivered + len(batch.items),
            time=format_time(self._clock()),
        )
        try:
            save(self._fs, self._folder.root, self._known)
        except OSError as error:
            raise self._unavailable(error) from error

    def put_aside(self, refusals: Sequence[Refusal]) -> str:
        """See Outlet. The same refusals make the same file; beyond a thousand files the log alone has the facts."""
        folder = os.path.join(self._folder.root, DELIVERY)
        stem = f"{self._name}.refused-"
        try:
            kept = sum(name.startswith(stem) for name in self._fs.names(folder))
            if kept >= _REFUSED_FILES_MAX:
                return f"the log only, because {folder} holds {kept} such files already"
            name = f"{stem}{refusals[0].fact.uid}.ndjson"
            replace_file(self._fs, folder, name, [refusal_line(each) for each in refusals])
        except OSError as error:
            raise self._unavailable(error) from error
        return os.path.join(folder, name)

    def begun(self) -> bool:
        """See Outlet. A damaged note is one, too."""
        try:
            return load(self._fs, self._folder.root, self._name) is not None
        except Damaged:
            return True
        except OSError as error:
            raise self._unavailable(error) from error

    def backlog(self) -> Backlog:
        """See Outlet. Counted by seqs, so facts that were lost inside a stream count, too."""
        try:
            known = load(self._fs, self._folder.root, self._name)
        except Damaged:
            known = None
        except OSError as error:
            raise self._unavailable(error) from error
        positions = {} if known is None else known.positions()
        found = [_left(source, positions.get(source.id)) for source in self._sources()]
        return Backlog(
            records=sum(records for records, _ in found),
            oldest_unix_nano=min((oldest for _, oldest in found if oldest is not None), default=None),
        )

    def _unavailable(self, error: OSError) -> LogUnavailable:
        return LogUnavailable(
            f"delivery from {self._folder.root}: {error.strerror or error} ({error.filename})",
            error_type=error_name(error),
        )


def _left(source: FileSource, position: Position | None) -> tuple[int, int | None]:
    """Return how many facts of *source* come after *position*, about, and the time of the first of them."""
    last = next(source.backward(None), None)
    if last is None or last.fact.seq is None:
        return 0, None
    if position is not None and len(position) > _SEQ and last.fact.seq <= position[_SEQ]:
        return 0, None
    first = next(source.forward(position), None)
    if first is None:
        return 0, None
    return max(last.fact.seq - (first.fact.seq or 0) + 1, 1), first.fact.time_unix_nano
