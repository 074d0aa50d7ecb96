"""What a scan of a whole log says: what is explained and what is not, while others write, and bounded in time."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from log.damage import NOW, BytesFs, Made, fact_line, made_segment, seal_line
from log.examples import WRITER, CountingFs
from papyra_otel import semconv
from papyra_otel.errors import LogUnavailable
from papyra_otel.facts import Fact, FactKind
from papyra_otel.log import LogOptions
from papyra_otel.log.codec import sign
from papyra_otel.log.file import FileLog, continuity, verified
from papyra_otel.log.file import scan as scan_module
from papyra_otel.log.file.folder import LogFolder
from papyra_otel.log.file.fs import OS
from papyra_otel.log.file.layout import QUARANTINE, VERIFIED, SegmentName
from papyra_otel.log.file.scan import Scanned, scan_log
from papyra_otel.log.file.summary import Summary
from papyra_otel.log.seqset import SeqSet
from papyra_otel.log.tally import Tally
from papyra_otel.pipeline.counters import Counters
from papyra_otel.pipeline.writer import FactWriter
from papyra_otel.reports import ANOMALIES_KEPT_MAX, ANOMALY_SEVERITIES, Anomaly, Progress, ScanReport
from papyra_otel.testing import make_fact

OTHER = "0123456789abcdef"
NEWEST = "f" * 16  # of segments begun in the same second this writer's is read first
NEVER = LogOptions(fsync="never")


def scanned(fs: Any, **options: Any) -> Scanned:
    return scan_log(LogFolder(fs=fs, root="/log"), lambda: NOW, **options)


def found_in(*segments: Made) -> dict[str, int]:
    """Return the anomalies of a log of *segments*, by type."""
    return dict(scanned(BytesFs.of(*segments)).report.counts)


def dropped(*ranges: str) -> dict[str, Any]:
    return {"name": semconv.FACT_DROPPED, "attributes": {semconv.DROPPED_RANGES: [*ranges]}}


def compacted(*low_marks: str, explained: Sequence[str] = ()) -> dict[str, Any]:
    attributes = {semconv.COMPACTION_LOW_MARKS: [*low_marks], semconv.COMPACTION_EXPLAINED: [*explained]}
    return {"name": semconv.LOG_COMPACTED, "attributes": attributes}


def chained(*counts: int, kind: str = "event", last: str = "sealed") -> list[Made]:
    """Return one writer's segments with so many facts each, each saying which came before it."""
    made: list[Made] = []
    seq = 0
    for number, facts in enumerate(counts, 1):
        before = made[-1] if made else None
        made.append(
            made_segment(
                range(seq, seq + facts),
                kind,
                number=number,
                previous=before.number if before else None,
                predecessor=before.digest if before else None,
                state=last if number == len(counts) else "sealed",
            )
        )
        seq += facts
    return made


# --- whole segments -------------------------------------------------------------------------------------


@pytest.mark.parametrize("last", ["sealed", "alive"])
def test_a_whole_log_is_healthy(last):
    segments = [*chained(3, 2, 4, last=last), *chained(2, 2, kind="audit"), *chained(1, kind="dead_letter")]
    report = scanned(BytesFs.of(*segments)).report
    assert report.healthy
    assert report.complete
    assert (report.counts, report.anomalies) == ({}, ())
    assert (report.places, report.writers, report.systems) == (6, 1, ("shop",))
    assert report.streams[FactKind.EVENT].records == 9
    assert sum(each.size_bytes for each in report.streams.values()) == report.read_bytes


def test_each_lost_segment_is_missed_but_the_newest():
    segments = [*chained(3, 2, 4, 1)]
    for lost in segments[:-1]:
        rest = [each for each in segments if each is not lost]
        report = scanned(BytesFs.of(*rest)).report
        assert report.counts == {"segment_missing": 1}
        assert f"segment {lost.number} " in report.anomalies[0].detail
        assert report.anomalies[0].place.endswith(f"{lost.number + 1:06d}.ndjson")
    assert found_in(*segments[:-1]) == {}  # nobody can know


def test_a_lost_tail_is_missed_by_the_next_segments_header():
    first = made_segment(range(5), state="unsealed")
    shorter = Made(first.lines[:-2], sealed=False)
    after = made_segment([], first_seq=5, number=2, previous=1)
    assert found_in(first, after) == {}
    assert found_in(shorter, after) == {"gap": 1}


