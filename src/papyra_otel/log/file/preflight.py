"""Looking whether a process could record here, before it is started: folder, permissions, space, file system.

Everything is only looked at, but one thing can only be tried: whether the file system locks, forces and
renames. For that a file ``.doctor-<random>.tmp`` is made in the log's folder, if there is one, and removed again.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress

from papyra_otel.errors import LogTooNew
from papyra_otel.facts import FactKind
from papyra_otel.log.file.folder import LogFolder
from papyra_otel.log.file.fs import FileSystem, error_name
from papyra_otel.log.file.layout import NOT_SYSTEMS, PROBE, RESERVE, TMP, system_of_folder
from papyra_otel.log.file.reader import FileSource
from papyra_otel.log.file.reserve import RESERVE_BYTES
from papyra_otel.log.retention import Retention
from papyra_otel.reports import Check

__all__ = ["preflight"]

_FREE_BYTES_MIN = 64 << 20
_FREE_BYTES_ENOUGH = 1 << 30
_FREE_SHARE_ENOUGH = 0.05
_SYSTEMS_TOLD_MAX = 5


def preflight(
    folder: LogFolder, retention: Retention, new_name: Callable[[], str] | None = None
) -> tuple[Check, ...]:
    """Return what was found, worst or not. Never raises OSError. *new_name* gives the probe's random part."""
    return tuple(_checks(folder, retention, new_name or (lambda: secrets.token_hex(4))))


def _checks(folder: LogFolder, retention: Retention, new_name: Callable[[], str]) -> Iterator[Check]:
    root = folder.root
    try:
        mode = os.stat(root).st_mode
    except FileNotFoundError:
        yield from _not_yet(root)
        yield from _space(folder, os.path.dirname(root), retention)
        return
    except OSError as error:
        yield _failed("folder", root, error)
        return
    if not stat.S_ISDIR(mode):
        yield Check(
            name="folder",
            ok=False,
            detail=f"{root} is a file, not a folder",
            remedy="move it, or choose another log URL",
        )
        return
    yield Check(name="folder", ok=True, detail=root)
    permissions = _permissions(root, mode)
    yield permissions
    yield from _space(folder, root, retention)
    if permissions.status == "FAIL":
        return
    yield _tried(folder.fs, root, new_name)
    try:
        systems = folder.system_folders()
    except OSError as error:
        yield _failed("folder", root, error)
        return
    yield _reserve(folder, recorded=bool(systems))
    yield _maintenance(folder, systems)
    yield _versions(folder)


def _not_yet(root: str) -> Iterator[Check]:
    """Tell whether the folder, which is missing, could be made. Its parents never are."""
    parent = os.path.dirname(root)
    if not os.path.isdir(parent):
        detail = f"{root} cannot be made: its parent folder is missing"
        yield Check(name="folder", ok=False, detail=detail, remedy=f"create {parent}, or correct the log URL")
    elif not os.access(parent, os.W_OK | os.X_OK):
        detail = f"{root} cannot be made: no permission to write in {parent}"
        remedy = "create it and give it to this user, or choose another log URL"
        yield Check(name="folder", ok=False, detail=detail, remedy=remedy)
    else:
        yield Check(
            name="folder",
            ok=True,
            detail=f"{root} is not there yet; it will be made, private, when recording starts",
        )


def _permissions(root: str, mode: int) -> Check:
    if not os.access(root, os.R_OK | os.W_OK | os.X_OK):
        detail = f"this user (id {os.geteuid()}) may not read and write there, mode {stat.S_IMODE(mode):04o}"
        return Check(
            name="permissions",
            ok=False,
            detail=detail,
            remedy="give this user the folder, or choose another log URL",
        )
    if mode & stat.S_IRWXO:
        return Check(
            name="permissions",
            ok=False,
            severity="WARN",
            detail=f"every user of this machine may look in there, mode {stat.S_IMODE(mode):04o}",
            remedy=f"chmod o-rwx {root}",
        )
    return Check(name="permissions", ok=True, detail=f"private, writable, mode {stat.S_IMODE(mode):04o}")


# --- space ------------------------------------------------------------------------------------------


def _space(folder: LogFolder, where: str, retention: Retention) -> Iterator[Check]:
    """Tell how much can still be written at *where*; nothing where that is not known."""
    with suppress(OSError):
        free = folder.fs.free_bytes(where)
        found = os.statvfs(where)
        yield _space_check(free, found.f_blocks * found.f_frsize, retention)
        if found.f_files and not found.f_favail:
            remedy = "remove files there: each segment of the log is one"
            yield Check(name="files", ok=False, detail="the disk takes no more files", remedy=remedy)


