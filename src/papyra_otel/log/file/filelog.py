"""The file log: joins streams being written, sources being read, and a background fsync."""

from __future__ import annotations

import os
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence

from papyra_otel.errors import LogUnavailable
from papyra_otel.facts import Capabilities, Entry, Fact, FactKind, LogStats
from papyra_otel.log.codec import encode
from papyra_otel.log.contract import FactLog, LogOptions
from papyra_otel.log.file.flusher import Flusher
from papyra_otel.log.file.fs import OS, FileSystem, error_name
from papyra_otel.log.file.layout import (
    KIND_FOLDERS,
    SegmentName,
    folder_of_system,
    root_of_url,
)
from papyra_otel.log.file.reader import FileSource
from papyra_otel.log.file.segment import Segment, SegmentStart
from papyra_otel.log.identity import Identities
from papyra_otel.log.merge import Query, read_merged, stats_of
from papyra_otel.log.retention import Retention

__all__ = ["FileLog", "open_file_log"]

SEGMENT_BYTES_MAX = 64 << 20
SEGMENT_AGE_SECONDS_MAX = 86_400
_WRITE_BYTES_MAX = 1 << 20
_LINKED_NANOS = 100_000_000  # how long a removed segment may go unnoticed
_SEGMENT_AGE_NANOS_MAX = SEGMENT_AGE_SECONDS_MAX * 1_000_000_000


def open_file_log(url: str, *, system: str | None, retention: Retention, options: LogOptions) -> FileLog:
    """Open ``file:relative/dir`` or ``file:///absolute/dir``."""
    return FileLog(root_of_url(url), system=system, retention=retention, options=options)


class _Stream:
    """One system's stream of one kind, as written by this process: its open segment, if any."""

    __slots__ = ("digest", "index", "looked_unix_nano", "records", "segment", "size_bytes")

    def __init__(self) -> None:
        self.segment: Segment | None = None
        self.index = 0
        self.looked_unix_nano = 0
        self.digest: str | None = None
        self.records = 0
        self.size_bytes = 0


