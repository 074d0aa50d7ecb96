"""Quarantine files: what was taken out comes back exactly, and damage to them is noticed."""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from log.examples import CountingFs, checked_by_hand, failing
from log.segments import BytesFs, UnsyncedFs
from papyra_otel.errors import LineDamaged
from papyra_otel.facts import FactKind
from papyra_otel.log.explained import SeqRange
from papyra_otel.log.file.fs import OS, OsFileSystem
from papyra_otel.log.file.layout import SegmentName
from papyra_otel.log.file.quarantine import (
    Edit,
    KeptEdit,
    KeptSegment,
    edited,
    quarantine_lines,
    quarantine_name,
    read_quarantine,
    seqs_kept,
    undo,
)
from papyra_otel.log.file.replace import remove_leftover, replace_file

WRITER = "9f2c41d07be3a815"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def kept(data: bytes) -> KeptSegment:
    digest = hashlib.blake2b(data, digest_size=32).hexdigest()
    return KeptSegment(v=1, segment="events/x", size_bytes=len(data), digest=digest, mode="quarantine")


def quarantine_of(data: bytes, edits: list[Edit]) -> bytes:
    return b"".join(quarantine_lines(kept(data), edits, BytesFs(data).read))


def rewritten(data: bytes, edits: list[Edit]) -> bytes:
    return b"".join(edited(BytesFs(data).read, len(data), edits))


def undone(new: bytes, quarantine: bytes) -> bytes:
    return b"".join(undo(BytesFs(quarantine), BytesFs(new).read, "0"))


@st.composite
def data_and_edits(draw: st.DrawFn) -> tuple[bytes, list[Edit]]:
    data = draw(st.binary(max_size=60))
    places = sorted(draw(st.lists(st.integers(0, len(data)), max_size=8)))
    edits = [
        Edit(begin, end - begin, draw(st.binary(max_size=4)), ("crc_mismatch",))
        for begin, end in zip(places[::2], places[1::2], strict=False)
    ]
    return data, edits


@given(data_and_edits())
def test_undoing_gives_back_every_byte(made: tuple[bytes, list[Edit]]) -> None:
    data, edits = made
    assert undone(rewritten(data, edits), quarantine_of(data, edits)) == data


def test_each_line_says_what_was_where_and_verifies_alone() -> None:
    data = b"good\nbad\ngood\n"
    edits = [Edit(5, 4, b"", ("torn_inside", "nul_run"), (f"{WRITER}-event-3..4",)), Edit(14, 0, b"seal\n")]
    first, second, third, last = quarantine_of(data, edits).splitlines(keepends=True)
    assert json.loads(first) == {
        "v": 1,
        "segment": "events/x",
        "bytes": 14,
        "digest": hashlib.blake2b(data, digest_size=32).hexdigest(),
        "mode": "quarantine",
        "crc": json.loads(first)["crc"],
    }
    assert json.loads(second) == {
        "offset": 5,
        "length": 4,
        "replaced_by": 0,
        "anomalies": ["torn_inside", "nul_run"],
        "data": base64.b64encode(b"bad\n").decode(),
        "seqs": [f"{WRITER}-event-3..4"],
        "crc": json.loads(second)["crc"],
    }
    assert json.loads(third).keys() == {"offset", "length", "replaced_by", "crc"}
    assert json.loads(last)["edits"] == 2
    for line in (first, second, third, last):
        with pytest.raises(AssertionError):  # signed as facts are, but no fact
            checked_by_hand(line)


def test_long_damage_becomes_several_short_lines() -> None:
    data = b"a" + os.urandom(1 << 20) + b"b"
    edits = [Edit(1, 1 << 20, b"X", ("oversize_line",), (f"{WRITER}-event-1..2",))]
    quarantine = quarantine_of(data, edits)
    assert max(map(len, quarantine.splitlines())) < 260 << 10
    assert undone(rewritten(data, edits), quarantine) == data
    assert rewritten(data, edits) == b"aXb"
    texts = [each.seqs for each in read_quarantine(BytesFs(quarantine), "0") if isinstance(each, KeptEdit)]
    assert [text for text in texts if text] == [(f"{WRITER}-event-1..2",)]


def test_the_name_tells_stream_segment_and_what_it_was() -> None:
    name = SegmentName("20261122T200245Z", WRITER, 7)
    assert quarantine_name("events", name, "0123456789abcdef" * 4) == (
        f"events-20261122T200245Z-{WRITER}-000007-0123456789abcdef.ndjson"
    )


def test_sequences_found_lost_are_told() -> None:
    edits = [
        Edit(0, 1, b"", (), (f"{WRITER}-event-1..2", "nonsense")),
        Edit(2, 0, b"", (), (f"{WRITER}-audit-9",)),
    ]
    assert seqs_kept(BytesFs(quarantine_of(b"abc", edits)), "0") == [
        SeqRange(WRITER, FactKind.EVENT, 1, 2),
        SeqRange(WRITER, FactKind.AUDIT, 9, 9),
    ]


