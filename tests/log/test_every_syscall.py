"""One scripted life of a recording, again and again, with another port call failing each time, for every errno.

Whatever fails, no exception reaches who records, and when the fault is over everything is readable, once, or a
``papyra.fact.dropped`` fact says which numbers are missing.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from log.faults import CALLS, CHANGING, CLOCK_BEGINS, DONE, NOT_DONE, SHORT, FaultyFs, modes
from papyra_otel import semconv
from papyra_otel.errors import LogTooNew, LogUnavailable
from papyra_otel.facts import Fact, FactKind
from papyra_otel.log import LogOptions
from papyra_otel.log.explained import parse_range
from papyra_otel.log.file import FileLog
from papyra_otel.log.file.layout import TMP
from papyra_otel.log.seqset import SeqSet
from papyra_otel.pipeline.counters import Counters
from papyra_otel.pipeline.writer import FactWriter

pytestmark = pytest.mark.exhaustive

ERRNOS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.EROFS,
    errno.EMFILE,
    errno.ENFILE,
    errno.EACCES,
    errno.EPERM,
    errno.ENOENT,
    errno.ELOOP,
    errno.ENOTDIR,
    errno.EINTR,
    errno.ENOMEM,
    errno.EEXIST,
    errno.EINVAL,
    errno.ESTALE,
)
TREATED_APART = (  # by the code that is tested here
    errno.ENOSPC,
    errno.EIO,
    errno.EMFILE,
    errno.ENOENT,
    errno.EEXIST,
    errno.EINVAL,
)
LEFT_BY_A_FAULT = {"torn_tail", "torn_inside", "unclean_shutdown", "tmp_leftover", "clock_jump"}


@dataclass
class Life:
    """A recording on a file system that fails, and what it recorded."""

    root: str
    fsync: str
    capacity: int = 1000
    only: frozenset[str] = frozenset(CALLS)
    recorded: list[Fact] = field(default_factory=list[Fact])

    def __post_init__(self) -> None:
        self.fs = FaultyFs(only=self.only)
        self.now = CLOCK_BEGINS
        self.log = FileLog(
            self.root,
            fs=self.fs,
            clock=self.clock,
            options=LogOptions(fsync=self.fsync, fsync_interval_seconds=3600.0),
            segment_bytes_max=2000,
            reserve_bytes=5000,
        )
        self.log._flusher.wake = lambda: None  # type: ignore[method-assign]  # by hand
        self.writer = FactWriter(self.log, Counters(), background=False, capacity=self.capacity)
        self.writer.tell = self.told

    def clock(self) -> int:
        self.now += 40_000_000
        return self.now

    def told(self, attributes: Any) -> None:
        details = dict(attributes)
        self.record(FactKind.EVENT, details.pop(semconv.SYSTEM_ID), semconv.FACT_DROPPED, **details)

    def record(self, kind: FactKind, system: str, name: str = "x", **attributes: Any) -> None:
        self.recorded.append(
            self.writer.record(kind, name, self.now, system, "a", "INFO", None, None, attributes)
        )

    def several(self, kind: FactKind, system: str, count: int) -> None:
        for n in range(count):
            self.record(kind, system, n=n)

    def tolerated(self, call: Any) -> None:
        """Do what only who operates the log does: it may say LogUnavailable, and nothing else."""
        try:
            call()
        except LogUnavailable:
            pass
        except LogTooNew as error:
            raise AssertionError("only a newer version's segments are too new") from error

    def run(self) -> None:
        """Everything there is to writing: births, rotations, batches, forcing by hand, seals."""
        self.tolerated(self.log.prepare)
        self.several(FactKind.EVENT, "shop", 3)
        self.several(FactKind.DEAD_LETTER, "shop", 1)
        self.several(FactKind.AUDIT, "bar", 1)
        self.log._flush_quietly()
        self.several(FactKind.EVENT, "shop", 6)  # rotates
        batch = self.batch("shop", 4)
        if self.writer.waiting()[0] == len(batch):  # no earlier fact waits
            self.tolerated(lambda: self.log.append(batch))
        self.writer.drain()  # appends it once more
        self.several(FactKind.DEAD_LETTER, "shop", 1)
        self.tolerated(self.log.flush)
        self.several(FactKind.EVENT, "bar", 1)
        self.log.seal()
        self.several(FactKind.EVENT, "shop", 2)
        self.log._flush_quietly()
        self.writer.drain()

    def batch(self, system: str, count: int) -> list[Fact]:
        """Record facts that wait in the ring whether the log is there or not."""
        self.writer._through = False
        begin = len(self.recorded)
        self.several(FactKind.EVENT, system, count)
        self.several(FactKind.AUDIT, system, 1)
        return self.recorded[begin:]

    def recover(self) -> None:
        self.fs.heal()
        self.now += 3_600_000_000_000
        for _ in range(4):  # what could not be stored, then what explains it
            self.writer.drain()
        if self.fsync == "never":  # nothing was kept for this
            self.tolerated(self.log.flush)
        self.log.flush()


def check(life: Life) -> None:
    """See that all is readable, once, or explained; that nothing was left open or lying about."""
    facts = [entry.fact for entry in life.log.read()]
    counted = Counter(str(fact.uid) for fact in facts)
    assert max(counted.values()) == 1
    explained: dict[tuple[str, FactKind], SeqSet] = {}
    for fact in facts:
        if fact.name == semconv.FACT_DROPPED:
            for text in fact.attributes[semconv.DROPPED_RANGES]:
                known = parse_range(text)
                assert known is not None
                for seq in range(known.first, known.last + 1):
                    explained.setdefault((known.writer, known.kind), SeqSet()).add(seq)
    missing = [fact for fact in life.recorded if str(fact.uid) not in counted]
    for fact in missing:
        assert not explained.get((str(fact.writer), fact.kind), SeqSet()).add(fact.seq or 0), (
            f"{fact} is lost"
        )
    if life.capacity >= 1000:
        assert missing == []
    by_uid = {str(fact.uid): fact for fact in life.recorded}
    for fact in facts:
        assert by_uid[str(fact.uid)] == fact
    order = [fact for fact in facts if fact.kind is FactKind.EVENT and fact.system == "shop"]
    assert [fact.seq for fact in order] == sorted(fact.seq or 0 for fact in order)
    undone = any(call.startswith("unlink") for call in life.fs.failed)
    leftovers = [path for path in modes(life.root) if path.endswith(TMP)]
    assert undone or leftovers == []
    for path, mode in modes(life.root).items():
        assert mode == (0o700 if Path(path).is_dir() else 0o600), path
    life.log.close()
    assert any(call.startswith("close") for call in life.fs.failed) or life.fs.opened == {}
    assert [str(entry.fact.uid) for entry in FileLog(life.root).read()] == [str(fact.uid) for fact in facts]
    unexplained = [
        anomaly for anomaly in FileLog(life.root).scan().anomalies if anomaly.type not in LEFT_BY_A_FAULT
    ]
    assert unexplained == []


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is such a thing: a disk adds nothing but time."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as made:
        yield Path(made)


def number_of_calls(folder: Path, **options: Any) -> int:
    """Return how many calls a life has when nothing fails."""
    life = Life(str(folder / "whole"), **options)
    life.run()
    counted = life.fs.counted
    life.recover()
    check(life)
    return counted


def play(folder: Path, first: int, number: int, how: str = NOT_DONE, count: int = 1, **options: Any) -> Life:
    """Live, with *count* calls from the *first* on failing, and see that all is well."""
    life = Life(str(folder / f"{first}-{count}"), **options)
    life.fs.fail(first, number, how, count)
    life.run()
    life.recover()
    check(life)
    return life


FSYNCS = pytest.mark.parametrize("fsync", ["never", "interval", "always"])


@pytest.mark.parametrize(
    ("fsync", "number"),
    [
        pytest.param(fsync, number, id=f"{fsync}-{errno.errorcode[number]}")
        for fsync in ("interval", "always", "never")
        for number in (ERRNOS if fsync == "interval" else TREATED_APART)
    ],
)
def test_a_call_that_fails_costs_nothing(folder: Path, fsync: str, number: int) -> None:
    calls = number_of_calls(folder, fsync=fsync)
    assert calls > 100
    for first in range(1, calls + 1):
        assert play(folder, first, number, fsync=fsync).fs.failed


@FSYNCS
@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO], ids=errno.errorcode.get
)
def test_a_write_that_is_cut_off_costs_nothing(folder: Path, fsync: str, number: int) -> None:
    only = frozenset({"write"})
    for first in range(1, number_of_calls(folder, fsync=fsync, only=only) + 1):
        play(folder, first, number, SHORT, fsync=fsync, only=only)


@FSYNCS
@pytest.mark.parametrize("number", [errno.EIO, errno.EINTR, errno.ENOSPC], ids=errno.errorcode.get)
def test_a_call_that_was_done_and_says_that_it_failed_costs_nothing(
    folder: Path, fsync: str, number: int
) -> None:
    only = frozenset(CHANGING) - {"write"}
    for first in range(1, number_of_calls(folder, fsync=fsync, only=only) + 1):
        play(folder, first, number, DONE, fsync=fsync, only=only)


@FSYNCS
@pytest.mark.parametrize("count", [2, 7, 40])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EMFILE], ids=errno.errorcode.get)
def test_what_an_outage_costs_is_explained(folder: Path, fsync: str, number: int, count: int) -> None:
    only = frozenset(CHANGING)
    lost = 0
    for first in range(1, number_of_calls(folder, fsync=fsync, only=only) + 1):
        life = play(folder, first, number, count=count, fsync=fsync, only=only, capacity=3)
        lost += sum(fact.name == semconv.FACT_DROPPED for fact in life.recorded)
    assert lost > 10 or count < 7  # there were losses to explain