def test_swapped_segments_are_seen():
    for kinds in ("event", "event"), ("event", "audit"):
        left, right = chained(3, 2, kind=kinds[0])[0], chained(3, 2, kind=kinds[1])[1]
        fs = BytesFs.of(left, right)
        fs.files[left.path], fs.files[right.path] = right.data, left.data
        report = scanned(fs).report
        assert report.counts["head_missing"] == 2
        assert "another segment's" in report.anomalies[0].detail or report.anomalies[0].type != "head_missing"


@pytest.mark.parametrize(
    "target",
    [
        {"writer": OTHER, "number": 1, "kind": "event"},
        {"writer": WRITER, "number": 7, "kind": "event"},
        {"writer": WRITER, "number": 1, "kind": "audit"},
    ],
)
def test_a_copy_under_another_name_is_told_once(target):
    made = made_segment(range(40))
    copy = Made((), **target)
    fs = BytesFs.of(made)
    fs.files[copy.path] = made.data
    counts = scanned(fs).report.counts
    assert counts["head_missing"] == 1
    assert counts.get("fork_conflict", 0) == 0
    assert counts.get("duplicate", 0) == (40 if target["number"] == 7 else 0)
    assert not counts.get("gap")


def test_a_facts_of_somebody_else_in_a_segment_is_told():
    made = made_segment(range(3), state="unsealed")
    for strange in (fact_line(0, writer=OTHER), fact_line(0, "audit"), fact_line(0, system="bar")):
        assert found_in(Made((*made.lines, strange), sealed=False)) == {
            "fork_conflict": 1,
            "unclean_shutdown": 1,
        }


def test_a_chain_that_does_not_fit_is_seen():
    first, second = chained(3, 2)
    stranger = made_segment(range(3), facts={1: {"severity": "WARN"}})
    assert found_in(stranger, second) == {"segment_digest": 1}
    unsealed = Made(first.lines[:-1], sealed=False)
    assert found_in(unsealed, second) == {"unclean_shutdown": 1}


@pytest.mark.parametrize("known", [True, False])
def test_a_rewritten_segment_keeps_its_place_in_the_chain(known):
    first, second = chained(3, 2)
    lines = (first.lines[0], *first.lines[2:-1])
    replaces = [first.digest] if known else ["00" * 32]
    seal = seal_line(b"".join(lines), 2, 2, replaces=replaces, rewritten="quarantine")
    counts = found_in(Made((*lines, seal)), second)
    assert counts == ({"gap": 1} if known else {"gap": 1, "segment_digest": 1})
    bare = seal_line(b"".join(lines), 2, 2, rewritten="quarantine")  # its own seal was what was damaged
    assert found_in(Made((*lines, bare)), second) == {"gap": 1}


# --- explained or not -----------------------------------------------------------------------------------


def test_holes_are_explained_by_what_was_dropped():
    facts = {9: dropped(f"{WRITER}-event-3..5", f"{WRITER}-audit-0..1")}
    event = made_segment([0, 1, 2, 6, 7, 8, 9], facts=facts)
    audit = made_segment([2, 3], "audit")
    assert found_in(event, audit) == {}
    less = {9: dropped(f"{WRITER}-event-3..4", f"{OTHER}-audit-0..1")}
    report = scanned(BytesFs.of(made_segment([0, 1, 2, 6, 7, 8, 9], facts=less), audit)).report
    assert report.counts == {"gap": 2}
    at = {each.kind: (each.offset, each.detail) for each in report.anomalies}
    assert at[FactKind.EVENT] == (
        sum(map(len, event.lines[:4])),
        "seq 5 missing before this place, for no known reason",
    )
    assert at[FactKind.AUDIT] == (0, "seqs 0 to 1 missing before this segment, for no known reason")


def test_holes_are_explained_by_compactions():
    kept = made_segment([7, 8, 11], "audit", number=3, previous=2)
    told = made_segment(
        [0, 1], facts={1: compacted(f"{WRITER}-audit-7", explained=[f"{WRITER}-audit-9..10"])}
    )
    assert found_in(kept, told) == {}
    assert found_in(kept, made_segment([0])) == {"segment_missing": 1, "gap": 1}


def test_holes_are_explained_by_quarantines():
    holes = made_segment([0, 3])
    fs = BytesFs.of(holes)
    assert scanned(fs).report.counts == {"gap": 1}
    evidence = sign(b'{"offset":9,"length":0,"replaced_by":0,"seqs":["%b-event-1..2"]}' % WRITER.encode())
    path = f"/log/shop/{QUARANTINE}/events-x.ndjson"
    fs.files[path] = evidence
    assert scanned(fs).report.counts == {}
    fs.files[path] = evidence.replace(b"1..2", b"1..3")
    report = scanned(fs).report
    assert report.counts == {"corrupt_line": 1, "gap": 1}
    fs.failing[path] = errno.EIO
    assert scanned(fs).report.counts == {"unreadable": 1, "gap": 1}


