"""The writing side of the file log: streams and their segments, written through, forced in the background."""

from __future__ import annotations

import errno
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import groupby

from papyra_otel import semconv
from papyra_otel.errors import LogUnavailable
from papyra_otel.facts import Fact, FactKind
from papyra_otel.log.codec import encode, encode_run
from papyra_otel.log.contract import FactLog, LogOptions, Mark
from papyra_otel.log.file.flusher import Flusher
from papyra_otel.log.file.forks import close_strays, hold_still_at_forks, let_forks_pass, waiting_forks
from papyra_otel.log.file.fs import OS, FileSystem, error_name
from papyra_otel.log.file.layout import SegmentName, folder_of_system
from papyra_otel.log.file.reserve import RESERVE_BYTES, Reserve
from papyra_otel.log.file.segment import Memory, NameTaken, Segment, SegmentStart
from papyra_otel.log.file.stream import Stream, force_all, is_precious, seq_of
from papyra_otel.log.identity import Identities
from papyra_otel.log.outlet import small

__all__ = ["SEGMENT_BYTES_MAX", "UNSYNCED_BYTES_MAX", "FileWriting"]

SEGMENT_BYTES_MAX = 64 << 20
SEGMENT_AGE_SECONDS_MAX = 86_400
UNSYNCED_BYTES_MAX = 4 << 20
_WRITE_BYTES_MAX = 1 << 20
_RUN_FACTS_MAX = 1000
_LOOK_NANOS = 100_000_000  # how long a removed segment may go unnoticed
_SEGMENT_AGE_NANOS_MAX = SEGMENT_AGE_SECONDS_MAX * 1_000_000_000
_BIRTHS_MAX = 3
_ENDED_MAX = 16  # ended segments that wait to be forced: each costs a descriptor
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})


