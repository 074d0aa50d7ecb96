"""What the real file system port does beyond passing calls on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from papyra_otel.facts import FactKind
from papyra_otel.log.file import FileLog
from papyra_otel.log.file.fs import OsFileSystem
from papyra_otel.testing import make_fact

SERVICE = 65_534

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@only_root
def test_what_root_makes_in_a_services_private_log_belongs_to_the_service(tmp_path: Path) -> None:
    root = tmp_path / "log"
    root.mkdir(mode=0o700)
    os.chown(root, SERVICE, SERVICE)
    with FileLog(root) as log:
        log.append([make_fact(0, kind=FactKind.EVENT)])
    made = list(root.rglob("*"))
    assert len(made) >= 3
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in made} == {(SERVICE, SERVICE)}


@only_root
def test_what_root_makes_in_a_public_folder_stays_roots(tmp_path: Path) -> None:
    public = tmp_path / "public"
    public.mkdir()
    public.chmod(0o755)
    os.chown(public, SERVICE, SERVICE)
    with FileLog(public / "log") as log:
        log.append([make_fact(0, kind=FactKind.EVENT)])
    assert {path.lstat().st_uid for path in (public / "log").rglob("*")} == {0}
    assert (public / "log").lstat().st_uid == 0


class Removed(OsFileSystem):
    """A recovery that comes between creating a file and locking it, once."""

    def __init__(self) -> None:
        self.path = ""

    def create(self, path: str) -> int:
        fd = super().create(path)
        if not self.path:
            self.path = path
            Path(path).unlink()
        return fd


def test_a_young_segment_that_a_recovery_took_for_a_leftover_is_begun_again(tmp_path: Path) -> None:
    fs = Removed()
    with FileLog(tmp_path / "log", fs=fs, reserve_bytes=0) as log:
        log.append([make_fact(0, kind=FactKind.EVENT)])
        assert [entry.fact.seq for entry in log.read()] == [0]
    assert fs.path
