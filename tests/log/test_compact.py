"""Compacting the file log: what is shown stays, what is hidden goes, whatever happens in between."""

from __future__ import annotations

import base64
import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from papyra_otel import semconv
from papyra_otel.errors import CompactionRefused, LogBusy, LogUnavailable
from papyra_otel.facts import Fact, FactKind
from papyra_otel.log import LogOptions
from papyra_otel.log.codec import parse, sign
from papyra_otel.log.compaction import compacted_facts
from papyra_otel.log.file import FileLog
from papyra_otel.log.file.fs import OsFileSystem
from papyra_otel.log.retention import KindRetention, Retention
from papyra_otel.reports import Progress
from papyra_otel.testing import make_fact

SECOND = 1_000_000_000
BEGIN = 1_795_377_765_000_000_000
NEVER = LogOptions(fsync="never")


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., FileLog]]:
    logs: list[FileLog] = []

    def opened(**changes: Any) -> FileLog:
        given = {"options": NEVER, "segment_bytes_max": 3000, "clock": lambda: BEGIN + 1_000_000 * SECOND}
        log = FileLog(changes.pop("root", tmp_path / "log"), **(given | changes))
        logs.append(log)
        log.prepare()
        return log

    yield opened
    for log in logs:
        log.close()


def event(n: int, **changes: Any) -> Fact:
    given = {"kind": FactKind.EVENT, "time_unix_nano": BEGIN + n * SECOND}
    return make_fact(n, **(given | changes))


def letter(n: int, **changes: Any) -> Fact:
    return event(n, kind=FactKind.DEAD_LETTER, **changes)


def limits(*, kind: FactKind = FactKind.EVENT, **values: Any) -> Retention:
    return Retention({kind: KindRetention(**values)})


def write(log: FileLog, facts: Iterable[Fact]) -> None:
    """Append one by one: what is appended together stands in one segment."""
    for fact in facts:
        log.append([fact])


def uids(log: FileLog, **query: Any) -> list[str | None]:
    """Return what a reading yields, facts of compactions left out."""
    return [entry.fact.uid for entry in log.read(**query) if entry.fact.name != semconv.LOG_COMPACTED]


def told(log: FileLog) -> list[Fact]:
    return [entry.fact for entry in log.read(name=semconv.LOG_COMPACTED)]


def files(root: Path) -> dict[str, bytes]:
    """Return what is in the log's folder, by path; the reserve is no part of it."""
    found = (path for path in root.rglob("*") if path.is_file() and path.name != "reserve")
    return {str(path.relative_to(root)): path.read_bytes() for path in found}


def segments(root: Path, kinds: str = "events", system: str = "shop") -> list[Path]:
    return sorted((root / system / kinds).glob("*.ndjson"))


def healthy(log: FileLog, but: Sequence[str] = ()) -> bool:
    report = log.scan()
    assert report.healthy or not set(report.counts) - set(but), report.anomalies
    return True


# --- what is shown stays, what is hidden goes --------------------------------------------------------


LIMITS = [
    {"max_records": 1},
    {"max_records": 17},
    {"max_records": 49},
    {"max_records": 50},
    {"max_bytes": 1},
    {"max_bytes": 2500},
    {"max_bytes": 9000},
    {"max_age_seconds": 1_000_000 - 33.5},
    {"max_age_seconds": 1_000_000},
    {"max_age_seconds": 10},
    {"max_records": 30, "max_age_seconds": 1_000_000 - 25},
    {"max_records": 20, "max_age_seconds": 1_000_000 - 25, "max_bytes": 5000},
]


@pytest.mark.parametrize("limit", LIMITS, ids=str)
@pytest.mark.parametrize("writers", [1, 3])
def test_what_retention_shows_is_what_is_left(
    opened: Callable[..., FileLog], limit: dict[str, Any], writers: int
) -> None:
    retention = limits(kind=FactKind.DEAD_LETTER, **limit)
    logs = [opened() for _ in range(writers)]
    for n in range(50):
        logs[n % writers].append([letter(n), event(n)])
    for log in logs:
        log.close()
    log = opened(retention=retention)
    shown, events = uids(log, kinds=FactKind.DEAD_LETTER), uids(log, kinds=FactKind.EVENT)
    report = log.compact(force=True)
    unlimited = opened()
    assert uids(unlimited, kinds=FactKind.DEAD_LETTER) == uids(log, kinds=FactKind.DEAD_LETTER) == shown
    assert uids(unlimited, kinds=FactKind.EVENT) == events
    assert log.stats().streams[FactKind.DEAD_LETTER].records == len(shown)
    assert report.records_removed == 50 - len(shown)
    (stream,) = report.streams
    assert (stream.records_removed, stream.records_kept) == (50 - len(shown), len(shown))
    assert healthy(log)
    before = files(Path(log.root))
    again = log.compact(force=True)
    assert again.records_removed == again.bytes_freed == 0
    assert not again.recorded
    assert files(Path(log.root)) == before


STEPS = st.lists(
    st.tuples(
        st.integers(0, 2),  # who
        st.sampled_from(FactKind),
        st.integers(-40, 60),  # seconds
        st.integers(0, 300),  # more bytes
        st.sampled_from(["append"] * 6 + ["seal", "reopen"]),
    ),
    max_size=40,
)
KIND_LIMITS = st.builds(
    KindRetention,
    max_records=st.none() | st.integers(1, 12),
    max_age_seconds=st.none() | st.integers(0, 300),
    max_bytes=st.none() | st.integers(1, 4000),
)
RETENTIONS = st.dictionaries(st.sampled_from(FactKind), KIND_LIMITS).map(Retention)