def _space_check(free_bytes: int, total_bytes: int, retention: Retention) -> Check:
    share = free_bytes / total_bytes if total_bytes else 1.0
    detail = f"{_amount(free_bytes)} free, {share:.0%} of the disk"
    limits = [retention.of(kind).max_bytes for kind in FactKind]
    if all(limit is None for limit in limits):
        remedy = "free some, or limit the log: set a retention, and compact regularly"
    else:
        remedy = "free some, or compact the log"
    if free_bytes < _FREE_BYTES_MIN:
        return Check(name="disk space", ok=False, detail=detail, remedy=remedy)
    scarce = free_bytes < _FREE_BYTES_ENOUGH or share < _FREE_SHARE_ENOUGH
    return Check(
        name="disk space", ok=not scarce, severity="WARN", detail=detail, remedy=remedy if scarce else None
    )


def _amount(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:,.1f} GiB" if size_bytes >= 1 << 30 else f"{size_bytes >> 20:,} MiB"


# --- the file system ----------------------------------------------------------------------------------


class _Unable(Exception):
    """The file system did something else than it said."""


def _tried(fs: FileSystem, root: str, new_name: Callable[[], str]) -> Check:
    """Try what recording stands on: locks that exclude others, forcing to the disk, renaming."""
    path = os.path.join(root, f"{PROBE}{new_name()}")
    try:
        _try(fs, root, path)
    except _Unable as unable:
        remedy = "put the log on a local disk: without locks two maintenances may meet, and writers seem dead"
        return Check(name="file system", ok=False, detail=str(unable), remedy=remedy)
    except OSError as error:
        return _failed("file system", path, error)
    finally:
        for leftover in (f"{path}{TMP}", f"{path}-renamed{TMP}"):
            with suppress(OSError):
                fs.unlink(leftover)
    return Check(name="file system", ok=True, detail="locks, forces to the disk and renames")


def _try(fs: FileSystem, root: str, path: str) -> None:
    fd = fs.create(f"{path}{TMP}")
    try:
        if not fs.lock(fd):
            raise _Unable("a new file was locked already")
        if not fs.write(fd, b"papyra-otel doctor\n"):
            raise _Unable("a new file took no bytes")
        fs.fsync(fd)
        fs.rename(f"{path}{TMP}", f"{path}-renamed{TMP}")
        fs.fsync_folder(root)
        other = fs.open_read(f"{path}-renamed{TMP}")
        try:
            if not fs.locked(other):
                raise _Unable("a lock (flock) was granted twice")
        finally:
            fs.close(other)
    finally:
        fs.close(fd)


def _reserve(folder: LogFolder, *, recorded: bool) -> Check:
    try:
        size_bytes = folder.fs.status(os.path.join(folder.root, RESERVE)).size_bytes
    except OSError:
        size_bytes = 0
    if size_bytes >= RESERVE_BYTES:
        return Check(name="reserve", ok=True, detail="there, for dead letters on a full disk")
    if not recorded:
        return Check(name="reserve", ok=True, detail="not there yet; it will be made when recording starts")
    return Check(
        name="reserve",
        ok=False,
        severity="WARN",
        detail="not there: the disk was full, or it was removed",
        remedy="see that there is space; it is made again by itself",
    )


# --- who else is there ----------------------------------------------------------------------------------


def _maintenance(folder: LogFolder, systems: list[str]) -> Check:
    busy = [name for name in systems if name not in NOT_SYSTEMS and _is_locked(folder, name)]
    if not busy:
        return Check(name="maintenance", ok=True, detail="nobody recovers or compacts it now")
    names = ", ".join(repr(system_of_folder(name)) for name in busy[:_SYSTEMS_TOLD_MAX])
    return Check(
        name="maintenance",
        ok=False,
        severity="WARN",
        detail=f"another process recovers or compacts {names} just now",
        remedy="recording may go on; wait for it before a recovery or compaction",
    )


def _is_locked(folder: LogFolder, system_folder: str) -> bool:
    path = os.path.join(folder.root, system_folder)
    if not folder.fs.is_folder(path):
        return False
    try:
        fd = folder.fs.open_read(path)
    except OSError:
        return False
    try:
        return folder.fs.locked(fd)
    except OSError:
        return False
    finally:
        folder.fs.close(fd)


def _versions(folder: LogFolder) -> Check:
    """Tell whether a newer version writes here too: its facts cannot be read."""
    try:
        for stream in folder.streams():
            for name in reversed(folder.segments(stream)):
                FileSource(folder.fs, folder.root, stream.system_folder, stream.kind, [name]).check_version()
    except LogTooNew as error:
        return Check(
            name="line format",
            ok=False,
            severity="WARN",
            detail=f"facts in line format {error.version}, of a newer papyra-otel, are there",
            remedy="upgrade papyra-otel to read them; recording beside them is safe",
        )
    except OSError as error:
        return _failed("line format", folder.root, error)
    return Check(name="line format", ok=True, detail="all in format 1")


def _failed(name: str, path: str, error: OSError) -> Check:
    remedies: dict[type[OSError], str] = {
        PermissionError: "give this user the folder, or choose another log URL",
        NotADirectoryError: "a file is where a folder should be: move it, or choose another log URL",
    }
    return Check(
        name=name,
        ok=False,
        detail=f"{error.strerror or error_name(error)}: {error.filename or path}",
        remedy=remedies.get(type(error), "see what the system says of that path, or choose another log URL"),
    )
