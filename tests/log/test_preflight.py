"""What a file log tells before a start. The verb that shows it is tested with the command line."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from papyra_otel import Fact, FactKind
from papyra_otel.log import FactLog, open_log
from papyra_otel.log.file import preflight as module
from papyra_otel.log.file.filelog import FileLog
from papyra_otel.log.file.folder import LogFolder
from papyra_otel.log.file.fs import OS, OsFileSystem
from papyra_otel.log.file.preflight import preflight
from papyra_otel.log.retention import Retention, parse_retention
from papyra_otel.reports import Check


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder of a log with one fact."""
    with FileLog(tmp_path / "facts") as log:
        log.prepare()
        log.append([Fact(kind=FactKind.EVENT, name="n", time_unix_nano=1, system="shop")])
    return tmp_path / "facts"


def found(root: Path, fs: Any = OS, retention: Retention | None = None) -> dict[str, Check]:
    checks = preflight(LogFolder(fs=fs, root=str(root)), retention or Retention())
    assert len({check.name for check in checks}) == len(checks)
    return {check.name: check for check in checks}


def failed(checks: dict[str, Check]) -> dict[str, str]:
    return {name: check.status for name, check in checks.items() if not check.ok}


class Disk(NamedTuple):
    f_blocks: int
    f_frsize: int = 1
    f_files: int = 100
    f_favail: int = 100


@pytest.fixture(autouse=True)
def a_disk_with_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OsFileSystem, "free_bytes", lambda *_: 50 << 30)
    monkeypatch.setattr(module.os, "statvfs", lambda _: Disk(100 << 30))


def test_all_is_well_and_nothing_is_changed(root: Path) -> None:
    before = sorted(root.rglob("*"))
    checks = found(root)
    assert list(checks) == [
        "folder",
        "permissions",
        "disk space",
        "file system",
        "reserve",
        "maintenance",
        "line format",
    ]
    assert failed(checks) == {}
    assert sorted(root.rglob("*")) == before


def test_it_is_what_a_log_answers(root: Path) -> None:
    with open_log(root.as_uri()) as log:
        assert log.preflight()[0] == Check(name="folder", ok=True, detail=str(root))
    with open_log("memory:") as log:
        assert [check.name for check in log.preflight()] == ["durability"]


def test_a_backend_need_not_tell_anything() -> None:
    assert FactLog.preflight(object()) == ()  # type: ignore[arg-type]


def test_an_empty_folder_is_well(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    assert failed(found(tmp_path)) == {}
    assert list(tmp_path.iterdir()) == []


# --- the folder --------------------------------------------------------------------------------------


def test_a_folder_that_can_be_made_is_not_made(tmp_path: Path) -> None:
    checks = found(tmp_path / "facts")
    assert list(checks) == ["folder", "disk space"]
    assert failed(checks) == {}
    assert not (tmp_path / "facts").exists()


def test_a_parent_that_is_missing(tmp_path: Path) -> None:
    checks = found(tmp_path / "no" / "facts")
    assert checks["folder"].status == "FAIL"
    assert checks["folder"].remedy == f"create {tmp_path / 'no'}, or correct the log URL"


def test_a_parent_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.os, "access", lambda *_: False)
    assert "no permission to write" in found(tmp_path / "facts")["folder"].detail


def test_a_file_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "facts").touch()
    assert failed(found(tmp_path / "facts")) == {"folder": "FAIL"}
    assert failed(found(tmp_path / "facts" / "below")) == {"folder": "FAIL"}


def test_a_folder_that_others_may_look_into(root: Path) -> None:
    root.chmod(0o755)
    checks = found(root)
    assert failed(checks) == {"permissions": "warn"}
    assert checks["permissions"].remedy == f"chmod o-rwx {root}"
    root.chmod(0o770)  # a group is chosen: so volumes are shared
    assert failed(found(root)) == {}


def test_a_folder_that_may_not_be_written_is_not_tried(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.os, "access", lambda *_: False)
    checks = found(root)
    assert failed(checks) == {"permissions": "FAIL"}
    assert "file system" not in checks


def test_a_folder_that_cannot_be_listed(root: Path) -> None:
    class Unlisted(OsFileSystem):
        def names(self, path: str) -> list[str]:
            raise PermissionError(errno.EACCES, "Permission denied", path)

    checks = preflight(LogFolder(fs=Unlisted(), root=str(root)), Retention())
    assert (checks[-1].status, checks[-1].detail) == ("FAIL", f"Permission denied: {root}")


# --- space -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("free_bytes", "total_bytes", "status"),
    [
        ((64 << 20) - 1, 1 << 40, "FAIL"),
        (64 << 20, 1 << 30, "warn"),
        ((1 << 30) - 1, 2 << 30, "warn"),
        (1 << 30, 2 << 30, "ok"),
        (49 << 30, 1000 << 30, "warn"),
        (51 << 30, 1000 << 30, "ok"),
        (0, 0, "FAIL"),
    ],
)
def test_little_space(
    free_bytes: int, total_bytes: int, status: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OsFileSystem, "free_bytes", lambda *_: free_bytes)
    monkeypatch.setattr(module.os, "statvfs", lambda _: Disk(total_bytes))
    for where in (root, root.parent / "new"):
        assert found(where)["disk space"].status == status