def test_what_was_appended_again_after_a_failed_fsync_is_no_duplicate():
    first = made_segment(range(5), state="unsealed")
    again = made_segment(range(3, 8), number=2, previous=1)
    assert found_in(first, again) == {}
    differs = made_segment(range(3, 8), number=2, previous=1, facts={4: {"severity": "FATAL"}})
    assert found_in(first, differs) == {"fork_conflict": 1}
    unannounced = made_segment(range(3, 8), number=2, previous=1, first_seq=5)
    assert found_in(first, unannounced) == {"duplicate": 2}


def test_repeats_within_a_segment():
    made = made_segment(range(3), state="unsealed")
    equal = Made((*made.lines, made.lines[2]), sealed=False)
    assert found_in(equal) == {"duplicate": 1, "unclean_shutdown": 1}
    unequal = Made((*made.lines, fact_line(1, severity="ERROR")), sealed=False)
    assert found_in(unequal) == {"fork_conflict": 1, "unclean_shutdown": 1}


class _Failing(FileLog):
    """A log that is away while *away* is set."""

    away = False

    def append(self, facts: Sequence[Fact], /) -> None:
        if self.away:
            raise LogUnavailable("away")
        super().append(facts)

    def write(self, facts: Sequence[Fact], /) -> Callable[[], None] | None:
        if self.away:
            raise LogUnavailable("away")
        return super().write(facts)


def test_what_the_fact_writer_drops_it_explains(tmp_path):
    log = _Failing(tmp_path, options=NEVER, clock=lambda: NOW)
    writer = FactWriter(log, Counters(), capacity=3, background=False)
    writer.tell = lambda attributes: record(semconv.FACT_DROPPED, FactKind.EVENT, attributes)

    def record(name: str, kind: FactKind, attributes: Any) -> None:
        writer.record(kind, name, NOW, "shop", None, "INFO", None, None, attributes)

    for number in range(40):
        log.away = 10 <= number < 30
        record(semconv.ACTOR_STARTED, list(FactKind)[number % 3], {"n": number})
    assert not log.scan().damaged  # while the writer lives it may still explain
    log.away = False
    writer.drain()
    log.close()
    assert log_at(tmp_path, clock=lambda: NOW).scan().counts == {}
    events = next((tmp_path / "shop" / "events").iterdir())
    lines = [line for line in events.read_bytes().splitlines(True) if b"papyra.fact.dropped" not in line]
    events.write_bytes(b"".join(lines))
    assert log_at(tmp_path).scan().counts["gap"] >= 2


def log_at(root: Path, **options: Any) -> FileLog:
    return FileLog(root, options=NEVER, **options)


# --- clocks, ends ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("time", "jumps"),
    [
        ("2027-01-15T08:00:00.000000000Z", 0),
        ("2027-01-15T07:59:00.001000000Z", 0),
        ("2027-01-15T07:59:00.000999999Z", 1),
        ("2027-01-16T08:00:00.000000000Z", 0),
        ("2027-01-16T08:00:00.000000001Z", 1),
    ],
)
def test_clock_jumps_are_good_to_know(time, jumps):
    report = scanned(BytesFs.of(made_segment(range(3), facts={2: {"time": time}}))).report
    assert report.counts == ({"clock_jump": jumps} if jumps else {})
    assert report.healthy
    assert report.unresolved == 0


def test_an_end_without_a_seal():
    assert found_in(made_segment(range(3), state="unsealed")) == {"unclean_shutdown": 1}
    assert found_in(made_segment(range(3), state="alive")) == {}
    event = made_segment(range(3), state="alive")
    assert found_in(event, made_segment([0], "audit", state="unsealed")) == {}  # left after trouble
    assert found_in(event, made_segment([0], writer=OTHER, state="unsealed")) == {"unclean_shutdown": 1}
    gone_on = made_segment(range(3), state="unsealed"), made_segment(range(3, 5), number=2, previous=1)
    assert found_in(*gone_on) == {}


def test_a_seal_is_the_end():
    made = made_segment(range(3))
    assert found_in(Made((*made.lines, fact_line(3)))) == {"segment_digest": 1}
    assert found_in(Made((*made.lines, made.lines[-1]))) == {"segment_digest": 1}
    assert found_in(Made((*made.lines, made.lines[0]))) == {"duplicate": 1}
    empty = made_segment([])
    assert found_in(empty) == {}
    shrunk = Made((empty.lines[0], seal_line(empty.lines[0], 3, 2)))
    assert found_in(shrunk) == {"gap": 1}