@settings(max_examples=150, deadline=None)
@given(steps=STEPS, retention=RETENTIONS, later=st.integers(-100, 200), alive=st.booleans())
@pytest.mark.parametrize("steady", [True, False])
def test_whatever_was_written_reads_the_same_after_compacting(
    steps: Sequence[tuple[int, FactKind, int, int, str]],
    retention: Retention,
    later: int,
    alive: bool,
    steady: bool,
) -> None:
    """Time only goes on, or stands still, while *steady*; or it steps back too."""
    root = tempfile.mkdtemp(prefix="papyra-compact-")
    now = [BEGIN]

    def open_one() -> FileLog:
        return FileLog(root, options=NEVER, segment_bytes_max=1200, clock=lambda: now[0])

    logs = [open_one() for _ in range(3)]
    try:
        logs[0].prepare()
        for n, (who, kind, step, more, what) in enumerate(steps):
            now[0] += (max(step, 0) if steady else step) * SECOND
            if what == "seal":
                logs[who].seal()
            elif what == "reopen":
                logs[who].close()
                logs[who] = open_one()
            else:
                logs[who].append(
                    [make_fact(n, kind=kind, time_unix_nano=now[0], attributes={"x": "y" * more})]
                )
        now[0] += (max(later, 1) if steady else later) * SECOND
        if not alive:
            for log in logs:
                log.close()
        check_compacting(
            FileLog(root, options=NEVER, retention=retention, clock=lambda: now[0]),
            steady=steady,
            alive=alive,
        )
    finally:
        for log in logs:
            log.close()
        shutil.rmtree(root)


def check_compacting(log: FileLog, *, steady: bool, alive: bool) -> None:
    shown = {kind: uids(log, kinds=kind) for kind in FactKind}
    newest_first = {kind: uids(log, kinds=kind, newest_first=True) for kind in FactKind}
    tried = log.compact(force=True, dry_run=True)
    report = log.compact(force=True)
    left = {kind: uids(log, kinds=kind) for kind in FactKind}
    for kind in FactKind:
        # The record of it is an event: one may have had to make room for it (as many as it is long, in bytes).
        room = kind is FactKind.EVENT and bool(report.recorded)
        limits = log._retention.of(kind)
        assert left[kind] == shown[kind] or (room and set(left[kind]) < set(shown[kind]))
        assert len(left[kind]) >= len(shown[kind]) - room or limits.max_bytes is not None
        if not room:
            assert uids(log, kinds=kind, newest_first=True) == newest_first[kind]
        if steady and not alive and not limits.unlimited:
            extra = len(report.recorded) if kind is FactKind.EVENT else 0
            assert log.stats().streams[kind].records <= len(left[kind]) + extra
    if steady and log._retention.of(FactKind.EVENT).max_bytes is None:
        assert (tried.streams, tried.skipped) == (report.streams, report.skipped)
    assert bool(report.recorded) == bool(report.records_removed)
    assert healthy(log, but=() if steady else ("clock_jump",))
    before = files(Path(log.root))
    again = log.compact(force=True)
    assert (again.records_removed, again.bytes_freed, again.recorded) == (0, 0, ())
    assert files(Path(log.root)) == before
    log.close()


# --- how it is done ------------------------------------------------------------------------------------


def test_trying_changes_nothing_and_says_what_would_be_done(opened: Callable[..., FileLog]) -> None:
    log = opened(retention=limits(max_records=30))
    write(log, (event(n) for n in range(60)))
    log.seal()
    before = files(Path(log.root))
    seen: list[Progress] = []
    tried = log.compact(dry_run=True, progress=seen.append)
    assert files(Path(log.root)) == before
    assert (tried.dry_run, tried.recorded) == (True, ())
    done = log.compact()
    assert (done.streams, done.skipped) == (tried.streams, tried.skipped)
    assert done.records_removed == 31  # the record of it is the thirtieth
    assert done.bytes_freed == sum(map(len, before.values())) - sum(
        path.stat().st_size for path in segments(Path(log.root))[:-1]
    )
    assert seen
    assert all(0 < each.done_bytes <= each.total_bytes for each in seen)
    assert seen[-1].done_bytes <= sum(map(len, before.values()))