def test_the_remedy_for_little_space_knows_the_retention(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OsFileSystem, "free_bytes", lambda *_: 0)
    assert "set a retention" in str(found(root)["disk space"].remedy)
    remedy = found(root, retention=parse_retention("events=1GiB"))["disk space"].remedy
    assert remedy == "free some, or compact the log"


def test_a_disk_without_room_for_files(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.os, "statvfs", lambda _: Disk(100 << 30, f_favail=0))
    assert failed(found(root)) == {"files": "FAIL"}


# --- the file system ---------------------------------------------------------------------------------


class Failing(OsFileSystem):
    def __init__(self, call: str, error: int) -> None:
        self.call, self.error = call, error

    def _fail(self, call: str) -> None:
        if call == self.call:
            raise OSError(self.error, os.strerror(self.error))

    def create(self, path: str) -> int:
        self._fail("create")
        return super().create(path)

    def lock(self, fd: int) -> bool:
        self._fail("lock")
        return super().lock(fd)

    def fsync(self, fd: int) -> None:
        self._fail("fsync")
        super().fsync(fd)

    def rename(self, source: str, target: str) -> None:
        self._fail("rename")
        super().rename(source, target)

    def fsync_folder(self, path: str) -> None:
        self._fail("fsync_folder")
        super().fsync_folder(path)

    def locked(self, fd: int) -> bool:
        self._fail("locked")
        return super().locked(fd)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("create", errno.EROFS),
        ("lock", errno.ENOLCK),
        ("fsync", errno.EIO),
        ("rename", errno.EPERM),
        ("fsync_folder", errno.EINVAL),
        ("locked", errno.EOPNOTSUPP),
    ],
)
def test_a_file_system_that_cannot_what_recording_needs(call: str, error: int, root: Path) -> None:
    before = sorted(root.rglob("*"))
    checks = found(root, Failing(call, error))
    assert failed(checks) == {"file system": "FAIL"}
    assert os.strerror(error) in checks["file system"].detail
    assert sorted(root.rglob("*")) == before


@pytest.mark.parametrize(
    ("method", "answer", "said"),
    [
        ("lock", False, "a new file was locked already"),
        ("locked", False, "a lock (flock) was granted twice"),
        ("write", 0, "a new file took no bytes"),
    ],
)
def test_a_file_system_that_only_pretends(
    method: str, answer: object, said: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OsFileSystem, method, lambda *_: answer)
    before = sorted(root.rglob("*"))
    check = found(root)["file system"]
    assert (check.status, check.detail) == ("FAIL", said)
    assert sorted(root.rglob("*")) == before


# --- who else is there -------------------------------------------------------------------------------


def test_a_reserve_that_is_gone(root: Path) -> None:
    (root / "reserve").unlink()
    assert failed(found(root)) == {"reserve": "warn"}


def test_another_maintenance_going_on(root: Path) -> None:
    fd = OS.lock_folder(str(root / "shop"))
    assert fd is not None
    try:
        checks = found(root)
    finally:
        OS.close(fd)
    assert failed(checks) == {"maintenance": "warn"}
    assert "'shop'" in checks["maintenance"].detail
    assert failed(found(root)) == {}


def test_looking_does_not_stand_in_the_way_of_maintenance(root: Path) -> None:
    found(root)
    fd = OS.lock_folder(str(root / "shop"))
    assert fd is not None
    OS.close(fd)


def test_what_is_no_system_is_no_maintenance(root: Path) -> None:
    (root / "a-file").touch()
    assert failed(found(root)) == {}


def test_a_system_that_may_not_be_looked_into(root: Path) -> None:
    class Closed(OsFileSystem):
        def open_read(self, path: str) -> int:
            if path.endswith("shop"):
                raise PermissionError(errno.EACCES, "Permission denied", path)
            return super().open_read(path)

    assert failed(found(root, Closed())) == {}


def test_a_newer_version_writes_here_too(root: Path) -> None:
    import zlib

    (segment,) = root.glob("shop/events/*.ndjson")
    body = segment.read_bytes().splitlines()[0].rpartition(b',"crc":')[0].replace(b'{"v":1,', b'{"v":2,')
    segment.write_bytes(body + b',"crc":"%08x"}\n' % zlib.crc32(body + b"}"))
    checks = found(root)
    assert failed(checks) == {"line format": "warn"}
    assert "line format 2" in checks["line format"].detail
    with FileLog(root) as log:  # and then an older one again
        log.append([Fact(kind=FactKind.EVENT, name="n", time_unix_nano=1, system="shop")])
    assert failed(found(root)) == {"line format": "warn"}
