"""Power cuts at every port call, and every state of the disk that they may leave: nothing promised is lost.

The log's real code runs on a file system in memory. ``explore`` plays a procedure again and again, each time
with the machine going off one call later, and looks at every state that the disk may then be in.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
from base64 import b64decode
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import pytest

from log.crashfs import Crash, CrashFs
from papyra_otel import semconv
from papyra_otel.errors import LineDamaged, LogUnavailable
from papyra_otel.facts import Fact, FactKind
from papyra_otel.log import LogOptions
from papyra_otel.log.file import FileLog
from papyra_otel.log.file.layout import REMOVING
from papyra_otel.log.file.replace import remove_leftover, replace_file
from papyra_otel.log.retention import parse_retention
from papyra_otel.reports import CompactionReport, RecoveryReport, ScanReport
from papyra_otel.testing import make_fact
from papyra_otel.testing.capture import FIRST_UNIX_NANO

pytestmark = [pytest.mark.exhaustive, pytest.mark.timeout(300)]

ROOT = "/log"  # is there, on the disk too: its name is its user's to force
NOW = 1_795_377_765_123_456_789
LATER = NOW + 3_600_000_000_000
STATES_WANTED = 15_000  # in all tests together


# --- machines that forget what they should not ----------------------------------------------------------


class NoFsync(CrashFs):
    """Forcing a file forces nothing, so renaming it comes before its content."""

    def fsync(self, fd: int) -> None:
        self._called_on("fsync", fd)


class NoFolderFsync(CrashFs):
    """Forcing a folder forces nothing."""

    def fsync_folder(self, path: str) -> None:
        self._called("fsync_folder", path)


class UnlinkFirst(CrashFs):
    """Replacing a file begins with removing it."""

    def rename(self, source: str, target: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.unlink(target)
        super().rename(source, target)


# --- the explorer -----------------------------------------------------------------------------------------


@dataclass
class History:
    """What was tried, what came back without an error, and what is then promised to survive a power cut; by uid."""

    attempted: dict[str, Fact] = field(default_factory=dict[str, Fact])
    returned: set[str] = field(default_factory=set[str])
    acknowledged: set[str] = field(default_factory=set[str])
    logs: list[FileLog] = field(default_factory=list[FileLog])
    contents: set[bytes] = field(default_factory=set[bytes])  # what a file being replaced may have in it


@dataclass
class Found:
    """What an exploration found: broken promises, each with where, and which states it looked at."""

    violations: list[str] = field(default_factory=list[str])
    states: set[bytes] = field(default_factory=set[bytes])
    points: int = 0


looked_at: dict[str, set[bytes]] = {}  # what the tests of correct procedures explored


def prove(what: str, found: Found, at_least: int = 20) -> None:
    """Fail unless nothing is wrong and enough was looked at."""
    assert found.violations == []
    assert len(found.states) >= at_least
    looked_at[what] = found.states
    sys.stdout.write(f"{what}: {found.points} points, {len(found.states)} states\n")


Procedure = Callable[[CrashFs, History], None]
Check = Callable[[CrashFs, History, "set[str]"], "list[str]"]


class Writer:
    """A log being written, which notes what it was promised."""

    def __init__(
        self, fs: CrashFs, history: History, name: str, fsync: str, segment_bytes_max: int = 1000
    ) -> None:
        self._history = history
        self._always = fsync == "always"
        self._returned: set[str] = set()
        self.log: FileLog = opened(fs, name, fsync, segment_bytes_max)
        history.logs.append(self.log)

    def append(self, *facts: Fact) -> None:
        known = [fact.identified(*self.log.reserve(fact.system, fact.kind)) for fact in facts]
        uids = {str(fact.uid) for fact in known}
        self._history.attempted.update({str(fact.uid): fact for fact in known})
        self.log.append(known)
        self._returned |= uids
        self._history.returned |= uids
        if self._always:
            self._history.acknowledged |= uids

    def flush(self) -> None:
        self.log.flush()
        self._history.acknowledged |= self._returned

    def close(self) -> None:
        self.log.close()
        self._history.acknowledged |= self._returned


def opened(
    fs: CrashFs,
    name: str,
    fsync: str = "never",
    segment_bytes_max: int = 1000,
    *,
    now: int | None = None,
    retention: str = "",
) -> FileLog:
    """Open the log as a writer whose id consists of *name*, one hex digit per system. *now* stops the clock."""
    numbers = itertools.count()
    begin = LATER if name == "f" else NOW
    return FileLog(
        ROOT,
        retention=parse_retention(retention) if retention else None,
        fs=fs,
        clock=itertools.count(begin, 1_000_000_000).__next__ if now is None else lambda: now,
        new_writer=lambda: f"{name * 15}{next(numbers):x}",
        segment_bytes_max=segment_bytes_max,
        options=LogOptions(fsync=fsync, fsync_interval_seconds=3600.0),
    )


def event(n: int, system: str = "shop") -> Fact:
    return make_fact(n, kind=FactKind.EVENT, system=system)


def letter(n: int, system: str = "shop") -> Fact:
    return make_fact(n, kind=FactKind.DEAD_LETTER, system=system)


def explore(
    procedure: Procedure,
    check: Check,
    *,
    machine: Callable[[], CrashFs] = CrashFs,
    limit: int = 100,
    violations_max: int = 10,
) -> Found:
    """Play *procedure*, going off at each port call, and *check* every state that the disk may then be in.

    Between two calls that change something all is as it is just before the second, but for promises, which only
    grow: so the machine need go off in place of those calls only, and at the end.
    """
    found = Found()
    looked: set[tuple[bytes, int, int]] = set()
    whole = machine()
    procedure(whole, History())
    for call in (*dict.fromkeys(whole.changing), len(whole.calls) + 1):
        found.points += 1
        fs, history = _played(procedure, machine(), call)
        for state, kept in _after(fs, history, limit):
            key = state.digest(), len(history.acknowledged), len(history.returned)
            if key in looked:
                continue
            looked.add(key)
            found.states.add(key[0])
            names = sorted(state.tree())
            found.violations += [
                f"off at call {call}, after {fs.calls[-1:]}: {what} in {names}"
                for what in _checked(check, state, history, kept)
            ]
            if len(found.violations) >= violations_max:
                return found
    return found


def _checked(check: Check, state: CrashFs, history: History, kept: set[str]) -> list[str]:
    try:
        return check(state, history, kept)
    except Exception as error:
        return [f"{error!r} is raised"]


def _played(procedure: Procedure, fs: CrashFs, stop_at: int) -> tuple[CrashFs, History]:
    history = History()
    fs.stop_at(stop_at)
    with contextlib.suppress(Crash):
        procedure(fs, history)
    for log in history.logs:
        with contextlib.suppress(Crash):
            log.close()
    return fs, history


def _after(fs: CrashFs, history: History, limit: int) -> Iterable[tuple[CrashFs, set[str]]]:
    """Yield what a power cut may leave, with what it must not take, and what the end of the process leaves."""
    for state in fs.crash_states(limit, seed=len(fs.calls)):
        yield state, history.acknowledged
    yield fs.as_written(), history.returned


def check(state: CrashFs, acknowledged: Iterable[str], attempted: dict[str, Fact]) -> list[str]:
    """Return what is wrong with the log in *state*, which it changes: new facts are appended there."""
    log = opened(state, "f")
    before = _read(log)
    wrong = _wrong_facts(before, acknowledged, attempted)
    new = [event(900).identified(*log.reserve("shop", FactKind.EVENT)), letter(901)]
    log.append(new)
    after = _read(log, newest_first=True)[::-1]
    if [fact for fact in after if not str(fact.writer).startswith("f")] != before or len(after) != len(
        before
    ) + 2:
        wrong.append(f"after an append {len(after)} facts are read, newest first; before {len(before)}")
    log.close()
    return wrong


def _wrong_facts(found: Sequence[Fact], wanted: Iterable[str], attempted: dict[str, Fact]) -> list[str]:
    uids = [str(fact.uid) for fact in found]
    wrong = [f"lost: {uid}" for uid in sorted(set(wanted).difference(uids))]
    wrong += [f"twice: {uid}" for uid in sorted({uid for uid in uids if uids.count(uid) > 1})]
    wrong += [f"never appended: {fact}" for fact in found if attempted.get(str(fact.uid)) != fact]
    last: dict[tuple[str | None, str, FactKind], int] = {}
    for fact in found:
        stream = fact.writer, fact.system, fact.kind
        if last.get(stream, -1) >= (fact.seq or 0):
            wrong.append(f"out of order: {fact.uid}")
        last[stream] = fact.seq or 0
    return wrong


def _read(log: FileLog, *, newest_first: bool = False) -> list[Fact]:
    try:
        return [entry.fact for entry in log.read(newest_first=newest_first)]
    except LogUnavailable as error:
        if error.error_type == "ENOENT":  # not even the log's folder
            return []
        raise


def _appended(state: CrashFs, history: History, kept: set[str]) -> list[str]:
    return check(state, kept, history.attempted)


# --- appending ------------------------------------------------------------------------------------------


def one_by_one(fs: CrashFs, history: History) -> None:
    writer = Writer(fs, history, "a", "always", segment_bytes_max=1400)
    for n in range(4):
        writer.append(event(n))
    writer.append(letter(4))
    writer.append(event(5))
    writer.close()


def in_batches(fs: CrashFs, history: History) -> None:
    writer = Writer(fs, history, "b", "always")
    writer.append(event(0), event(1), letter(2), event(3, "bar"))
    writer.append(letter(4), event(5), event(6), event(7, "bar"))
    writer.close()


def flushed_now_and_then(fs: CrashFs, history: History) -> None:
    writer = Writer(fs, history, "c", "interval", segment_bytes_max=1800)
    for n in range(3):
        writer.append(event(n))
    writer.flush()
    for n in range(3, 6):
        writer.append(event(n))
    writer.append(letter(6), letter(7))
    writer.flush()
    writer.append(event(8), letter(9))
    writer.close()


def sealed_in_between(fs: CrashFs, history: History) -> None:
    writer = Writer(fs, history, "d", "interval")
    writer.append(event(0), letter(1))
    writer.log.seal()
    writer.append(event(2))
    writer.flush()
    writer.append(letter(3))
    writer.log.seal()
    writer.append(letter(4))
    writer.close()


def by_two_writers(fs: CrashFs, history: History) -> None:
    careful = Writer(fs, history, "1", "always")
    quick = Writer(fs, history, "2", "interval", segment_bytes_max=1500)
    for n in range(0, 4, 2):
        quick.append(event(n))
        careful.append(event(n + 1))
    careful.close()
    quick.append(event(4), event(5))
    quick.flush()
    quick.append(event(6))
    quick.close()


def never_forced(fs: CrashFs, history: History) -> None:
    writer = Writer(fs, history, "3", "never")
    writer.append(event(0), letter(1))
    writer.append(event(2), event(3))
    writer.append(event(4), letter(5))
    writer.log.close()


def flushed_though_never_forced(fs: CrashFs, history: History) -> None:
    writer = Writer(fs, history, "0", "never", segment_bytes_max=100_000)
    writer.append(event(0), letter(1))
    writer.flush()
    writer.append(event(2))


def in_many_streams(fs: CrashFs, history: History) -> None:
    writer = Writer(fs, history, "b", "interval", segment_bytes_max=1400)
    for n in range(3):
        writer.append(event(n), letter(10 + n), event(20 + n, "bar"))
    writer.flush()
    writer.append(letter(30, "bar"), event(31, "bar"), event(32))
    writer.close()


APPENDING = [
    one_by_one,
    in_batches,
    flushed_now_and_then,
    sealed_in_between,
    by_two_writers,
    never_forced,
    flushed_though_never_forced,
    in_many_streams,
]


@pytest.mark.parametrize("procedure", APPENDING)
def test_what_was_promised_is_read_after_every_crash_and_nothing_else(procedure: Procedure) -> None:
    prove(procedure.__name__, explore(procedure, _appended, limit=200))


@pytest.mark.parametrize("machine", [NoFsync, NoFolderFsync])
@pytest.mark.parametrize("procedure", [one_by_one, in_batches, flushed_now_and_then, sealed_in_between])
def test_a_log_whose_forcing_does_nothing_is_found_to_break_its_promise(
    procedure: Procedure, machine: type[CrashFs]
) -> None:
    found = explore(procedure, _appended, machine=machine)
    assert any("lost: " in what for what in found.violations)


# --- replacing a file -----------------------------------------------------------------------------------


def _with_a_file(machine: type[CrashFs] = CrashFs) -> Callable[[], CrashFs]:
    return lambda: machine.of({"/log": None, "/log/a": b"all that is old"})


def replaced(fs: CrashFs, history: History) -> None:
    history.contents = {b"all that is old"}
    for content in (b"new", b"newer than that"):
        history.contents.add(b"all that is " + content)
        replace_file(fs, "/log", "a", [b"all that is ", content])
        history.contents = {b"all that is " + content}


def _one_of_the_contents(state: CrashFs, history: History, kept: set[str]) -> list[str]:
    found = state.tree().get("/log/a")
    wrong = [] if found in history.contents else [f"{found!r} instead of one of {history.contents}"]
    if not remove_leftover(state, "/log/a.tmp"):
        wrong.append("the leftover is locked")
    replace_file(state, "/log", "a", [b"in the end"])
    if state.tree() != {"": None, "/log": None, "/log/a": b"in the end"}:
        wrong.append(f"then {state.tree()}")
    return wrong


def test_a_replaced_file_is_the_old_or_the_new_one_and_the_new_one_from_then_on() -> None:
    prove("replaced", explore(replaced, _one_of_the_contents, machine=_with_a_file()), at_least=15)


@pytest.mark.parametrize("machine", [NoFsync, NoFolderFsync, UnlinkFirst])
def test_a_file_replaced_in_a_wrong_order_is_found(machine: type[CrashFs]) -> None:
    assert explore(replaced, _one_of_the_contents, machine=_with_a_file(machine)).violations


# --- recovering -----------------------------------------------------------------------------------------


def _written() -> dict[str, bytes | None]:
    """Return a log of two writers that are dead: one ended in order, the other did not."""
    fs = CrashFs()
    history = History()
    orderly = Writer(fs, history, "4", "never", segment_bytes_max=1100)
    killed = Writer(fs, history, "5", "never", segment_bytes_max=100_000)
    for n in range(0, 8, 2):
        orderly.append(event(n))
        killed.append(event(n + 1))
    killed.append(letter(8))
    orderly.close()
    return fs.as_written().tree()


def _segments(tree: Mapping[str, bytes | None], part: str) -> list[str]:
    return sorted((path for path in tree if path.endswith(".ndjson") and part in path), key=_by_number)


def _by_number(path: str) -> tuple[str, str]:
    return path[-6 - 7 :], path


def _lines(content: bytes | None) -> list[bytes]:
    assert content is not None
    return content.splitlines(keepends=True)


def nothing_but_killed(tree: dict[str, bytes | None]) -> None:
    """A process was killed, in the middle of a birth and of a line."""
    path = _segments(tree, "events/")[-1]
    killed = next(path for path in _segments(tree, "events/") if "-5555" in path)
    lines = _lines(tree[killed])
    tree[killed] = b"".join(lines[:-1]) + lines[-1][:100]
    tree[path.replace("-00000", "-00009") + ".tmp"] = b""


def flipped_and_nul(tree: dict[str, bytes | None]) -> None:
    """A bit flipped in a sealed segment, and a block of NULs in one without seal."""
    first = next(path for path in _segments(tree, "events/") if "-4444" in path)
    lines = _lines(tree[first])
    lines[1] = lines[1][:150] + bytes([lines[1][150] ^ 4]) + lines[1][151:]
    tree[first] = b"".join(lines)
    killed = next(path for path in _segments(tree, "events/") if "-5555" in path)
    lines = _lines(tree[killed])
    lines[2] = lines[2][:50] + bytes(len(lines[2]) - 50)
    tree[killed] = b"".join(lines)


def glued_doubled_and_lost(tree: dict[str, bytes | None]) -> None:
    """A line end is gone, a line is there twice, another not at all."""
    killed = next(path for path in _segments(tree, "events/") if "-5555" in path)
    header, first, second, _, last = _lines(tree[killed])
    tree[killed] = header + first.removesuffix(b"\n") + second + second + last


def beheaded(tree: dict[str, bytes | None]) -> None:
    """A header is gone, something foreign stands behind a seal, and a temporary file was left."""
    paths = [path for path in _segments(tree, "events/") if "-4444" in path]
    tree[paths[1]] = b"".join(_lines(tree[paths[1]])[1:])
    tree[paths[0]] = (tree[paths[0]] or b"") + b'{"not": "ours"}\n'
    letters = _segments(tree, "dead_letters/")[0]
    tree[letters] = (tree[letters] or b"")[:-1]
    tree[letters + ".tmp"] = b"half"


DAMAGES = [nothing_but_killed, flipped_and_nul, glued_doubled_and_lost, beheaded]
Damage = Callable[["dict[str, bytes | None]"], None]


class Damaged:
    """A log to be recovered, and what is expected of that."""

    def __init__(
        self, tree: dict[str, bytes | None], undamaged: dict[str, Fact], mode: str, *, live: bool = False
    ) -> None:
        self.mode = mode
        self.tree: dict[str, bytes | None] = tree
        self._live = live
        self._undamaged = undamaged
        self._good: set[str] = {str(fact.uid) for fact in _facts(self.machine())}
        fs = self.machine()
        self.recover(fs, "6")
        self.result: dict[str, bytes | None] = _essence(fs.tree())
        self._checked = 0

    def machine(self, kind: type[CrashFs] = CrashFs) -> CrashFs:
        return kind.of(self.tree)

    def procedure(self, fs: CrashFs, history: History) -> None:
        if not self._live:
            self.recover(fs, "7", history)
            return
        writer = Writer(fs, history, "1", "always", segment_bytes_max=1100)
        for n in (20, 21, 22):
            writer.append(event(n))
        self.recover(fs, "7", history)
        writer.append(event(23))
        writer.close()

    def procedure_again(self, fs: CrashFs, history: History) -> None:
        """What comes after a recovery that was cut off: another one."""
        self.recover(fs, "a", history)

    def recover(self, fs: CrashFs, name: str, history: History | None = None) -> RecoveryReport:
        log = opened(fs, name, "always", 100_000)
        if history is not None:
            history.logs.append(log)
        report = log.recover(self.mode)
        log.close()
        return report

    def check(self, state: CrashFs, history: History, kept: set[str]) -> list[str]:
        """Return what is wrong in *state*; recovers there, and checks that this ends as if nothing had happened."""
        wrong = [f"before: {what}" for what in self._wrong(state, history, kept)]
        report = self.recover(state, "8")
        if report.remaining.damaged:
            wrong.append(f"still damaged: {report.remaining.anomalies}")
        wrong += [f"after: {what}" for what in self._wrong(state, history, kept)]
        tree = state.tree()
        essence = _essence(tree)
        if essence != self.result and not self._live:
            differing = [
                path
                for path in sorted({*essence, *self.result})
                if essence.get(path, "") != self.result.get(path, "")
            ]
            wrong.append(f"not as without a crash: {differing}")
        self._checked += 1
        if self._checked % 3 == 0:
            again = self.recover(state, "9")
            if again.changed or state.tree() != tree:
                wrong.append(f"a second run changed something: {again.rewritten} {again.leftovers_removed}")
        return wrong

    def _wrong(self, state: CrashFs, history: History, kept: set[str]) -> list[str]:
        found = [fact for fact in _facts(state) if not fact.name.startswith("papyra.log.")]
        wrong = _wrong_facts(found, self._good | kept, self._undamaged | history.attempted)
        return wrong + [f"bytes lost of {path}" for path in _not_kept(state, self.tree)]


def _facts(fs: CrashFs) -> list[Fact]:
    return _read(opened(fs, "f"))


def _essence(tree: Mapping[str, bytes | None]) -> dict[str, bytes | None]:
    """Return *tree* without what those who looked after the log wrote about that."""
    return {
        path: content
        for path, content in tree.items()
        if not any(name * 15 in path for name in "678a1") and content is not None
    }


def _not_kept(fs: CrashFs, originals: Mapping[str, bytes | None]) -> list[str]:
    """Return those of the *originals* that neither are there nor come out of undoing what was done to them."""
    from papyra_otel.log.file.quarantine import undo

    tree = fs.tree()
    kept = [path for path in tree if "/quarantine/" in path and path.endswith(".ndjson")]
    lost: list[str] = []
    for path, original in originals.items():
        if original is None or not path.endswith(".ndjson"):
            continue
        versions = [tree.get(path)]
        own = [each for each in kept if path.rpartition("/")[2].removesuffix(".ndjson") in each]
        for version in versions:  # grows: an undone version may have been a rewritten one
            for quarantined in own if version is not None and original not in versions else ():
                content = version or b""
                with contextlib.suppress(LineDamaged):
                    read = partial(_piece, content)
                    undone = b"".join(undo(fs, read, quarantined))
                    if undone not in versions:
                        versions.append(undone)
        if original not in versions:
            lost.append(path)
    return lost


def _piece(content: bytes, size: int, offset: int) -> bytes:
    return content[offset : offset + size]


def _damaged(damage: Damage, mode: str, *, live: bool = False) -> Damaged:
    tree = _written()
    undamaged = {str(fact.uid): fact for fact in _facts(CrashFs.of(tree))}
    damage(tree)
    log = Damaged(tree, undamaged, mode, live=live)
    assert log.result != _essence(tree)
    return log


@pytest.mark.parametrize("mode", ["quarantine", "repair"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_recovery_that_was_cut_off_lost_nothing_and_is_finished_by_the_next(
    damage: Damage, mode: str
) -> None:
    log = _damaged(damage, mode)
    prove(f"{damage.__name__} {mode}", explore(log.procedure, log.check, machine=log.machine))


@pytest.mark.parametrize("mode", ["quarantine", "repair"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_recoveries_that_are_cut_off_again_and_again_lose_nothing_and_one_finishes(
    damage: Damage, mode: str
) -> None:
    log = _damaged(damage, mode)
    for number, cut_off in enumerate(_some(log.procedure, log.machine, 17)):
        found = explore(log.procedure_again, log.check, machine=cut_off.as_written, limit=20)
        prove(f"{damage.__name__} {mode} {number}", found, at_least=1)


def test_a_recovery_leaves_what_a_living_writer_writes_alone() -> None:
    log = _damaged(flipped_and_nul, "quarantine", live=True)
    prove("recovered live", explore(log.procedure, log.check, machine=log.machine))


@pytest.mark.parametrize(
    ("procedure", "every"),
    [(in_batches, 400), (flushed_now_and_then, 300), (by_two_writers, 200), (never_forced, 200)],
)
def test_what_a_power_cut_left_is_recovered_also_when_that_is_cut_off(
    procedure: Procedure, every: int
) -> None:
    whole = CrashFs()
    history = History()
    procedure(whole, history)
    for number, cut_off in enumerate(_some(procedure, CrashFs, every)):
        log = Damaged(cut_off.tree(), history.attempted, "quarantine")
        found = explore(log.procedure, log.check, machine=log.machine, limit=20)
        prove(f"{procedure.__name__} recovered {number}", found, at_least=1)


@pytest.mark.parametrize("machine", [NoFsync, NoFolderFsync, UnlinkFirst])
def test_a_recovery_in_a_wrong_order_is_found(machine: type[CrashFs]) -> None:
    log = _damaged(flipped_and_nul, "quarantine")
    found = explore(log.procedure, log.check, machine=partial(log.machine, machine), violations_max=1)
    assert found.violations


def _some(procedure: Procedure, machine: Callable[[], CrashFs], every: int) -> list[CrashFs]:
    """Return every so-many-th state that cutting *procedure* off may leave."""
    states: list[CrashFs] = []

    def keep(state: CrashFs, history: History, kept: set[str]) -> list[str]:
        states.append(state)
        return []

    explore(procedure, keep, machine=machine, limit=100)
    return states[::every]


# --- compacting -----------------------------------------------------------------------------------------

AT = FIRST_UNIX_NANO + 99_500_000_000  # by the clock of who compacts and of who reads meanwhile
BY_AGE = "events=94s;dead_letters=2"
BY_RECORDS = "events=5;dead_letters=1"


def _full_log() -> dict[str, bytes | None]:
    """Return a sound log of two dead writers with several segments each, one of them without seal."""
    fs = CrashFs()
    history = History()
    orderly = Writer(fs, history, "4", "never", segment_bytes_max=1400)
    killed = Writer(fs, history, "5", "never", segment_bytes_max=1700)
    for n in range(0, 10, 2):
        orderly.append(event(n))
        killed.append(event(n + 1))
    for n in range(10, 15):
        orderly.append(letter(n))
    orderly.close()
    return fs.as_written().tree()


def _bad_line_in_front(tree: dict[str, bytes | None]) -> None:
    """Damage a line that is going to be compacted away."""
    first = _segments(tree, "dead_letters/")[0]
    lines = _lines(tree[first])
    lines[1] = lines[1].replace(b"papyra", b"papyrA", 1)
    tree[first] = b"".join(lines)


class Compacted:
    """A log to be compacted, and what is expected of that."""

    def __init__(
        self, retention: str, *, full: bool = False, damaged: bool = False, live: bool = False
    ) -> None:
        self.retention = retention
        self.tree: dict[str, bytes | None] = _full_log()
        self.all: dict[str, Fact] = {str(fact.uid): fact for fact in _facts(CrashFs.of(self.tree))}
        if damaged:
            _bad_line_in_front(self.tree)
        self._full = full
        self._live = live
        self._damaged = damaged
        self.visible: list[Fact] = self._visible(CrashFs.of(self.tree))
        self._checked = 0
        fs = CrashFs.of(self.tree)
        report = self.compact(fs, "6")
        assert report.records_removed > 5
        assert any(stream.segments_replaced for stream in report.streams)
        assert bool(report.kept_in) is damaged
        self.result: dict[str, bytes | None] = _essence(fs.tree())

    def machine(self, kind: type[CrashFs] = CrashFs) -> CrashFs:
        fs = kind.of(self.tree)
        if self._full:
            fs.capacity_bytes = sum(map(len, filter(None, self.tree.values()))) + 20
        return fs

    def procedure(self, fs: CrashFs, history: History) -> None:
        if not self._live:
            self.compact(fs, "7", history)
            return
        writer = Writer(fs, history, "1", "always", segment_bytes_max=1400)
        for n in (20, 21, 22):
            writer.append(event(n))
        self.compact(fs, "7", history)
        writer.append(event(23))
        writer.close()

    def compact(self, fs: CrashFs, name: str, history: History | None = None) -> CompactionReport:
        log = opened(fs, name, "always", 100_000, now=AT)
        if history is not None:
            history.logs.append(log)
        report = log.compact(self.retention, force=True)
        log.close()
        return report

    def check(self, state: CrashFs, history: History, kept: set[str]) -> list[str]:
        """Return what is wrong in *state*; compacts there, and checks that this ends as if nothing had happened."""
        state.capacity_bytes = 1 << 30
        wrong = [f"before: {what}" for what in self._wrong(state, history, kept)]
        self.compact(state, "8")
        wrong += [f"after: {what}" for what in self._wrong(state, history, kept)]
        tree = state.tree()
        if self.retention == BY_AGE and not self._live and _essence(tree) != self.result:
            wrong.append(f"not as without a crash: {sorted(_essence(tree))}, {sorted(self.result)}")
        self._checked += 1
        if self._checked % 3 == 0 and (self.compact(state, "9").records_removed or state.tree() != tree):
            wrong.append("a second run changed something")
        return wrong

    def _wrong(self, state: CrashFs, history: History, kept: set[str]) -> list[str]:
        seen = self._visible(state)
        found = [fact for fact in seen if fact.name != semconv.LOG_COMPACTED]
        ours = [fact for fact in found if str(fact.uid) in self.all]
        told = len(seen) - len(found)
        wrong = _wrong_facts(found, kept, self.all | history.attempted)
        if ours != (self.visible if self.retention == BY_AGE else _without_oldest_events(self.visible, told)):
            wrong.append(f"{len(ours)} facts of {len(self.visible)} are visible, {told} tell of a compaction")
        if not self._damaged and not any(path.endswith(REMOVING) for path in state.tree()):
            wrong += _losses(opened(state, "f").scan())
        if self._damaged and not _bad_line_is_kept(state):
            wrong.append("the bad line is lost")
        return wrong

    def _visible(self, fs: CrashFs) -> list[Fact]:
        return _read(opened(fs, "f", now=AT, retention=self.retention))


def _losses(report: ScanReport) -> list[str]:
    """Return what a scan finds lost of what was on the disk all the time: nothing, as long as it is explained.

    A segment that was just being begun may be left without anything in it.
    """
    return [
        f"a scan finds {anomaly}"
        for anomaly in report.anomalies
        if anomaly.severity == "ERROR"
        and any(name * 15 in f"{anomaly.place} {anomaly.writer} {anomaly.detail}" for name in "45")
    ]


def _without_oldest_events(facts: Sequence[Fact], count: int) -> list[Fact]:
    oldest = [fact for fact in facts if fact.kind is FactKind.EVENT][:count]
    return [fact for fact in facts if fact not in oldest]


def _bad_line_is_kept(fs: CrashFs) -> bool:
    tree = fs.tree()
    if any(content and b"papyrA" in content for path, content in tree.items() if path.endswith(".ndjson")):
        return True
    for path, content in tree.items():
        if "/quarantine/" in path and path.endswith(".ndjson"):
            _, *edits, _ = map(json.loads, _lines(content))
            if any(b"papyrA" in b64decode(edit["data"]) for edit in edits):
                return True
    return False


@pytest.mark.parametrize(
    ("retention", "options"),
    [
        (BY_AGE, {}),
        (BY_RECORDS, {}),
        (BY_AGE, {"full": True}),
        (BY_AGE, {"damaged": True}),
        (BY_AGE, {"live": True}),
    ],
)
def test_a_compaction_that_was_cut_off_reads_the_same_and_is_finished_by_the_next(
    retention: str, options: dict[str, bool]
) -> None:
    log = Compacted(retention, **options)
    prove(
        f"compacted {retention} {options}",
        explore(log.procedure, log.check, machine=log.machine),
        at_least=10,
    )


@pytest.mark.parametrize("machine", [NoFsync, NoFolderFsync, UnlinkFirst])
def test_a_compaction_in_a_wrong_order_is_found(machine: type[CrashFs]) -> None:
    log = Compacted(BY_AGE)
    found = explore(log.procedure, log.check, machine=partial(log.machine, machine), violations_max=1)
    assert found.violations


# --- remembering ------------------------------------------------------------------------------------------


def remembered(fs: CrashFs, history: History) -> None:
    """Scan a log whose writers were just killed, and what was written to it meanwhile; keep what was found."""
    writer = Writer(fs, history, "2", "interval")
    writer.append(event(0), event(1))
    writer.close()
    for n in (2, 3):
        killed = Writer(fs, history, str(n + 2), "interval")
        killed.append(event(n), letter(n))
        fs.end_process()
        log = opened(fs, "f")
        log.scan(incremental=True)
        log.remember()


def _as_a_full_scan_finds(state: CrashFs, history: History, kept: set[str]) -> list[str]:
    log = opened(state, "f")
    quick, full = log.scan(incremental=True), log.scan()
    if (quick.counts, quick.streams) == (full.counts, full.streams):
        return []
    return [f"an incremental scan finds {dict(quick.counts)}, a full one {dict(full.counts)}"]


def test_what_was_remembered_is_what_is_there() -> None:
    prove("remembered", explore(remembered, _as_a_full_scan_finds, limit=200))


# --- all together -----------------------------------------------------------------------------------------


def test_so_many_states_were_looked_at() -> None:
    distinct = set[bytes]().union(*looked_at.values())
    sys.stdout.write(f"{len(distinct)} distinct states\n")
    if len({what.partition(" ")[0] for what in looked_at}) < 15:
        pytest.skip("counts what the other tests of this file did, and not all were run")
    assert len(distinct) >= STATES_WANTED
