"""Facts that wait on the disk for another log: first in, first out for each writer and kind.

A file log like any other, so every tool reads it while facts wait there. Beside it each process keeps a locked file
``.alive-<writer>`` while facts of that writer wait: its own process passes those on, and nobody else, for only that
one knows whether the other log still has all that came before. When the lock is free the process is gone, and
whoever uses the folder next passes them on. A segment is removed when all of it was taken; one with damage in it is
put aside as ``<segment>.damaged`` instead.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress

from papyra_otel.errors import LineDamaged, LogTooNew, LogUnavailable
from papyra_otel.facts import Fact
from papyra_otel.log.codec import SEGMENT_OPEN, SEGMENT_SEAL, parse, to_fact
from papyra_otel.log.contract import LogOptions
from papyra_otel.log.file.filelog import FileLog
from papyra_otel.log.file.folder import LogFolder, StreamFolder
from papyra_otel.log.file.fs import OS, FileSystem, error_name
from papyra_otel.log.file.layout import SegmentName, root_of_url
from papyra_otel.log.file.lines import end_of_lines, lines_forward
from papyra_otel.log.identity import GivenIdentities

__all__ = ["Spool", "root_of_spool"]

BATCH_FACTS_MAX = 500
SEGMENT_BYTES_MAX = 8 << 20
_ALIVE = ".alive-"
_MARKS = frozenset({SEGMENT_OPEN, SEGMENT_SEAL})


def root_of_spool(text: str) -> str:
    """Return the folder that *text* names, a path or a ``file:`` URL. Raises ConfigError."""
    return root_of_url(text) if text.startswith("file:") else root_of_url(f"file:{_quoted(text)}")


def _quoted(path: str) -> str:
    return path.replace("%", "%25").replace("?", "%3F").replace("#", "%23")


class Spool:
    """The queue in the folder *root*. ``put`` and taking may run in two threads; taking itself in one at a time.

    *told* is given one sentence on what went wrong with facts that wait here.
    """

    def __init__(
        self,
        root: str,
        *,
        fsync: str = "interval",
        told: Callable[[str], None] = lambda _: None,
        fs: FileSystem = OS,
        segment_bytes_max: int = SEGMENT_BYTES_MAX,
    ) -> None:
        self._root = os.path.abspath(root)
        self._told = told
        self._fs = fs
        self._log = FileLog(
            self._root,
            options=LogOptions(fsync=fsync),
            fs=fs,
            segment_bytes_max=segment_bytes_max,
            reserve_bytes=0,
            identities=GivenIdentities(),
        )
        self.after_fork_in_child()

    def after_fork_in_child(self) -> None:
        """Begin with nothing: what waits is the parent's, which also keeps the locks."""
        for fd in getattr(self, "_claims", {}).values():
            with suppress(OSError):
                self._fs.close(fd)
        self._lock = threading.Lock()
        self._claims: dict[str, int] = {}
        self._taken: dict[str, tuple[int, int]] = {}  # of a segment's file: up to where, damaged lines

    @property
    def root(self) -> str:
        """The absolute path of the folder."""
        return self._root

    def __bool__(self) -> bool:
        """Say whether facts of this process wait."""
        return bool(self._claims)

    def prepare(self) -> None:
        """Create the folder (not its parents) and see that it can be written. Raises LogUnavailable."""
        self._log.prepare()

    def put(self, facts: Sequence[Fact]) -> None:
        """Keep *facts*, in order. Raises LogUnavailable as ``FactLog.append``: put all of them again, before others."""
        with self._lock:
            try:
                self._fs.make_folder(self._root)
                for writer in {fact.writer or "" for fact in facts} - self._claims.keys():
                    self._claims[writer] = self._claimed(self._alive(writer))
            except OSError as error:
                raise self._unavailable(error) from error
            self._log.append(facts)

    def size_bytes(self) -> int:
        """Return what all waiting facts take up, those of other processes included; 0 if nobody can say."""
        size_bytes = 0
        with suppress(OSError):
            for stream in self._folder().streams():
                for name in self._folder().segments(stream):
                    with suppress(OSError):
                        size_bytes += self._fs.status(os.path.join(stream.path, str(name))).size_bytes
        return size_bytes

    def close(self) -> None:
        """End what is open. What waits stays for the next process. Never raises."""
        with self._lock:
            self._log.close()
            with suppress(LogUnavailable):
                waiting = {name.writer for _, name in self._segments()}
                for writer in list(self._claims):
                    self._release(writer, remove=writer not in waiting)

    # --- taking -------------------------------------------------------------------------------------

    def own(self) -> Generator[list[Fact]]:
        """Yield what this process put, in batches, until nothing waits; asking for the next says: that one is stored.

        Who stops asking finds the last batch again next time. Raises LogUnavailable.
        """
        while True:
            with self._lock:  # what is put from here on goes into segments of its own
                if not self._claims:
                    return
                self._log.seal()
                segments = [each for each in self._segments() if each[1].writer in self._claims]
                if not segments:
                    for writer in list(self._claims):
                        self._release(writer, remove=True)
                    return
            for stream, name in segments:
                yield from self._segment(os.path.join(stream.path, str(name)))

    def orphans(self) -> Generator[list[Fact]]:
        """Yield what processes that are gone left behind, in batches; see ``own``. Raises LogUnavailable."""
        by_writer: dict[str, list[tuple[StreamFolder, SegmentName]]] = {}
        for stream, name in self._segments():
            if name.writer not in self._claims:
                by_writer.setdefault(name.writer, []).append((stream, name))
        for writer, segments in by_writer.items():
            with self._orphaned(writer) as orphaned:
                if orphaned:
                    yield from self._orphan(segments)
        for writer in self._alive_writers() - by_writer.keys() - self._claims.keys():
            with self._orphaned(writer):  # killed before it could put anything
                pass

    def _orphan(self, segments: list[tuple[StreamFolder, SegmentName]]) -> Generator[list[Fact]]:
        streams = dict.fromkeys(stream for stream, _ in segments)
        for wanted in streams:
            try:
                for stream, name in segments:
                    if stream == wanted:
                        yield from self._segment(os.path.join(stream.path, str(name)))
            except LogTooNew as error:
                self._told(f"{wanted.path}: {error} What waits there stays.")

    def _segments(self) -> list[tuple[StreamFolder, SegmentName]]:
        folder = self._folder()
        try:
            return [
                (stream, name)
                for stream in folder.streams()
                for name in sorted(folder.segments(stream), key=lambda name: (name.writer, name.number))
            ]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise self._unavailable(error) from error

    def _segment(self, path: str) -> Generator[list[Fact]]:
        """Yield a segment's facts, then remove it. One that is gone was taken by somebody else."""
        try:
            fd = self._fs.open_read(path)
        except FileNotFoundError:
            return
        except OSError as error:
            self._put_aside(path, error.strerror or str(error))
            return
        offset, damaged = self._taken.get(path, (0, 0))
        try:
            batch: list[Fact] = []
            for end, line in lines_forward(self._fs, fd, offset):
                fact, is_damaged = _read(line)
                damaged += is_damaged
                if fact is None:
                    continue
                batch.append(fact)
                if len(batch) >= BATCH_FACTS_MAX:
                    yield batch
                    self._taken[path] = (end, damaged)
                    batch = []
            if batch:
                yield batch
            damaged += end_of_lines(self._fs, fd) < self._fs.size(fd)
        except OSError as error:
            self._put_aside(path, error.strerror or str(error))
            return
        finally:
            self._fs.close(fd)
        self._taken.pop(path, None)
        if damaged:
            self._put_aside(path, f"{damaged} damaged or unfinished lines")
        else:
            with suppress(FileNotFoundError):
                self._removed(path)

    def _removed(self, path: str) -> None:
        try:
            self._fs.unlink(path)
        except FileNotFoundError:
            raise
        except OSError as error:  # its facts are stored: that it comes again costs only time
            raise self._unavailable(error) from error

    def _put_aside(self, path: str, why: str) -> None:
        self._taken.pop(path, None)
        try:
            self._fs.rename(path, f"{path}.damaged")
        except OSError as error:
            raise self._unavailable(error) from error
        self._told(f"{path}: {why}; what could be read of it is stored, the file is kept as {path}.damaged.")

    # --- who lives ----------------------------------------------------------------------------------

    def _alive(self, writer: str) -> str:
        return os.path.join(self._root, f"{_ALIVE}{writer}")

    def _alive_writers(self) -> set[str]:
        try:
            names = self._fs.names(self._root)
        except OSError:
            return set()
        return {name.removeprefix(_ALIVE) for name in names if name.startswith(_ALIVE)}

    def _claimed(self, path: str) -> int:
        """Return the descriptor of a locked file at *path*. Raises OSError."""
        with suppress(FileNotFoundError):
            self._fs.unlink(path)  # of an earlier recording in this process: writers are never used again
        fd = self._fs.create(path)
        if not (self._fs.lock(fd) and self._fs.linked(fd)):  # somebody takes it for that of a dead process
            self._fs.close(fd)
            raise BlockingIOError(11, "another process has locked a file just created", path)
        return fd

    def _release(self, writer: str, *, remove: bool) -> None:
        if remove:
            with suppress(OSError):
                self._fs.unlink(self._alive(writer))
        with suppress(OSError):
            self._fs.close(self._claims.pop(writer))

    @contextmanager
    def _orphaned(self, writer: str) -> Generator[bool]:
        """Say whether *writer*'s process is gone and nobody else passes its facts on; if so, nobody will meanwhile."""
        try:
            fd = self._fs.open_read(self._alive(writer))
        except FileNotFoundError:  # somebody passed them on before and was cut short
            yield True
            return
        except OSError as error:
            raise self._unavailable(error) from error
        try:
            orphaned = self._fs.lock(fd)
            yield orphaned
            if orphaned and not any(name.writer == writer for _, name in self._segments()):
                with suppress(OSError):
                    self._fs.unlink(self._alive(writer))
        finally:
            self._fs.close(fd)

    def _folder(self) -> LogFolder:
        return LogFolder(fs=self._fs, root=self._root)

    def _unavailable(self, error: OSError) -> LogUnavailable:
        return LogUnavailable(
            f"spill folder {self._root}: {error.strerror or error} ({error.filename or self._root})",
            error_type=error_name(error),
        )


def _read(line: bytes) -> tuple[Fact | None, bool]:
    """Return the fact in *line*, if it is none of the segment's own, and whether the line is damaged."""
    try:
        parsed = parse(line)
        return (None, False) if parsed.kind in _MARKS else (to_fact(parsed), False)
    except LineDamaged:
        return None, True