class FileWriting(FactLog):
    """What a process needs to write segments; see ``FileLog`` for what it promises.

    Locks: ``_lock`` guards all state; nobody waits for a disk with it but to write. A stream's ``forcing`` is taken
    before it, never after: whoever has it forces for all who came until then.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        options: LogOptions | None = None,
        fs: FileSystem = OS,
        clock: Callable[[], int] = time.time_ns,
        new_writer: Callable[[], str] = lambda: secrets.token_hex(8),
        segment_bytes_max: int = SEGMENT_BYTES_MAX,
        unsynced_bytes_max: int = UNSYNCED_BYTES_MAX,
        reserve_bytes: int = RESERVE_BYTES,
        identities: Identities | None = None,
    ) -> None:
        self._root = os.path.abspath(root)
        self._options = options or LogOptions()
        self._forces = self._options.fsync != "never"
        self._always = self._options.fsync == "always"
        self._behind = False
        self._fs = fs
        self._clock = clock
        self._segment_bytes_max = segment_bytes_max
        self._unsynced_bytes_max = unsynced_bytes_max
        self._lock = threading.RLock()
        self._identities = identities or Identities(new_writer)
        self._streams: dict[tuple[str, FactKind], Stream] = {}
        self._memory = Memory(unsynced_bytes_max)
        self._uncertain = 0
        self._uncertain_error = OSError(errno.EIO, os.strerror(errno.EIO))
        self._reserve = Reserve(fs, self._root, clock, reserve_bytes)
        self._flusher = Flusher(self._flush_quietly, self._options.fsync_interval_seconds)
        self._closed = False
        hold_still_at_forks(self)

    @property
    def root(self) -> str:
        """The absolute path of the log's folder."""
        return self._root

    # --- writing ----------------------------------------------------------------------------------

    def reserve(self, system: str, kind: FactKind) -> tuple[str, int]:
        """See FactLog."""
        return self._identities.reserve(system, kind)

    def append(self, facts: Sequence[Fact], /) -> None:
        """See FactLog. Facts of one stream in a row go to the kernel together, some 1 MiB at a time."""
        wait = self.write(facts)
        if wait is not None:
            wait()

    def write(self, facts: Sequence[Fact], /) -> Callable[[], None] | None:
        """See FactLog. There is something to wait for with fsync=always, and when the disk falls far behind."""
        if waiting_forks:
            let_forks_pass()
        with self._lock:
            if self._closed:
                self._check_open()
            try:
                if len(facts) == 1:
                    fact = facts[0]
                    writer, seq = self._identities.of(fact)
                    stream = self._streams.get((fact.system, fact.kind))
                    if stream is None:
                        stream = self._new_stream(fact.system, fact.kind)
                    if seq >= stream.next_seq or not stream.has(seq):
                        self._write(stream, encode(fact, writer, seq), 1, seq, seq)
                    touched: Iterable[Stream] = (stream,)
                else:
                    touched = self._write_many(facts)
            except OSError as error:
                raise self._unavailable(error) from error
            finally:
                if self._forces:
                    self._flusher.wake()
            if self._always or self._behind:
                return partial(self._wait, [(stream, stream.writes) for stream in touched])
        return None

    def _write_new(self, facts: Sequence[Fact]) -> Iterable[Stream]:
        """Write facts without identities, those of one stream in a row together."""
        touched: dict[Stream, None] = {}
        for run in _runs(facts):
            system, kind = run[0].system, run[0].kind
            stream = self._streams.get((system, kind)) or self._new_stream(system, kind)
            touched[stream] = None
            writer, seq = self._identities.reserve_run(system, kind, len(run))
            for data, records in _pieces(encode_run(run, writer, seq), len(run)):
                self._write(stream, data, records, seq, seq + records - 1)
                seq += records
        return touched

    def _write_many(self, facts: Sequence[Fact]) -> Iterable[Stream]:
        identity = self._identities.of
        if {fact.writer for fact in facts} == {None}:
            return self._write_new(facts)
        for fact in facts:
            self._identities.check(fact)
        touched: dict[Stream, None] = {}
        lines: list[bytes] = []
        size = first_seq = next_seq = 0
        stream: Stream | None = None
        for fact in facts:
            writer, seq = identity(fact)
            if (
                seq != next_seq
                or stream is None
                or fact.kind is not stream.kind
                or fact.system != stream.system
                or size > _WRITE_BYTES_MAX
            ):
                if lines and stream is not None:
                    self._write(stream, b"".join(lines), len(lines), first_seq, next_seq - 1)
                lines, size = [], 0
                stream = self._streams.get((fact.system, fact.kind)) or self._new_stream(
                    fact.system, fact.kind
                )
                touched[stream] = None
                if seq < stream.next_seq and stream.has(seq):
                    continue  # an earlier attempt wrote it
                first_seq = seq
            line = encode(fact, writer, seq)
            lines.append(line)
            size += len(line)
            next_seq = seq + 1
        if lines and stream is not None:
            self._write(stream, b"".join(lines), len(lines), first_seq, next_seq - 1)
        return touched

    def _new_stream(self, system: str, kind: FactKind) -> Stream:
        folder = os.path.join(self._root, folder_of_system(system), kind.plural)
        return self._streams.setdefault((system, kind), Stream(system, kind, folder))

    def _write(self, stream: Stream, data: bytes, records: int, first_seq: int, last_seq: int) -> None:
        try:
            if self._reserve.spent and not is_precious(stream, data) and not self._reserve.leaves_room():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # what is left is not for these
            segment = stream.segment
            if segment is None or segment.broken or self._is_over(stream, segment, len(data)):
                segment = self._next_segment(stream, first_seq)
            segment.write(data, records, last_seq)
        except OSError as error:
            if error.errno not in _NO_SPACE or not is_precious(stream, data) or not self._reserve.give_up():
                raise
            self._next_segment(stream, first_seq).write(data, records, last_seq)
        if first_seq == stream.next_seq:
            stream.next_seq = last_seq + 1
        else:
            stream.jumped(first_seq, last_seq)
        stream.records += records
        stream.size_bytes += len(data)
        stream.writes += 1

    def _is_over(self, stream: Stream, segment: Segment, more_bytes: int) -> bool:
        """Say whether *segment* is full, too old, or not where readers look."""
        now = self._clock()
        if segment.size_bytes + more_bytes > self._segment_bytes_max:
            return True
        age = now - segment.begun_unix_nano
        if age > _SEGMENT_AGE_NANOS_MAX:
            return True
        if age < 0:
            segment.begun_unix_nano = now  # the clock stepped back: it ages from now on
        if 0 <= now - stream.looked_unix_nano < _LOOK_NANOS:
            return False
        stream.looked_unix_nano = now
        return not segment.in_place()

    # --- segments begin and end; call with the lock ---------------------------------------------------

    def _next_segment(self, stream: Stream, first_seq: int) -> Segment:
        """Begin a segment, with what is owed. Raises OSError, and then there is none."""
        self._end_segment(stream)
        if not self._forces:
            self._reserve.make_again()  # otherwise the flusher's thread does it
        self._make_folders(stream)
        if stream.owed:
            first_seq = seq_of(stream.owed[0])
        segment = stream.segment = self._born(stream, first_seq)
        stream.previous = stream.number
        stream.looked_unix_nano = segment.begun_unix_nano
        stream.writes += 1
        self._tell(segment.opened)
        if stream.owed:
            data = b"".join(stream.owed)
            last_line = data[data.rfind(b"\n", 0, -1) + 1 :]
            segment.write(data, data.count(b"\n"), seq_of(last_line))
            stream.owed = []
        return segment

    def _make_folders(self, stream: Stream) -> None:
        """Make what is missing. Below the root no symlink is followed."""
        self._fs.make_folder(self._root)
        for path in (os.path.dirname(stream.folder), stream.folder):
            if not self._fs.is_folder(path):
                stream.folders_forced = False
                self._fs.make_folder(path)
                if not self._fs.is_folder(path):
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)

    def _born(self, stream: Stream, first_seq: int) -> Segment:
        now = self._clock()
        system_folder = os.path.dirname(stream.folder)
        number = stream.number
        while True:
            number += 1
            start = SegmentStart(
                folder=stream.folder,
                name=SegmentName.new(now, self._identities.writer(stream.system), number),
                system=stream.system,
                kind=stream.kind,
                first_seq=first_seq,
                now_unix_nano=now,
                previous=stream.previous,
                predecessor=stream.digest,
                folders=self._unforced_folders(stream, system_folder),
                resource=self._resource(),
            )
            try:
                segment = Segment(self._fs, start, self._memory if self._forces else None)
            except NameTaken:  # by a scanner that looked at the file just then, or what could not be removed
                if number >= stream.number + _BIRTHS_MAX:
                    raise
                continue
            stream.number = number  # counts even if it fails now: names are never used twice
            segment.appear()
            return segment

    def _unforced_folders(self, stream: Stream, system_folder: str) -> tuple[str, ...]:
        """Return the folders a new segment needs forced. The root's own name is its user's to force."""
        return (stream.folder,) if stream.folders_forced else (stream.folder, system_folder, self._root)

    def _end_segment(self, stream: Stream) -> None:
        """Seal the stream's segment. A seal that cannot be written is a missing seal, no error."""
        segment, stream.segment = stream.segment, None
        if segment is None:
            return
        stream.digest = None
        with suppress(OSError):
            sealed = segment.seal(self._clock())
            if sealed is not None:
                stream.digest = str(sealed.attributes[semconv.SEGMENT_DIGEST])
                self._tell(sealed)
        if self._forces:
            stream.ended.append(segment)
            stream.writes += 1
            self._behind = self._behind or len(stream.ended) > _ENDED_MAX
        else:
            segment.close()

    def _resource(self) -> Mapping[str, object] | None:
        """Return what identifies this process to others; a segment is born without it rather than not at all."""
        if self._options.resource is None:
            return None
        try:
            return small(self._options.resource())
        except Exception:  # it is the application's SDK that answers
            return None

    def _tell(self, mark: Mark) -> None:
        if self._options.on_mark is not None:
            with suppress(Exception):
                self._options.on_mark(mark)

    # --- forcing to the disk; call without the lock ---------------------------------------------------

    def flush(self) -> None:
        """See FactLog."""
        self._check_open()
        failed: OSError | None = None
        for stream in self._unforced():
            try:
                self._force(stream, stream.writes)
            except OSError as error:
                failed = error
        if failed is not None:
            raise self._unavailable(failed) from failed
        self._raise_uncertain()

    def _wait(self, written: Iterable[tuple[Stream, int]]) -> None:
        """Wait until the disk has what was written; one fsync serves all who wait."""
        try:
            for stream, writes in written:
                self._force(stream, writes)
        except OSError as error:
            raise self._unavailable(error) from error
        self._raise_uncertain()

    def _raise_uncertain(self) -> None:
        with self._lock:
            uncertain, self._uncertain = self._uncertain, 0
        if uncertain:
            error = self._uncertain_error
            raise LogUnavailable(
                f"log folder {self._root}: {error.strerror or error} while forcing facts to the disk; "
                f"{uncertain} of them may not survive a power cut",
                error_type=error_name(error),
            ) from error

    def _flush_quietly(self) -> bool:
        """Force what is unforced, for the background thread; say whether the disk has everything.

        Nobody who appends waits for the disk here. What a segment that cannot be forced may have lost is
        written again at once.
        """
        done = True
        for stream in self._unforced():
            try:
                self._force(stream, stream.writes, attempts=1)
            except OSError:
                done = False
        self._reserve.make_again()
        return done

    def _unforced(self) -> list[Stream]:
        with self._lock:
            return [
                stream for stream in self._streams.values() if stream.forced != stream.writes or stream.owed
            ]

    def _force(self, stream: Stream, writes: int, *, attempts: int = 2) -> None:
        """Force the first *writes* changes of *stream*, or raise OSError. A failed attempt is made good by another.

        Ended segments come first: what is on the disk is then always a beginning of the stream.
        """
        with stream.forcing:
            if stream.forced >= writes and not stream.owed:
                return  # by whoever was here before: it forced all there was
            for attempt in range(attempts):
                with self._lock:
                    if stream.owed and not self._closed:
                        self._next_segment(stream, 0)
                    writes = stream.writes
                    segments = stream.ended + ([] if stream.segment is None else [stream.segment])
                failed = force_all(segments)
                with self._lock:
                    if failed is None:
                        self._forced(stream, writes, segments)
                        return
                    segment, error = failed
                    if segment.poisoned:
                        self._poisoned(stream, segment, error)
                    if attempts == 1 and stream.owed and not self._closed:
                        self._next_segment(stream, 0)
                if attempt == attempts - 1:
                    raise error

    def _forced(self, stream: Stream, writes: int, segments: Sequence[Segment]) -> None:
        stream.forced = writes
        stream.folders_forced = stream.folders_forced or bool(segments)
        for segment in segments:
            segment.settle()
            if segment in stream.ended:
                stream.ended.remove(segment)
                segment.close()
        self._behind = any(len(stream.ended) > _ENDED_MAX for stream in self._streams.values())

    def _poisoned(self, stream: Stream, segment: Segment, error: OSError) -> None:
        """Leave a segment that could not be forced, without a seal; owe what it may have lost to the next one."""
        lines, lost = segment.surrender()
        stream.owed += lines
        if lost:
            self._uncertain += lost
            self._uncertain_error = error
        stream.digest = None
        if segment is stream.segment:
            stream.segment = None
        elif segment in stream.ended:
            stream.ended.remove(segment)
        stream.folders_forced = False
        stream.writes += 1
        segment.close()

    # --- ends -------------------------------------------------------------------------------------------

    def seal(self) -> None:
        """See FactLog."""
        for _ in range(2):  # what had to be written again is in a segment that was not there before
            with self._lock:
                for stream in self._streams.values():
                    self._end_segment(stream)
            if not self._forces or self._flush_quietly():
                return

    def appended(self) -> dict[tuple[str, FactKind], tuple[int, int]]:
        """See FactLog."""
        return {key: (stream.records, stream.size_bytes) for key, stream in list(self._streams.items())}

    def close(self) -> None:
        """See FactLog."""
        self._flusher.stop()
        if self._closed:
            return
        self.seal()
        with self._lock:
            self._closed = True
            for stream in self._streams.values():
                self._end_segment(stream)
                while stream.ended:
                    stream.ended.pop().close()

    def after_fork_in_child(self, *, stood_still: bool) -> None:
        """Become a new writer. Inherited descriptors are closed, not unlocked: the parent still writes there."""
        self._lock = threading.RLock()
        for stream in self._streams.values():
            for segment in stream.ended if stream.segment is None else [*stream.ended, stream.segment]:
                segment.abandon()
        if not stood_still:
            close_strays(self._root)
        self._streams = {}
        self._memory = Memory(self._unsynced_bytes_max)
        self._uncertain = 0
        self._flusher.reset()

    def before_fork(self, wait_seconds: float) -> bool:
        """Wait until no segment is half-born; False, rather than for ever, if another thread takes long."""
        return self._lock.acquire(timeout=wait_seconds)

    def after_fork_in_parent(self) -> None:
        """Go on, after ``before_fork`` was true."""
        self._lock.release()

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


def _runs(facts: Sequence[Fact]) -> Iterator[Sequence[Fact]]:
    """Yield facts of one stream in a row, at most so many at a time."""
    if len({fact.kind for fact in facts}) == len({fact.system for fact in facts}) == 1:
        runs = [facts]
    else:
        runs = [list(run) for _, run in groupby(facts, lambda fact: (fact.kind, fact.system))]
    for run in runs:
        for begin in range(0, len(run), _RUN_FACTS_MAX):
            yield run[begin : begin + _RUN_FACTS_MAX]


def _pieces(lines: bytes, count: int) -> Iterator[tuple[bytes, int]]:
    """Yield *lines*, of which there are *count*, some at a time, and how many. None is longer than a piece may be."""
    begin = 0
    while len(lines) - begin > _WRITE_BYTES_MAX:
        end = lines.rfind(b"\n", begin, begin + _WRITE_BYTES_MAX) + 1
        piece = lines[begin:end]
        records = piece.count(b"\n")
        yield piece, records
        count -= records
        begin = end
    yield lines[begin:], count