# --- strays, and what cannot be read --------------------------------------------------------------------


def written(root: Path, facts: int = 6, **options: Any) -> None:
    log = log_at(root, **options)
    log.append([make_fact(n) for n in range(facts)])
    log.close()


def counts_of(root: Path) -> dict[str, int]:
    return dict(log_at(root).scan().counts)


def test_files_that_do_not_belong_there(tmp_path):
    written(tmp_path)
    assert counts_of(tmp_path) == {}
    events = tmp_path / "shop" / "events"
    (tmp_path / "notes.txt").write_text("?")
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "shop" / "x").mkdir()
    (tmp_path / "shop" / VERIFIED).write_text("garbled")
    (events / "core").write_text("?")
    name = next(events.iterdir()).name
    (events / (name + ".gz")).write_text("?")
    assert counts_of(tmp_path) == {"unexpected_file": 4}
    (tmp_path / "shop" / "audits.old").write_text("")
    shutil.rmtree(tmp_path / "shop" / "audits")
    (tmp_path / "shop" / "audits").write_text("a file")
    assert counts_of(tmp_path)["unexpected_file"] == 6


@pytest.mark.parametrize(
    "place", ["reserve", "shop/verified.json", "shop/events/{}", "shop/quarantine/q.ndjson"]
)
@pytest.mark.parametrize("content", [b"", b"half"])
def test_half_made_files_are_left_over_unless_somebody_makes_them(tmp_path, monkeypatch, place, content):
    monkeypatch.setattr(scan_module, "BIRTH_SECONDS", 0.0)
    written(tmp_path)
    name = next((tmp_path / "shop" / "events").iterdir()).name.replace("-000001.", "-000009.")
    (tmp_path / "shop" / "quarantine").mkdir()
    path = tmp_path / (place.format(name) + ".tmp")
    path.write_bytes(content)
    assert counts_of(tmp_path) == {"tmp_leftover": 1}
    if content:
        fd = OS.open_read(str(path))
        assert OS.lock(fd)
        assert counts_of(tmp_path) == {}
        OS.close(fd)


@pytest.mark.parametrize("fate", ["locked", "gone", "named", "dead"])
def test_a_young_half_made_file_is_looked_at_again_when_it_is_older(tmp_path, monkeypatch, fate):
    """Whoever makes a file locks it next, and on a busy machine a whole scan fits in between."""
    written(tmp_path)
    path = tmp_path / "shop" / "verified.json.tmp"
    path.write_bytes(b"")
    fd = OS.open_read(str(path))
    waited: list[float] = []

    def sleep(seconds):
        waited.append(seconds)
        if fate == "locked":
            assert OS.lock(fd)
        elif fate == "gone":
            path.unlink()
        elif fate == "named":
            path.rename(tmp_path / "shop" / "verified.json")

    monkeypatch.setattr(scan_module.time, "sleep", sleep)
    assert counts_of(tmp_path).get("tmp_leftover", 0) == (1 if fate == "dead" else 0)
    assert [0 < seconds <= scan_module.BIRTH_SECONDS for seconds in waited] == [True]
    OS.close(fd)


@pytest.mark.parametrize("age_seconds", [2, -5])
def test_nobody_waits_for_an_old_half_made_file_nor_for_one_of_the_future(tmp_path, monkeypatch, age_seconds):
    written(tmp_path)
    (tmp_path / "shop" / "verified.json.tmp").write_bytes(b"")
    now = time.time_ns() + age_seconds * 10**9
    monkeypatch.setattr(scan_module.time, "time_ns", lambda: now)
    monkeypatch.setattr(scan_module.time, "sleep", lambda seconds: pytest.fail(f"slept {seconds}"))
    assert counts_of(tmp_path) == {"tmp_leftover": 1}


def test_a_file_that_is_just_being_born_is_no_leftover(tmp_path):
    written(tmp_path)
    born = tmp_path / "shop" / "verified.json.tmp"

    class Now(CountingFs):
        looks = 0

        def names(self, path: str) -> list[str]:
            if path.endswith("/shop"):
                Now.looks += 1
                born.write_bytes(b"" if Now.looks == 1 else b"more")
            return super().names(path)

    assert FileLog(tmp_path, fs=Now(), options=NEVER).scan().counts == {}


