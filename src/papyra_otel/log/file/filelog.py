"""The file log: what is written (``writing``), what is read, and how it is looked after."""

from __future__ import annotations

import errno
import os
import secrets
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from papyra_otel.errors import LogUnavailable
from papyra_otel.facts import Capabilities, Entry, Fact, FactKind, LogStats
from papyra_otel.log.contract import LogOptions
from papyra_otel.log.file.folder import LogFolder
from papyra_otel.log.file.fs import OS, FileSystem, error_name
from papyra_otel.log.file.layout import SegmentName, root_of_url
from papyra_otel.log.file.reader import FileSource
from papyra_otel.log.file.reserve import RESERVE_BYTES
from papyra_otel.log.file.writing import SEGMENT_BYTES_MAX, UNSYNCED_BYTES_MAX, FileWriting
from papyra_otel.log.identity import Identities
from papyra_otel.log.merge import Query, read_merged, stats_of
from papyra_otel.log.outlet import OUTLET, Outlet, check_outlet_name
from papyra_otel.log.retention import Retention, parse_retention
from papyra_otel.reports import Check, CompactionReport, ProgressCallback, RecoveryReport, ScanReport

if TYPE_CHECKING:
    from papyra_otel.log.file.scan import Scanned

__all__ = ["FileLog", "open_file_log"]

_NO_SPACE = frozenset(errno.errorcode[number] for number in (errno.ENOSPC, errno.EDQUOT))


def open_file_log(url: str, *, system: str | None, retention: Retention, options: LogOptions) -> FileLog:
    """Open ``file:relative/dir`` or ``file:///absolute/dir``."""
    return FileLog(root_of_url(url), system=system, retention=retention, options=options)


