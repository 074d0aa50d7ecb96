"""Writing one segment: a header line, facts, a seal. Exactly one writer, which holds the lock for life.

    {"v":1,...,"kind":"segment.open","name":"papyra.log.opened",...}     format, host, pid, digest before
    {"v":1,...,"kind":"event",...}                                       any number of facts
    {"v":1,...,"kind":"segment.seal","name":"papyra.log.sealed",...}     records, last seq, bytes, digest

The seal's digest is BLAKE2b-256 of every byte before the seal, the header's predecessor is the digest of
the writer's segment before: so seals chain. No seal and a free lock mean the writer ended unexpectedly.
A segment gets its name when it is locked and its header is written: what has the name has both.
"""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from papyra_otel import semconv
from papyra_otel.facts import FactKind
from papyra_otel.log.codec import FORMAT, SEGMENT_OPEN, SEGMENT_SEAL, Line, encode_line
from papyra_otel.log.contract import Mark
from papyra_otel.log.file.fs import FileSystem
from papyra_otel.log.file.layout import TMP, SegmentName
from papyra_otel.log.times import format_time

__all__ = ["Memory", "NameTaken", "Segment", "SegmentStart"]

_DIGEST_BATCH_BYTES = 1 << 16
_HOST = platform.node()
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
_CANNOT_FORCE_FOLDERS = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EBADF})  # some network file systems
_NOT_OPENED = frozenset({errno.EMFILE, errno.ENFILE, errno.EACCES, errno.EPERM, errno.ENOMEM, errno.EINTR})


class NameTaken(OSError):
    """Somebody else has, or holds, the file that was to become a segment: another number will do."""