def test_damage_to_a_quarantine_file_is_noticed_wherever_it_is() -> None:
    quarantine = quarantine_of(b"abcdef", [Edit(1, 2, b"Z"), Edit(5, 1)])
    new = rewritten(b"abcdef", [Edit(1, 2, b"Z"), Edit(5, 1)])
    for at in range(len(quarantine)):
        for bad in (
            quarantine[:at] + bytes([quarantine[at] ^ 1]) + quarantine[at + 1 :],
            quarantine[:at],
            quarantine[:at] + quarantine[at + 1 :],
        ):
            with pytest.raises(LineDamaged):
                undone(new, bad)
    lines = quarantine.splitlines(keepends=True)
    for bad in (b"".join(lines[:1] + lines[2:]), quarantine + lines[-1], b"".join(lines[1:]), lines[0]):
        with pytest.raises(LineDamaged):
            list(read_quarantine(BytesFs(bad), "0"))


def test_undoing_another_segment_is_noticed() -> None:
    quarantine = quarantine_of(b"abcdef", [Edit(1, 2, b"Z")])
    for other in (b"aZdeX", b"aZde", b"", b"aYXdef"):
        with pytest.raises(LineDamaged, match="another segment"):
            undone(other, quarantine)


# --- replacing a file ----------------------------------------------------------------------------------


def test_a_replaced_file_has_the_new_content_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"old")
    replace_file(OS, str(tmp_path), "x", [b"n" * (3 << 20), b"", b"ew"])
    assert (tmp_path / "x").read_bytes() == b"n" * (3 << 20) + b"ew"
    assert names(tmp_path) == ["x"]
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o600


def test_the_order_on_the_disk_is_content_then_name_then_folder(tmp_path: Path) -> None:
    calls: list[str] = []

    class Fs(CountingFs):
        def rename(self, source: str, target: str) -> None:
            calls.append("rename")
            super().rename(source, target)

    replace_file(Fs(calls.append), str(tmp_path), "x", [b"new"])
    assert calls == ["create", "write", "fsync", "rename", "fsync_folder", "close"]


@pytest.mark.parametrize("call", ["create", "write", "fsync"])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, call: str) -> None:
    (tmp_path / "x").write_bytes(b"old")
    with pytest.raises(OSError, match="ENOSPC"):
        replace_file(CountingFs(failing(call, errno.ENOSPC)), str(tmp_path), "x", [b"new"])
    assert (tmp_path / "x").read_bytes() == b"old"
    assert names(tmp_path) == ["x"]


def test_what_the_content_raises_comes_through(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        replace_file(OS, str(tmp_path), "x", (b"%d" % (1 // n) for n in (1, 0)))
    assert not names(tmp_path)


def test_short_writes_are_completed(tmp_path: Path) -> None:
    class Fs(UnsyncedFs):
        def write(self, fd: int, data: bytes, /) -> int:
            return super().write(fd, data[:7])

    replace_file(Fs(), str(tmp_path), "x", [b"0123456789" * 5])
    assert (tmp_path / "x").read_bytes() == b"0123456789" * 5


def test_a_kernel_that_takes_nothing_is_an_error(tmp_path: Path) -> None:
    class Fs(UnsyncedFs):
        def write(self, fd: int, data: bytes, /) -> int:
            return 0

    with pytest.raises(OSError, match="no more bytes"):
        replace_file(Fs(), str(tmp_path), "x", [b"abc"])


def test_what_a_crash_left_behind_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / "x.tmp").write_bytes(b"half")
    replace_file(OS, str(tmp_path), "x", [b"new"])
    assert (tmp_path / "x").read_bytes() == b"new"
    assert names(tmp_path) == ["x"]


def test_a_file_that_another_process_is_replacing_is_busy(tmp_path: Path) -> None:
    (tmp_path / "x.tmp").write_bytes(b"half")
    fd = OS.open_read(str(tmp_path / "x.tmp"))
    try:
        assert OS.lock(fd)
        with pytest.raises(OSError, match="another process") as raised:
            replace_file(OS, str(tmp_path), "x", [b"new"])
        assert raised.value.errno == errno.EBUSY
        assert not remove_leftover(OS, str(tmp_path / "x.tmp"))
    finally:
        OS.close(fd)
    assert remove_leftover(OS, str(tmp_path / "x.tmp"))
    assert remove_leftover(OS, str(tmp_path / "x.tmp"))


@pytest.mark.parametrize("times", [1, 2])
def test_somebody_who_only_looks_at_the_new_file_is_waited_out(tmp_path: Path, times: int) -> None:
    answers = iter([False] * times + [True])

    class Fs(OsFileSystem):
        def lock(self, fd: int) -> bool:
            return next(answers) and super().lock(fd)

    replace_file(Fs(), str(tmp_path), "x", [b"new"])
    assert names(tmp_path) == ["x"]


def test_a_lock_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    class Fs(OsFileSystem):
        def lock(self, fd: int) -> bool:
            raise OSError(errno.ENOLCK, "ENOLCK")

    with pytest.raises(OSError, match="ENOLCK"):
        replace_file(Fs(), str(tmp_path), "x", [b"new"])
    assert not names(tmp_path)
