"""Writing one segment: a header line, facts, a seal. Exactly one writer, which holds the lock for life.

    {"v":1,...,"kind":"segment.open","name":"papyra.log.opened",...}     format, host, pid, digest before
    {"v":1,...,"kind":"event",...}                                       any number of facts
    {"v":1,...,"kind":"segment.seal","name":"papyra.log.sealed",...}     records, last seq, bytes, digest

The seal's digest is BLAKE2b-256 of every byte before the seal, the header's predecessor is the digest of
the writer's segment before: so seals chain. No seal and a free lock mean the writer ended unexpectedly.
"""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import threading
from dataclasses import dataclass

from papyra_otel import semconv
from papyra_otel.facts import FactKind
from papyra_otel.log.codec import FORMAT, SEGMENT_OPEN, SEGMENT_SEAL, Line, encode_line
from papyra_otel.log.file.fs import FileSystem
from papyra_otel.log.file.layout import SegmentName
from papyra_otel.log.times import format_time

__all__ = ["Segment", "SegmentStart"]

_DIGEST_BATCH_BYTES = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentStart:
    """What a segment begins with. *predecessor* is the digest of the writer's segment before, if any."""

    folder: str
    name: SegmentName
    system: str
    kind: FactKind
    first_seq: int
    now_unix_nano: int
    predecessor: str | None

    def header(self) -> bytes:
        """Return the first line."""
        attributes: dict[str, object] = {
            semconv.FACT_KIND: self.kind.value,
            semconv.SEGMENT_FORMAT: FORMAT,
            semconv.SEGMENT_INDEX: self.name.number,
            semconv.HOST_NAME: platform.node(),
            semconv.PROCESS_PID: os.getpid(),
        }
        if self.predecessor is not None:
            attributes[semconv.SEGMENT_PREDECESSOR] = self.predecessor
        return _mark(self, SEGMENT_OPEN, semconv.LOG_OPENED, self.first_seq, self.now_unix_nano, attributes)


class Segment:
    """An open segment. After any OSError it is *broken*: leave it.

    Not thread-safe, its log holds the lock; but ``fsync`` may run in another thread at any time: a descriptor is
    never closed under it. ``forced`` says whether the disk has everything.
    """

    def __init__(self, fs: FileSystem, start: SegmentStart) -> None:
        """Create the file, lock it, write its header. Raises OSError, leaving at most a file without facts."""
        self._fs = fs
        self._start = start
        self.size_bytes: int = 0
        self.begun_unix_nano: int = start.now_unix_nano
        self.broken: bool = False
        self._records = 0
        self._last_seq = start.first_seq - 1
        self._digest = hashlib.blake2b(digest_size=32)
        self._undigested: list[bytes] = []
        self._digested_bytes = 0
        self._kernel_write = fs.write
        self._forcing = threading.Lock()
        self._forced_bytes = 0
        self._unforceable = False
        self._closed = False
        self.fd: int = fs.create(os.path.join(start.folder, str(start.name)))
        try:
            if not fs.lock(self.fd):
                raise OSError(errno.EBUSY, "another process has locked a file just created", str(start.name))
            self.write(start.header(), 0, self._last_seq)
        except BaseException:
            fs.close(self.fd)
            raise

    def write(self, data: bytes, records: int, last_seq: int) -> None:
        """Append whole lines: when this returns, the kernel has all of them. Raises OSError."""
        size = len(data)
        try:
            written = self._kernel_write(self.fd, data)
            if written != size:  # a signal or a nearly full disk: the kernel took only part
                self._write_rest(data, written)
            self.size_bytes += size
            self._records += records
            self._last_seq = last_seq
            self._undigested.append(data)
        except BaseException:
            self.broken = True  # part of a line may be there, or not be counted: nothing may follow it
            raise
        if self.size_bytes - self._digested_bytes >= _DIGEST_BATCH_BYTES:
            self._digest_pending()

    @property
    def forced(self) -> bool:
        """True when the disk has everything that was written, or never will."""
        return self._unforceable or self._forced_bytes == self.size_bytes

    def fsync(self) -> None:
        """Force what was written to the disk. Raises OSError, once; then nothing of it may be trusted again."""
        with self._forcing:
            size_bytes = self.size_bytes
            if self.forced or self._closed:
                return
            try:
                self._fs.fsync(self.fd)
            except OSError:
                self.broken = self._unforceable = True
                raise
            self._forced_bytes = size_bytes

    def linked(self) -> bool:
        """Say whether the file still has its name: what is written to a removed file nobody will read."""
        return self._fs.linked(self.fd)

    def seal(self, now_unix_nano: int) -> str | None:
        """Write the seal and return the digest for the next header; None (and no seal) for a broken segment."""
        if self.broken:
            return None
        self._digest_pending()
        digest = self._digest.hexdigest()
        attributes: dict[str, object] = {
            semconv.FACT_KIND: self._start.kind.value,
            semconv.SEGMENT_RECORDS: self._records,
            semconv.SEGMENT_LAST_SEQ: self._last_seq,
            semconv.SEGMENT_BYTES: self.size_bytes,
            semconv.SEGMENT_DIGEST: digest,
        }
        seal = _mark(
            self._start, SEGMENT_SEAL, semconv.LOG_SEALED, max(self._last_seq, 0), now_unix_nano, attributes
        )
        self.write(seal, 0, self._last_seq)
        return digest

    def close(self) -> None:
        """Give up the descriptor and with it the lock. Waits for a running fsync."""
        with self._forcing:
            self.abandon()

    def abandon(self) -> None:
        """Give up the descriptor, waiting for nobody: in a forked child, where the parent keeps the lock."""
        self._closed = True
        try:
            self._fs.close(self.fd)
        except OSError:
            self.broken = True

    def _write_rest(self, data: bytes, written: int) -> None:
        while written < len(data):
            more = self._kernel_write(self.fd, data[written:])
            if more == 0:
                raise OSError(errno.EIO, "the kernel takes no more bytes")
            written += more

    def _digest_pending(self) -> None:
        self._digest.update(b"".join(self._undigested))
        self._undigested.clear()
        self._digested_bytes = self.size_bytes


def _mark(
    start: SegmentStart, kind: str, name: str, seq: int, now_unix_nano: int, attributes: dict[str, object]
) -> bytes:
    line = Line(
        v=FORMAT,
        writer=start.name.writer,
        seq=seq,
        time=format_time(now_unix_nano),
        kind=kind,
        name=name,
        severity="DEBUG",
        system=start.system.encode(errors="backslashreplace").decode(),
        attributes=attributes,
    )
    return encode_line(line)