class Memory:
    """How many bytes all segments of a log keep because the disk may not have them yet, and how many they may."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentStart:
    """What a segment begins with.

    *previous* is the number of the writer's segment before that may hold facts, *predecessor* the digest that one was
    sealed with. *resource* is what the process calls itself (OTel resource attributes). *folders* are those whose
    entries have to be forced for the segment to have a name.
    """

    folder: str
    name: SegmentName
    system: str
    kind: FactKind
    first_seq: int
    now_unix_nano: int
    previous: int | None
    predecessor: str | None
    folders: tuple[str, ...]
    resource: Mapping[str, object] | None = None

    def mark(self) -> Mark:
        """Return what the first line says."""
        attributes: dict[str, object] = {
            semconv.FACT_KIND: self.kind.value,
            semconv.SEGMENT_FORMAT: FORMAT,
            semconv.SEGMENT_INDEX: self.name.number,
            semconv.HOST_NAME: _HOST,
            semconv.PROCESS_PID: os.getpid(),
        }
        if self.previous is not None:
            attributes[semconv.SEGMENT_PREVIOUS] = self.previous
        if self.predecessor is not None:
            attributes[semconv.SEGMENT_PREDECESSOR] = self.predecessor
        if self.resource is not None:
            attributes[semconv.SEGMENT_RESOURCE] = self.resource
        return self.marked(semconv.LOG_OPENED, self.first_seq, self.now_unix_nano, attributes)

    def marked(self, name: str, seq: int, now_unix_nano: int, attributes: dict[str, object]) -> Mark:
        """Return a mark of this segment."""
        return Mark(
            name=name,
            system=self.system,
            kind=self.kind,
            writer=self.name.writer,
            seq=seq,
            time_unix_nano=now_unix_nano,
            attributes=attributes,
        )


class Segment:
    """An open segment. After any OSError it is *broken*: leave it.

    Not thread-safe, its log holds the lock; but ``force`` may run in another thread at any time: a descriptor is
    never closed under it. With *memory* it keeps what was written until ``settle`` finds it on the disk, the
    newest of it at least, so that ``surrender`` can give it back when forcing fails.
    """

    def __init__(self, fs: FileSystem, start: SegmentStart, memory: Memory | None) -> None:
        """Make a locked file with a header under a passing name. Raises OSError, leaving nothing behind."""
        self._fs = fs
        self._start = start
        self._path = os.path.join(start.folder, str(start.name))
        self.begun_unix_nano: int = start.now_unix_nano
        self.broken: bool = False
        self.poisoned: bool = (
            False  # forcing failed: what it holds may be gone, and the kernel will not say so again
        )
        self._records = 0
        self._last_seq = start.first_seq - 1
        self._kernel_write = fs.write
        self._forcing = threading.Lock()
        self._unforced_folders = start.folders
        self._forced_bytes = 0
        self._forced_records = 0
        self._closed = False
        self._inode = 0
        self.opened: Mark = start.mark()
        header = _line(self.opened, SEGMENT_OPEN)
        self.size_bytes: int = len(header)
        self._digest = hashlib.blake2b(header, digest_size=32)
        self._memory = memory
        self._charged_bytes = 0
        self._kept: list[bytes] = []  # what is not yet both hashed and, with a memory, on the disk
        self._kept_from = self._hashed_bytes = self.size_bytes  # where in the file
        self._hashed = 0  # how many of these
        self._forgotten = 0  # lines that are not on the disk and not kept
        try:
            self.fd: int = fs.create(self._path + TMP)
        except FileExistsError as error:
            raise NameTaken(error.errno, error.strerror, error.filename) from error
        try:
            if not fs.lock(self.fd):
                raise NameTaken(errno.EBUSY, "another process has locked a file just created", self._path)
            if not fs.linked(self.fd):  # a recovery took it for a leftover before it was locked
                raise NameTaken(errno.ENOENT, "another process removed a file just created", self._path)
            self._write_all(header)
        except BaseException:
            self._discard(self._path + TMP)
            raise

    def appear(self) -> None:
        """Give the file its name. Raises OSError, leaving nothing behind."""
        try:
            if self._is_there():  # our names are nobody else's: this was put there
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), self._path)
        except BaseException:
            self._discard(self._path + TMP)
            raise
        try:
            self._fs.rename(self._path + TMP, self._path)
            self._inode = self._fs.status(self._path).inode
        except BaseException:  # renamed or not: it holds no facts
            self._discard(self._path + TMP, self._path)
            raise

    def _is_there(self) -> bool:
        try:
            self._fs.status(self._path)
        except FileNotFoundError:
            return False
        return True

    def _discard(self, *paths: str) -> None:
        for path in paths:
            with suppress(OSError):
                self._fs.unlink(path)
        self.abandon()

    def write(self, data: bytes, records: int, last_seq: int) -> None:
        """Append whole lines: when this returns, the kernel has all of them. Raises OSError."""
        size = len(data)
        try:
            written = self._kernel_write(self.fd, data)
            if written != size:  # a signal or a nearly full disk: the kernel took only part
                self._write_rest(data, written)
            self._records += records
            self._last_seq = last_seq
            self._kept.append(data)
            self.size_bytes += size
        except BaseException:
            self.broken = True  # part of a line may be there, or not be counted: nothing may follow it
            raise
        if self.size_bytes - self._hashed_bytes >= _DIGEST_BATCH_BYTES:
            self._tidy()

    def in_place(self) -> bool:
        """Say whether the file is still where readers look: what is written elsewhere nobody will read."""
        try:
            return (
                self._fs.is_folder(os.path.dirname(self._start.folder))
                and self._fs.is_folder(self._start.folder)
                and self._fs.status(self._path).inode == self._inode
            )
        except OSError as error:
            return error.errno not in _GONE  # what cannot be told now is no reason to leave

    def seal(self, now_unix_nano: int) -> Mark | None:
        """Write the seal and return what it says; None (and no seal) for a broken segment. Raises OSError."""
        if self.broken:
            return None
        self._hash()
        attributes: dict[str, object] = {
            semconv.FACT_KIND: self._start.kind.value,
            semconv.SEGMENT_RECORDS: self._records,
            semconv.SEGMENT_LAST_SEQ: self._last_seq,
            semconv.SEGMENT_BYTES: self.size_bytes,
            semconv.SEGMENT_DIGEST: self._digest.hexdigest(),
        }
        mark = self._start.marked(semconv.LOG_SEALED, max(self._last_seq, 0), now_unix_nano, attributes)
        seal = _line(mark, SEGMENT_SEAL)
        self.broken = True  # nothing follows a seal, whole or torn
        self._write_all(seal)
        self.size_bytes += len(seal)
        return mark

    # --- on the disk, or not ------------------------------------------------------------------------

    def force(self) -> None:
        """Force its name and what was written to the disk. Raises OSError, mostly once and for ever: see *poisoned*."""
        with self._forcing:
            size_bytes, records = self.size_bytes, self._records
            if self._closed or (self._forced_bytes == size_bytes and not self._unforced_folders):
                return
            if (
                self.poisoned
            ):  # asked again the kernel may say yes, having thrown away what it could not write
                raise OSError(errno.EIO, "the disk refused it before", self._path)
            self._force_folders()
            try:
                self._fs.fsync(self.fd)
            except BaseException:
                self.broken = self.poisoned = True
                raise
            self._forced_bytes = size_bytes
            self._forced_records = records

    def _force_folders(self) -> None:
        for folder in self._unforced_folders:
            try:
                self._fs.fsync_folder(folder)
            except OSError as error:
                if error.errno in _CANNOT_FORCE_FOLDERS:
                    continue
                if error.errno not in _NOT_OPENED:
                    self.broken = self.poisoned = True
                raise
        self._unforced_folders = ()

    def settle(self) -> None:
        """Forget what the disk has."""
        self._hash()
        if self._forced_bytes >= self._kept_from:
            self._forgotten = 0  # not kept, and there nevertheless
        end = self._kept_from
        count = 0
        for chunk in self._kept:
            if end + len(chunk) > self._forced_bytes:
                break
            end += len(chunk)
            count += 1
        self._drop(count, end)

    def surrender(self) -> tuple[list[bytes], int]:
        """Return the lines that the disk may not have, oldest first, and how many more there are but not kept."""
        if self._memory is None:
            return [], self._records - self._forced_records
        self.settle()
        kept, forgotten = self._kept, self._forgotten
        self._drop(len(kept), self.size_bytes)
        return kept, forgotten

    def _hash(self) -> None:
        pending = self._kept[self._hashed :] if self._hashed else self._kept
        self._digest.update(b"".join(pending))
        self._hashed = len(self._kept)
        self._hashed_bytes = self.size_bytes

    def _tidy(self) -> None:
        """Keep the bookkeeping small; called now and then while writing."""
        self._hash()
        if self._memory is None:
            self._drop(len(self._kept), self.size_bytes)
            return
        self._charge()
        excess = self._memory.bytes - self._memory.bytes_max
        if excess > 0:
            end, count = self._kept_from, 0
            for chunk in self._kept:
                if end - self._kept_from >= excess:
                    break
                end += len(chunk)
                self._forgotten += chunk.count(b"\n")
                count += 1
            self._drop(count, end)

    def _drop(self, count: int, end: int) -> None:
        """Forget the oldest *count* pieces, up to offset *end*."""
        self._kept = self._kept[count:]
        self._hashed -= count
        self._kept_from = end
        self._charge()

    def _charge(self) -> None:
        if self._memory is not None:
            held = self.size_bytes - self._kept_from
            self._memory.bytes += held - self._charged_bytes
            self._charged_bytes = held

    # --- ends -----------------------------------------------------------------------------------------

    def close(self) -> None:
        """Give up the descriptor and with it the lock. Waits for a running ``force``."""
        with self._forcing:
            self._kept_from = self.size_bytes
            self._charge()
            self.abandon()

    def abandon(self) -> None:
        """Give up the descriptor, waiting for nobody: in a forked child, where the parent keeps the lock."""
        if self._closed:
            return
        self._closed = True
        with suppress(OSError):
            self._fs.close(self.fd)

    def _write_all(self, data: bytes) -> None:
        self._write_rest(data, self._kernel_write(self.fd, data))

    def _write_rest(self, data: bytes, written: int) -> None:
        while written < len(data):
            more = self._kernel_write(self.fd, data[written:])
            if more == 0:
                raise OSError(errno.EIO, "the kernel takes no more bytes")
            written += more


def _line(mark: Mark, kind: str) -> bytes:
    line = Line(
        v=FORMAT,
        writer=mark.writer,
        seq=mark.seq,
        time=format_time(mark.time_unix_nano),
        kind=kind,
        name=mark.name,
        severity="DEBUG",
        system=mark.system.encode(errors="backslashreplace").decode(),
        attributes=mark.attributes,
    )
    return encode_line(line)