def test_what_progress_raises_ends_it_with_nothing_changed(opened: Callable[..., FileLog]) -> None:
    log = opened(retention=limits(max_records=3))
    write(log, (event(n) for n in range(60)))
    log.seal()
    before = files(Path(log.root))

    def stop(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        log.compact(progress=stop)
    assert files(Path(log.root)) == before
    assert log.compact().records_removed == 58


def test_the_segment_that_is_shortened_keeps_its_bytes_and_its_place_in_the_chain(
    opened: Callable[..., FileLog],
) -> None:
    log = opened(retention=limits(max_records=10), new_writer=lambda: "9f2c41d07be3a815")
    write(log, (event(n) for n in range(20)))
    log.seal()
    root = Path(log.root)
    path = next(path for path in segments(root) if any(b'"n":11}' in line for line in lines(path)))
    old = lines(path)
    first = next(n for n, line in enumerate(old) if b'"n":11}' in line)
    assert first > 1, "the example must cut within a segment"
    other = root.parent / "copy"
    shutil.copytree(root, other)
    log.compact()
    with FileLog(other, options=NEVER, retention=log._retention, clock=log._clock) as copied:
        copied.compact()
        assert (other / path.relative_to(root)).read_bytes() == path.read_bytes()
    new = lines(path)
    assert new[1:-1] == old[first:-1]
    head, seal, old_head, old_seal = (parse(line) for line in (new[0], new[-1], old[0], old[-1]))
    assert (head.kind, head.seq, head.writer) == ("segment.open", 11, old_head.writer)
    assert head.attributes == {**old_head.attributes, semconv.SEGMENT_REWRITTEN: "compaction"}
    assert seal.attributes[semconv.SEGMENT_REPLACES] == [old_seal.attributes[semconv.SEGMENT_DIGEST]]
    assert seal.attributes[semconv.SEGMENT_RECORDS] == len(new) - 2
    assert seal.attributes[semconv.SEGMENT_BYTES] == sum(len(line) + 1 for line in new[:-1])
    assert healthy(log)
    write(log, (event(n) for n in range(20, 23)))
    log.seal()
    assert log.compact().records_removed
    replaces = parse(lines(path)[-1]).attributes[semconv.SEGMENT_REPLACES]
    assert replaces == [old_seal.attributes[semconv.SEGMENT_DIGEST], seal.attributes[semconv.SEGMENT_DIGEST]]
    assert healthy(log)


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines()


def test_segments_of_living_writers_are_left_alone(opened: Callable[..., FileLog]) -> None:
    alive, dead = opened(segment_bytes_max=1 << 20), opened()
    for n in range(30):
        (alive, dead)[n % 2].append([letter(n)])
    dead.close()
    (kept,) = (
        path for path in segments(Path(alive.root), "dead_letters") if lines(path)[-1].count(b"seal") == 0
    )
    before = kept.read_bytes()
    log = opened(retention=limits(kind=FactKind.DEAD_LETTER, max_records=4))
    report = log.compact()
    assert report.records_removed == 13
    assert [each.place for each in report.skipped] == [str(kept.relative_to(alive.root))]
    assert "alive" in report.skipped[0].reason
    assert kept.read_bytes() == before
    assert len(uids(log, kinds=FactKind.DEAD_LETTER)) == 4
    assert healthy(log)
    alive.close()
    assert log.compact().records_removed == 13
    assert log.stats().streams[FactKind.DEAD_LETTER].records == 4
    assert healthy(log)


def test_kinds_and_systems_are_limited_each_by_itself(opened: Callable[..., FileLog]) -> None:
    systems = ("shop", "../odd ünï", "s" * 5000)
    writer = opened()
    for n in range(120):
        kind = list(FactKind)[n % 3]
        writer.append([event(n, kind=kind, system=systems[n % 4 % 3])])
    writer.close()
    log = opened(retention=Retention({FactKind.AUDIT: KindRetention(max_records=3)}))
    report = log.compact()
    assert {(each.system, each.kind) for each in report.streams} == {
        (name, FactKind.AUDIT) for name in systems
    }
    assert all(each.records_kept == 3 for each in report.streams)
    assert {fact.system for fact in report.recorded} == set(systems)
    assert [stream.records for stream in log.stats().streams.values()] == [43, 9, 40]
    assert healthy(log)
    one = opened(system=systems[1], retention=limits(max_records=2))
    assert {fact.system for fact in one.compact().recorded} == {systems[1]}


@pytest.mark.parametrize(
    "given", ["audits=3", Retention({FactKind.AUDIT: KindRetention(max_records=3)}), None]
)
def test_limits_may_be_given(opened: Callable[..., FileLog], given: Any) -> None:
    log = opened(retention=None if given else limits(kind=FactKind.AUDIT, max_records=3))
    log.append([event(n, kind=FactKind.AUDIT) for n in range(10)])
    log.seal()
    assert log.compact(given).records_removed == 7


def test_a_log_without_limits_or_without_facts_is_left_alone(opened: Callable[..., FileLog]) -> None:
    log = opened()
    assert (log.compact().streams, log.compact().recorded) == ((), ())
    write(log, (event(n) for n in range(10)))
    log.seal()
    before = files(Path(log.root))
    assert log.compact().streams == ()
    assert log.compact("events=10").records_removed == 0
    assert files(Path(log.root)) == before


def test_only_one_process_compacts_at_a_time(opened: Callable[..., FileLog]) -> None:
    log = opened(retention=limits(max_records=1))
    write(log, (event(n) for n in range(10)))
    log.seal()
    held = OsFileSystem().lock_folder(f"{log.root}/shop")
    assert held is not None
    with pytest.raises(LogBusy, match="shop"):
        log.compact()
    os.close(held)
    assert log.compact().records_removed == 10
    again = OsFileSystem().lock_folder(f"{log.root}/shop")
    assert again is not None  # it was given up
    os.close(again)


# --- what it says about itself ---------------------------------------------------------------------------


def test_it_is_recorded_with_a_low_mark_per_writer_and_kind(opened: Callable[..., FileLog]) -> None:
    one, two = opened(), opened()
    for n in range(40):
        (one, two)[n % 2].append([letter(n)])
    writers = {entry.fact.attributes["n"] % 2: entry.fact.writer for entry in one.read()}
    one.close()
    two.close()
    log = opened(retention=limits(kind=FactKind.DEAD_LETTER, max_records=11))
    report = log.compact()
    assert [entry.fact for entry in log.read(kinds=FactKind.EVENT)] == list(report.recorded)
    (fact,) = report.recorded
    assert fact.attributes[semconv.COMPACTION_RECORDS] == report.records_removed == 29
    assert fact.attributes[semconv.COMPACTION_BYTES] == report.bytes_freed
    assert set(fact.attributes[semconv.COMPACTION_LOW_MARKS]) == {
        f"{writers[0]}-dead_letter-15",
        f"{writers[1]}-dead_letter-14",
    }


def test_it_is_recorded_and_on_the_disk_before_anything_goes(opened: Callable[..., FileLog]) -> None:
    calls: list[str] = []

    class Noting(OsFileSystem):
        def unlink(self, path: str) -> None:
            calls.append("unlink")
            super().unlink(path)

        def rename(self, source: str, target: str) -> None:
            calls.append(
                "replace"
                if "events" in target and source.endswith(".tmp") and Path(target).exists()
                else "birth"
            )
            super().rename(source, target)

        def fsync(self, fd: int) -> None:
            calls.append("fsync")
            super().fsync(fd)

        def fsync_folder(self, path: str) -> None:
            calls.append("fsync_folder")
            super().fsync_folder(path)

    writer = opened()
    write(writer, (event(n) for n in range(60)))
    writer.close()
    opened(fs=Noting(), retention=limits(max_records=14), options=LogOptions(fsync="interval")).compact()
    first = calls.index("unlink")
    assert "fsync" in calls[:first]
    assert "replace" not in calls[:first]
    last = len(calls) - 1 - calls[::-1].index("unlink")
    assert calls[last + 1] == "fsync_folder"
    assert calls[-2:] == ["replace", "fsync_folder"]


def test_a_very_long_record_is_several_facts() -> None:
    marks = [f"{n:016x}-event-{n}" for n in range(12_000)]
    facts = compacted_facts(
        "shop", BEGIN, low_marks=marks, explained=["0" * 16 + "-audit-1..2"], records=7, size_bytes=8
    )
    assert [mark for fact in facts for mark in fact.attributes[semconv.COMPACTION_LOW_MARKS]] == marks
    assert [fact.attributes.get(semconv.COMPACTION_RECORDS) for fact in facts] == [7, None, None]
    assert facts[-1].attributes[semconv.COMPACTION_EXPLAINED] == ["0" * 16 + "-audit-1..2"]


def test_what_explains_a_gap_is_carried_on_when_it_goes_itself(opened: Callable[..., FileLog]) -> None:
    writer = opened(segment_bytes_max=1 << 20)
    writer.append([letter(0)])
    lost = [writer.reserve("shop", FactKind.DEAD_LETTER) for _ in range(3)]
    text = f"{lost[0][0]}-dead_letter-{lost[0][1]}..{lost[-1][1]}"
    writer.append([event(1, name=semconv.FACT_DROPPED, attributes={semconv.DROPPED_RANGES: [text]})])
    writer.append([letter(2), letter(3), *(event(n) for n in range(4, 20))])
    writer.close()
    log = opened()
    assert healthy(log)
    for kept in (5, 3, 2):  # from the second time on it is in the fact of an earlier compaction
        report = log.compact(f"events={kept}")
        assert report.recorded[0].attributes[semconv.COMPACTION_EXPLAINED] == [text]
        log.seal()
        assert semconv.FACT_DROPPED not in {entry.fact.name for entry in log.read()}
        assert healthy(log)
        write(log, (event(n) for n in range(100, 110)))
        log.seal()
    log.compact("dead_letters=1;events=100")
    write(log, (event(n) for n in range(200, 203)))
    log.seal()
    log.compact("events=2")
    assert semconv.COMPACTION_EXPLAINED not in told(log)[-1].attributes, "the low mark explains it now"
    assert healthy(log)


def test_low_marks_outlive_the_facts_that_told_them_first(opened: Callable[..., FileLog]) -> None:
    writer = opened()
    write(writer, (letter(n) for n in range(20)))
    writer.close()
    log = opened()
    log.compact("dead_letters=5")
    for n in range(4):
        write(log, (event(n) for n in range(10)))
        log.seal()
        log.compact("events=2")
        assert any(
            "dead_letter-15" in text for text in told(log)[-1].attributes[semconv.COMPACTION_LOW_MARKS]
        )
        assert healthy(log)
    log.compact("dead_letters=1s", force=True)
    write(log, (event(n) for n in range(10)))
    log.seal()
    log.compact("events=1")
    assert not any("dead_letter" in text for text in told(log)[-1].attributes[semconv.COMPACTION_LOW_MARKS])


# --- clocks ------------------------------------------------------------------------------------------------

HOUR, DAY = 3600 * SECOND, 86_400 * SECOND


def aged(log: FileLog, *ages: int, kind: FactKind = FactKind.EVENT, now: int) -> None:
    log.append([make_fact(n, kind=kind, time_unix_nano=now - age) for n, age in enumerate(ages)])


@pytest.mark.parametrize(
    ("ages", "max_age_seconds", "refused"),
    [
        ([5 * DAY, 4 * DAY, 3 * DAY, 2 * DAY, 1 * DAY, 0], 2.5 * 86_400, False),  # recorded all the time
        ([9 * DAY, 8 * DAY, 7 * DAY, 0], 3 * 86_400, True),  # the clock jumped before the last one
        ([9 * DAY, 8 * DAY, 7 * DAY], 3 * 86_400, True),  # or after it
        ([9 * DAY, 8 * DAY, 2 * DAY, 1 * DAY, 0], 3 * 86_400, False),  # less than half would go
        ([9 * DAY, 3 * DAY, 0], 2 * 86_400, True),  # two of three, and three days without a fact
        ([9 * DAY, 3 * DAY, 2 * DAY], 2.5 * 86_400, False),
        ([50 * 60 * SECOND, 49 * 60 * SECOND], 60, False),  # less than an hour is no hole
        ([80 * 60 * SECOND, 70 * 60 * SECOND], 60, True),
    ],
)
def test_a_clock_that_looks_wrong_removes_nothing_unforced(
    opened: Callable[..., FileLog], ages: list[int], max_age_seconds: float, refused: bool
) -> None:
    now = BEGIN + 100 * DAY
    log = opened(clock=lambda: now, retention=limits(max_age_seconds=max_age_seconds))
    aged(log, *ages, now=now)
    log.seal()
    before = files(Path(log.root))
    gone = sum(age > max_age_seconds * SECOND for age in ages)
    if refused:
        for dry_run in (False, True):
            with pytest.raises(CompactionRefused) as told_why:
                log.compact(dry_run=dry_run)
            message = str(told_why.value)
            assert (
                f"shop/events: the age limit of {max_age_seconds:g} s would remove {gone} of {len(ages)}"
                in message
            )
            assert "force=True (--force)" in message
        assert files(Path(log.root)) == before
        assert len(list(log.read())) == len(ages) - gone, "reading goes by the clock there is"
    assert log.compact(force=refused).records_removed == gone


def test_facts_of_another_kind_show_that_the_clock_is_right(opened: Callable[..., FileLog]) -> None:
    now = BEGIN + 100 * DAY
    log = opened(clock=lambda: now, retention=limits(kind=FactKind.DEAD_LETTER, max_age_seconds=3 * 86_400))
    aged(log, 9 * DAY, 8 * DAY, kind=FactKind.DEAD_LETTER, now=now)
    log.seal()
    with pytest.raises(CompactionRefused):
        log.compact()
    aged(log, *(n * DAY for n in range(10, -1, -1)), now=now)
    assert log.compact().records_removed == 2


def test_no_system_is_touched_when_one_is_refused(opened: Callable[..., FileLog]) -> None:
    now = BEGIN + 100 * DAY
    log = opened(clock=lambda: now, retention=limits(max_records=1, max_age_seconds=86_400))
    log.append(
        [make_fact(n, kind=FactKind.EVENT, system="a", time_unix_nano=now - n) for n in range(9, 0, -1)]
    )
    log.append(
        [make_fact(n, kind=FactKind.EVENT, system="b", time_unix_nano=now - 9 * DAY) for n in range(9)]
    )
    log.seal()
    before = files(Path(log.root))
    with pytest.raises(CompactionRefused, match="b/events"):
        log.compact()
    assert files(Path(log.root)) == before


def test_young_facts_before_a_step_back_of_the_clock_stay(opened: Callable[..., FileLog]) -> None:
    now = BEGIN + 100 * DAY
    log = opened(clock=lambda: now, retention=limits(max_age_seconds=86_400), segment_bytes_max=600)
    aged(log, 9 * DAY, HOUR, 99 * DAY, HOUR // 2, now=now)
    log.seal()
    assert [entry.fact.attributes["n"] for entry in log.read()] == [1, 3]
    assert log.compact(force=True).records_removed == 1
    assert [entry.fact.attributes.get("n") for entry in log.read()] == [1, 3, None]
    assert log.stats().streams[FactKind.EVENT].records == 4  # the old one between them, and the record


# --- damage ------------------------------------------------------------------------------------------------


def test_damaged_bytes_that_would_go_are_kept(opened: Callable[..., FileLog]) -> None:
    writer = opened()
    write(writer, (letter(n) for n in range(40)))
    writer.close()
    root = Path(writer.root)
    first, second = segments(root, "dead_letters")[:2]
    data = first.read_bytes()
    at = data.index(b'"n":2') + 4
    first.write_bytes(data[:at] + b"7" + data[at + 1 :])
    second.write_bytes(second.read_bytes() + b"torn")
    log = opened(retention=limits(kind=FactKind.DEAD_LETTER, max_records=3))
    shown = uids(log, kinds=FactKind.DEAD_LETTER)
    tried = log.compact(dry_run=True)
    report = log.compact()
    assert report.streams == tried.streams
    kept = [json.loads(line) for path in sorted((root / "shop/quarantine").iterdir()) for line in lines(path)]
    assert [each["segment"] for each in kept if "segment" in each] == [
        f"dead_letters/{path.name}" for path in (first, second)
    ]
    begin = data.rindex(b"\n", 0, at) + 1
    bad = data[begin:at] + b"7" + data[at + 1 : data.index(b"\n", at) + 1]
    assert [base64.b64decode(each["data"]) for each in kept if "data" in each] == [bad, b"torn"]
    assert report.kept_in == tuple(
        str(path.relative_to(root)) for path in sorted((root / "shop/quarantine").iterdir())
    )
    assert uids(log, kinds=FactKind.DEAD_LETTER) == shown
    assert healthy(log)


def test_a_segment_that_is_not_as_it_was_sealed_is_not_rewritten(opened: Callable[..., FileLog]) -> None:
    writer = opened(segment_bytes_max=1 << 20)
    write(writer, (letter(n) for n in range(20)))
    writer.close()
    (path,) = segments(Path(writer.root), "dead_letters")
    data = path.read_bytes()
    at = data.index(b'"n":17') + 4
    path.write_bytes(data[:at] + b"4" + data[at + 1 :])
    log = opened(retention=limits(kind=FactKind.DEAD_LETTER, max_records=5))
    before = path.read_bytes()
    report = log.compact()
    assert (report.records_removed, report.recorded) == (0, ())
    assert report.skipped[0].place.endswith(path.name)
    assert "recover first" in report.skipped[0].reason
    assert path.read_bytes() == before


def test_lines_of_a_newer_version_are_never_removed(opened: Callable[..., FileLog]) -> None:
    writer = opened()
    write(writer, (letter(n) for n in range(40)))
    writer.close()
    root = Path(writer.root)
    first, second = segments(root, "dead_letters")[:2]
    newer = lines(second)
    said = newer[2][: newer[2].rindex(b',"crc":')].replace(b'{"v":1', b'{"v":2', 1)
    newer[2] = sign(said + b',"news":1}')[:-1]
    second.write_bytes(b"\n".join(newer) + b"\n")
    log = opened(retention=limits(kind=FactKind.DEAD_LETTER, max_records=2))
    before = files(root)
    report = log.compact()
    assert [(each.place, "newer version" in each.reason) for each in report.skipped] == [
        (str(second.relative_to(root)), True)
    ]
    left = files(root)
    assert set(before) - set(left) == {str(first.relative_to(root))}, "what comes before may go"
    assert all(left[name] == data for name, data in before.items() if name in left)


# --- a full disk ---------------------------------------------------------------------------------------------


class Full(OsFileSystem):
    """A file system that has no space left while *full*."""

    def __init__(self) -> None:
        self.full = False
        self.freed_after = 10**9
        self.truncated: list[str] = []

    def _check(self) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def create(self, path: str) -> int:
        self._check()
        return super().create(path)

    def write(self, fd: int, data: bytes, /) -> int:
        self._check()
        return super().write(fd, data)

    def truncate(self, path: str, size: int) -> None:
        super().truncate(path, size)
        self.truncated.append(path)
        self.full = self.full and len(self.truncated) < self.freed_after


@pytest.mark.parametrize("freed_after", [1, 2])
def test_on_a_full_disk_the_oldest_segment_makes_room_for_the_record(
    opened: Callable[..., FileLog], freed_after: int
) -> None:
    writer = opened()
    write(writer, (letter(n) for n in range(60)))
    writer.close()
    fs = Full()
    log = opened(fs=fs, retention=limits(kind=FactKind.DEAD_LETTER, max_records=9))
    shown = uids(log, kinds=FactKind.DEAD_LETTER)
    oldest = segments(Path(log.root), "dead_letters")[:freed_after]
    fs.full, fs.freed_after = True, freed_after
    report = log.compact()
    assert fs.truncated == [f"{path}.removing" for path in oldest]
    assert report.records_removed == 51
    assert len(told(log)) == 1
    assert uids(log, kinds=FactKind.DEAD_LETTER) == shown
    assert not list(Path(log.root).rglob("*.removing"))
    assert healthy(log)


def test_when_there_is_nothing_to_give_up_it_says_so(opened: Callable[..., FileLog]) -> None:
    writer = opened(segment_bytes_max=1 << 20)
    write(writer, (letter(n) for n in range(60)))
    writer.close()
    fs = Full()
    log = opened(fs=fs, retention=limits(kind=FactKind.DEAD_LETTER, max_records=9))
    before = files(Path(log.root))
    fs.full = True
    with pytest.raises(LogUnavailable) as error:
        log.compact()
    assert error.value.error_type == "ENOSPC"
    assert files(Path(log.root)) == before
    fs.full = False
    assert log.compact().records_removed == 51


def test_a_segment_that_cannot_be_shortened_for_lack_of_space_stays(opened: Callable[..., FileLog]) -> None:
    writer = opened()
    write(writer, (letter(n) for n in range(60)))
    writer.close()

    class NoTmp(OsFileSystem):
        def create(self, path: str) -> int:
            if "dead_letters" in path:
                raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
            return super().create(path)

    log = opened(fs=NoTmp(), retention=limits(kind=FactKind.DEAD_LETTER, max_records=9))
    shown = uids(log, kinds=FactKind.DEAD_LETTER)
    report = log.compact()
    assert [each.reason for each in report.skipped] == [
        "cannot be replaced by what is visible of it (EDQUOT)"
    ]
    assert (report.streams[0].segments_replaced, report.streams[0].segments_removed > 0) == (0, True)
    assert report.streams[0].records_kept == log.stats().streams[FactKind.DEAD_LETTER].records > 9
    assert uids(log, kinds=FactKind.DEAD_LETTER) == shown
    assert healthy(log)
    log = opened(retention=limits(kind=FactKind.DEAD_LETTER, max_records=9))
    log.compact()
    assert log.stats().streams[FactKind.DEAD_LETTER].records == 9
    assert healthy(log)


def test_damage_that_cannot_be_kept_for_lack_of_space_stays(opened: Callable[..., FileLog]) -> None:
    writer = opened()
    write(writer, (letter(n) for n in range(60)))
    writer.close()
    second = segments(Path(writer.root), "dead_letters")[1]
    data = second.read_bytes()
    second.write_bytes(data[:700] + b"?" + data[701:])

    class NoQuarantine(OsFileSystem):
        def create(self, path: str) -> int:
            if "quarantine" in path:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().create(path)

    log = opened(fs=NoQuarantine(), retention=limits(kind=FactKind.DEAD_LETTER, max_records=9))
    shown = uids(log, kinds=FactKind.DEAD_LETTER)
    report = log.compact()
    assert report.streams[0].segments_removed == 1
    assert [each.reason for each in report.skipped] == ["no space to keep its damaged bytes (ENOSPC)"]
    assert second.exists()
    assert uids(log, kinds=FactKind.DEAD_LETTER) == shown


@contextmanager
def small_disk(size_bytes: int) -> Iterator[Path]:
    """Mount a file system of that size; not where pytest tidies up, which trips over it when it is interrupted."""
    folder = Path(tempfile.mkdtemp(prefix="papyra-small-disk-"))
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", folder]
    mounted = subprocess.run(command, capture_output=True, check=False)
    try:
        if mounted.returncode:
            pytest.skip(f"no small file system can be mounted here: {mounted.stderr.decode().strip()}")
        yield folder
    finally:
        if not mounted.returncode:
            subprocess.run(["umount", folder], check=True)
        folder.rmdir()


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root mounts a file system")
def test_a_disk_that_is_really_full_can_be_compacted() -> None:
    with small_disk(1 << 20) as disk:
        root = disk / "log"
        with FileLog(root, options=NEVER, segment_bytes_max=100_000) as writer:
            writer.prepare()
            with pytest.raises(LogUnavailable):
                write(writer, map(letter, range(100_000)))
        with pytest.raises(OSError, match="No space"):
            (disk / "fill").write_bytes(b"x" * (1 << 20))
        with FileLog(root, options=NEVER, retention=limits(kind=FactKind.DEAD_LETTER, max_records=50)) as log:
            shown = uids(log, kinds=FactKind.DEAD_LETTER)
            report = log.compact()
            assert report.records_removed > 1000
            assert uids(log, kinds=FactKind.DEAD_LETTER) == shown
            assert len(told(log)) == 1
            assert not list(root.rglob("*.removing"))
            log.compact()  # now there is space for what had none, if so
            assert log.stats().streams[FactKind.DEAD_LETTER].records == 50


# --- interrupted ---------------------------------------------------------------------------------------------


class Failing(Full):
    """Fails the *at*-th call that changes something."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.left = at
        self.failed = False

    def _step(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.failed = True
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def create(self, path: str) -> int:
        self._step()
        return super().create(path)

    def write(self, fd: int, data: bytes, /) -> int:
        self._step()
        return super().write(fd, data)

    def fsync(self, fd: int) -> None:
        self._step()
        super().fsync(fd)

    def fsync_folder(self, path: str) -> None:
        self._step()
        super().fsync_folder(path)

    def rename(self, source: str, target: str) -> None:
        self._step()
        super().rename(source, target)

    def unlink(self, path: str) -> None:
        self._step()
        super().unlink(path)

    def truncate(self, path: str, size: int) -> None:
        self._step()
        super().truncate(path, size)


@pytest.mark.parametrize("full", [False, True])
def test_interrupted_anywhere_it_reads_the_same_and_is_finished_next_time(
    opened: Callable[..., FileLog], tmp_path: Path, full: bool
) -> None:
    with FileLog(tmp_path / "made", options=NEVER, segment_bytes_max=2000) as writer:
        writer.prepare()
        for n in range(50):
            writer.append([letter(n), event(n)])
    retention = Retention({kind: KindRetention(max_records=9) for kind in FactKind})
    interrupted = 0
    for at in count(1):
        root = tmp_path / f"try-{at}"
        shutil.copytree(tmp_path / "made", root)
        fs = Failing(at)
        with FileLog(root, options=LogOptions(fsync="never"), fs=fs, retention=retention) as log:
            shown = uids(log, kinds=FactKind.DEAD_LETTER)
            fs.full, fs.freed_after = full, 1
            with contextlib.suppress(LogUnavailable):
                log.compact(force=True)
            fs.full, fs.left = False, 0
        interrupted += fs.failed
        with FileLog(root, options=NEVER, retention=retention) as log:
            assert uids(log, kinds=FactKind.DEAD_LETTER) == shown
            log.compact(force=True)
            assert uids(log, kinds=FactKind.DEAD_LETTER) == shown
            assert not list(root.rglob("*.removing"))
            gaps = {"gap", "segment_missing", "head_missing", "segment_digest"} & set(log.scan().counts)
            assert not gaps, (at, log.scan().anomalies)
            assert log.stats().streams[FactKind.DEAD_LETTER].records == 9
        shutil.rmtree(root)
        if not fs.failed:
            break
    assert interrupted > 15


def test_what_an_interrupted_compaction_gave_up_is_marked_later(opened: Callable[..., FileLog]) -> None:
    writer = opened()
    write(writer, (letter(n) for n in range(60)))
    writer.close()
    log = opened(retention=limits(kind=FactKind.DEAD_LETTER, max_records=1000))
    first, second = segments(Path(log.root), "dead_letters")[:2]
    left = parse(lines(second)[0])
    first.rename(f"{first}.removing")
    os.truncate(f"{first}.removing", 0)
    report = log.compact()
    assert not list(Path(log.root).rglob("*.removing"))
    assert report.recorded[0].attributes[semconv.COMPACTION_LOW_MARKS] == [
        f"{left.writer}-dead_letter-{left.seq}"
    ]
    assert healthy(log)


# --- beside writers and readers ------------------------------------------------------------------------------


def test_nothing_appended_meanwhile_is_lost_or_waits(opened: Callable[..., FileLog]) -> None:
    retention = Retention({kind: KindRetention(max_records=40) for kind in FactKind})
    compacting, stop = opened(retention=retention), threading.Event()
    failed: list[BaseException] = []
    acknowledged: list[list[str]] = [[], []]

    def write(own: list[str]) -> None:
        try:
            for round_number in range(15):
                log = opened(segment_bytes_max=2500)
                for n in range(20):
                    identity = log.reserve("shop", FactKind.DEAD_LETTER)
                    fact = letter(round_number * 20 + n).identified(*identity)
                    log.append([fact])
                    own.append(fact.uid or "")
                log.close()
        except BaseException as error:
            failed.append(error)

    def compact() -> None:
        try:
            while not stop.is_set():
                compacting.compact(force=True)
        except BaseException as error:
            failed.append(error)

    writers = [threading.Thread(target=write, args=(own,)) for own in acknowledged]
    compactor = threading.Thread(target=compact)
    for thread in (*writers, compactor):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    compactor.join()
    assert not failed
    compacting.compact(force=True)
    left = uids(opened(), kinds=FactKind.DEAD_LETTER)
    assert len(left) == 40
    newest = {uid for own in acknowledged for uid in own[-40:]}
    assert set(left) <= newest
    assert healthy(compacting)


WRITE = """
import itertools
import select
import sys
from papyra_otel.facts import FactKind
from papyra_otel.log import LogOptions
from papyra_otel.log.file import FileLog
from papyra_otel.testing import make_fact
log = FileLog(sys.argv[1], options=LogOptions(fsync="never"), segment_bytes_max=4000)
for n in itertools.count():
    log.append([make_fact(n, kind=FactKind.DEAD_LETTER)])
    if n == 20:
        print("writing", flush=True)
    if n >= 1500 and select.select([sys.stdin], [], [], 0)[0]:  # told that it is enough
        break
log.close()
"""


@pytest.mark.slow
def test_a_reader_goes_on_across_compactions_and_misses_nothing(tmp_path: Path) -> None:
    root = tmp_path / "log"
    root.mkdir()
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITE, root], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "writing\n"
    keep = limits(kind=FactKind.DEAD_LETTER, max_records=300)
    seen: list[str | None] = []
    cursor: str | None = None
    compactions = 0
    with FileLog(root, options=NEVER) as reader, FileLog(root, options=NEVER, retention=keep) as log:
        running = True
        while running:
            running = any(writer.poll() is None for writer in writers)
            for entry in reader.read(after=cursor, kinds=FactKind.DEAD_LETTER):
                seen.append(entry.fact.uid)
                cursor = entry.cursor
            compactions += bool(log.compact(force=True).records_removed)
            if compactions > 1:
                for writer in writers:
                    assert writer.stdin is not None
                    writer.stdin.close()
        for writer in writers:
            assert writer.wait() == 0
            assert writer.stdout is not None
            writer.stdout.close()
        log.compact(force=True)
        left = uids(reader, kinds=FactKind.DEAD_LETTER)
        assert healthy(log)
    assert compactions > 1
    assert len(seen) == len(set(seen)), "nothing twice"
    assert set(left) <= set(seen)
    assert len(left) == 300
    by_writer: dict[str, list[int]] = {}
    for uid in seen:
        name, _, seq = (uid or "").split("-")
        by_writer.setdefault(name, []).append(int(seq))
    assert all(seqs == sorted(seqs) for seqs in by_writer.values())


@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize("limited", [False, True])
def test_every_cursor_resumes_where_it_was(
    opened: Callable[..., FileLog], newest_first: bool, limited: bool
) -> None:
    one, two = opened(), opened()
    for n in range(60):
        (one, two)[n % 2].append([letter(n)])
    one.close()
    two.close()
    before = opened(retention=limits(kind=FactKind.DEAD_LETTER, max_records=45) if limited else None)
    query: dict[str, Any] = {"kinds": FactKind.DEAD_LETTER, "newest_first": newest_first}
    entries = list(before.read(**query))
    opened(retention=limits(kind=FactKind.DEAD_LETTER, max_records=23)).compact()
    three = opened()
    write(three, (letter(n) for n in range(60, 63)))
    after = opened(retention=limits(kind=FactKind.DEAD_LETTER, max_records=24) if limited else None)
    shown = [entry.fact.uid for entry in after.read(kinds=FactKind.DEAD_LETTER)]
    added = [
        entry.fact.uid for entry in after.read(kinds=FactKind.DEAD_LETTER) if entry.fact.attributes["n"] >= 60
    ]
    for at, entry in enumerate(entries):
        rest = [found.fact.uid for found in after.read(after=entry.cursor, **query)]
        later = [found.fact.uid for found in entries[at + 1 :] if found.fact.uid in shown]
        assert rest == (later if newest_first else later + added)


def test_a_reading_under_way_is_not_disturbed(opened: Callable[..., FileLog]) -> None:
    """What it works out to be hidden holds, though the segment is rewritten before it gets there."""
    writer = opened()
    write(writer, (letter(n) for n in range(60)))
    writer.close()

    class Compacting(OsFileSystem):
        """Compacts when the reader opens a file for the *at*-th time."""

        def __init__(self, at: int) -> None:
            self.left = at

        def open_read(self, path: str) -> int:
            self.left -= 1
            if self.left == 0:
                root = path.rsplit("/", 3)[0]
                with FileLog(root, options=NEVER, retention=keep) as log:
                    log.compact(force=True)
            return super().open_read(path)

    keep = limits(kind=FactKind.DEAD_LETTER, max_records=23)
    root = Path(writer.root)
    for at in count(1):
        copied = root.parent / f"copy-{at}"
        shutil.copytree(root, copied)
        fs = Compacting(at)
        with FileLog(copied, options=NEVER, fs=fs, retention=keep) as log:
            read = [entry.fact.attributes["n"] for entry in log.read(kinds=FactKind.DEAD_LETTER)]
        assert read == list(range(37, 60)), at
        shutil.rmtree(copied)
        if fs.left > 0:
            break
    assert at > 5