class FileLog(FactLog):
    """See ``FactLog`` for the promises and ``layout`` for what is where.

    ``append`` writes through: when it returns the kernel has the lines, so killing the process loses
    none. What a power cut may take is what *options.fsync* allows. A forked child writes as a new writer
    into segments of its own. Who removes segments that are being written loses up to 0.1 s of facts more.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        system: str | None = None,
        retention: Retention | None = None,
        options: LogOptions | None = None,
        fs: FileSystem = OS,
        clock: Callable[[], int] = time.time_ns,
        new_writer: Callable[[], str] = lambda: secrets.token_hex(8),
        segment_bytes_max: int = SEGMENT_BYTES_MAX,
    ) -> None:
        self._root = os.path.abspath(root)
        self._system = system
        self._retention = retention or Retention()
        self._options = options or LogOptions()
        self._fs = fs
        self._clock = clock
        self._segment_bytes_max = segment_bytes_max
        self._lock = threading.RLock()
        self._identities = Identities(new_writer)
        self._streams: dict[tuple[str, FactKind], _Stream] = {}
        self._unsynced: set[Segment] = set()
        self._unforced: OSError | None = None
        self._flusher = Flusher(self._flush_quietly, self._options.fsync_interval_seconds)
        self._closed = False
        _open_logs.add(self)

    @property
    def root(self) -> str:
        """The absolute path of the log's folder."""
        return self._root

    @property
    def capabilities(self) -> Capabilities:
        """Durable, and any number of processes may write and read it at once."""
        return Capabilities(backend="file", durable=True, shared_between_processes=True)

    # --- writing ----------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Create the folder (not its parents) and see that it can be written.

        Raises LogUnavailable with the remedy, and LogTooNew when a stream's newest segment is a newer
        version's: writing beside it is safe, reading it is not possible.
        """
        self._check_open()
        try:
            self._fs.make_folder(self._root)
            if not os.access(self._root, os.W_OK | os.X_OK):
                raise PermissionError(13, "no permission to write there", self._root)
        except OSError as error:
            raise self._unavailable(error) from error
        newest: dict[str, FileSource] = {}
        for source in self._sources():
            known = newest.setdefault(source.stream, source)
            if source.newest_name > known.newest_name:
                newest[source.stream] = source
        for source in newest.values():
            source.check_version()

    def reserve(self, system: str, kind: FactKind) -> tuple[str, int]:
        """See FactLog."""
        return self._identities.reserve(system, kind)

    def append(self, facts: Sequence[Fact], /) -> None:
        """See FactLog. Facts of one stream in a row go to the kernel together, up to 1 MiB at a time."""
        with self._lock:
            self._check_open()
            try:
                if len(facts) == 1:
                    fact = self._identities.identified(facts[0])
                    seq = fact.seq or 0
                    self._write(fact.system, fact.kind, encode(fact), 1, seq, seq)
                else:
                    self._append_many(facts)
            except OSError as error:
                raise self._unavailable(error) from error
            if self._options.fsync == "always":
                self._flush()
            elif self._options.fsync == "interval":
                self._flusher.wake()

    def _append_many(self, facts: Sequence[Fact]) -> None:
        for given in facts:
            self._identities.check(given)
        batch: list[bytes] = []
        size = first_seq = 0
        last: Fact | None = None
        for given in facts:
            fact = self._identities.identified(given)
            line = encode(fact)
            if last is not None and (
                fact.kind is not last.kind
                or fact.system != last.system
                or size + len(line) > _WRITE_BYTES_MAX
            ):
                self._write(last.system, last.kind, b"".join(batch), len(batch), first_seq, last.seq or 0)
                batch, size = [], 0
            if not batch:
                first_seq = fact.seq or 0
            batch.append(line)
            size += len(line)
            last = fact
        if last is not None:
            self._write(last.system, last.kind, b"".join(batch), len(batch), first_seq, last.seq or 0)

    def _write(
        self, system: str, kind: FactKind, data: bytes, records: int, first_seq: int, last_seq: int
    ) -> None:
        stream = self._streams.get((system, kind))
        if stream is None:
            stream = self._streams[system, kind] = _Stream()
        segment = stream.segment
        if segment is None or segment.broken or self._ended(stream, segment, len(data)):
            segment = self._next_segment(stream, system, kind, first_seq)
        segment.write(data, records, last_seq)
        stream.records += records
        stream.size_bytes += len(data)
        self._unsynced.add(segment)

    def _ended(self, stream: _Stream, segment: Segment, more_bytes: int) -> bool:
        """Say whether *segment* is full, too old, or was removed under us."""
        now = self._clock()
        if (
            segment.size_bytes + more_bytes > self._segment_bytes_max
            or now - segment.begun_unix_nano > _SEGMENT_AGE_NANOS_MAX
        ):
            return True
        if 0 <= now - stream.looked_unix_nano < _LINKED_NANOS:
            return False
        stream.looked_unix_nano = now
        return not segment.linked()

    def _next_segment(self, stream: _Stream, system: str, kind: FactKind, first_seq: int) -> Segment:
        self._end_segment(stream)
        folder = os.path.join(self._root, folder_of_system(system), kind.plural)
        for path in (self._root, os.path.dirname(folder), folder):
            self._fs.make_folder(path)
        now = self._clock()
        stream.index += 1  # counts even if it fails: names are never used twice
        start = SegmentStart(
            folder=folder,
            name=SegmentName.new(now, self._identities.writer(system), stream.index),
            system=system,
            kind=kind,
            first_seq=first_seq,
            now_unix_nano=now,
            predecessor=stream.digest,
        )
        stream.segment = Segment(self._fs, start)
        stream.looked_unix_nano = now
        if self._options.fsync != "never":
            self._force_names(stream.segment, folder, first=stream.index == 1)
        return stream.segment

    def _force_names(self, segment: Segment, folder: str, *, first: bool) -> None:
        """Force the names of a new segment and, for a stream's first, of its folders. The root's is the user's."""
        try:
            self._fs.fsync_folder(folder)
            if first:
                self._fs.fsync_folder(os.path.dirname(folder))
                self._fs.fsync_folder(self._root)
        except OSError:
            segment.broken = True  # what has no name on the disk is lost with the power
            raise

    def _end_segment(self, stream: _Stream) -> None:
        """Seal and close the stream's segment. A seal that cannot be written is a missing seal, no error."""
        segment, stream.segment = stream.segment, None
        if segment is None:
            return
        stream.digest = None
        try:
            stream.digest = segment.seal(self._clock())
        except OSError:
            segment.broken = True
        try:
            if self._options.fsync != "never":
                segment.fsync()
        except OSError as error:
            self._unforced = error
        self._unsynced.discard(segment)
        segment.close()

    def seal(self) -> None:
        """See FactLog."""
        with self._lock:
            for stream in self._streams.values():
                self._end_segment(stream)

    def appended(self) -> dict[tuple[str, FactKind], tuple[int, int]]:
        """See FactLog."""
        return {key: (stream.records, stream.size_bytes) for key, stream in list(self._streams.items())}

    def flush(self) -> None:
        """See FactLog."""
        with self._lock:
            self._check_open()
            self._flush()

    def _flush(self) -> None:
        while self._unsynced:
            try:
                self._unsynced.pop().fsync()
            except OSError as error:
                self._unforced = error
        failed, self._unforced = self._unforced, None
        if failed is not None:
            raise self._unavailable(failed) from failed

    def _flush_quietly(self) -> None:
        """Force what is unforced, for the background thread; the next ``flush`` tells what went wrong.

        Nobody who appends waits for the disk here. A segment that cannot be forced is left by the next append.
        """
        with self._lock:
            waiting = list(self._unsynced)
        failed: OSError | None = None
        for segment in waiting:
            try:
                segment.fsync()
            except OSError as error:
                failed = error
        with self._lock:
            self._unforced = failed or self._unforced
            self._unsynced = {segment for segment in self._unsynced if not segment.forced}

    def close(self) -> None:
        """See FactLog."""
        self._flusher.stop()
        with self._lock:
            if not self._closed:
                self._closed = True
                self.seal()

    def after_fork_in_child(self) -> None:
        """Become a new writer. Inherited descriptors are closed, not unlocked: the parent still writes there."""
        self._lock = threading.RLock()
        for stream in self._streams.values():
            if stream.segment is not None:
                stream.segment.abandon()
        self._streams = {}
        self._unsynced = set()
        self._unforced = None
        self._flusher.reset()

    # --- reading ----------------------------------------------------------------------------------

    def select(self, query: Query) -> Iterator[Entry]:
        """See FactLog."""
        self._check_open()
        return read_merged(self._sources(query.kinds), query, self._retention, self._clock)

    def stats(self) -> LogStats:
        """See FactLog."""
        self._check_open()
        return stats_of(self._sources())

    def _sources(self, kinds: Iterable[FactKind] = tuple(FactKind)) -> list[FileSource]:
        wanted = set(kinds)
        try:
            if self._system is None:
                folders = self._fs.names(self._root)
            else:
                self._fs.names(self._root)
                folders = [folder_of_system(self._system)]
            return [
                source
                for folder in folders
                for plural, kind in KIND_FOLDERS.items()
                if kind in wanted
                for source in self._sources_in(folder, plural, kind)
            ]
        except FileNotFoundError as error:
            raise LogUnavailable(
                f"log folder {self._root}: No such file or directory; correct the log URL, or record something first",
                error_type=error_name(error),
            ) from error
        except OSError as error:
            raise self._unavailable(error) from error

    def _sources_in(self, folder: str, plural: str, kind: FactKind) -> Iterator[FileSource]:
        path = os.path.join(self._root, folder, plural)
        try:
            file_names = self._fs.names(path)
        except (FileNotFoundError, NotADirectoryError):
            return
        by_writer: dict[str, list[SegmentName]] = {}
        for file_name in file_names:
            name = SegmentName.parse(file_name)
            if name is not None:
                by_writer.setdefault(name.writer, []).append(name)
        for names in by_writer.values():
            yield FileSource(self._fs, self._root, folder, kind, names)

    # --- inside -----------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise LogUnavailable(f"the log {self._root} was closed; open it again", error_type="closed")

    def _unavailable(self, error: OSError) -> LogUnavailable:
        place = error.filename or self._root
        remedy = _REMEDIES.get(type(error), "see what the system says of that path")
        return LogUnavailable(
            f"log folder {self._root}: {error.strerror or error} ({place}); {remedy}",
            error_type=error_name(error),
        )


_REMEDIES: dict[type[OSError], str] = {
    FileNotFoundError: "create its parent folder, or correct the log URL",
    NotADirectoryError: "a file is where a folder should be: move it, or choose another log URL",
    PermissionError: "give this user the folder, or choose another log URL",
}


_open_logs: weakref.WeakSet[FileLog] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for log in list(_open_logs):
        log.after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