@pytest.mark.parametrize("what", ["symlink", "fifo", "folder"])
def test_what_only_has_a_segments_name(tmp_path, what):
    written(tmp_path)
    path = tmp_path / "shop" / "events" / f"20270115T080000Z-{OTHER}-000001.ndjson"
    {
        "symlink": lambda: path.symlink_to(tmp_path / "elsewhere"),
        "fifo": lambda: os.mkfifo(path),
        "folder": path.mkdir,
    }[what]()
    counts = counts_of(tmp_path)
    assert set(counts) <= {"unreadable", "unclean_shutdown"}
    assert counts["unclean_shutdown" if what == "fifo" else "unreadable"] == 1


@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_there_is_no_permission_for(tmp_path, what, unprivileged):
    written(tmp_path)
    path = tmp_path / "shop" / "events"
    segment = next(path.iterdir())
    target = segment if what == "file" else path
    target.chmod(0)
    program = (
        "import sys, papyra_otel\n"
        "report = papyra_otel.open_log('file:' + sys.argv[1]).scan()\n"
        "print(dict(report.counts), [each.place for each in report.anomalies])"
    )
    command = [*unprivileged, sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    target.chmod(0o700)
    assert done.stderr == ""
    place = f"shop/events/{segment.name}" if what == "file" else "shop/events"
    assert done.stdout == f"{{'unreadable': 1}} ['{place}']\n"


def test_a_read_error_in_the_middle_accuses_nobody_else():
    segments = chained(3, 40, 4)
    fs = BytesFs.of(*segments)
    fs.failing[segments[1].path] = errno.EIO
    scan = scanned(fs)
    assert scan.report.counts == {"unreadable": 1}
    assert scan.report.streams[FactKind.EVENT].damaged_bytes == len(segments[1].data)
    assert scan.report.damaged


def test_a_segment_that_becomes_shorter_while_it_is_read():
    made = made_segment(range(4))

    class Shrinking(BytesFs):
        def size(self, fd: int) -> int:
            return super().size(fd) + 10

    fs = Shrinking.of(made)
    counts = scanned(fs).report.counts
    assert counts == {"unreadable": 1}


# --- while others write ---------------------------------------------------------------------------------


class During(BytesFs):
    """Does *then* once, just before the how-many-th opening for reading."""

    at = 0
    count = 0

    def then(self) -> None:
        raise NotImplementedError

    def open_read(self, path: str) -> int:
        if self.count == self.at:
            self.then()
        self.count += 1
        return super().open_read(path)


@pytest.mark.parametrize("at", range(9))
@pytest.mark.parametrize("kind", ["event", "audit"])
@pytest.mark.parametrize("recorder", ["in the live segment", "by another process"])
def test_a_compaction_at_any_moment_is_no_damage(at, kind, recorder):
    old = chained(3, 3, 3, kind=kind, last="sealed")
    told = {5: compacted(f"{WRITER}-{kind}-7")}
    writer = OTHER if recorder == "by another process" else NEWEST
    live = made_segment(range(5), writer=writer, state="alive")
    after = made_segment(range(6), writer=writer, state="alive", facts=told)
    rest = made_segment([7, 8], kind, number=3, first_seq=7)

    class Compacting(During):
        def then(self) -> None:
            self.files[after.path] = after.data
            self.held.add(after.path)
            del self.files[old[0].path], self.files[old[1].path]
            self.files[old[2].path] = rest.data

    fs = Compacting.of(*old, *([live] if recorder == "in the live segment" else []))
    fs.at = at
    assert scanned(fs).report.counts == {}


def test_a_writer_that_dies_while_its_segment_is_read_is_told_next_time():
    dying = made_segment(range(3), state="alive")

    class Dying(BytesFs):
        def size(self, fd: int) -> int:
            self.held.clear()
            return super().size(fd)

    fs = Dying.of(dying)
    assert scanned(fs).report.counts == {}
    assert scanned(fs).report.counts == {"torn_tail": 1, "unclean_shutdown": 1}


def test_a_hole_between_what_was_written_while_we_read_is_none():
    """The first was read while it was written; then it went on, and ended, and the next one began."""
    first, second = chained(9, 3)
    begun = Made(first.lines[:4], sealed=False, alive=True)

    class Rotating(During):
        def then(self) -> None:
            self.files[second.path] = second.data

    fs = Rotating.of(begun)
    assert scanned(fs).report.counts == {}


def test_a_compaction_that_is_recorded_after_that_was_read_is_no_damage():
    live = made_segment(range(5), writer=NEWEST, state="alive")
    after = made_segment(range(6), writer=NEWEST, state="alive", facts={5: compacted(f"{WRITER}-event-7")})
    rest = made_segment([7, 8])

    class Compacting(During):
        def then(self) -> None:
            self.files[after.path] = after.data
            self.files[rest.path] = rest.data

    fs = Compacting.of(live, made_segment(range(9)))
    fs.at = 1
    assert scanned(fs).report.counts == {}


def _release(permits: Sequence[threading.Semaphore], times: int) -> None:
    for permit in permits:
        permit.release(times)


def _append_in_step(
    log: FileLog, permit: threading.Semaphore, times: int, problems: list[BaseException]
) -> None:
    for n in range(times):
        permit.acquire()
        try:
            log.append([make_fact(n, time_unix_nano=NOW), make_fact(n + 1, time_unix_nano=NOW)])
            if n % 37 == 0:
                log.seal()
        except BaseException as error:
            problems.append(error)


def test_scanning_while_threads_append_rotate_and_compact(tmp_path):
    """In step, so that it takes as long everywhere: between two scans each writer appends some, but when is chance."""
    rounds, appends = 25, 40
    permits = [threading.Semaphore(0), threading.Semaphore(0)]
    problems: list[BaseException] = []
    logs = [log_at(tmp_path, segment_bytes_max=3_000, clock=lambda: NOW) for _ in range(3)]

    threads = [
        threading.Thread(target=_append_in_step, args=[log, permit, rounds * appends, problems], daemon=True)
        for log, permit in zip(logs, permits, strict=False)
    ]
    logs[0].append([make_fact(0, time_unix_nano=NOW)])
    for thread in threads:
        thread.start()
    seen: Counter[str] = Counter()
    for number in range(rounds):
        _release(permits, appends)
        if number % 2:
            logs[2].compact("events=20;audits=20;dead_letters=20", force=True)
        seen.update(logs[2].scan(incremental=number % 3 == 0).counts)
        if number % 5 == 0:
            logs[2].remember()
    for thread in threads:
        thread.join()
    assert problems == []
    assert not seen, seen
    for log in logs:
        log.close()
    assert log_at(tmp_path, clock=lambda: NOW).scan().counts == {}


# --- incremental ----------------------------------------------------------------------------------------


def segments_in(root: Path) -> list[Path]:
    return sorted(root.glob("*/*/*-*-*.ndjson"))


def test_what_was_verified_is_not_read_again(tmp_path):
    written(tmp_path, 30, segment_bytes_max=2_000)
    log = log_at(tmp_path)
    total = len(segments_in(tmp_path))
    first = log.scan(incremental=True)
    assert (first.places, first.places_remembered, first.complete) == (total, 0, True)
    assert not list(tmp_path.glob("*/" + VERIFIED))  # scanning writes nothing
    log.remember()
    again = log.scan(incremental=True)
    assert (again.places_remembered, again.read_bytes, again.complete) == (total, 0, False)
    assert (again.streams, again.counts) == (first.streams, first.counts)
    before = (tmp_path / "shop" / VERIFIED).stat()
    log.remember()
    assert (tmp_path / "shop" / VERIFIED).stat() == before
    assert log.scan().complete


@pytest.mark.parametrize("change", ["content", "inode", "size", "clock"])
def test_what_has_changed_is_read_again(tmp_path, change):
    written(tmp_path)
    log = log_at(tmp_path)
    log.scan()
    log.remember()
    path = next((tmp_path / "shop" / "events").iterdir())
    data, status = path.read_bytes(), path.stat()
    if change == "content":
        path.write_bytes(data.replace(b"INFO", b"WARN", 1))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    elif change == "inode":
        copy = tmp_path / "copy"
        copy.write_bytes(data)
        copy.rename(path)
    elif change == "size":
        path.write_bytes(data + b"x")
    else:
        os.utime(path)
    report = log.scan(incremental=True)
    assert report.places_remembered == report.places - 1
    assert report.healthy == (change not in {"content", "size"})


@pytest.mark.parametrize(
    "garble",
    [
        lambda data: b"",
        lambda data: data[:-9],
        lambda data: data.replace(b'"records":', b'"recordz":', 1),
        lambda data: b"\0" * len(data),
        lambda data: sign(data.rpartition(b',"crc"')[0].replace(b'"v":1', b'"v":2', 1) + b"}"),
        lambda data: sign(b'{"v":1,"segments":[{"place":3}]}'),
        lambda data: sign(b"[]") * 3,
    ],
)
def test_a_garbled_memory_is_none(tmp_path, garble):
    written(tmp_path)
    log = log_at(tmp_path)
    log.scan()
    log.remember()
    path = tmp_path / "shop" / VERIFIED
    path.write_bytes(garble(path.read_bytes()))
    report = log.scan(incremental=True)
    assert (report.places_remembered, report.counts) == (0, {})
    log.remember()
    assert log.scan(incremental=True).places_remembered == report.places


def test_what_cannot_be_remembered_is_read_again(tmp_path):
    written(tmp_path)
    fs = CountingFs()
    log = FileLog(tmp_path, fs=fs, options=NEVER)
    log.scan()

    def full(call: str) -> None:
        if call == "write":
            raise OSError(errno.ENOSPC, "full")

    fs.before = full
    log.remember()
    assert log.scan(incremental=True).places_remembered == 0
    assert counts_of(tmp_path) == {}


def test_what_is_damaged_or_alive_is_not_remembered(tmp_path):
    log = log_at(tmp_path)
    log.append([make_fact(n) for n in range(6)])
    other = log_at(tmp_path)
    other.scan()
    other.remember()
    assert other.scan(incremental=True).places_remembered == 0
    log.close()
    path = next((tmp_path / "shop" / "events").iterdir())
    path.write_bytes(path.read_bytes().replace(b"INFO", b"INFA"))
    other.scan()
    other.remember()
    report = other.scan(incremental=True)
    assert report.places_remembered == report.places - 1
    assert report.damaged


def test_each_start_verifies_more_until_all_is_remembered(tmp_path):
    log = log_at(tmp_path, segment_bytes_max=1_500)
    for number in range(40):
        log.append([make_fact(number, kind="event")])
    for number in range(3):
        log.append([make_fact(number, kind="audit")])
    log.close()
    total = len(segments_in(tmp_path))
    assert total > 8
    folder = LogFolder(fs=OS, root=str(tmp_path))
    left = []
    for _ in range(total + 1):
        ticks = map(float, count())
        scan = scan_log(folder, lambda: NOW, incremental=True, seconds_max=3, ticks=ticks.__next__)
        assert scan.report.counts == {}  # what was not read accuses nobody
        fresh = [each for each in scan.summaries if not each.remembered and not each.unread]
        assert fresh or scan.report.places_remembered == total
        left.append(scan.report.places_unread)
        verified.remember(folder, scan)
    assert left[0] > left[1] > left[-1] == 0
    assert scan.report.places_remembered == total


def test_the_newest_is_read_first_and_events_last(tmp_path):
    written(tmp_path, 40, segment_bytes_max=1_500)
    places: list[str] = []
    log_at(tmp_path).scan(lambda progress: places.append(progress.place))
    kinds = [place.split("/")[1] for place in places]
    assert kinds == sorted(kinds, key=lambda kind: kind == "events")
    for kind in FactKind:
        mine = [place for place in places if f"/{kind.plural}/" in place]
        assert mine == sorted(mine, reverse=True)


def test_progress_ends_with_everything(tmp_path):
    written(tmp_path)
    told: list[Progress] = []
    report = log_at(tmp_path).scan(told.append)
    assert [each.done_bytes for each in told] == sorted(each.done_bytes for each in told)
    assert told[-1].done_bytes == told[-1].total_bytes == report.read_bytes


# --- many segments, many anomalies ----------------------------------------------------------------------


@pytest.mark.parametrize("unread", [False, True])
def test_thousands_of_segments_are_judged_in_no_time(unread):
    """Nothing grows with the square of the number of segments: or this would time out."""
    fs = BytesFs.of(*(made_segment([n], number=n + 1) for n in range(0, 8_000, 2)))
    calls: Iterator[int] = iter(range(10**9))
    limit = 2_000 if unread else None
    report = scanned(fs, incremental=True, seconds_max=limit, ticks=lambda: float(next(calls))).report
    assert report.places == 4_000
    assert report.counts == ({} if unread else {"gap": 3_999})


def test_many_holes_in_one_segment():
    made = made_segment(range(0, 40_000, 2))
    assert found_in(made) == {"gap": 19_999}


def test_anomalies_are_counted_exactly_and_kept_up_to_a_number():
    def many(count: int) -> Tally:
        tally = Tally()
        for n in range(count):
            tally.add(Anomaly(type="gap", place=str(n), detail=""))
        return tally

    tally = many(ANOMALIES_KEPT_MAX - 1)
    tally.add(Anomaly(type="duplicate", place="", detail=""))
    tally.add_all(many(ANOMALIES_KEPT_MAX + 5))
    tally.add_all(many(2))
    assert tally.counts == {"gap": 2 * ANOMALIES_KEPT_MAX + 6, "duplicate": 1}
    assert Counter(each.type for each in tally.kept) == {"gap": ANOMALIES_KEPT_MAX, "duplicate": 1}


def test_the_worst_comes_first_then_by_place():
    damaged = made_segment(range(4), state="unsealed", facts={1: {"time": "2027-01-15T07:00:00.000000000Z"}})
    other = made_segment(range(4), writer=OTHER, state="unsealed")
    lines = (*damaged.lines[:4], b"junk\n", damaged.lines[4][:-5], b"\n")
    report = scanned(BytesFs.of(Made(lines, sealed=False), other)).report
    order = ["ERROR", "WARN", "INFO"]
    severities = [each.severity for each in report.anomalies]
    assert severities == sorted(severities, key=order.index)
    assert set(severities) == set(order)
    for severity in order:
        places = [(each.place, each.offset or 0) for each in report.anomalies if each.severity == severity]
        assert places == sorted(places)


@pytest.mark.parametrize("name", ANOMALY_SEVERITIES)
def test_what_severities_mean_for_a_report(name):
    severity = ANOMALY_SEVERITIES[name]
    report = ScanReport(backend="file", counts={name: 2})
    assert report.healthy == (severity == "INFO")
    assert report.damaged == (severity == "ERROR")
    assert report.unresolved == (0 if severity == "INFO" else 2)
    assert ScanReport(backend="file", places_unread=1).complete is False
    assert ScanReport(backend="file", places_remembered=1).complete is False


def test_an_anomaly_says_whose_it_is():
    report = scanned(BytesFs.of(Made((*made_segment([0]).lines, b"junk\n")))).report
    [anomaly] = report.anomalies
    assert (anomaly.system, anomaly.kind, anomaly.writer) == ("shop", FactKind.EVENT, WRITER)


def test_seqs_in_ranges():
    seqs = SeqSet()
    for seq in (5, 7, 6, 1, 1, 9, 0):
        seqs.add(seq)
    assert seqs.ranges() == [(0, 1), (5, 7), (9, 9)]
    seqs.append_range(10, 12)
    assert seqs.ranges()[-1] == (9, 12)
    assert 11 in seqs
    assert 8 not in seqs


# --- faults put into the code ---------------------------------------------------------------------------


def made_nothing() -> Summary:
    return Summary(place="", system_folder="", kind=FactKind.EVENT, name=SegmentName("", "", 0))


FAULTS: dict[str, tuple[Any, str, Any, Callable[[], None]]] = {
    "chains not looked at": (
        continuity,
        "_chain",
        lambda segments: (),
        test_a_chain_that_does_not_fit_is_seen,
    ),
    "nothing explains": (
        continuity.Explanations,
        "of",
        lambda *_: [],
        test_holes_are_explained_by_what_was_dropped,
    ),
    "everything explains": (
        continuity.Explanations,
        "of",
        lambda *_: [(0, 99)],
        test_holes_are_explained_by_what_was_dropped,
    ),
    "compactions do not explain": (
        scan_module,
        "Explanations",
        lambda ranges: continuity.Explanations(()),
        test_holes_are_explained_by_compactions,
    ),
    "no quarantine is read": (
        scan_module,
        "_evidence",
        lambda *_: (),
        test_holes_are_explained_by_quarantines,
    ),
    "holes not looked for": (
        continuity,
        "_holes",
        lambda *_: (),
        test_each_lost_segment_is_missed_but_the_newest,
    ),
    "announced or not": (
        continuity,
        "_announced",
        lambda summary: 0,
        test_what_was_appended_again_after_a_failed_fsync_is_no_duplicate,
    ),
    "repeats between segments not looked for": (
        scan_module,
        "_repeated",
        lambda *_: (),
        test_what_was_appended_again_after_a_failed_fsync_is_no_duplicate,
    ),
    "the unread is empty": (
        continuity,
        "_unknown",
        lambda summary: False,
        test_a_read_error_in_the_middle_accuses_nobody_else,
    ),
    "nobody lives": (continuity, "_who", lambda summary: object(), test_an_end_without_a_seal),
    "events are read once": (
        scan_module,
        "_read_again",
        lambda *_: None,
        test_a_compaction_that_is_recorded_after_that_was_read_is_no_damage,
    ),
    "the removed is empty": (
        scan_module,
        "_nothing_of",
        lambda *_: made_nothing(),
        lambda: test_a_compaction_at_any_moment_is_no_damage(2, "event", "in the live segment"),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_code_is_seen(fault, monkeypatch):
    where, name, instead, test = FAULTS[fault]
    monkeypatch.setattr(where, name, instead)
    with pytest.raises(AssertionError):
        test()
