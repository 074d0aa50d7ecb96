"""Several processes at once: compaction, recovery and rotation beside writers."""

from __future__ import annotations

import threading

import pytest

from compare.sides import OurSide, PapyraSide, run, start

pytestmark = [pytest.mark.compare, pytest.mark.timeout(300)]

OLD = 2000
NEW = 2000
ROTATED_BYTES = 1024
SLOTS = 300


class Writer:
    """A writing process, and what it acknowledged so far."""

    def __init__(self, *arguments: object) -> None:
        self.program = start("writer.py", *arguments)
        assert self.program.stdout is not None
        assert self.program.stdout.readline() == "ready\n"
        self.acknowledged: list[int] = []
        self.some = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        for line in self.program.stdout:
            self.acknowledged.append(int(line))
            if len(self.acknowledged) >= 50:
                self.some.set()

    @property
    def ended(self) -> bool:
        return self.program.poll() is not None

    def kill(self) -> None:
        """End it, whatever the test was doing."""
        self.program.kill()
        self.program.wait(50)
        for pipe in (self.program.stdin, self.program.stdout, self.program.stderr):
            pipe.close()

    def stop(self) -> list[int]:
        """Let it end (now, if it has not) and return what it acknowledged."""
        self.program.stdin.close()
        assert self.program.wait(50) == 0, self.program.stderr.read()
        self._thread.join()
        return self.acknowledged


@pytest.fixture
def writer():
    """Start a writer; whatever happens, it does not outlive the test."""
    started: list[Writer] = []

    def begin(*arguments: object) -> Writer:
        started.append(Writer(*arguments))
        return started[-1]

    yield begin
    for each in started:
        each.kill()


def numbers(side) -> set[int]:
    return {body["n"] for body in side.read()}


def test_compaction_beside_a_writer(told, tmp_path, writer):
    from papyra.persistence.backends.retention import RetentionPolicy

    kept = {}
    sides = (
        PapyraSide(tmp_path / "papyra", RetentionPolicy(max_records=NEW + 500)),
        OurSide(tmp_path / "ours", f"{NEW + 500}"),
    )
    for side in sides:
        side.write(range(OLD))
        beside = writer(side.name, tmp_path / side.name, OLD, NEW)
        assert beside.some.wait(50)
        while not beside.ended:
            side.compact()
        side.compact()
        acknowledged = beside.stop()
        assert len(acknowledged) == NEW
        kept[side.name] = len(numbers(side) & set(acknowledged))
    assert kept["ours"] == NEW
    assert kept["papyra"] < NEW
    told("compact_beside", papyra=f"{kept['papyra']:,} of {NEW:,}", ours=f"{kept['ours']:,} of {NEW:,}")


def test_recovery_beside_a_writer(told, tmp_path, writer):
    lost = {}
    for side in (PapyraSide(tmp_path / "papyra"), OurSide(tmp_path / "ours")):
        side.write(range(5 * OLD))
        path = side.path if isinstance(side, PapyraSide) else side.segment()
        data = bytearray(path.read_bytes())
        middle = data.index(b"\n", len(data) // 2) + 1
        data[middle] = ord("X")  # one line of the log is no JSON any more
        path.write_bytes(data)
        beside = writer(side.name, tmp_path / side.name, 5 * OLD, 1_000_000)
        assert beside.some.wait(50)
        before = len(beside.acknowledged)
        run_recovery(side)
        acknowledged = beside.stop()
        assert len(acknowledged) > before, "it wrote while the log was recovered"
        lost[side.name] = len(set(acknowledged) - numbers(side)), len(acknowledged)
    assert lost["ours"][0] == 0
    assert lost["papyra"][0] > 0
    told("recover_beside", **{name: f"{gone:,} of {all_:,}" for name, (gone, all_) in lost.items()})


def run_recovery(side) -> None:
    """Repair, twice: the first rewrites, the second finds what the first left."""
    for _ in range(2):
        side.repair()


def test_three_processes_rotate(told, tmp_path, writer):
    from papyra.persistence.backends.rotating import RotatingFilePersistence

    for who, limits in (("rotating", (ROTATED_BYTES, SLOTS)), ("ours", (ROTATED_BYTES,))):
        (tmp_path / who).mkdir()
        together = [writer(who, tmp_path / who, 1000 * n, 300, *limits) for n in range(3)]
        for each in together:
            assert each.program.wait(100) == 0
    path = tmp_path / "rotating" / "papyra.ndjson"
    backend = RotatingFilePersistence(path, max_bytes=ROTATED_BYTES, max_files=SLOTS)
    kept = {
        "papyra": len({event.payload["n"] for event in run(backend.list_events())}),
        "ours": len(numbers(OurSide(tmp_path / "ours"))),
    }
    assert kept["ours"] == 900
    assert kept["papyra"] < 900
    told("rotate_together", papyra=f"{kept['papyra']} of 900", ours=f"{kept['ours']} of 900")


def test_the_size_of_rotated_files(told, tmp_path, writer):
    largest = {}
    for who, limits in (("rotating", (10_000, 4)), ("ours", (10_000,))):
        (tmp_path / who).mkdir()
        assert writer(who, tmp_path / who, 0, 1000, *limits).program.wait(100) == 0
        files = [path for path in (tmp_path / who).rglob("*ndjson*") if path.is_file()]
        largest[who] = max(path.stat().st_size for path in files)
    assert len(OurSide(tmp_path / "ours").read()) == 1000
    assert largest["ours"] <= 11_000  # and its seal
    assert largest["rotating"] > 20_000
    told("rotate_limit", papyra=f"{largest['rotating']:,}", ours=f"{largest['ours']:,}")