class FileLog(FileWriting):
    """See ``FactLog`` for the promises and ``layout`` for what is where.

    ``append`` writes through: when it returns the kernel has the lines, so killing the process loses
    none. What a power cut may take is what *options.fsync* allows. After a failed fsync a file is left for
    good, and what it may have lost is written again: as much as *unsynced_bytes_max* bytes of memory hold.
    A forked child writes as a new writer into segments of its own. *identities* are given where facts have them from
    another log. Who removes segments that are being written loses up to 0.1 s of facts more.
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
        unsynced_bytes_max: int = UNSYNCED_BYTES_MAX,
        reserve_bytes: int = RESERVE_BYTES,
        identities: Identities | None = None,
    ) -> None:
        super().__init__(
            root,
            options=options,
            fs=fs,
            clock=clock,
            new_writer=new_writer,
            segment_bytes_max=segment_bytes_max,
            unsynced_bytes_max=unsynced_bytes_max,
            reserve_bytes=reserve_bytes,
            identities=identities,
        )
        self._system = system
        self._retention = retention or Retention()
        self._scanned: Scanned | None = None

    @property
    def capabilities(self) -> Capabilities:
        """Durable, and any number of processes may write and read it at once."""
        return Capabilities(
            backend="file", durable=True, shared_between_processes=True, scan=True, recover=True, compact=True
        )

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
        self._reserve.make()
        newest: dict[str, FileSource] = {}
        for source in self._sources():
            known = newest.setdefault(source.stream, source)
            if source.newest_name > known.newest_name:
                newest[source.stream] = source
        for source in newest.values():
            source.check_version()

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
        with self._readable():
            folder = self._folder()
            return [
                FileSource(self._fs, self._root, stream.system_folder, stream.kind, names)
                for stream in folder.streams()
                if stream.kind in wanted
                for names in _by_writer(folder.segments(stream))
            ]

    # --- looking after it: only who needs that imports it -------------------------------------------

    def scan(
        self,
        progress: ProgressCallback | None = None,
        *,
        incremental: bool = False,
        seconds_max: float | None = None,
    ) -> ScanReport:
        """See FactLog."""
        from papyra_otel.log.file.scan import scan_log  # noqa: PLC0415

        self._check_open()
        with self._readable():
            self._scanned = scan_log(
                self._folder(), self._clock, progress, incremental=incremental, seconds_max=seconds_max
            )
        return self._scanned.report

    def remember(self) -> None:
        """See FactLog."""
        from papyra_otel.log.file.verified import remember  # noqa: PLC0415

        if self._scanned is not None:
            remember(self._folder(), self._scanned)

    def recover(
        self, mode: str = "quarantine", *, dry_run: bool = False, progress: ProgressCallback | None = None
    ) -> RecoveryReport:
        """See FactLog."""
        from papyra_otel.log.file.recover import recover_log  # noqa: PLC0415

        self._check_open()
        with self._readable():
            return recover_log(
                self._folder(), self._clock, mode, dry_run=dry_run, progress=progress, record=self._record
            )

    def compact(
        self,
        retention: Retention | str | None = None,
        force: bool = False,
        *,
        dry_run: bool = False,
        progress: ProgressCallback | None = None,
    ) -> CompactionReport:
        """See FactLog."""
        from papyra_otel.log.file.compact import compact_log  # noqa: PLC0415

        self._check_open()
        limits = parse_retention(retention) if isinstance(retention, str) else retention or self._retention
        with self._readable():
            return compact_log(
                self._folder(),
                self._clock,
                limits,
                force=force,
                dry_run=dry_run,
                progress=progress,
                record=self._record,
            )

    def preflight(self) -> tuple[Check, ...]:
        """See FactLog. Where there is a log, a file ``.doctor-….tmp`` is made in its folder, and removed."""
        from papyra_otel.log.file.preflight import preflight  # noqa: PLC0415

        return preflight(self._folder(), self._retention)

    def outlet(self, name: str = OUTLET) -> Outlet:
        """See FactLog. One process delivers at a time."""
        from papyra_otel.log.file.outlet import FileOutlet  # noqa: PLC0415

        return FileOutlet(self._folder(), check_outlet_name(name), self._open_sources, self._clock)

    def _open_sources(self) -> list[FileSource]:
        self._check_open()
        return self._sources()

    def _record(
        self, facts: Sequence[Fact], make_room: Callable[[], bool] = lambda: False
    ) -> tuple[Fact, ...]:
        """Append facts about the log itself and force them to the disk; return them with their identities.

        While the disk is full it tries again as long as *make_room* finds something to give up.
        """
        identified = tuple(self._identities.identified(fact) for fact in facts)
        while True:
            try:
                self.append(identified)
                self.flush()
            except LogUnavailable as error:
                if error.error_type not in _NO_SPACE or not make_room():
                    self._take_back(identified)
                    raise
            else:
                return identified

    def _take_back(self, facts: Sequence[Fact]) -> None:
        """Let the identities of facts that are not stored be given again: a hole would have to be explained."""
        with self._lock:
            for fact in reversed(facts):
                stream = self._streams.get((fact.system, fact.kind))
                seq = fact.seq or 0
                if stream is None or not stream.has(seq):
                    self._identities.take_back(fact.system, fact.kind, seq)

    def _folder(self) -> LogFolder:
        return LogFolder(fs=self._fs, root=self._root, system=self._system)

    # --- inside -----------------------------------------------------------------------------------

    @contextmanager
    def _readable(self) -> Generator[None]:
        """Turn what the system says into what a caller can act on."""
        try:
            yield
        except FileNotFoundError as error:
            raise LogUnavailable(
                f"log folder {self._root}: No such file or directory; correct the log URL, or record something first",
                error_type=error_name(error),
            ) from error
        except OSError as error:
            raise self._unavailable(error) from error


def _by_writer(names: Iterable[SegmentName]) -> list[list[SegmentName]]:
    groups: dict[str, list[SegmentName]] = {}
    for name in names:
        groups.setdefault(name.writer, []).append(name)
    return list(groups.values())
